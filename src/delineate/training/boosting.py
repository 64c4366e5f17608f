"""Boosted trees: is this voxel of a structure or not? They are LightGBM's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

from delineate.errors import MissingPartError
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


def boosted(
    rows: Array, truth: Array, features: Sequence[str], told: Callable[[float], None], threads: int, rounds: int | None = None
) -> Any:
    """Trees over some of the features; the others are penalised away rather than left out, so that rows are the same for all.

    told : how far it is, 0 to 1; rounds : how many, by default `ROUNDS`.
    """
    rounds = ROUNDS if rounds is None else rounds
    lightgbm = loaded()
    settings = {**_SETTINGS, "num_threads": threads}
    if len(features) < len(NAMES):
        settings["feature_contri"] = [1.0 if feature in features else 0.0 for feature in NAMES]
    names = [f"f{i}" for i in range(len(NAMES))]
    booster = lightgbm.Booster(settings, lightgbm.Dataset(rows, label=truth, params=settings, feature_name=names))
    for number in range(rounds):
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
