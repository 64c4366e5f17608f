"""`Lung_L` and `Lung_R` in a CT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.models.hounsfield import hounsfield
from delineate.models.lungs import find_lungs
from delineate.models.results import labelled
from delineate.runners.base import Job
from delineate.segmentation import Segmentation, Structure

STRUCTURES = (
    Structure("Lung_L", 1, colour=(70, 160, 240), code="44029006"),
    Structure("Lung_R", 2, colour=(90, 210, 120), code="3341006"),
)


class LungsCT:
    """Both lungs; see `delineate.models.lungs` for how they are found."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        self.parameters = parameters

    def segment(self, job: Job) -> Segmentation:
        """Delineate ``job.images[0]``, a CT in HU and LPS orientation; a lung that is not in the image stays empty.

        Raises
        ------
        ModelError
            Kind ``input`` where the image cannot be a CT.
        """
        image = job.images[0]
        job.report(0.05, "reading Hounsfield units")
        hu = hounsfield(image, job.log)
        job.report(0.2, "looking for the lungs")
        sx, sy, sz = image.geometry.spacing
        sides = find_lungs(hu, (sz, sy, sx))
        for structure, mask in zip(STRUCTURES, sides, strict=True):
            if not mask.any():
                job.log(f"{structure.name} was not found in the image")
        job.report(1.0, "done")
        return labelled(image.geometry, STRUCTURES, sides)
