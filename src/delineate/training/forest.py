"""Boosted trees, one group for each structure: is this voxel of it or not?

Each structure has its own, because labels rarely name the same structures in all images: an image that does not
list a structure says nothing about it. The trees are LightGBM's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np

from delineate.errors import InputError, MissingPartError, TaskCancelledError
from delineate.training.features import NAMES, NARROW
from delineate.training.sampling import MOST_STRUCTURES, Samples
from delineate.training.working import Array

ROUNDS: Final = 100
SEVERAL: Final = 3
"""Images from which on features of the wide surroundings are used."""

_OF_A_SIDE: Final = 0.8
"""Mean of the side, -1 to 1, from which on a structure is of one side."""

_ALIKE: Final = 0.5
"""Of the voxels of two structures: where so many have values in common, and places from front to back, one mirrors the other."""

MOST_ROWS: Final = 400_000
"""Voxels one structure is learned from; with many images fewer of each."""

_SETTINGS: Final = {
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.1,
    "min_data_in_leaf": 20,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
    "seed": 1,
}


class Stop(Protocol):
    """Anything with `is_set`, such as a ``threading.Event``."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Never:
    """Nobody asks to stop."""

    def is_set(self) -> bool:
        """Never."""
        return False


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
            self._boosters[number, own] = _lightgbm().Booster(model_str=(grown.own if own else "") or grown.trees)
        return self._boosters[number, own]


def grow(
    cases: Sequence[Samples],
    *,
    spacing: float,
    scale: str,
    report: Callable[[float, str], None] = lambda fraction, message: None,
    stop: Stop | None = None,
    threads: int = 1,
) -> Forest:
    """Grow the trees of every structure that any case names.

    One thread by default: it takes seconds, and more of them wait for each other where inference has the cores.
    With five cases or more every fifth is kept to judge by, with fewer a fifth of each one's slices.

    Raises
    ------
    InputError
        No case, too many structures, or one without any labelled voxel.
    TaskCancelledError
        It was stopped.
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

        grown.append(_grow_one(name, [case for case in cases if name in case.names], told, stop or Never(), threads))
    marks = tuple(dict.fromkeys(case.mark.tobytes().hex() for case in cases))
    return Forest(structures=tuple(grown), spacing=spacing, scale=scale, images=len(cases), marks=marks)


def _grow_one(name: str, cases: Sequence[Samples], told: Callable[[float], None], stop: Stop, threads: int) -> Grown:
    judged = [case for number, case in enumerate(cases) if number % 5 == 4]
    taught = [case for number, case in enumerate(cases) if number % 5 != 4]
    rows, truth = _gathered(name, taught, [np.ones_like(case.held) if judged else ~case.held for case in taught])
    if not truth.any():
        raise InputError(f"no voxel of {name} is labelled", "Label it in an image, or leave it out.")
    few = len(cases) < SEVERAL
    share = 0.5 if few else 1.0
    wide = _with_twins(name, taught, rows, truth) if few else (rows, truth)
    trees = _boosted(*wide, NARROW if few else NAMES, lambda fraction: told(share * fraction), stop, threads)
    own = _boosted(rows, truth, NAMES, lambda fraction: told(share + share * fraction), stop, threads) if few else None
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


def _boosted(rows: Array, truth: Array, features: Sequence[str], told: Callable[[float], None], stop: Stop, threads: int) -> Any:
    """Trees over some of the features; the others are penalised away rather than left out, so that rows are the same for all."""
    lightgbm = _lightgbm()
    settings = {**_SETTINGS, "num_threads": threads}
    if len(features) < len(NAMES):
        settings["feature_contri"] = [1.0 if feature in features else 0.0 for feature in NAMES]
    names = [f"f{i}" for i in range(len(NAMES))]
    booster = lightgbm.Booster(settings, lightgbm.Dataset(rows, label=truth, params=settings, feature_name=names))
    for number in range(ROUNDS):
        if stop.is_set():
            raise TaskCancelledError("the training was stopped", "Start it again: what it has seen is kept.")
        booster.update()
        told((number + 1) / ROUNDS)
    return booster


def _gathered(name: str, cases: Sequence[Samples], use: Sequence[np.ndarray]) -> tuple[Array, Array]:
    """Rows that speak of a structure, and whether they are of it."""
    use = [u & case.known[:, case.names.index(name)] for case, u in zip(cases, use, strict=True)]
    share = max(1, -(-sum(int(u.sum()) for u in use) // MOST_ROWS))
    rows = np.concatenate([case.rows[u][::share] for case, u in zip(cases, use, strict=True)])
    truth = np.concatenate([case.truth[u][::share] == case.names.index(name) + 1 for case, u in zip(cases, use, strict=True)])
    return rows, truth.astype(np.float32)


def _with_twins(name: str, cases: Sequence[Samples], rows: Array, truth: Array) -> tuple[Array, Array]:
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
    """How much two structures have in common, 0 to 1; 0 where they are not of opposite sides."""
    across, value, along = (case.rows[:, NAMES.index(feature)] for feature in ("across", "value", "along"))
    first, second = ((case.truth == label + 1) & ~case.held for label in (one, other))
    if not first.any() or not second.any():
        return 0.0
    sides = np.sign(across[first]).mean(), np.sign(across[second]).mean()
    if min(np.abs(sides)) < _OF_A_SIDE or np.prod(sides) > 0:
        return 0.0
    return min(_in_common(feature[first], feature[second]) for feature in (value, along))


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


def _lightgbm() -> ModuleType:
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: the system has no OpenMP runtime (libgomp)
        raise MissingPartError("LightGBM, with the OpenMP runtime it needs,", "train") from error
    return lightgbm
