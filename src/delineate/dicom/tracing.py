"""Label maps → closed polygons along the edges of voxels, for all structures of a stack at once.

Each polygon runs along the outside of its voxels, drawn in by a hundredth of a pixel: `HALF` from the centre of the pixel
inside. Read back by any rule for which pixel is inside (even-odd, non-zero, rounding), it gives the same pixels, because no
corner lies on the edge of a pixel and no edge on a centre. Pixels that meet at a corner only are apart.

A pixel has up to four sides where another label begins. Sides that go on in a straight line are one *run*; a polygon
alternates runs along the columns (top sides to the right, bottom sides to the left) and along the rows (right sides down,
left sides up), clockwise around what is inside as it lies on a screen. What follows a run is known from the two pixels at
its end; the order of a whole polygon comes from one walk through all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, depth_first_order

HALF: Final = 0.49
"""Pixels from a pixel's centre to the polygon around it."""


@dataclass(frozen=True, eq=False)
class Traced:
    """Polygons, those of one slice together, slices in order.

    labels, slices : int, shape (polygons,); holes : bool, shape (polygons,), polygons around what is not inside
    starts : int, shape (polygons + 1,), where each polygon's corners begin
    corners : float64, shape (corners, 2): columns and rows in pixels, (0, 0) is the centre of the first pixel; not closed
        by a repetition of the first one
    """

    labels: np.ndarray
    slices: np.ndarray
    holes: np.ndarray
    starts: np.ndarray
    corners: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def polygon(self, number: int) -> np.ndarray:
        """Corners of one polygon, a view."""
        return self.corners[self.starts[number] : self.starts[number + 1]]


class Tables:
    """Two numbers for each pixel, kept from slices to slices: fresh memory costs more than all that is done with it."""

    def __init__(self) -> None:
        self._kept = np.empty((2, 0), dtype=np.int32)

    def pair(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of `size` pixels, with whatever stands in them."""
        if self._kept.shape[1] < size:
            self._kept = np.empty((2, size), dtype=np.int32)
        return self._kept[0, :size], self._kept[1, :size]


def trace(labels: np.ndarray, tables: Tables | None = None) -> Traced:
    """All polygons around all labels but 0.

    labels : shape (slices, rows, columns), at most 2 ** 31 pixels; tables : of a thread that traces more than once
    """
    traced = _Slab(labels, tables or Tables()).trace() if labels.size else None
    if traced is None:
        none = np.zeros(0, dtype=np.int64)
        return Traced(none, none, none.astype(bool), np.zeros(1, dtype=np.int64), np.zeros((0, 2)))
    return traced


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of sides in one direction: the first and the last pixel of each as they are walked, flat."""

    begin: np.ndarray
    end: np.ndarray


@dataclass(frozen=True, eq=False)
class _Ends:
    """What is at the end of runs: the coordinate of the corner across the run, and which run goes on from there."""

    corner: np.ndarray
    next: np.ndarray


class _Slab:
    """Some whole slices; pixels are counted flat, in 32-bit integers."""

    def __init__(self, labels: np.ndarray, tables: Tables) -> None:
        self._rows, self._columns = labels.shape[1:]
        self._flat = np.ascontiguousarray(labels).reshape(-1)
        self._stack = self._flat.reshape(labels.shape)
        self._tables = tables.pair(labels.size)

    def trace(self) -> Traced | None:
        """None where nothing is inside."""
        right, left = self._beside()
        bottom, top = self._above()
        if not top.size:
            return None
        leftward, upward = self._across(bottom), self._upright(left)
        return self._polygons(self._across(top), _Runs(leftward.end, leftward.begin), self._upright(right), _Runs(upward.end, upward.begin))

    def _beside(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels with a right side, and pixels with a left one."""
        flat = self._flat
        differs = np.empty(flat.size + 1, dtype=bool)
        np.not_equal(flat[1:], flat[:-1], out=differs[1:-1])
        differs[:: self._columns] = True
        place = np.flatnonzero(differs).astype(np.int32)
        return self._inside(place[1:] - 1), self._inside(place[:-1])

    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels with a bottom side, and pixels with a top one."""
        stack, columns = self._stack, self._columns
        differs = np.empty((len(stack), self._rows + 1, columns), dtype=bool)
        np.not_equal(stack[:, 1:], stack[:, :-1], out=differs[:, 1:-1])
        differs[:, 0] = differs[:, -1] = True
        place = np.flatnonzero(differs).astype(np.int32)
        line = place // columns
        slices = line // (self._rows + 1)
        row = line - slices * (self._rows + 1)
        below = place - slices * columns
        return self._inside(below[row > 0] - columns), self._inside(below[row < self._rows])

    def _inside(self, pixels: np.ndarray) -> np.ndarray:
        kept: np.ndarray = pixels[self._flat[pixels] != 0]
        return kept

    def _row(self, pixels: np.ndarray) -> np.ndarray:
        lines = pixels // self._columns
        rows: np.ndarray = lines - lines // self._rows * self._rows
        return rows

    def _column(self, pixels: np.ndarray) -> np.ndarray:
        columns: np.ndarray = pixels - pixels // self._columns * self._columns
        return columns

    def _across(self, pixels: np.ndarray) -> _Runs:
        """Runs from left to right; `pixels` in order."""
        return self._runs(pixels, pixels, self._column(pixels))

    def _upright(self, pixels: np.ndarray) -> _Runs:
        """Runs from top to bottom."""
        rows, columns, area = self._rows, self._columns, self._rows * self._columns
        turned = np.sort(pixels // area * area + self._column(pixels) * rows + self._row(pixels))
        slices = turned // area * area
        column = (turned - slices) // rows
        row = turned - slices - column * rows
        return self._runs(turned, slices + row * columns + column, row)

    def _runs(self, order: np.ndarray, pixels: np.ndarray, along: np.ndarray) -> _Runs:
        """Runs of pixels that follow each other in `order`, have one label, and stay in the line that `along` counts in."""
        label = self._flat[pixels]
        begins = along == 0
        begins[1:] |= (order[1:] != order[:-1] + 1) | (label[1:] != label[:-1])
        begins[0] = True
        first = np.flatnonzero(begins)
        return _Runs(pixels[first], pixels[np.append(first[1:], len(pixels)) - 1])

    def _ends(
        self, end: np.ndarray, along: np.ndarray, limit: int, step: int, aside: int, sign: int, on: np.ndarray, off: np.ndarray
    ) -> _Ends:
        """At the last pixels of runs that go `step` pixels on.

        Where the pixel ahead is inside, too, the run ended because the one `aside` of it is: the polygon turns to that one,
        to the run in the table `on`. Else it turns around the last pixel itself, to the run in `off`.
        """
        ahead = np.where(along == limit, end, end + step)
        turns = (along != limit) & (self._flat[ahead] == self._flat[end])
        corner = along + sign * np.where(turns, 1 - HALF, HALF)
        return _Ends(corner, np.where(turns, on[np.where(turns, ahead + aside, 0)], off[end]))

    def _polygons(self, tops: _Runs, bottoms: _Runs, downs: _Runs, ups: _Runs) -> Traced:
        down, up = self._numbered(downs, ups)
        width, last_column, last_row = self._columns, self._columns - 1, self._rows - 1
        column, row = self._column, self._row
        after_top = self._ends(tops.end, column(tops.end), last_column, 1, -width, 1, up, down)
        after_bottom = self._ends(bottoms.end, column(bottoms.end), 0, -1, width, -1, down, up)
        top, bottom = self._numbered(tops, bottoms)
        after_down = self._ends(downs.end, row(downs.end), last_row, width, 1, 1, top, bottom)
        after_up = self._ends(ups.end, row(ups.end), 0, -width, -1, -1, bottom, top)
        upright = np.concatenate([after_top.next, after_bottom.next])  # of each run across, the one that follows
        order, sizes = walk(np.concatenate([after_down.next, after_up.next])[upright])
        follows = upright[order]
        corners = np.empty((2 * len(order), 2))
        x = np.concatenate([column(downs.end) + HALF, column(ups.end) - HALF])
        y = np.concatenate([row(tops.end) - HALF, row(bottoms.end) + HALF])
        corners[0::2, 0] = corners[1::2, 0] = x[follows]
        corners[0::2, 1] = y[order]
        corners[1::2, 1] = np.concatenate([after_down.corner, after_up.corner])[follows]
        starts = np.concatenate([[0], np.cumsum(2 * sizes)])
        pixels = np.concatenate([tops.begin, bottoms.begin])[order[starts[:-1] // 2]]
        return Traced(self._flat[pixels], pixels // (self._rows * width), _holes(corners, starts), starts, corners)

    def _numbered(self, runs: _Runs, others: _Runs) -> tuple[np.ndarray, np.ndarray]:
        """Tables of the first pixel of each run with its number; what is at other pixels is never asked for.

        The next two come to lie in the same memory.
        """
        count = len(runs.begin)
        self._tables[0][runs.begin] = np.arange(count, dtype=np.int32)
        self._tables[1][others.begin] = np.arange(count, count + len(others.begin), dtype=np.int32)
        return self._tables


def walk(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All cycles of a permutation, one after the other, and their lengths.

    The end of each is joined to the beginning of the next, so that one walk through a graph, in compiled code, meets all.
    """
    count = len(following)
    every, ones = np.arange(count + 1, dtype=np.int32), np.ones(count)
    found, cycle = connected_components(csr_array((ones, following, every), shape=(count, count)), connection="weak")
    first = np.empty(found, dtype=np.int32)
    first[cycle[::-1]] = every[:-1][::-1]
    before = np.empty(count, dtype=np.int32)
    before[following] = every[:-1]
    joined = following.copy()
    joined[before[first]] = np.append(first[1:], first[0])
    order = depth_first_order(csr_array((ones, joined, every), shape=(count, count)), first[0], return_predecessors=False)
    return order, np.bincount(cycle)


def _holes(corners: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which polygons go round the other way, by their area."""
    x, y = corners[:, 0], corners[:, 1]
    after = np.arange(1, len(x) + 1)
    after[starts[1:] - 1] = starts[:-1]
    return np.add.reduceat(x * y[after] - x[after] * y, starts[:-1]) < 0
