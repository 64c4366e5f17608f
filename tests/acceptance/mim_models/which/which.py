"""Says which image came as which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.runners.base import Job
from delineate.segmentation import Segmentation


class Which:
    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        masks = {f"Image_{number}": image.voxels > 1500 for number, image in enumerate(job.images)}
        return Segmentation.from_masks(masks, job.images[0].geometry)
