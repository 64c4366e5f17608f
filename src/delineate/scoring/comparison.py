"""Two segmentations of one image, structure by structure.

Every number is defined for every pair, or is None, never NaN:

==================== ==================== ================== =====================
 of a structure       voxels in both       voxels in one      voxels in neither
==================== ==================== ================== =====================
 dice, surface_dice   0 to 1               0                  1
 distances            mm                   None               None
==================== ==================== ================== =====================

A structure that one segmentation does not list counts as one without voxels there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from delineate.errors import GeometryError, InputError
from delineate.orientation import is_same_place, reorientation
from delineate.scoring.surfaces import Floats, distances, percentile, surface
from delineate.scoring.tolerance import TOLERANCE
from delineate.segmentation import Segmentation

_EXACT: Final = 1e-6  # mm; a distance that equals the tolerance is within it, however it was rounded


@dataclass(frozen=True, kw_only=True)
class StructureScore:
    """How much two segmentations agree on one structure; a is the first.

    Parameters
    ----------
    name : of the structure; in_a, in_b : whether each lists it.
    volume_a, volume_b : millilitres.
    dice : twice the voxels in both, over the voxels of each (Dice, Ecology 26, 1945).
    surface_dice : share of both surfaces' area that lies within `tolerance` (mm) of the other (Nikolov et al., Journal of
        Medical Internet Research 23, 2021).
    hausdorff : the largest distance from a point of one surface to the other surface, of both ways, mm.
    hausdorff_95 : the same, of each way only the 95 % of the area that lie nearest; then the larger.
    mean_surface : the mean, by area, of each way; then the mean of the two (Maier-Hein et al., Nature Methods 21, 2024: MASD).
    """

    name: str
    in_a: bool
    in_b: bool
    volume_a: float
    volume_b: float
    dice: float
    surface_dice: float
    tolerance: float
    hausdorff: float | None = None
    hausdorff_95: float | None = None
    mean_surface: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values by name, rounded to four decimals."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def compare(
    a: Segmentation, b: Segmentation, *, tolerance: float = TOLERANCE, names: Sequence[str] | None = None
) -> list[StructureScore]:  # fmt: skip
    """Compare structures of the same names: those of `a` in their order, then those that only `b` lists.

    Parameters
    ----------
    a, b : on grids with their voxels at the same places, whatever the order of their axes.
    tolerance : mm, for the surface Dice.
    names : only these.

    Raises
    ------
    GeometryError
        The grids differ.
    InputError
        The tolerance is negative or not finite.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"a tolerance of {tolerance} mm makes no sense", "Give millimetres, 0 or more.")
    if not is_same_place(a.geometry, b.geometry):
        raise GeometryError(
            f"the segmentations are on different grids: {a.geometry} and {b.geometry}", "Compare segmentations of one image."
        )
    turned = b.mapped(reorientation(b.geometry, a.geometry.axis_codes))
    listed = dict.fromkeys([*a.names, *b.names]) if names is None else dict.fromkeys(names)
    return [_score(name, a, turned, tolerance) for name in listed]


def _score(name: str, a: Segmentation, b: Segmentation, tolerance: float) -> StructureScore:
    masks = [_mask(one, name) for one in (a, b)]
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    both = int(np.count_nonzero(masks[0] & masks[1]))
    voxel = float(np.prod(a.geometry.spacing)) / 1000
    found: dict[str, Any] = {
        "name": name, "in_a": name in a.names, "in_b": name in b.names, "tolerance": float(tolerance),
        "volume_a": counts[0] * voxel, "volume_b": counts[1] * voxel,
    }  # fmt: skip
    if not all(counts):
        agreement = 0.0 if any(counts) else 1.0
        return StructureScore(**found, dice=agreement, surface_dice=agreement)
    spacing = a.geometry.spacing[::-1]
    surfaces = [surface(mask, spacing) for mask in masks]
    del masks
    ways = [distances(surfaces[0], surfaces[1], spacing), distances(surfaces[1], surfaces[0], spacing)]
    areas = [one.areas for one in surfaces]
    near = sum(float(area[way <= tolerance + _EXACT].sum()) for way, area in zip(ways, areas, strict=True))
    return StructureScore(
        **found,
        dice=2 * both / sum(counts),
        surface_dice=near / float(sum(area.sum() for area in areas)),
        hausdorff=max(float(way.max()) for way in ways),
        hausdorff_95=max(percentile(way, area, 0.95) for way, area in zip(ways, areas, strict=True)),
        mean_surface=float(np.mean([_mean(way, area) for way, area in zip(ways, areas, strict=True)])),
    )


def _mask(one: Segmentation, name: str) -> npt.NDArray[np.bool_]:
    return one.mask(name) if name in one.names else np.zeros(one.geometry.shape, dtype=bool)


def _mean(values: Floats, weights: Floats) -> float:
    return float((values * weights).sum() / weights.sum())
