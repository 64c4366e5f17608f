"""`Body` in an MR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.models.outline import find_outline
from delineate.models.results import labelled
from delineate.runners.base import Job
from delineate.segmentation import Segmentation, Structure


class BodyMR:
    """The outline of the patient; see `delineate.models.outline` for how it is found."""

    structures = (Structure("Body", 1, colour=(250, 200, 120), code="38266002"),)

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        """Delineate ``job.images[0]``, an MR of any contrast in LPS orientation.

        Raises
        ------
        ModelError
            Kind ``input`` where the image holds nothing to see.
        """
        image = job.images[0]
        job.report(0.1, "looking for the body")
        sx, sy, sz = image.geometry.spacing
        body = find_outline(image.values(), (sz, sy, sx), job.log)
        if not body.any():
            job.log("no body found: nothing in the image stands out of its noise")
        job.report(1.0, "done")
        return labelled(image.geometry, self.structures, [body])
