"""Holes joined to the polygon around them by a bridge that runs there and back, so that one closed polygon says both.

Readers that fill every contour by itself lose holes that are contours of their own; nobody loses these. From the first pixel
of a hole, in the order of rows, the pixels to its left are inside up to a side of another polygon: of the outer one, or of a
hole whose first pixel comes earlier, so that there are no circles. The bridge runs along that row, a quarter of a pixel above
its centres, where no rule for which pixel is inside ever looks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from delineate.dicom.tracing import Traced, walk

_ABOVE: Final = 0.25  # pixels between a row's centres and a bridge
_PIXELS: Final = 1 << 22  # looked at at once


def keyholed(traced: Traced, labels: np.ndarray) -> Traced:
    """The polygons without holes: each is a part of the one around it.

    traced : what `trace` made of `labels`, shape (slices, rows, columns)
    """
    holes = np.flatnonzero(traced.holes)
    if not len(holes):
        return traced
    sizes = np.diff(traced.starts)
    owner = np.repeat(np.arange(len(traced)), sizes)
    after = np.arange(1, len(owner) + 1)
    after[traced.starts[1:] - 1] = traced.starts[:-1]
    vertex, row, column = _first_pixels(traced, holes)
    begin = _runs_begin(labels, traced.slices[holes], row, column - 1)
    side = _left_sides(traced, owner, after, labels.shape, (traced.slices[holes], begin, row))
    roots = _roots(holes, owner[side], len(traced))
    is_joined = np.zeros(len(traced), dtype=bool)
    is_joined[holes] = is_joined[roots[holes]] = True
    corners, after = _bridged(traced.corners, after, vertex, side, row - _ABOVE)
    kept = np.flatnonzero(np.append(is_joined[owner], np.ones(4 * len(holes), dtype=bool)))
    place = np.empty(len(corners), dtype=np.int64)
    place[kept] = np.arange(len(kept))
    order, lengths = walk(place[after[kept]])
    owners = np.append(owner, np.repeat(roots[holes], 4))
    whole = roots[owners[kept[order[np.cumsum(lengths) - lengths]]]]
    return _put_together(traced, ~is_joined, corners[kept[order]], lengths, whole)


def _first_pixels(traced: Traced, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each hole the corner before the side to the left of its first pixel, and that pixel's row and column."""
    sizes = np.diff(traced.starts)[holes]
    first = np.cumsum(sizes) - sizes
    places = np.arange(sizes.sum()) + np.repeat(traced.starts[holes] - first, sizes)
    pixels = np.ceil(traced.corners[places]).astype(np.int64)
    keys = (pixels[:, 1] << 32) + pixels[:, 0]
    least = np.minimum.reduceat(keys, first)
    at = np.flatnonzero(keys == np.repeat(least, sizes))
    # A polygon may touch itself in no corner: there is one for each hole.
    return places[at], pixels[at, 1], pixels[at, 0]


def _runs_begin(labels: np.ndarray, slices: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The first column of the run of one label that a pixel is in."""
    begin = np.empty(len(row), dtype=np.int64)
    many = max(1, _PIXELS // labels.shape[2])
    columns = np.arange(labels.shape[2], dtype=np.int32)
    for first in range(0, len(row), many):
        part = slice(first, first + many)
        lines = labels[slices[part], row[part]]
        starts = np.zeros(lines.shape, dtype=np.int32)
        starts[:, 1:] = np.where(lines[:, 1:] != lines[:, :-1], columns[1:], 0)
        starts[columns > column[part, None]] = 0
        begin[part] = starts.max(axis=1)
    return begin


def _left_sides(
    traced: Traced, owner: np.ndarray, after: np.ndarray, shape: tuple[int, ...], pixels: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """The corner before the left side of each pixel (slice, column, row): such sides run upwards."""
    corners, (_, rows, columns) = traced.corners, shape
    sides = np.flatnonzero(corners[after, 1] < corners[:, 1])
    top = np.ceil(corners[after[sides], 1]).astype(np.int64)
    column = np.ceil(corners[sides, 0]).astype(np.int64)
    keys = (traced.slices[owner[sides]] * np.int64(columns) + column) * rows + top
    order = np.argsort(keys)
    slices, begin, row = pixels
    wanted = (slices * np.int64(columns) + begin) * rows + row
    found: np.ndarray = sides[order[np.searchsorted(keys, wanted, "right", sorter=order) - 1]]
    return found


def _roots(holes: np.ndarray, around: np.ndarray, count: int) -> np.ndarray:
    """Of each polygon the one that it comes to be a part of."""
    root = np.arange(count)
    root[holes] = around
    while True:
        further = root[root]
        if np.array_equal(further, root):
            return root
        root = further


def _bridged(corners: np.ndarray, after: np.ndarray, vertex: np.ndarray, side: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners with four more for each bridge, and which follows which.

    From a point of the side to one on the hole's own side (after `vertex`), around the hole, and back by the same two points.
    Bridges from one side follow each other upwards, as the side does.
    """
    order = np.lexsort((-at, side))
    vertex, side, at = vertex[order], side[order], at[order]
    count, many = len(corners), len(order)
    here = np.stack([corners[side, 0], at], axis=1)
    there = np.stack([corners[vertex, 0], at], axis=1)
    number = count + np.arange(many)
    out, reach, leave, back = number, number + many, number + 2 * many, number + 3 * many
    result = np.append(after, np.empty(4 * many, dtype=after.dtype))
    is_first = np.append(True, side[1:] != side[:-1])
    is_last = np.append(is_first[1:], True)
    result[out], result[reach] = reach, after[vertex]
    result[vertex], result[leave] = leave, back
    result[back] = np.where(is_last, after[side], np.roll(out, -1))
    result[side[is_first]] = out[is_first]
    return np.concatenate([corners, here, there, there, here]), result


def _put_together(traced: Traced, is_kept: np.ndarray, corners: np.ndarray, lengths: np.ndarray, whole: np.ndarray) -> Traced:
    """Polygons that stay as they are and those that were joined, slices in order."""
    sizes = np.diff(traced.starts)
    single = np.flatnonzero(is_kept)
    numbers = np.concatenate([single, whole])
    order = np.argsort(numbers, kind="stable")
    size = np.concatenate([sizes[single], lengths])
    begin = np.concatenate([traced.starts[:-1][single], len(traced.corners) + np.cumsum(lengths) - lengths])
    size, begin, numbers = size[order], begin[order], numbers[order]
    starts = np.concatenate([[0], np.cumsum(size)])
    places = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], size)
    return replace(
        traced,
        labels=traced.labels[numbers],
        slices=traced.slices[numbers],
        holes=np.zeros(len(numbers), dtype=bool),
        starts=starts,
        corners=np.concatenate([traced.corners, corners])[places],
    )
