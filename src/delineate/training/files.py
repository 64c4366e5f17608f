"""Forests and samples on disk: one file each, written whole or not at all, read without running anything that is in them.

A file is an ``.npz`` of plain arrays, one of which is a JSON text. Trees are LightGBM's text; LightGBM follows the numbers in it without
looking, so every number that says where to go next is checked before.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import ModelError, StoreError
from delineate.training.features import NAMES, VERSION
from delineate.training.forest import Forest, Grown
from delineate.training.sampling import Samples
from delineate.training.working import SCALES

FORMAT: Final = 2
FOREST: Final = "forest.npz"
"""Name of a forest in its model's folder."""

_MOST_BYTES: Final = 512 << 20
_INTEGERS: Final = ("split_feature", "left_child", "right_child", "decision_type")
_ADVICE: Final = "Train the model again."


def write_forest(path: Path, forest: Forest) -> None:
    """Write a forest; whoever reads `path` meets the old one or the new one, never a part."""
    facts = {
        "format": FORMAT,
        "features": VERSION,
        "spacing": forest.spacing,
        "scale": forest.scale,
        "images": forest.images,
        "marks": list(forest.marks),
        "structures": [
            {"name": g.name, "parts": g.parts, "volume": g.volume, "contrast": g.contrast, "closing": g.closing, "dice": g.dice}
            for g in forest.structures
        ],
    }
    texts = {f"trees{i}": g.trees for i, g in enumerate(forest.structures)}
    texts.update({f"own{i}": g.own for i, g in enumerate(forest.structures) if g.own})
    _write(path, facts, {name: np.frombuffer(text.encode("ascii"), np.uint8) for name, text in texts.items()})


def read_forest(path: Path) -> Forest:
    """Read a forest.

    Raises
    ------
    ModelError
        Kind ``start``: not there, not a forest, of another version, or damaged.
    """
    try:
        facts, arrays = _read(path)
        if (facts["format"], facts["features"]) != (FORMAT, VERSION):
            raise ModelError(f"the forest in {path.name} is of another version", _ADVICE, kind="start")
        structures = tuple(
            Grown(
                name=str(fact["name"]),
                trees=checked(arrays[f"trees{i}"].tobytes().decode("ascii")),
                own=checked(arrays[f"own{i}"].tobytes().decode("ascii")) if f"own{i}" in arrays else "",
                parts=int(fact["parts"]),
                volume=float(fact["volume"]),
                contrast=float(fact["contrast"]),
                closing=min(16, max(0, int(fact["closing"]))),
                dice=None if fact["dice"] is None else float(fact["dice"]),
            )
            for i, fact in enumerate(facts["structures"])
        )
        spacing, scale = float(facts["spacing"]), str(facts["scale"])
        if not (structures and 0.1 <= spacing <= 100 and scale in SCALES):
            raise ValueError("no structures, or a working grid that makes no sense")
        marks = tuple(str(mark) for mark in facts["marks"])
        return Forest(structures=structures, spacing=spacing, scale=scale, images=int(facts["images"]), marks=marks)
    except OSError as error:
        raise ModelError(f"the forest {path.name} cannot be read: {error.strerror or error}", _ADVICE, kind="start") from error
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"{path.name} is no forest: {error}", _ADVICE, kind="start") from error


def checked(text: str) -> str:
    """The text of trees, if no branch leads out of its tree or back and no feature is beyond the row; else `ValueError`."""
    head, *trees = text.split("\nTree=")
    if not head.startswith("tree\n") or not trees or f"max_feature_idx={len(NAMES) - 1}" not in head.split("\n"):
        raise ValueError("the trees are not of these features")
    if not {"num_class=1", "num_tree_per_iteration=1"} <= set(head.split("\n")):
        raise ValueError("the trees are of more than one class")
    for tree in trees:
        lines = [line.partition("=") for line in tree.partition("end of trees")[0].split("\n")[1:] if line]
        fields = {name: value for name, _, value in lines}
        if len(fields) != len(lines) or fields.get("num_cat") != "0" or fields.get("is_linear", "0") != "0":
            raise ValueError("a tree is of a kind that is not used")
        _check_tree(fields)
    return text


def _check_tree(fields: Mapping[str, str]) -> None:
    leaves = int(fields["num_leaves"])
    if len(fields["leaf_value"].split()) != leaves or not 1 <= leaves <= 4096:
        raise ValueError("a tree has another number of leaves than it says")
    if leaves == 1:
        return
    feature, left, right, decision = (np.array(fields[name].split(), dtype=np.int64) for name in _INTEGERS)
    threshold = np.array(fields["threshold"].split(), dtype=np.float64)
    if {a.size for a in (feature, left, right, decision, threshold)} != {leaves - 1}:
        raise ValueError("a tree has another number of branches than of leaves")
    if feature.min() < 0 or feature.max() >= len(NAMES) or (decision & 1).any():
        raise ValueError("a tree asks for a feature that is not there")
    following = np.concatenate([left, right])
    origin = np.tile(np.arange(leaves - 1), 2)
    inner = following >= 0
    if (following[inner] <= origin[inner]).any() or np.unique(following).size != 2 * (leaves - 1):
        raise ValueError("a tree leads back into itself")
    if following.max() >= leaves - 1 or following.min() < -leaves:
        raise ValueError("a tree leads out of itself")


class Reservoir:
    """Samples of the cases seen so far, a file each in one folder: what was seen is not looked at again, also after a kill.

    Files are named by a digest, so no image's name is in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, image: str, version: str) -> Samples | None:
        """What is kept of an image with this version of its labels; None where there is nothing, or what is there cannot be used."""
        try:
            facts, arrays = _read(self._path(image))
            if (facts["features"], facts["version"]) != (VERSION, version):
                return None
            samples = Samples(names=tuple(facts["names"]), **arrays)
            count = samples.truth.size
            fits = (
                samples.rows.shape == (count, len(NAMES))
                and samples.known.shape == (count, len(samples.names))
                and samples.held.shape == samples.weight.shape == samples.truth.shape
            )
            return samples if fits else None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
            return None

    def put(self, image: str, version: str, samples: Samples) -> None:
        """Keep samples in place of what was kept of the image."""
        names = ("rows", "truth", "known", "held", "weight", "parts", "volumes", "contrasts", "closings", "mark")
        facts = {"features": VERSION, "version": version, "names": list(samples.names)}
        _write(self._path(image), facts, {name: getattr(samples, name) for name in names})

    def forget(self, image: str) -> None:
        """Remove what is kept of an image."""
        self._path(image).unlink(missing_ok=True)

    def _path(self, image: str) -> Path:
        return self._folder / (hashlib.sha256(image.encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".npz")


def _write(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    text = np.frombuffer(json.dumps(facts).encode("utf-8"), np.uint8)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            np.savez_compressed(file, allow_pickle=False, facts=text, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreError(f"{path.name} cannot be written: {error.strerror}", "Check the disk and the folder's rights.") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
            raise ValueError("it is too large")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(arrays.pop("facts").tobytes())
    if not isinstance(facts, dict):
        raise ValueError("its facts are no table")
    return facts, arrays
