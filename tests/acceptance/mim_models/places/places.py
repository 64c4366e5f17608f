"""Says where in the patient it believes its voxels to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delineate.runners.base import Job
from delineate.segmentation import Segmentation


class Places:
    """Half spaces beyond ``point``, LPS mm."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        self.point = parameters["point"]

    def segment(self, job: Job) -> Segmentation:
        geometry = job.images[0].geometry
        z, y, x = np.indices(geometry.shape)
        world = geometry.to_world(np.stack([x, y, z], axis=-1).reshape(-1, 3)).reshape(*geometry.shape, 3)
        masks = {name: world[..., axis] > self.point[axis] for axis, name in enumerate(("Left", "Posterior", "Superior"))}
        return Segmentation.from_masks(masks, geometry)
