"""`Bone` in a CT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.models.hounsfield import hounsfield
from delineate.models.results import labelled
from delineate.models.skeleton import find_bones
from delineate.runners.base import Job
from delineate.segmentation import Segmentation, Structure

STRUCTURES = (Structure("Bone", 1, colour=(250, 220, 100), code="272673000"),)


class BonesCT:
    """All bones as one structure; see `delineate.models.skeleton` for how they are found."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        self.parameters = parameters

    def segment(self, job: Job) -> Segmentation:
        """Delineate ``job.images[0]``, a CT in HU and LPS orientation.

        Raises
        ------
        ModelError
            Kind ``input`` where the image cannot be a CT.
        """
        image = job.images[0]
        job.report(0.05, "reading Hounsfield units")
        hu = hounsfield(image, job.log)
        job.report(0.2, "looking for bones")
        sx, sy, sz = image.geometry.spacing
        bones = find_bones(hu, (sz, sy, sx))
        if not bones.any():
            job.log("Bone was not found in the image")
        job.report(1.0, "done")
        return labelled(image.geometry, STRUCTURES, [bones])
