"""`Body` in a CT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.models.hounsfield import hounsfield
from delineate.models.results import labelled
from delineate.models.trunk import find_body
from delineate.runners.base import Job
from delineate.segmentation import Segmentation, Structure

STRUCTURES = (Structure("Body", 1, colour=(250, 200, 120), code="38266002"),)


class BodyCT:
    """The outline of the patient; see `delineate.models.trunk` for how it is found."""

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
        job.report(0.2, "looking for the body")
        sx, sy, sz = image.geometry.spacing
        body = find_body(hu, (sz, sy, sx))
        if not body.any():
            job.log("no body found: nothing in the image is as dense as tissue and thicker than a sheet")
        job.report(1.0, "done")
        return labelled(image.geometry, STRUCTURES, [body])
