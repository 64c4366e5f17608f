"""A trained model behind the ``python`` runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.errors import ModelError
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.training import applying
from delineate.training.files import read_forest
from delineate.training.trainers import FOREST
from delineate.volume import Volume


class VoxelForest:
    """Delineates by the forest in its folder; takes images of any orientation."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        if folder is None:
            raise ModelError("a trained model needs a folder", f"Put {FOREST} beside its model.toml.", kind="start")
        self._forest = read_forest(folder / FOREST)

    def segment(self, job: Job) -> Segmentation:
        """Delineate ``job.images[0]``; see `delineate.training.applying.segment`."""
        return applying.segment(self._forest, job.images[0], report=job.report, log=job.log)

    def uncertainty(self, image: Volume) -> float:
        """How unsure it is of an image, 0 to 1, for choosing what to label next."""
        return applying.uncertainty(self._forest, image)
