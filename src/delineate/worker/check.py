"""Whether what a model answered may be given to a person: the geometry contract and the labels.

Nothing is resampled or renamed to make a result fit. A result on another grid than the image (or the sender's contour
grid) fails the task with both grids in the message; so does a label that nobody named.
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from delineate import nifti
from delineate.errors import DelineateError, ModelError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.protocols.infer_result import LARGEST
from delineate.runners.base import Findings
from delineate.segmentation import Segmentation, names_by_label

FINDINGS_NAME = "findings.json"
LABEL_MAP_SUFFIXES = (".nii.gz", ".nii")
_SHARED: Final = 32 << 20  # bytes from which two cores look at an array


@dataclass(frozen=True, kw_only=True)
class ExpectedGrid:
    """The grids a result may be on, as the model sees them.

    image : grid of the first image; factor : the sender's contour grid over it, x, y, z, in the model's axes;
    exact : whether origin, spacing and direction of the result count too, and not its size alone.
    """

    image: Geometry
    factor: tuple[int, int, int] = (1, 1, 1)
    exact: bool = False

    @property
    def contours(self) -> Geometry:
        """The contour grid; the image's own where the factor is 1."""
        return self.image.refined(self.factor) if self.factor != (1, 1, 1) else self.image

    def is_fine(self, found: Geometry, what: str) -> bool:
        """Whether `found` is the contour grid (True) or the image's (False, also where they are the same).

        Raises
        ------
        ModelError
            Kind ``grid``: it is neither; the message names both.
        """
        contours = self.contours
        for fine, grid in ((False, self.image), (True, contours)):
            if self._same(found, grid):
                return fine
        message = f"{what} is on another grid than the image: {self._words(found)} against {self._words(self.image)}"
        if contours is not self.image:
            message += f" or, for contours, {self._words(contours)}"
        if self.exact:
            message += "; " + (found.difference(contours if found.size == contours.size else self.image) or "the same")
        raise ModelError(message, "The model must answer on the grid of its first image: tell its author.", kind="grid")

    def _words(self, grid: Geometry) -> str:
        """What counts of a grid."""
        return str(grid) if self.exact else " x ".join(str(n) for n in grid.size) + " voxels"

    def _same(self, found: Geometry, grid: Geometry) -> bool:
        return found.matches(grid) if self.exact else found.size == grid.size


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """One layer of an answer.

    name : path in the result archive without suffix; labels : unsigned integers, shape (z, y, x); names : by label;
    fine : whether it is on the contour grid already.
    """

    name: str
    labels: np.ndarray
    names: Mapping[int, str]
    fine: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a model answered, checked.

    layers : none only where there are findings; others : further files by their name in the result archive; notes : for the
    task's log; findings : what else the model said, None for nothing.
    """

    layers: tuple[LabelMap, ...]
    others: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    findings: Mapping[str, Any] | None = None


def check(result: Segmentation | Findings | None, folder: Path, model: Model, expected: ExpectedGrid) -> Answer:
    """Check what a runner returned, or the files it wrote to `folder`.

    Raises
    ------
    ModelError
        Kind ``output`` (nothing, or nothing readable), ``grid`` or ``labels``.
    """
    if isinstance(result, Findings):
        answer = Answer(layers=(), others={})
        if result.segmentation is not None:
            answer = _from_segmentation(result.segmentation, folder, model, expected)
        answer = replace(answer, findings=result.values)
    else:
        answer = _from_files(folder, model, expected) if result is None else _from_segmentation(result, folder, model, expected)
    doubled = [name for name, times in Counter(name for layer in answer.layers for name in layer.names.values()).items() if times > 1]
    if doubled:
        raise ModelError(
            f"the result has two structures of one name: {_listed(doubled)}",
            "Give every structure of the model a name of its own.",
            "labels",
        )
    return answer


def present_labels(labels: np.ndarray) -> list[int]:
    """The labels above 0 that occur, ascending. `labels`: unsigned integers of any shape of three axes."""
    highest = _highest(labels)
    if highest <= 1:
        return [1] * highest
    if highest >= 1 << 24:  # a table of flags would be larger than sorting is slow
        return [int(value) for value in np.unique(labels) if value]
    seen = np.zeros(highest + 1, dtype=bool)
    for plane in labels:
        flat = plane.ravel()
        ends = np.flatnonzero(flat[1:] != flat[:-1])  # of runs of one label: indexing by every voxel would be the dear part
        seen[flat[ends]] = True
        seen[flat[-1:]] = True
    return [int(value) for value in np.flatnonzero(seen) if value]


def _highest(labels: np.ndarray) -> int:
    if labels.nbytes < _SHARED:
        return int(labels.max(initial=0))
    middle = len(labels) // 2
    with ThreadPoolExecutor(1, "highest") as other:  # numpy does not hold the interpreter meanwhile
        rest = other.submit(labels[middle:].max, initial=0)
        return max(int(labels[:middle].max(initial=0)), int(rest.result()))


def _from_segmentation(result: Segmentation, folder: Path, model: Model, expected: ExpectedGrid) -> Answer:
    if not isinstance(result, Segmentation):
        raise ModelError(f"the model returned {type(result).__name__}, not a segmentation", "Return a Segmentation or None.", "output")
    if not result.layers:
        raise ModelError("the model returned a segmentation without a label map", "Return at least one layer, empty if need be.", "output")
    fine = expected.is_fine(result.geometry, "the result")
    layers = []
    for index, array in enumerate(result.layers):
        labels = array.view(np.uint8) if array.dtype == bool else array
        own = names_by_label(s for s in result.structures if s.layer == index)
        declared = names_by_label(s for s in model.structures if s.layer == index)
        name = "segmentation" if index == 0 else f"segmentation_{index + 1}"
        layers.append(LabelMap(name=name, labels=labels, names=_named(labels, own, declared, "the result"), fine=fine))
    left = len(_regular_files(folder)[0])
    notes = (f"{left} files in the output folder were left out: the model returned a segmentation",) if left else ()
    return Answer(layers=tuple(layers), others={}, notes=notes)


def _from_files(folder: Path, model: Model, expected: ExpectedGrid) -> Answer:
    files, skipped = _regular_files(folder)
    findings = _read_findings(files.pop(FINDINGS_NAME)) if FINDINGS_NAME in files else None
    maps = {name: stem for name in files if (stem := _stem(name)) is not None}
    if not maps and findings is None:
        found = f" (it wrote {_listed(list(files))})" if files else ""
        raise ModelError(f"the model wrote no label map{found}", "It must write NAME.nii.gz to its output folder.", "output")
    _refuse_clashes(maps)
    twins = {f"{stem}.json" for stem in maps.values()}
    alone = [name for name, stem in maps.items() if f"{stem}.json" not in files]
    layers = tuple(_read_map(files, name, stem, model, expected, restrict=len(alone) > 1) for name, stem in maps.items())
    others, notes = {}, [f"{name} was left out: it is not a regular file" for name in skipped]
    for name, path in files.items():
        if name in maps or name in twins:
            continue
        if name.lower().endswith(".json"):  # clients of the protocol fail a result with a .json that has no label map
            notes.append(f"{name} was renamed {name}.txt: it belongs to no label map")
            name += ".txt"
        others[name] = path
    return Answer(layers=layers, others=others, notes=tuple(notes), findings=findings)


def _read_findings(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError
        findings = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError):
        findings = None
    if not isinstance(findings, dict):
        raise ModelError(f"the model's file {FINDINGS_NAME} is no JSON object", "Write one of up to 16 MiB.", "output")
    return findings


def _read_map(files: Mapping[str, Path], name: str, stem: str, model: Model, expected: ExpectedGrid, *, restrict: bool) -> LabelMap:
    path = files[name]
    try:
        labels, geometry = nifti.read_labels(path)
    except DelineateError as error:
        message = error.message.replace(str(path), name)
        raise ModelError(f"the model's label map {name} cannot be used: {message}", error.advice, _why_unreadable(path)) from error
    fine = expected.is_fine(geometry, f"the label map {name}")
    twin = files.get(f"{stem}.json")
    own = _read_names(twin, f"{stem}.json") if twin is not None else {}
    declared = names_by_label(s for s in model.structures if s.layer == 0)
    names = _named(labels, own, declared, f"the label map {name}")
    if twin is None:
        # Several files without names of their own share the declared ones: each gets those it has voxels of.
        present = set(present_labels(labels)) if restrict else set(declared)
        names = {label: text for label, text in declared.items() if label in present}
    return LabelMap(name=stem, labels=labels, names=names, fine=fine)


def _why_unreadable(path: Path) -> str:
    """``labels`` where the image itself can be read, so that its values are what is wrong; else ``output``."""
    try:
        nifti.read(path)
    except DelineateError:
        return "output"
    return "labels"


def _read_names(path: Path, name: str) -> dict[int, str]:
    advice = 'Write {"1": "Heart", "2": "Liver"}.'
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
        names = {int(label): text for label, text in content.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"the model's file {name} does not name labels", advice, "labels") from None
    for label, text in names.items():
        if not isinstance(text, str) or not text.strip() or label < 0:
            raise ModelError(f"the model's file {name} names label {label} {text!r}", advice, "labels")
    names.pop(0, None)  # the background is no structure
    return names


def _named(labels: np.ndarray, own: Mapping[int, str], declared: Mapping[int, str], what: str) -> dict[int, str]:
    """Names of one layer: its own first; a declared name for a label that occurs without one."""
    names = dict(own)
    nameless = []
    highest = _highest(labels)
    # Where every label that could occur has a name, it does not matter which do: finding them out costs ten times as much.
    is_named = len(names) >= highest and all(label in names for label in range(1, highest + 1))
    for label in [] if is_named else present_labels(labels):
        if label in names:
            continue
        if label in declared:
            names[label] = declared[label]
        else:
            nameless.append(label)
    if nameless:
        known = _listed(sorted({*own, *declared})) or "none"
        raise ModelError(
            f"{what} has labels that neither it nor the model names: {_listed(nameless)} (named: {known})",
            "Declare the structures in model.toml, or write their names beside the label map.",
            "labels",
        )
    return {label: unicodedata.normalize("NFC", text) for label, text in sorted(names.items())}


def _regular_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Regular files below `folder` by relative name, sorted, and the names of what is not regular.

    Links are never followed: a model could point one at a file of the server.
    """
    files: dict[str, Path] = {}
    skipped: list[str] = []
    for base, folders, names in os.walk(folder, followlinks=False):
        for entry in sorted([*names, *(d for d in folders if (Path(base) / d).is_symlink())]):
            path = Path(base) / entry
            name = str(PurePosixPath(path.relative_to(folder)))
            if stat.S_ISREG(path.lstat().st_mode):
                files[name] = path
            else:
                skipped.append(name)
    return dict(sorted(files.items())), sorted(skipped)


def _stem(name: str) -> str | None:
    return next((name[: -len(suffix)] for suffix in LABEL_MAP_SUFFIXES if name.endswith(suffix)), None)


def _refuse_clashes(maps: Mapping[str, str]) -> None:
    times = Counter(stem.lower() for stem in maps.values())
    doubled = sorted(name for name, stem in maps.items() if times[stem.lower()] > 1)
    if doubled:
        raise ModelError(
            f"the model wrote label maps whose names differ in case or suffix only: {_listed(doubled)}",
            "Give each a name of its own.",
            "output",
        )


def _listed(items: Sequence[object], most: int = 8) -> str:
    text = ", ".join(str(item) for item in items[:most])
    return f"{text}, … ({len(items)} in all)" if len(items) > most else text
