"""What the forest sees of a voxel: intensity, edges, ridges and texture at four scales, what is around it, where it is in the body.

Lengths are in working voxels. Small scales are computed block by block, large ones on a grid of half the resolution,
so that an image of any size takes little memory. Axes are the patient's, never the image's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.models.morphology import bounds, depth
from delineate.models.outline import find_outline
from delineate.models.sampling import Blocks, Mask
from delineate.models.trunk import body_on_blocks
from delineate.training.working import HU, Array, Working

VERSION: Final = 1
"""Of the features; a forest and the samples it grew on hold for one version."""

_FINE: Final = (1.0, 2.0)
_COARSE: Final = 4.0
_WIDE: Final = 8.0
_REACH: Final = (6.0, 15.0)
_TRUNCATE: Final = 2.5
_HALO: Final = 7  # of the widest fine scale and two differences
_DEEP: Final = 30.0  # mm under the skin: what is deeper is inside, how deep depends on the patient
_BLOCK_VOXELS: Final = 200_000

_LOCAL: Final = ("mean", "edge", "texture", "ridge1", "ridge2", "ridge3")
_TOWARDS: Final = tuple(f"{way}{letter}" for letter in "SPL" for way in "-+")
NAMES: Final = (
    "value",
    *(f"{name}@{scale:g}" for scale in (*_FINE, _COARSE) for name in _LOCAL),
    *(f"{name}@{_WIDE:g}" for name in ("mean", "edge")),
    *(f"mean@{_COARSE:g}{towards}{reach:g}" for reach in _REACH for towards in _TOWARDS),
    "depth",
    "across",
    "along",
)
"""Names of the features in their order; after the ``@`` the scale in voxels, then the way and how far."""


NARROW: Final = ("value", *(f"{name}@{_FINE[0]:g}" for name in _LOCAL), "depth", "across")
"""Those that hold from one patient to the next. The others tell a single patient by heart, and need several to learn from."""


@dataclass(frozen=True, eq=False)
class Block:
    """Features of some planes: `planes` of the working grid, `rows` of shape (voxels, features), C order of the voxels."""

    planes: slice
    rows: Array


class Features:
    """The features of one image.

    What is wide is computed here, for the whole image at half the resolution; the rest when a block is asked for.
    """

    def __init__(self, image: Working) -> None:
        self._values = image.values
        half = Blocks(image.values.shape, (1.0, 1.0, 1.0), (2, 2, 2)).mean(image.values)
        self._coarse = _local(half, _COARSE / 2)
        wide = _smooth(half, _WIDE / 2)
        self._wide = [wide, _edge(wide)]
        self._depth, self._across, self._along = _places(half, image)

    def blocks(self, planes: slice | None = None) -> Iterator[Block]:
        """All voxels, or those of some planes, a few planes at a time."""
        for part in self._parts(planes or slice(0, self._values.shape[0])):
            yield Block(part, self._rows(part))

    def rows(self, index: npt.NDArray[np.int64]) -> Array:
        """Features of some voxels, given by their number in C order; shape (voxels, features)."""
        rows = np.empty((index.size, len(NAMES)), dtype=np.float32)
        plane = self._values.shape[1] * self._values.shape[2]
        for part in self._parts(slice(0, self._values.shape[0])):
            first = part.start * plane
            here = (index >= first) & (index < part.stop * plane)
            if here.any():
                rows[here] = self._rows(part)[index[here] - first]
        return rows

    def only(self, names: Sequence[str]) -> Array:
        """Some features of all voxels, shape (voxels, names)."""
        columns = [NAMES.index(name) for name in names]
        return np.concatenate([block.rows[:, columns] for block in self.blocks()])

    def _parts(self, planes: slice) -> Iterator[slice]:
        thick = max(1, _BLOCK_VOXELS // (self._values.shape[1] * self._values.shape[2]))
        for first in range(planes.start, planes.stop, thick):
            yield slice(first, min(first + thick, planes.stop))

    def _rows(self, planes: slice) -> Array:
        shape = (planes.stop - planes.start, *self._values.shape[1:])
        rows = np.empty((int(np.prod(shape)), len(NAMES)), dtype=np.float32)
        for column, values in enumerate(self._columns(planes)):
            rows[:, column] = np.broadcast_to(values, shape).ravel()
        return rows

    def _columns(self, planes: slice) -> Iterator[Array]:
        yield self._values[planes]
        low = max(0, planes.start - _HALO)
        part = self._values[low : planes.stop + _HALO]
        own = slice(planes.start - low, planes.stop - low)
        for scale in _FINE:
            for values in _local(part, scale):
                yield values[own]
        for values in (*self._coarse, *self._wide):
            yield self._between(values, planes)
        for reach in _REACH:
            for axis in range(3):
                for way in (-reach, reach):
                    yield self._between(self._coarse[0], planes, axis, way)
        yield self._between(self._depth, planes)
        yield self._between(self._across, planes)
        yield self._between(self._along, planes)

    def _between(self, half: Array, planes: slice, axis: int = 0, way: float = 0.0) -> Array:
        """An array of half the resolution on some planes of the working grid, `way` voxels further along an axis."""
        result = half
        for a, length in enumerate(self._values.shape):
            index = np.arange(planes.start, planes.stop) if a == 0 else np.arange(length)
            place = np.clip((index + (way if a == axis else 0.0) - 0.5) / 2, 0, half.shape[a] - 1)
            low = np.minimum(place.astype(np.int64), max(0, half.shape[a] - 2))
            share = (place - low).astype(np.float32).reshape([-1 if b == a else 1 for b in range(3)])
            first, second = result.take(low, axis=a), result.take(np.minimum(low + 1, half.shape[a] - 1), axis=a)
            second -= first
            second *= share
            first += second
            result = first
        return result


def _smooth(values: Array, scale: float) -> Array:
    return ndimage.gaussian_filter(values, scale, mode="nearest", truncate=_TRUNCATE)  # type: ignore[no-any-return]


def _local(values: Array, scale: float) -> list[Array]:
    """`_LOCAL` at one scale: smoothed, gradient's magnitude, standard deviation, Hessian's eigenvalues from small to large."""
    mean = _smooth(values, scale)
    middle = np.float32(values.mean())  # squares of small numbers keep their digits
    spread = _smooth((values - middle) ** 2, scale) - (mean - middle) ** 2
    gradient = _gradient(mean)
    edge = np.sqrt(sum(part * part for part in gradient))
    hessian = {(a, b): second for a in range(3) for b, second in enumerate(_gradient(gradient[a])) if b >= a}
    return [mean, edge, np.sqrt(np.maximum(spread, 0)), *_eigenvalues(hessian)]


def _gradient(values: Array) -> list[Array]:
    """Differences along z, y, x, per voxel; zero along an axis of a single voxel."""
    return [np.gradient(values, axis=a) if values.shape[a] > 1 else np.zeros_like(values) for a in range(3)]


def _edge(values: Array) -> Array:
    result: Array = np.sqrt(sum(part * part for part in _gradient(values)))
    return result


def _eigenvalues(matrix: dict[tuple[int, int], Array]) -> list[Array]:
    """Of symmetric 3 x 3 matrices, ascending; by the trigonometric solution of the cubic (Smith, 1961)."""
    mean = (matrix[0, 0] + matrix[1, 1] + matrix[2, 2]) / 3
    a, b, c = (matrix[i, i] - mean for i in range(3))
    d, e, f = matrix[0, 1], matrix[0, 2], matrix[1, 2]
    size = np.sqrt(np.maximum((a * a + b * b + c * c + 2 * (d * d + e * e + f * f)) / 6, 1e-12))
    half = (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)) / (2 * size**3)
    angle = np.arccos(np.clip(half, -1, 1)) / 3
    largest = mean + 2 * size * np.cos(angle)
    smallest = mean + 2 * size * np.cos(angle + np.float32(2 * np.pi / 3))
    return [smallest, 3 * mean - largest - smallest, largest]


def _places(half: Array, image: Working) -> tuple[Array, Array, Array]:
    """Depth under the body's outline in mm, which half of its box (-1 right, 1 left), how far back in it."""
    body = _body(half, image)
    inside = depth(body, (2 * image.spacing,) * 3) if not body.all() else np.full(half.shape, 1e3, np.float32)
    box = bounds(body)
    across, along = np.zeros(half.shape, np.float32), np.zeros(half.shape, np.float32)
    if box is not None:
        for values, axis in ((across, 2), (along, 1)):
            low, high = box[axis].start, box[axis].stop - 1
            place = (np.arange(half.shape[axis]) - (low + high) / 2) / max(1.0, (high - low) / 2)
            side = np.sign(place) if axis == 2 else np.clip(place, -1.5, 1.5)
            values += side.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.minimum(inside, _DEEP).astype(np.float32), across, along


def _body(half: Array, image: Working) -> Mask:
    spacing = (2 * image.spacing,) * 3
    found = body_on_blocks(half, spacing) if image.scale == HU else find_outline(half, spacing, lambda text: None)
    return found if found.any() else np.ones_like(found)
