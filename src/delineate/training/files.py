"""Forests and samples on disk: one file each, written whole or not at all, read without running anything that is in them.

A file is an ``.npz`` of plain arrays, one of which is a JSON text. Trees are LightGBM's text, checked by `delineate.training.trees`.
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
from delineate.training.sampling import MOST_STRUCTURES, Samples
from delineate.training.trees import checked
from delineate.training.working import SCALES

FORMAT: Final = 2
"""Of a forest's file; one of another format is not read."""

_MOST_BYTES: Final = 512 << 20
_LARGEST: Final = 1e9
_LONGEST_NAME: Final = 255
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
                name=_name(fact["name"]),
                trees=checked(arrays[f"trees{i}"].tobytes().decode("ascii")),
                own=checked(arrays[f"own{i}"].tobytes().decode("ascii")) if f"own{i}" in arrays else "",
                parts=int(_number(fact["parts"], 0, _LARGEST)),
                volume=_number(fact["volume"], 0, _LARGEST),
                contrast=_number(fact["contrast"], -_LARGEST, _LARGEST),
                closing=min(16, max(0, int(fact["closing"]))),
                dice=None if fact["dice"] is None else _number(fact["dice"], 0, 1),
            )
            for i, fact in enumerate(facts["structures"])
        )
        spacing, scale = float(facts["spacing"]), str(facts["scale"])
        if not 0 < len({grown.name for grown in structures}) == len(structures) <= MOST_STRUCTURES:
            raise ValueError("no structures, too many, or two of one name")
        if not (0.1 <= spacing <= 100 and scale in SCALES):
            raise ValueError("a working grid that makes no sense")
        marks = tuple(str(mark) for mark in facts["marks"])
        return Forest(structures=structures, spacing=spacing, scale=scale, images=int(_number(facts["images"], 0, _LARGEST)), marks=marks)
    except OSError as error:
        raise ModelError(f"the forest {path.name} cannot be read: {error.strerror or error}", _ADVICE, kind="start") from error
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"{path.name} is no forest: {error}", _ADVICE, kind="start") from error


def _number(value: Any, low: float, high: float) -> float:
    """A number within bounds. Raises `ValueError`; NaN is in none."""
    number = float(value)
    if not low <= number <= high:
        raise ValueError("a number in it makes no sense")
    return number


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.strip()) <= _LONGEST_NAME:
        raise ValueError("a structure has no name, or one that is none")
    return value


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
