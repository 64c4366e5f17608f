"""A mask of one voxel: no work."""

from __future__ import annotations

from typing import Any

import numpy as np

from delineate.runners.base import Job
from delineate.segmentation import Segmentation


class Nothing:
    """The whole model."""

    def __init__(self, parameters: dict[str, Any], folder: object) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        """One voxel in the middle."""
        grid = job.images[0].geometry
        labels = np.zeros(grid.shape, np.uint8)
        labels[tuple(n // 2 for n in grid.shape)] = 1
        return Segmentation.from_labels(labels, grid, {1: "Toy"})
