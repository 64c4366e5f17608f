"""What the server has done in the background: training, scoring, looking for what is doubtful.

A piece of work is a task of the protocol `WORK` in the lane `BACKGROUND`, whose `model` is the work's name and whose input is
a JSON object that the server wrote. A worker of that lane runs the work's class; its progress, log, cancellation, lease and
further tries are those of any task. What it answers is stored with the task: ``answer.json`` and further files in the result
archive, and a model's files, which become the model's new version in the transaction that ends the task.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from delineate.errors import BlobError, DelineateError, InputError, MissingPartError, ModelError, StoreError
from delineate.model import Model
from delineate.protocols.archive_entries import StoredZipWriter
from delineate.protocols.reference import Place
from delineate.segmentation import Segmentation
from delineate.volume import Volume

ANSWER: Final = "answer.json"
"""In the result archive: what the work found."""

WORKS: Final[Mapping[str, str]] = {
    "train": "delineate.training.work:Train",
    "weights": "delineate.training.work:Weights",
    "score": "delineate.scoring.work:Score",
    "describe": "delineate.scoring.looks:Describe",
    "doubt": "delineate.scoring.doubt:Doubt",
    "series-grid": "delineate.worker.series_grid:ReadGrid",
    "dicom-label": "delineate.datastore.dicomweb_work:WriteLabel",
    "dicom-label-read": "delineate.datastore.dicomweb_work:ReadLabel",
}
"""Classes by the work's name. They are imported by the worker that needs one, so that no layer imports a higher one."""


class Reader(Protocol):
    """Reads what the server has, if it is what it was when the task was submitted; else `ModelError` of kind ``input``."""

    def path(self, place: Place) -> Path:
        """The file or folder itself; of a blob under a name that holds no suffix."""

    def image(self, place: Place) -> Volume:
        """An image: a file of any format that is read, or a folder of the files of one series."""

    def segmentation(self, place: Place) -> Segmentation:
        """Structures."""

    def model(self, name: str) -> tuple[Model, Path | None]:
        """A model and the folder of its files. Raises `ModelError` of kind ``start``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkJob:
    """One piece of work.

    given : what the server wrote for it; task : what stands for this task in names, the same at every try.
    read : reads images and labels; folder : empty, removed afterwards.
    kept : of all works of this name, in the data folder: what is written there is there at the next try and the next task: with
    `write_whole`.
    report : fraction 0 to 1 and a message that is shown; log : one line for the task's log; both may raise to stop the work.
    threads : how many a numeric library may start.
    """

    given: Mapping[str, Any]
    task: str
    read: Reader
    folder: Path
    kept: Path
    report: Callable[[float, str], None]
    log: Callable[[str], None]
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A new version of a model: its record and the files beside it by name, all in the job's folder."""

    model: Model
    files: Mapping[str, Path]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Done:
    """values : plain values for JSON, finite; files : further ones by name, for the result archive; model : to be published."""

    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    model: Publication | None = None


class Work(Protocol):
    """A kind of work. A new object for each try; `time_limit` in seconds, `memory_mb` 0 for the server's default."""

    time_limit: float
    memory_mb: int

    def run(self, job: WorkJob) -> Done:
        """Do it.

        Raises
        ------
        ModelError
            It cannot be done; kind and sentence go to whoever asked. Any other exception counts as a crash, and is tried again.
        """


def load(name: str) -> Work:
    """The work of a name. Raises `ModelError` of kind ``start``, also where a part is not installed."""
    module, _, attribute = WORKS.get(name, "").partition(":")
    if not module:
        raise ModelError(f"no work is called {name!r}", "Run server and workers of one version.", "start")
    try:
        work: Work = getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        raise ModelError(f"{name} cannot begin: {error}", 'Install it: pip install "delineate[train]".', "start") from error
    return work


def refused(error: DelineateError) -> ModelError:
    """Why what was given cannot be worked on: of kind ``input``, or ``missing`` where the reader of its format is not installed."""
    if isinstance(error, ModelError):
        return error
    return ModelError(error.message, error.advice, "missing" if isinstance(error, MissingPartError) else "input")


def names_by_label(given: Mapping[str, Any]) -> dict[int, str]:
    """Names by label out of JSON, where labels are text."""
    return {int(label): str(name) for label, name in given.items()}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of `WorkJob.kept`, or leave what was there. Raises `StoreError`."""
    aside = path.with_suffix(".part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        raise StoreError(f"{path.name} cannot be written: {error.strerror}", "Check the disk and the folder's rights.") from error


def write_answer(path: Path, values: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> Path:
    """The result archive of a work, at `path`, which is returned. Raises `ModelError` for what is not plain or not finite."""
    try:
        text = json.dumps(dict(values), allow_nan=False)
        with StoredZipWriter(path) as writer:
            writer.add_bytes(ANSWER, text.encode("utf-8"))
            for name, file in (files or {}).items():
                writer.add_file(name, file)
    except (InputError, TypeError, ValueError) as error:
        raise ModelError(f"the work's answer cannot be stored: {error}", "This is a fault of the program.", "output") from error
    return path


def read_answer(archive: Path) -> dict[str, Any]:
    """What a work found, out of its task's result archive. Raises `BlobError` for an archive of something else."""
    try:
        with zipfile.ZipFile(archive) as entries:
            values = json.loads(entries.read(ANSWER))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BlobError("the result of a piece of work cannot be read", "Do it again.") from error
    if not isinstance(values, dict):
        raise BlobError("the result of a piece of work is no table", "Do it again.")
    return values
