"""Boosted trees: is this voxel of a structure or not? They are LightGBM's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final, Protocol

from delineate.errors import MissingPartError, TaskCancelledError
from delineate.training.features import NAMES
from delineate.training.working import Array

ROUNDS: Final = 100

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


def boosted(
    rows: Array, truth: Array, features: Sequence[str], told: Callable[[float], None], stop: Stop, threads: int, rounds: int | None = None
) -> Any:
    """Trees over some of the features; the others are penalised away rather than left out, so that rows are the same for all.

    rounds : how many, by default `ROUNDS`.
    """
    rounds = ROUNDS if rounds is None else rounds
    lightgbm = loaded()
    settings = {**_SETTINGS, "num_threads": threads}
    if len(features) < len(NAMES):
        settings["feature_contri"] = [1.0 if feature in features else 0.0 for feature in NAMES]
    names = [f"f{i}" for i in range(len(NAMES))]
    booster = lightgbm.Booster(settings, lightgbm.Dataset(rows, label=truth, params=settings, feature_name=names))
    for number in range(rounds):
        if stop.is_set():
            raise TaskCancelledError("the training was stopped", "Start it again: what it has seen is kept.")
        booster.update()
        told((number + 1) / rounds)
    return booster


def loaded() -> ModuleType:
    """LightGBM. Raises `MissingPartError`."""
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: the system has no OpenMP runtime (libgomp)
        raise MissingPartError("LightGBM, with the OpenMP runtime it needs,", "train") from error
    return lightgbm
