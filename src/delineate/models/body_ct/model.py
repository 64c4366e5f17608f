"""`Body` in a CT."""

from __future__ import annotations

from collections.abc import Sequence

from delineate.models.ct import CTModel
from delineate.models.sampling import Mask, Values
from delineate.models.trunk import find_body
from delineate.segmentation import Structure


class BodyCT(CTModel):
    """The outline of the patient; see `delineate.models.trunk` for how it is found."""

    structures = (Structure("Body", 1, colour=(250, 200, 120), code="38266002"),)
    sought = "body"

    def find(self, hu: Values, spacing: tuple[float, float, float]) -> Sequence[Mask]:
        """The body."""
        return [find_body(hu, spacing)]

    def absence(self, structure: Structure) -> str:
        """What is missing."""
        return "no body found: nothing in the image is as dense as tissue and thicker than a sheet"
