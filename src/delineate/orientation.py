"""How a grid's index axes lie in the patient, and how to put them in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple, cast

import numpy as np

from delineate.errors import GeometryError
from delineate.geometry import AXIS_LETTERS, Geometry

_SAME = 0.05  # of a voxel: headers round to single precision and to few decimals; a shift is half a voxel or more


@dataclass(frozen=True)
class AxisMap:
    """A permutation and flips of index axes: new axis i is old axis ``order[i]``, reversed where ``flips[i]``.

    No voxel changes its value or place.
    """

    order: Tuple[int, ...] = (0, 1, 2)
    flips: Tuple[bool, ...] = (False, False, False)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.order == (0, 1, 2) and not any(self.flips)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of a (z, y, x) array with its index axes permuted and flipped."""
        xyz = array.transpose(2, 1, 0).transpose(self.order)
        view: np.ndarray = xyz[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)].transpose(2, 1, 0)
        return view

    def grid(self, geometry: Geometry) -> Geometry:
        """The grid whose index axes are permuted and flipped, so that the voxels stay where they are."""
        last = np.array(geometry.size) - 1
        first = np.zeros(3)
        columns = []
        for old, flip in zip(self.order, self.flips):
            column = geometry.matrix[:, old]
            if flip:
                first[old] = last[old]
                column = -column
            columns.append(column)
        return Geometry(
            cast("Tuple[int, int, int]", tuple(geometry.size[i] for i in self.order)),
            cast("Tuple[float, float, float]", tuple(geometry.spacing[i] for i in self.order)),
            tuple(geometry.to_world(first)),
            tuple(np.stack(columns, axis=1).ravel()),
        )

    def inverse(self) -> AxisMap:
        """The map that undoes this one."""
        order = tuple(self.order.index(i) for i in range(3))
        return AxisMap(order, tuple(self.flips[i] for i in order))


def reorientation(geometry: Geometry, codes: str) -> AxisMap:
    """How to permute and flip the index axes of a grid so that its `axis_codes` become `codes`, such as ``LPS``."""
    wanted = [_patient_axis(letter) for letter in codes.upper()]
    if sorted(row for row, _ in wanted) != [0, 1, 2]:
        raise GeometryError("%r is no orientation" % codes, "Use three letters, one each of L/R, P/A, S/I, such as LPS.")
    have = geometry.nearest_axes
    order = tuple(have.index(row) for row, _ in wanted)
    flips = tuple((geometry.matrix[row, have.index(row)] >= 0) != positive for row, positive in wanted)
    return AxisMap(order, flips)


def is_same_place(one: Geometry, other: Geometry) -> bool:
    """Whether two grids have their voxels at the same places, whatever the order of their axes."""
    axes = reorientation(other, one.axis_codes)
    turned = other if axes.is_identity else axes.grid(other)
    if one.size != turned.size:
        return False
    last = np.array(one.size) - 1.0
    corners = np.array([[x, y, z] for x in (0, last[0]) for y in (0, last[1]) for z in (0, last[2])])
    return bool(np.abs(one.to_world(corners) - turned.to_world(corners)).max() <= _SAME * min(one.spacing))


def _patient_axis(letter: str) -> Tuple[int, bool]:
    for row, (positive, negative) in enumerate(AXIS_LETTERS):
        if letter in (positive, negative):
            return row, letter == positive
    raise GeometryError("%r is no direction in a patient" % letter, "Use the letters L, R, P, A, S and I.")
