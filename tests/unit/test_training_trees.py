"""Trees from a file: LightGBM is given what was understood of them, never their text."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

try:
    import lightgbm
except (ImportError, OSError):  # the latter without the system's libgomp
    pytest.skip("LightGBM cannot be loaded: it needs the system's libgomp1", allow_module_level=True)

from delineate.training.features import NAMES
from delineate.training.trees import checked

ROWS = np.random.default_rng(0).normal(size=(600, len(NAMES))).astype(np.float32)


@pytest.fixture(scope="module")
def text() -> str:
    settings = {"objective": "binary", "num_leaves": 8, "verbosity": -1, "num_threads": 1}
    truth = ROWS[:, 0] + ROWS[:, 1] > 0
    return str(lightgbm.train(settings, lightgbm.Dataset(ROWS, truth), 3).model_to_string())


def predicted(text: str) -> np.ndarray:
    return np.asarray(lightgbm.Booster(model_str=text).predict(ROWS, num_threads=1))


def beside(line: str, more: str) -> Callable[[str], str]:
    """More behind the first line that begins so."""
    return lambda text: re.sub(rf"^({line}.*)$", lambda match: match[1] + more, text, count=1, flags=re.MULTILINE)


def instead(line: str, other: str) -> Callable[[str], str]:
    return lambda text: re.sub(rf"^{line}.*$", lambda match: other, text, count=1, flags=re.MULTILINE)


def test_the_same_trees_say_the_same(text: str) -> None:
    assert np.array_equal(predicted(checked(text)), predicted(text))
    assert checked(checked(text)) == checked(text)


def test_a_tree_of_one_leaf() -> None:
    settings = {"objective": "binary", "verbosity": -1, "min_data_in_leaf": 400, "num_threads": 1}
    lone = str(lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0] > 0), 1).model_to_string())
    assert "num_leaves=1\n" in lone
    assert np.array_equal(predicted(checked(lone)), predicted(lone))


@pytest.mark.parametrize(
    "change",
    [
        beside("leaf_weight=", "\rleft_child=99999999 1 2 3 4 5 6"),  # a line of its own to LightGBM
        beside("leaf_weight=", "\rsplit_feature=" + " ".join(["99999999"] * 7)),
        beside("leaf_weight=", "\0"),
        beside("label_index=0", "\nx=1\rTree=0\rnum_leaves=2000000\rnum_cat=0"),
        instead("tree_sizes=", "tree_sizes=99999999999 99999999999 1"),
        instead("tree_sizes=", "tree_sizes=-4096000 10 1"),
        instead("feature_names=", "feature_names=a b"),
        instead("leaf_count=", "leaf_count=99999999"),
        beside("end of trees", "\n\nTree=9\nnum_leaves=2000000"),
        beside("parameters:", "\n[machines: 192.0.2.1:80]"),
    ],
)
def test_what_is_not_looked_at_does_not_come_through(text: str, change: Callable[[str], str]) -> None:
    changed = change(text)
    assert changed != text
    try:
        understood = checked(changed)
    except (ValueError, KeyError):
        return
    assert understood == checked(text)


@pytest.mark.parametrize(
    "change",
    [
        beside("num_class=1", "\nnum_class=7"),
        beside("num_tree_per_iteration=1", "\nnum_tree_per_iteration=1000000"),
        beside("max_feature_idx=", "\nmax_feature_idx=1"),
        instead("objective=", "objective=multiclass num_class:3"),
        instead("objective=", "objective=lambdarank"),
        instead("label_index=", "label_index=-99999"),
        instead("num_cat=", "num_cat=1"),
        instead("is_linear=", "is_linear=1"),
        instead("leaf_value=", "leaf_value=nan nan nan nan nan nan nan nan"),
        instead("threshold=", "threshold=1e999 1 1 1 1 1 1"),
        instead("left_child=", "left_child=1_0 -1 -2 -3 -4 -5 -6"),
        instead("decision_type=", "decision_type=256 2 2 2 2 2 2"),
        instead("shrinkage=", "shrinkage="),
        beside("num_leaves=", "\r"),
    ],
)
def test_other_trees_are_refused(text: str, change: Callable[[str], str]) -> None:
    changed = change(text)
    assert changed != text
    with pytest.raises((ValueError, KeyError)):
        checked(changed)
