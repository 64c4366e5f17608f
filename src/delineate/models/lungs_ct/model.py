"""`Lung_L` and `Lung_R` in a CT."""

from __future__ import annotations

from collections.abc import Sequence

from delineate.models.ct import CTModel
from delineate.models.lungs import find_lungs
from delineate.models.sampling import Mask, Values
from delineate.segmentation import Structure


class LungsCT(CTModel):
    """Both lungs; see `delineate.models.lungs` for how they are found."""

    structures = (
        Structure("Lung_L", 1, colour=(70, 160, 240), code="44029006"),
        Structure("Lung_R", 2, colour=(90, 210, 120), code="3341006"),
    )
    sought = "lungs"

    def find(self, hu: Values, spacing: tuple[float, float, float]) -> Sequence[Mask]:
        """The left lung and the right one."""
        return find_lungs(hu, spacing)
