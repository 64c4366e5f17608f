"""Painting shapes onto any grid: shapes are signed distances in millimetres, edges get partial volumes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delineate.geometry import Geometry, Vector

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]

Point: TypeAlias = tuple[float, float, float]


def grid(size: tuple[int, int, int], spacing: Vector, centre: Vector) -> Geometry:
    """An LPS grid of `size` voxels (x, y, z) around `centre`, LPS mm."""
    origin = [c - (n - 1) / 2 * s for n, s, c in zip(size, spacing, centre, strict=True)]
    return Geometry(size, spacing, (origin[0], origin[1], origin[2]))


def slabs(geometry: Geometry, voxels: int = 4_000_000) -> list[slice]:
    """Cut the z axis so that each piece has about `voxels` voxels: memory stays bounded on large grids."""
    thick = max(1, voxels // (geometry.size[0] * geometry.size[1]))
    return [slice(z, min(z + thick, geometry.size[2])) for z in range(0, geometry.size[2], thick)]


def ellipsoid(x: Array, y: Array, z: Array, centre: Point, radii: Point) -> Array:
    """About the distance to an ellipsoid, mm, negative inside; exact on the surface."""
    u, v, w = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1], (z - centre[2]) / radii[2]
    result: Array = (np.sqrt(u * u + v * v + w * w) - np.float32(1)) * np.float32(min(radii))
    return result


def superellipse(x: Array, y: Array, a: Array, b: Array, power: float = 2.0) -> Array:
    """About the distance to the outline ``|x/a|**p + |y/b|**p = 1``, mm, negative inside."""
    q = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** np.float32(1 / power)
    result: Array = (q - np.float32(1)) * np.minimum(a, b)
    return result


def intersection(*distances: Array | float) -> Array:
    """The distance to what is inside all shapes."""
    return reduce(np.maximum, [np.asarray(d, dtype=np.float32) for d in distances])


@dataclass
class Canvas:
    """One slab of an image while it is painted.

    geometry : of the slab; values : HU or signal, shape (z, y, x); width : mm over which an edge goes from 0 to 1.
    x, y, z : coordinates relative to `centre`, mm, that broadcast to the slab's shape.
    to_index : 3 x 4 matrix from LPS mm to the index (x, y, z).
    """

    geometry: Geometry
    centre: Vector
    values: Array
    x: Array
    y: Array
    z: Array
    width: float
    to_index: npt.NDArray[np.float64]

    @classmethod
    def on(cls, geometry: Geometry, centre: Vector, piece: slice, background: float) -> Canvas:
        """The slab `piece` (z indices) of `geometry`."""
        first = geometry.to_world((0, 0, piece.start))
        part = replace(geometry, size=(*geometry.size[:2], piece.stop - piece.start), origin=tuple(first))
        index = [np.arange(n, dtype=np.float64).reshape([-1 if a == 2 - i else 1 for a in range(3)]) for i, n in enumerate(part.size)]
        places: list[Array] = []
        for row in range(3):
            place = np.full((1, 1, 1), part.origin[row] - centre[row])
            for column in range(3):
                step = part.affine[row, column]
                place = place + (index[column] * step if step else 0.0)
            places.append(place.astype(np.float32))
        width = float(np.prod(geometry.spacing) ** (1 / 3))
        return cls(
            part,
            centre,
            np.full(part.shape, background, dtype=np.float32),
            places[0],
            places[1],
            places[2],
            width,
            np.linalg.inv(part.affine)[:3],
        )

    def cover(self, distance: Array) -> Array:
        """The share of each voxel inside, 0 to 1."""
        result: Array = np.clip(np.float32(0.5) - distance / np.float32(self.width), 0, 1)
        return result

    def paint(self, distance: Array, value: float | Array) -> None:
        """Fill the inside of a shape; at its edge values mix as partial volumes do."""
        share = self.cover(distance)
        self.values += share * (np.float32(value) - self.values)

    def window(self, points: np.ndarray, margin: float) -> tuple[slice, slice, slice] | None:
        """The part of the slab (z, y, x slices) that holds LPS `points` (n, 3) with `margin` mm, None where it is outside."""
        low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
        # The box of a box: middles map to middles, half sizes by absolute values.
        middle = self.to_index[:, :3] @ ((low + high) / 2 + self.centre) + self.to_index[:, 3]
        half = np.abs(self.to_index[:, :3]) @ ((high - low) / 2)
        first = np.maximum(np.floor(middle - half).astype(int), 0)
        last = np.minimum(np.ceil(middle + half).astype(int) + 1, self.geometry.size)
        if (first >= last).any():
            return None
        return (slice(first[2], last[2]), slice(first[1], last[1]), slice(first[0], last[0]))

    def capsule(self, start: Point, end: Point, radius: float, value: float | None, mask: Mask | None = None) -> None:
        """A rod with round ends; marks it in `mask` where its share is at least a half. `value` None only marks."""
        a, b = np.array(start, dtype=np.float32), np.array(end, dtype=np.float32)
        box = self.window(np.stack([a, b]), radius + self.width)
        if box is None:
            return
        local = [part(c, box) - p for c, p in zip((self.x, self.y, self.z), a, strict=True)]
        axis = b - a
        along = sum(c * d for c, d in zip(local, axis, strict=True)) / max(float(axis @ axis), 1e-6)
        along = np.clip(along, 0, 1)
        distance = np.sqrt(sum((c - along * d) ** 2 for c, d in zip(local, axis, strict=True))) - np.float32(radius)
        share = np.clip(0.5 - distance / self.width, 0, 1)
        if value is not None:
            self.values[box] += share * (np.float32(value) - self.values[box])
        if mask is not None:
            mask[box] |= share >= 0.5


def part(coordinate: Array, box: tuple[slice, slice, slice]) -> Array:
    """The window of a coordinate array that broadcasts: its axes of length 1 stay."""
    return coordinate[tuple(b if n > 1 else slice(None) for b, n in zip(box, coordinate.shape, strict=True))]


def grain(shape: tuple[int, int, int], seed: int, first: int) -> Array:
    """Noise of unit deviation, correlated in the plane over about two voxels as filtered back projection leaves it.

    Each slice has its own generator, so that the same slice is the same however the volume was cut.
    """
    result = np.empty(shape, dtype=np.float32)
    for k in range(shape[0]):
        white = np.random.default_rng([seed, first + k]).standard_normal(shape[1:], dtype=np.float32)
        white += np.roll(white, 1, axis=0)
        white += np.roll(white, 1, axis=1)
        result[k] = white / 2
    return result
