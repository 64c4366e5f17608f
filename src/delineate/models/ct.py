"""What the models of one CT have in common: Hounsfield units in, a mask for each structure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from delineate.models.hounsfield import hounsfield
from delineate.models.results import labelled
from delineate.models.sampling import Mask, Values
from delineate.runners.base import Job
from delineate.segmentation import Segmentation, Structure


class CTModel:
    """A model that looks at one CT, and takes no parameters.

    structures : what it returns; sought : them in words, for whoever waits.
    """

    structures: ClassVar[tuple[Structure, ...]]
    sought: ClassVar[str]

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        pass

    def find(self, hu: Values, spacing: tuple[float, float, float]) -> Sequence[Mask]:
        """A mask for each structure; `hu` has shape (z, y, x), `spacing` is z, y, x in mm."""
        raise NotImplementedError

    def absence(self, structure: Structure) -> str:
        """What the log says of a structure that is not in the image."""
        return f"{structure.name} was not found in the image"

    def segment(self, job: Job) -> Segmentation:
        """Delineate ``job.images[0]``, a CT in HU and LPS orientation; what is not in the image stays empty.

        Raises
        ------
        ModelError
            Kind ``input`` where the image cannot be a CT.
        """
        image = job.images[0]
        job.report(0.05, "reading Hounsfield units")
        hu = hounsfield(image, job.log)
        job.report(0.2, f"looking for the {self.sought}")
        sx, sy, sz = image.geometry.spacing
        masks = self.find(hu, (sz, sy, sx))
        for structure, mask in zip(self.structures, masks, strict=True):
            if not mask.any():
                job.log(self.absence(structure))
        job.report(1.0, "done")
        return labelled(image.geometry, self.structures, masks)
