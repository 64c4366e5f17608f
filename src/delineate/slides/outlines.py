"""Polygons of what was found on a slide, many thousands of them in two arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from delineate.slides.part import Window

Points = npt.NDArray[np.int32]
"""Shape (n, 2): x, y in halves of a pixel of level 0."""

Colour = tuple[int, int, int]

_CHUNK: Final = 4_000_000  # comparisons at once


@dataclass(frozen=True, eq=False)
class Polygons:
    """Closed polygons, the last point not repeated, clockwise on the screen.

    points : of all, one after the other, in halves of a pixel of level 0; counts : points of each.
    """

    points: Points
    counts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Points]:
        end = 0
        for count in self.counts.tolist():
            yield self.points[end : end + count]
            end += count

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each begins in `points`."""
        starts: npt.NDArray[np.int64] = np.cumsum(self.counts) - self.counts
        return starts

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """Pixels of level 0 inside each; above 0."""
        x, y = self.points.astype(np.float64).T
        after = self.after
        cross = x * y[after] - x[after] * y
        return np.add.reduceat(cross, self.starts) / 8 if len(self) else np.zeros(0)

    @property
    def after(self) -> npt.NDArray[np.int64]:
        """The index of the point after each one, around its polygon."""
        after = np.arange(1, len(self.points) + 1)
        starts = self.starts
        after[starts + self.counts - 1] = starts
        return after

    def take(self, which: npt.NDArray[np.intp]) -> Polygons:
        """Some of them, in that order."""
        counts = self.counts[which]
        first = np.repeat(self.starts[which] - (np.cumsum(counts) - counts), counts)
        return Polygons(self.points[first + np.arange(int(counts.sum()))], counts)

    @classmethod
    def joined(cls, several: Sequence[Polygons]) -> Polygons:
        """All of several, in their order."""
        if not several:
            return cls(np.zeros((0, 2), np.int32), np.zeros(0, np.int64))
        return cls(np.concatenate([one.points for one in several]), np.concatenate([one.counts for one in several]))

    def lists(self) -> Iterator[list[list[Any]]]:
        """Each as lists of x, y in pixels: whole numbers, or such with a half."""
        is_whole = not (self.points & 1).any()
        for polygon in self:
            yield (polygon >> 1).tolist() if is_whole else (polygon / 2).tolist()


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """What was found. within : the part that was searched; groups, colours : by label."""

    within: Window
    groups: Mapping[str, Polygons]
    colours: Mapping[str, Colour] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many polygons there are."""
        return sum(len(group) for group in self.groups.values())


def are_simple(polygons: Polygons) -> npt.NDArray[np.bool_]:
    """Whether each neither crosses nor touches itself."""
    result = np.ones(len(polygons), dtype=bool)
    starts = polygons.starts
    for count in np.unique(polygons.counts).tolist():
        which = np.flatnonzero(polygons.counts == count)
        for chunk in np.array_split(which, max(1, len(which) * count * count // _CHUNK)):
            result[chunk] = _are_simple(polygons.points[starts[chunk][:, None] + np.arange(count)])
    return result


def _are_simple(points: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """The same for polygons of one number n of points, shape (polygons, n, 2)."""
    n = points.shape[1]
    if n < 4:
        return np.ones(len(points), dtype=bool)
    first, second = np.triu_indices(n, 2)
    apart = ~((first == 0) & (second == n - 1))  # sides that share a corner
    first, second = first[apart], second[apart]
    local = (points - points[:, :1]).astype(np.int64)
    a, b = local, np.roll(local, -1, axis=1)
    a1, b1, a2, b2 = a[:, first], b[:, first], a[:, second], b[:, second]
    near = (np.minimum(a1, b1) <= np.maximum(a2, b2)).all(axis=2) & (np.minimum(a2, b2) <= np.maximum(a1, b1)).all(axis=2)
    crosses: npt.NDArray[np.bool_] = near & (_side(a1, b1, a2) * _side(a1, b1, b2) <= 0) & (_side(a2, b2, a1) * _side(a2, b2, b1) <= 0)
    return np.logical_not(crosses.any(axis=1))


def _side(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], c: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """On which side of the line a to b a point c lies: -1, 0, 1."""
    d, e = b - a, c - a
    side: npt.NDArray[np.int64] = np.sign(d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0])
    return side
