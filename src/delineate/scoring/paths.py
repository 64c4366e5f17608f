"""Added path length: how much outline a person draws to make one structure into another (Vaassen et al., PHIRO 13, 2020).

Here the outline is that of the voxels, slice by slice, and its length is in mm: sides of voxels that are on the outline
of the second and not on that of the first. The paper counts the outline's voxels instead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delineate.errors import GeometryError
from delineate.orientation import is_same_place, reorientation
from delineate.segmentation import Segmentation


def added_path_length(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Of masks of shape (slices, rows, columns), mm.

    Parameters
    ----------
    first : what there is; second : what it is to become; spacing : between columns, between rows, mm
    """
    total = 0.0
    for one, other in zip(first, second, strict=True):
        if not other.any():
            continue
        for axis, length in ((0, spacing[0]), (1, spacing[1])):
            width = [(0, 0), (0, 0)]
            width[axis] = (1, 1)
            sides = [np.diff(np.pad(mask, width), axis=axis) for mask in (one, other)]
            total += length * int(np.count_nonzero(sides[1] & ~sides[0]))
    return total


def added_path_lengths(a: Segmentation, b: Segmentation) -> dict[str, float]:
    """From each structure of `a` to the one of the same name in `b`, in the slices of the grid of `a`, mm.

    Raises
    ------
    GeometryError
        The grids differ.
    """
    if not is_same_place(a.geometry, b.geometry):
        raise GeometryError("the segmentations are on different grids", "Compare segmentations of one image.")
    turned = b.mapped(reorientation(b.geometry, a.geometry.axis_codes))
    spacing = (a.geometry.spacing[0], a.geometry.spacing[1])
    empty = np.zeros(a.geometry.shape, dtype=bool)
    return {
        name: added_path_length(
            a.mask(name) if name in a.names else empty, turned.mask(name) if name in turned.names else empty, spacing
        )
        for name in dict.fromkeys([*a.names, *b.names])
    }  # fmt: skip
