"""Which voxels teach a structure: those that speak of it, and of its mirror image on the other side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from delineate.training.features import NAMES
from delineate.training.sampling import Samples
from delineate.training.working import Array

MOST_ROWS: Final = 400_000
"""Voxels one structure is learned from; with many images fewer of each."""

_OF_A_SIDE: Final = 0.8
"""Mean of the side, -1 to 1, from which on a structure is of one side."""

_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W_A-Za-z]+")
_SIDES: Final = {"l": "left", "r": "right"}

_ALIKE: Final = 0.5
"""Of the voxels of two structures: where so many have values in common, and places from front to back, one mirrors the other."""


def gathered(name: str, cases: Sequence[Samples], use: Sequence[np.ndarray]) -> tuple[Array, Array]:
    """Rows that speak of a structure, and whether they are of it."""
    use = [u & case.known[:, case.names.index(name)] for case, u in zip(cases, use, strict=True)]
    share = max(1, -(-sum(int(u.sum()) for u in use) // MOST_ROWS))
    rows = np.concatenate([case.rows[u][::share] for case, u in zip(cases, use, strict=True)])
    truth = np.concatenate([case.truth[u][::share] == case.names.index(name) + 1 for case, u in zip(cases, use, strict=True)])
    return rows, truth.astype(np.float32)


def with_twins(name: str, cases: Sequence[Samples], rows: Array, truth: Array) -> tuple[Array, Array]:
    """With what the other side shows of a structure, mirrored.

    One patient shows little of each side: where a left lung is cut off as a sliver and a right one in full, in the next it may be
    the other way round. A body is the same on both sides, as far as the features for other patients see it.
    """
    for case in cases:
        other = twin(case, case.names.index(name))
        if other is not None:
            use = ~case.held & case.known[:, other]
            rows = np.concatenate([rows, mirrored(case.rows[use])])
            truth = np.concatenate([truth, (case.truth[use] == other + 1).astype(np.float32)])
    return rows, truth


def twin(case: Samples, column: int) -> int | None:
    """The structure of the other side that mirrors one, by its number: each is the most alike of all to the other."""
    other, common = _likest(case, column)
    return other if common >= _ALIKE and _likest(case, other)[0] == column else None


def _likest(case: Samples, column: int) -> tuple[int, float]:
    """The structure that is most alike, by its number, and how much."""
    common = [_alike(case, column, other) for other in range(len(case.names))]
    best = int(np.argmax(common))
    return best, common[best]


def _alike(case: Samples, one: int, other: int) -> float:
    """How much two structures have in common, 0 to 1; 0 where they are not of opposite sides. Names of sides stand for places."""
    across, value, along = (case.rows[:, NAMES.index(feature)] for feature in ("across", "value", "along"))
    first, second = ((case.truth == label + 1) & ~case.held for label in (one, other))
    if not first.any() or not second.any():
        return 0.0
    sides = np.sign(across[first]).mean(), np.sign(across[second]).mean()
    if min(np.abs(sides)) < _OF_A_SIDE or np.prod(sides) > 0:
        return 0.0
    places = () if are_sides(case.names[one], case.names[other]) else (along,)  # slivers of two sides may lie apart
    return min(_in_common(feature[first], feature[second]) for feature in (value, *places))


def are_sides(one: str, other: str) -> bool:
    """Whether names differ in left and right alone: ``Lung_L`` and ``Lung_R``, ``left kidney`` and ``right kidney``."""
    first, second = ([_SIDES.get(word.lower(), word.lower()) for word in _WORDS.findall(name)] for name in (one, other))
    differ = {words for words in zip(first, second, strict=False) if words[0] != words[1]}
    return len(first) == len(second) and differ in ({("left", "right")}, {("right", "left")})


def _in_common(first: Array, second: Array) -> float:
    """What the histograms of two sets of numbers share, 0 to 1."""
    edges = np.histogram_bin_edges(np.concatenate([first, second]), bins=16)
    shares = [np.histogram(values, bins=edges)[0] / values.size for values in (first, second)]
    return float(np.minimum(*shares).sum())


def mirrored(rows: Array) -> Array:
    """Features of voxels, shape (voxels, features), as they would be on the other side of the body."""
    order = [NAMES.index(name.replace("-L", "+L") if "-L" in name else name.replace("+L", "-L")) for name in NAMES]
    result = rows[:, order]
    result[:, NAMES.index("across")] *= -1
    return result
