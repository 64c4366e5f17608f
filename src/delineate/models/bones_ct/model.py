"""`Bone` in a CT."""

from __future__ import annotations

from collections.abc import Sequence

from delineate.models.ct import CTModel
from delineate.models.sampling import Mask, Values
from delineate.models.skeleton import find_bones
from delineate.segmentation import Structure


class BonesCT(CTModel):
    """All bones as one structure; see `delineate.models.skeleton` for how they are found."""

    structures = (Structure("Bone", 1, colour=(250, 220, 100), code="272673000"),)
    sought = "bones"

    def find(self, hu: Values, spacing: tuple[float, float, float]) -> Sequence[Mask]:
        """The bones."""
        return [find_bones(hu, spacing)]
