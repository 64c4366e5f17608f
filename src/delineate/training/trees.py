"""LightGBM's text of trees, read as strictly as it is written.

LightGBM follows the numbers in a text without looking: a child that is not there, a count that is too low, or an offset beyond
the end lead it out of its memory. So a text from a file is never handed on; a new one is made of what was understood of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from delineate.training.features import NAMES

_HEAD: Final = {
    "version": "v4",
    "num_class": "1",
    "num_tree_per_iteration": "1",
    "label_index": "0",
    "max_feature_idx": str(len(NAMES) - 1),
    "objective": "binary sigmoid:1",
}
_MOST_TREES: Final = 10_000
_MOST_LEAVES: Final = 4096
_LARGEST: Final = 1e300
_BRANCHES: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_WHOLE: Final = re.compile(r"(-?\d{1,6}( -?\d{1,6})*)?")
_REAL: Final = re.compile(r"(-?\d[-+.\de]*( -?\d[-+.\de]*)*)?")


def checked(text: str) -> str:
    """Trees of one class over our features, in LightGBM's text and in LightGBM's words; `ValueError` where the text holds others."""
    head, *trees = text.split("\nTree=")
    first, _, facts = head.partition("\n")
    fields = _fields(facts)
    if first != "tree" or any(fields.get(name) != value for name, value in _HEAD.items()):
        raise ValueError("the trees are not of these features, or of more than one class")
    if not 0 < len(trees) <= _MOST_TREES:
        raise ValueError("there are no trees, or too many")
    bodies = [_tree(_fields(tree.partition("\nend of trees")[0].partition("\n")[2])) for tree in trees]
    blocks = [f"Tree={number}\n{body}\n\n" for number, body in enumerate(bodies)]
    said = {
        **_HEAD,
        "feature_names": " ".join(f"Column_{number}" for number in range(len(NAMES))),
        "feature_infos": " ".join(["none"] * len(NAMES)),
        "tree_sizes": " ".join(str(len(block)) for block in blocks),
    }
    return "tree\n" + "".join(f"{name}={value}\n" for name, value in said.items()) + "\n" + "".join(blocks) + "end of trees\n"


def _fields(text: str) -> dict[str, str]:
    lines = [line.partition("=") for line in text.split("\n") if line]
    fields = {name: value for name, _, value in lines}
    if len(fields) != len(lines):
        raise ValueError("the trees say something twice")
    return fields


def _tree(fields: Mapping[str, str]) -> str:
    """One tree's lines, of which no branch leads out of the tree or back, and no feature is beyond the row."""
    if fields["num_cat"] != "0" or fields.get("is_linear", "0") != "0":
        raise ValueError("a tree is of a kind that is not used")
    (leaves,) = _whole(fields["num_leaves"])
    if _real(fields["leaf_value"]).size != leaves or not 1 <= leaves <= _MOST_LEAVES:
        raise ValueError("a tree has another number of leaves than it says")
    if leaves > 1:
        _check_branches(fields, int(leaves))
    shrinkage = fields.get("shrinkage", "1")
    if _real(shrinkage).size != 1:
        raise ValueError("a tree has no single shrinkage")
    said = {"num_leaves": str(leaves), "num_cat": "0", **{name: fields.get(name, "") if leaves > 1 else "" for name in _BRANCHES}}
    said |= {"leaf_value": fields["leaf_value"], "is_linear": "0", "shrinkage": shrinkage}
    return "".join(f"{name}={value}\n" for name, value in said.items())


def _check_branches(fields: Mapping[str, str], leaves: int) -> None:
    feature, decision, left, right = (_whole(fields[name]) for name in ("split_feature", "decision_type", "left_child", "right_child"))
    if {a.size for a in (feature, left, right, decision, _real(fields["threshold"]))} != {leaves - 1}:
        raise ValueError("a tree has another number of branches than of leaves")
    if feature.min() < 0 or feature.max() >= len(NAMES) or decision.min() < 0 or decision.max() > 15 or (decision & 1).any():
        raise ValueError("a tree asks for a feature that is not there")
    following = np.concatenate([left, right])
    origin = np.tile(np.arange(leaves - 1), 2)
    inner = following >= 0
    if (following[inner] <= origin[inner]).any() or np.unique(following).size != 2 * (leaves - 1):
        raise ValueError("a tree leads back into itself")
    if following.max() >= leaves - 1 or following.min() < -leaves:
        raise ValueError("a tree leads out of itself")


def _whole(text: str) -> np.ndarray:
    if not _WHOLE.fullmatch(text):
        raise ValueError("a tree has something else where whole numbers belong")
    return np.array(text.split(), dtype=np.int64)


def _real(text: str) -> np.ndarray:
    if not _REAL.fullmatch(text):
        raise ValueError("a tree has something else where numbers belong")
    values = np.array(text.split(), dtype=np.float64)
    if (np.abs(values) > _LARGEST).any():
        raise ValueError("a tree has a number that is too large")
    return values
