"""Boosted trees, one group for each structure: is this voxel of it or not?

Each structure has its own, because labels rarely name the same structures in all images: an image that does not
list a structure says nothing about it. The trees are LightGBM's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from delineate.errors import InputError
from delineate.training.boosting import boosted, loaded
from delineate.training.features import NAMES, NARROW
from delineate.training.lessons import gathered, with_twins
from delineate.training.sampling import MOST_STRUCTURES, Samples
from delineate.training.working import Array

SEVERAL: Final = 3
"""Images from which on features of the wide surroundings are used."""


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What was learned of one structure.

    trees : in LightGBM's text; parts : connected ones, at most; volume : ml; dice : on voxels held back, None where there were none.
    own : trees for the images that were learned from, empty where `trees` serve for these as well.
    contrast : the usual step of values over the border, from one working voxel to the next.
    closing : radius in working voxels of the gaps and dents that its labels never had.
    """

    name: str
    trees: str
    parts: int
    volume: float
    dice: float | None = None
    own: str = ""
    contrast: float = 0.0
    closing: int = 0


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Trees of all structures; `spacing` (mm) and `scale` of the working grid they hold for, and the number of `images` they grew on.

    marks : fingerprints of these images, in hexadecimal digits.
    """

    structures: tuple[Grown, ...]
    spacing: float
    scale: str
    images: int
    marks: tuple[str, ...] = ()
    _boosters: dict[tuple[int, bool], Any] = field(default_factory=dict, compare=False, repr=False)

    def probabilities(self, rows: Array, threads: int | None = None, own: bool = False) -> Array:
        """Of voxels' features, shape (voxels, features): the probability of each structure, shape (structures, voxels).

        threads : None for half the cores: more threads than free cores wait for each other, and all crawl.
        own : the voxels are of an image that was learned from.
        """
        threads = max(1, (os.cpu_count() or 1) // 2) if threads is None else threads
        result = np.empty((len(self.structures), rows.shape[0]), dtype=np.float32)
        for number, one in enumerate(result):
            one[:] = self._booster(number, own).predict(rows, num_threads=threads)
        return result

    def _booster(self, number: int, own: bool) -> Any:
        if (number, own) not in self._boosters:
            grown = self.structures[number]
            self._boosters[number, own] = loaded().Booster(model_str=(grown.own if own else "") or grown.trees)
        return self._boosters[number, own]


def grow(
    cases: Sequence[Samples],
    *,
    spacing: float,
    scale: str,
    report: Callable[[float, str], None] = lambda fraction, message: None,
    threads: int = 1,
) -> Forest:
    """Grow the trees of every structure that any case names.

    One thread by default: it takes seconds, and more of them wait for each other where inference has the cores.
    With five cases or more every fifth is kept to judge by, with fewer a fifth of each one's slices.

    Raises
    ------
    InputError
        No case, too many structures, or one without any labelled voxel.
    MissingPartError
        LightGBM is not installed.
    """
    names = list(dict.fromkeys(name for case in cases for name in case.names))
    if not names:
        raise InputError("there is nothing to learn from", "Label an image first.")
    if len(names) > MOST_STRUCTURES:
        raise InputError(f"the labels name {len(names)} structures", f"Name at most {MOST_STRUCTURES}, alike in all images.")
    grown = []
    for number, name in enumerate(names):

        def told(fraction: float, number: int = number, name: str = name) -> None:
            report((number + fraction) / len(names), f"learning {name}")

        grown.append(_grow_one(name, [case for case in cases if name in case.names], told, threads))
    marks = tuple(dict.fromkeys(case.mark.tobytes().hex() for case in cases))
    return Forest(structures=tuple(grown), spacing=spacing, scale=scale, images=len(cases), marks=marks)


def _grow_one(name: str, cases: Sequence[Samples], told: Callable[[float], None], threads: int) -> Grown:
    judged = [case for number, case in enumerate(cases) if number % 5 == 4]
    taught = [case for number, case in enumerate(cases) if number % 5 != 4]
    rows, truth = gathered(name, taught, [np.ones_like(case.held) if judged else ~case.held for case in taught])
    if not truth.any():
        raise InputError(f"no voxel of {name} is labelled", "Label it in an image, or leave it out.")
    few = len(cases) < SEVERAL
    share = 0.5 if few else 1.0
    wide = with_twins(name, taught, rows, truth) if few else (rows, truth)
    trees = boosted(*wide, NARROW if few else NAMES, lambda fraction: told(share * fraction), threads)
    own = boosted(rows, truth, NAMES, lambda fraction: told(share + share * fraction), threads) if few else None
    column = [case.names.index(name) for case in cases]
    contrasts = [float(case.contrasts[c]) for case, c in zip(cases, column, strict=True) if case.contrasts[c] > 0]
    return Grown(
        name=name,
        trees=trees.model_to_string(importance_type="gain"),
        own=own.model_to_string(importance_type="gain") if own is not None else "",
        parts=max(1, max(int(case.parts[c]) for case, c in zip(cases, column, strict=True))),
        volume=float(np.median([case.volumes[c] for case, c in zip(cases, column, strict=True)])),
        contrast=float(np.median(contrasts)) if contrasts else 0.0,
        closing=min(int(case.closings[c]) for case, c in zip(cases, column, strict=True)),
        dice=_dice(name, judged or cases, trees),
    )


def _dice(name: str, cases: Sequence[Samples], booster: Any) -> float | None:
    """Agreement on voxels held back, each counted for as many as it stands for; None where none were."""
    both = either = 0.0
    for case in cases:
        column = case.names.index(name)
        held = case.held & case.known[:, column]
        if not held.any():
            continue
        found = booster.predict(case.rows[held]) > 0.5
        truth = case.truth[held] == column + 1
        weight = case.weight[held]
        both += float(weight[found & truth].sum())
        either += float(weight[found].sum() + weight[truth].sum())
    return 2 * both / either if either else None
