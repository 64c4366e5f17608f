"""Closed polygons → label maps: a pixel is inside where its centre is, by the even-odd rule, in each slice.

Polygons of one structure in one slice are taken together, so that one inside another is a hole, and a keyhole's bridge,
which runs there and back, is nothing. Every row of pixels is cut where the sides of the polygons cross the line through its
centres; pairs of cuts are runs of pixels inside. Structures that overlap come to lie in layers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from delineate.dicom.threads import THREADS
from delineate.errors import ImageError
from delineate.segmentation import label_dtype

_MOST: Final = 1 << 26  # cuts of rows by sides; fifty times what a large set of structures has
_BYTES: Final = 1 << 17  # stay in the cache
_GRAIN: Final = 1e-6  # pixels: positions that were written as decimals and turned into pixels do not come back exactly


@dataclass(frozen=True, eq=False)
class Polygons:
    """Closed polygons in the pixels of a stack.

    structures : int, shape (polygons,), from 0; slices : int, shape (polygons,)
    starts : int, shape (polygons + 1,); corners : float64, shape (corners, 2), columns and rows, (0, 0) the first centre
    """

    structures: np.ndarray
    slices: np.ndarray
    starts: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True, eq=False)
class Runs:
    """Pixels inside, from `first` to before `after`, counted flat through the stack; in order within a structure."""

    structures: np.ndarray
    first: np.ndarray
    after: np.ndarray


def runs_inside(polygons: Polygons, shape: tuple[int, int, int]) -> Runs:
    """The runs of pixels inside of all polygons; what lies outside of the stack is left out.

    shape : slices, rows, columns

    Raises
    ------
    ImageError
        Millions of sides that run through the whole image, which are no structures.
    """
    _, rows, columns = shape
    corners = np.round(polygons.corners / _GRAIN) * _GRAIN
    after = np.arange(1, len(corners) + 1)
    after[polygons.starts[1:] - 1] = polygons.starts[:-1]
    x, y = corners[:, 0], corners[:, 1]
    # A row is cut by a side if one end is above its line of centres, and the other on it or below.
    ceiling = np.clip(np.ceil(y), 0, rows).astype(np.int64)
    first, last = np.minimum(ceiling, ceiling[after]), np.maximum(ceiling, ceiling[after])
    side = np.flatnonzero(last > first)
    first, count = first[side], (last - first)[side]
    require_few(int(count.sum()))
    each = np.repeat(np.arange(len(side)), count)
    row = np.arange(len(each)) - np.repeat(np.cumsum(count) - count - first, count)
    dx, dy = x[after[side]] - x[side], y[after[side]] - y[side]
    cut = x[side][each] + (row - y[side][each]) * (dx / dy)[each]
    column = np.clip(np.ceil(np.round(cut / _GRAIN) * _GRAIN), 0, columns).astype(np.int64)
    polygon = np.repeat(np.arange(len(polygons.slices)), np.diff(polygons.starts))[side][each]
    lines = (polygons.structures[polygon] * shape[0] + polygons.slices[polygon]) * rows + row
    cuts = np.sort(lines * (columns + 1) + column).reshape(-1, 2)
    cuts = cuts[cuts[:, 1] > cuts[:, 0]]
    line, begin = np.divmod(cuts[:, 0], columns + 1)
    structure, line = np.divmod(line, shape[0] * rows)
    place = line * columns + begin
    kind = np.int32 if shape[0] * rows * columns < 1 << 31 else np.int64
    return Runs(structure.astype(np.int32), place.astype(kind), (place + cuts[:, 1] - cuts[:, 0]).astype(kind))


def require_few(cuts: int) -> None:
    """Raise `ImageError` for more cuts of rows than structures make: a small file may hold billions."""
    if cuts > _MOST:
        raise ImageError("the contours cross the rows of the image too often to be filled", "Check that these are contours of structures.")


def joined(parts: Sequence[Runs]) -> Runs:
    """All of them, of one shape; each structure's are in one of them."""
    if not parts:
        none = np.zeros(0, np.int32)
        return Runs(none, none, none)
    return Runs(
        np.concatenate([part.structures for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.after for part in parts]),
    )


def layers_of(runs: Runs, structures: int, shape: tuple[int, int, int]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Label maps in which structure `i` has label `i + 1`; structures that overlap lie in different ones.

    Returns
    -------
    layers : of `shape`, at least one; places : int, shape (structures,), the layer of each
    """
    places = _apart(runs, structures)
    kind = label_dtype(structures)
    layers = []
    for layer in range(int(places.max(initial=0)) + 1):
        chosen = places[runs.structures] == layer
        layers.append(_label_map(runs.structures[chosen] + 1, runs.first[chosen], runs.after[chosen], kind, shape))
    return tuple(layers), places


def _apart(runs: Runs, structures: int) -> np.ndarray:
    """A layer for each structure, the first in which nothing overlaps it."""
    order = np.argsort(runs.first, kind="stable")
    first, after, structure = runs.first[order], runs.after[order], runs.structures[order]
    overlap = np.zeros((structures, structures), dtype=bool)
    one, step = np.arange(len(order) - 1), 1
    while len(one := one[one + step < len(order)]):
        one = one[first[one + step] < after[one]]  # what begins later than the next ones does not reach them either
        overlap[structure[one], structure[one + step]] = True
        step += 1
    overlap |= overlap.T
    places = np.zeros(structures, dtype=np.int64)
    for number in range(structures):
        taken = set(places[:number][overlap[number, :number]].tolist())
        places[number] = next(place for place in range(number + 1) if place not in taken)
    return places


def _label_map(labels: np.ndarray, first: np.ndarray, after: np.ndarray, kind: np.dtype, shape: tuple[int, int, int]) -> np.ndarray:
    """One label map of runs that do not overlap: labels change where runs begin and end, and nowhere else."""
    area = shape[1] * shape[2]
    result = np.zeros(shape, kind)
    flat = result.reshape(-1)
    values = labels.astype(kind)
    flat[first] = values
    depth = max(1, -(-shape[0] // THREADS))
    within = (after % (depth * area) != 0) & (after < flat.size)  # a run never goes on into the next row, so every part begins with nothing
    flat[after[within]] ^= values[within]  # where one ends another may begin; no two end at one place
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(_accumulate, (flat[k * area : (k + depth) * area] for k in range(0, shape[0], depth))))
    return result


def _accumulate(values: np.ndarray) -> None:
    """Make of each element the XOR of all up to it."""
    if values.dtype.itemsize > 1:
        np.bitwise_xor.accumulate(values, out=values)
        return
    before = np.uint8(0)
    for first in range(0, len(values), _BYTES):
        part = values[first : first + _BYTES]
        if len(part) % 8:
            part[0] ^= before
            np.bitwise_xor.accumulate(part, out=part)
        else:
            _accumulate_words(part.view("<u8"), before)
        before = part[-1]


def _accumulate_words(words: np.ndarray, before: np.uint8) -> None:
    """The same eight bytes at a time: within each word, then what all words before it come to."""
    for bits in (8, 16, 32):
        words ^= words << np.uint64(bits)
    carried = np.empty(len(words), np.uint8)
    carried[0] = before
    np.right_shift(words[:-1], np.uint64(56), out=carried[1:], casting="unsafe")
    np.bitwise_xor.accumulate(carried, out=carried)
    words ^= carried * np.uint64(0x0101010101010101)
