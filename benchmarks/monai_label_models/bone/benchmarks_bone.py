"""Everything above 300 is bone."""

from __future__ import annotations

from typing import Any

import numpy as np

from delineate.runners.base import Job
from delineate.segmentation import Segmentation


class Bone:
    """The whole model."""

    def __init__(self, parameters: dict[str, Any], folder: object) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        """Compare."""
        image = job.images[0]
        return Segmentation.from_labels((image.values() > 300).view(np.uint8), image.geometry, {1: "bone"})
