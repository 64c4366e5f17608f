"""Where voxels are: a regular grid in LPS millimetres.

One convention holds everywhere (DICOM's and ITK's): vectors are x, y, z; arrays are z, y, x;
`origin` is the centre of the first voxel; the columns of `direction` are the unit vectors along
which the x, y and z indices grow, in a frame whose axes point to the patient's Left, Posterior
and Superior. Other conventions (NIfTI's RAS) are converted where files are read and written.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple, cast

import numpy as np

from delineate.errors import GeometryError

Vector = Tuple[float, float, float]

SPACING_TOLERANCE = 1e-4  # relative
POSITION_TOLERANCE = 1e-3  # mm
DIRECTION_TOLERANCE = 1e-5  # per cosine
ORTHOGONALITY_TOLERANCE = 1e-3  # float32 headers round; a sheared stack is far beyond

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

AXIS_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))


@dataclass(frozen=True)
class Geometry:
    """A regular grid of voxels in LPS millimetres.

    Parameters
    ----------
    size : (int, int, int)
        Voxels along x, y, z; each at least 1.
    spacing : (float, float, float)
        Distance between voxel centres along x, y, z, mm; positive.
    origin : (float, float, float)
        Centre of the first voxel, LPS mm.
    direction : 9 floats
        Row-major 3 x 3 matrix of cosines; its columns are the x, y, z index axes (as in ITK).

    Raises
    ------
    GeometryError
        Not finite, not positive, or axes that are not perpendicular unit vectors.
    """

    size: Tuple[int, int, int]
    spacing: Vector = (1.0, 1.0, 1.0)
    origin: Vector = (0.0, 0.0, 0.0)
    direction: Tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        # The constructor takes any sequences; the stored fields are always tuples of plain numbers.
        for field, kind, length in (("size", int, 3), ("spacing", float, 3), ("origin", float, 3), ("direction", float, 9)):
            values = np.asarray(getattr(self, field), dtype=np.float64).ravel()
            if values.size != length or not np.isfinite(values).all():
                raise GeometryError("the %s of a grid must be %d finite numbers, not %r" % (field, length, getattr(self, field)))
            object.__setattr__(self, field, tuple(kind(v) for v in values))
        if min(self.size) < 1:
            raise GeometryError("a grid must have at least one voxel along each axis, not %s" % (self.size,))
        if min(self.spacing) <= 0:
            raise GeometryError("the spacing of a grid must be positive, not %s" % (self.spacing,))
        matrix = self.matrix
        if np.abs(matrix.T @ matrix - np.eye(3)).max() > ORTHOGONALITY_TOLERANCE:
            raise GeometryError(
                "the axes of the grid are not perpendicular unit vectors", "Resample the image onto an orthogonal grid first."
            )

    @property
    def shape(self) -> Tuple[int, int, int]:
        """Shape of an array on this grid: (z, y, x)."""
        return (self.size[2], self.size[1], self.size[0])

    @property
    def matrix(self) -> np.ndarray:
        """Direction cosines, 3 x 3; columns are index axes."""
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def affine(self) -> np.ndarray:
        """4 x 4 matrix from index (x, y, z, 1) to LPS mm."""
        result = np.eye(4)
        result[:3, :3] = self.matrix * np.array(self.spacing)
        result[:3, 3] = self.origin
        return result

    @classmethod
    def from_affine(cls, size: Sequence[int], affine: np.ndarray) -> Geometry:
        """Grid of `size` (x, y, z) whose 4 x 4 `affine` maps index to LPS mm."""
        linear = np.asarray(affine, dtype=np.float64)[:3, :3]
        spacing = np.sqrt((linear**2).sum(axis=0))
        if not np.isfinite(spacing).all() or (spacing <= 0).any():
            raise GeometryError("the affine of the grid is singular or not finite")
        # How many there are is checked where the grid is made.
        three = cast("Tuple[int, int, int]", tuple(size))
        return cls(three, tuple(spacing), tuple(np.asarray(affine)[:3, 3]), tuple((linear / spacing).ravel()))

    def to_world(self, index: Any) -> np.ndarray:
        """LPS mm of indices, shape (..., 3), x, y, z; fractions allowed."""
        point: np.ndarray = np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + np.array(self.origin)
        return point

    def to_index(self, point: Any) -> np.ndarray:
        """Fractional index (x, y, z) of LPS mm points, shape (..., 3)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        index: np.ndarray = (np.asarray(point, dtype=np.float64) - np.array(self.origin)) @ inverse.T
        return index

    @property
    def axis_codes(self) -> str:
        """Three letters: towards what each index axis grows most nearly, e.g. ``LPS``, ``RAS``."""
        codes = ""
        for column, row in enumerate(self.nearest_axes):
            codes += AXIS_LETTERS[row][0 if self.matrix[row, column] >= 0 else 1]
        return codes

    @property
    def nearest_axes(self) -> Tuple[int, ...]:
        """The patient axis (0 L, 1 P, 2 S) nearest to each index axis, each used once."""
        strength = np.abs(self.matrix)
        rows = [-1, -1, -1]
        for _ in range(3):
            row, column = np.unravel_index(int(np.argmax(strength)), (3, 3))
            rows[int(column)] = int(row)
            strength[row, :] = -1.0
            strength[:, column] = -1.0
        return tuple(rows)

    def refined(self, factor: Sequence[int]) -> Geometry:
        """The grid with each voxel split into `factor` (x, y, z) parts: a contour grid.

        The outer edges of the grid stay where they are, so the first centre moves.
        """
        parts = np.asarray(factor, dtype=np.int64)
        if parts.shape != (3,) or (parts < 1).any():
            raise GeometryError("a scaling factor is three whole numbers of at least 1, not %r" % (factor,))
        return Geometry(
            tuple(np.array(self.size) * parts),
            tuple(np.array(self.spacing) / parts),
            tuple(self.to_world((1.0 / parts - 1.0) / 2.0)),
            self.direction,
        )

    def difference(self, other: Geometry) -> str:
        """What differs beyond tolerance, in words; empty when the grids are the same.

        Spacing 1e-4 relative, position of the first voxel 1e-3 mm, cosines 1e-5.
        """
        within = {
            "size": 0.0,
            "spacing": SPACING_TOLERANCE * np.array(other.spacing),
            "direction": DIRECTION_TOLERANCE,
            "origin": POSITION_TOLERANCE,
        }
        for name, tolerance in within.items():
            own, others = getattr(self, name), getattr(other, name)
            if (np.abs(np.subtract(own, others)) > tolerance).any():
                unit = " mm" if name in ("spacing", "origin") else ""
                return "%s %s against %s%s" % (name, _words(own), _words(others), unit)
        return ""

    def matches(self, other: Geometry) -> bool:
        """Whether the two grids are the same within the stated tolerances."""
        return not self.difference(other)

    def __str__(self) -> str:
        return "%s voxels of %s mm at %s mm, axes %s" % (
            " x ".join(str(v) for v in self.size),
            " x ".join("%.4g" % v for v in self.spacing),
            _words(self.origin),
            self.axis_codes,
        )

    def to_dict(self) -> Dict[str, Any]:
        """Plain lists for JSON: the fingerprint of a grid."""
        return {name: list(getattr(self, name)) for name in ("size", "spacing", "origin", "direction")}


def _words(values: Optional[Sequence[float]]) -> str:
    return "(" + ", ".join("%.6g" % v for v in values or ()) + ")"
