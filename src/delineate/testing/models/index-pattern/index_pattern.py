"""Labels that name their own indices. Also shows a module beside the model's, found in the model's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from index_labels import octants, parity

from delineate.runners.base import Job
from delineate.segmentation import Segmentation, Structure


class IndexPattern:
    """Layer 0: unequal blocks of low indices along x, y, z; layer 1: voxels with an odd sum of indices."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        """Paint the pattern on the grid of the first image."""
        geometry = job.images[0].geometry
        names = ("X_low", "X_high_Y_low", "X_high_Y_high_Z_low")
        structures = tuple(Structure(name, label) for label, name in enumerate(names, start=1))
        return Segmentation(geometry, (octants(geometry.shape), parity(geometry.shape)), (*structures, Structure("Odd", 1, 1)))
