"""The verbs of the server over the store, for any protocol. Everything here blocks; routes decide where it runs."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import delineate.models
from delineate.errors import BlobError, DelineateError, InputError, ResultLostError, SettingsError, TaskCancelledError, UnknownModelError
from delineate.files import NIFTI_SUFFIXES
from delineate.model import Model, Resources
from delineate.protocols.archive import ArchiveReader, Limits, request_images
from delineate.protocols.dicom_request import DicomAsked, not_dicom, require_reader, with_output
from delineate.protocols.inference_replies import failure_error
from delineate.protocols.reference import Place
from delineate.protocols.request_series import is_series
from delineate.runners.work import read_answer
from delineate.server.settings import Settings
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.models import ModelStore
from delineate.store.records import sweep
from delineate.store.shelf import ModelShelf
from delineate.store.tasks import TaskStore
from delineate.store.versions import split
from delineate.store.writer import BlobWriter
from delineate.task import BACKGROUND, BATCH, FRONT, INTERACTIVE, NORMAL, PRIORITIES, WORK, Blob, Task, TaskState
from delineate.training.trainers import TRAINERS
from delineate.worker.referred import place_of

_DAY: Final = 86400.0

_log = logging.getLogger(__name__)


class Along(Protocol):
    """A file that a worker reads while it comes."""

    def whole(self, blob: str) -> None:
        """All of it came, and has this digest."""

    def forget(self) -> None:
        """No task will name it. After `whole` it may have been named already: then nothing is lost but time."""


class Engine(Protocol):
    """What the server needs of an engine; `delineate.engines.local.LocalEngine` is one."""

    def ring(self, image: str = "") -> None:
        """There may be a new task; `image` stands for the image of one that refers to it, which a worker may have warm."""

    def ring_background(self) -> None:
        """There may be a new task in the background."""

    def read(self, place: Place) -> None:
        """Tasks may come on this image of the server: a worker may read it meanwhile."""

    def read_along(self, file: str) -> Along | None:
        """A file of this name begins to come among the incoming blobs, a NIfTI image that a task will name: a worker may read it
        meanwhile. None where none does."""

    def status(self) -> dict[str, Any]:
        """``workers``, ``alive``, ``ready``."""


class Service:
    """Tasks, models and their files. Constructed once, shared by threads; `prepare` comes first.

    engine : rung after each new task, asked for its status; None where workers are started elsewhere.
    rung : when it was last told of one in the front lane, or when this was made, by `time.monotonic`
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.database = Database(settings.database_url, sync=settings.sync)
        self.blobs = BlobStore(settings.data / "blobs", sync=settings.sync)
        self.tasks = TaskStore(self.database, self.blobs)
        self.waited_for = self.tasks.lightly()
        self.models = ModelStore(model_folders(settings), self.database, self.blobs)
        self.shelf = ModelShelf(self.models)
        self._limits = archive_limits(settings)
        self.rung = time.monotonic()

    def prepare(self) -> None:
        """Bring the database to the newest form and remove what interrupted work left."""
        self.database.migrate()
        sweep(self.database, self.blobs)
        self.models.sweep()
        for problem in self.models.problems():
            _log.warning("a model cannot be used: %s: %s", problem.path, problem.reason)

    def submit(
        self, archive: BlobWriter, *, model: str, owner: str, protocol: str, priority: int, prompts: str, key: str | None, output: str = ""
    ) -> Task:  # fmt: skip
        """A new task from an uploaded archive; nothing is left of one that is refused.

        `output` : what the answer is to hold in DICOM, see `delineate.protocols.dicom_request.outputs_of`.

        Raises
        ------
        InputError
            Not an archive, no image in it, prompts that are no JSON object; `ArchiveLimitError` over a limit; an answer in DICOM
            to what is no DICOM.
        MissingPartError
            DICOM, and its reader is not installed.
        StoreError
            The store could not take it.
        """
        values = _prompts(prompts)
        if output:
            values = with_output(values, output)
        asked = DicomAsked.of(values)
        with ArchiveReader(archive.path, self._limits) as reader:
            are_series = [is_series(name) for name in request_images(reader.names(), reader)]
        if asked.output and not are_series[0]:
            raise not_dicom()
        if any(are_series):
            require_reader()
        task = self.tasks.submit(
            model=model, archive=archive, owner=owner, protocol=protocol, priority=priority, prompts=values, key=key
        )  # fmt: skip
        self.ring()
        return task

    def ring(self, image: str = "") -> None:
        """Tell the engine that there may be a new task, about this image where it refers to one."""
        self.rung = time.monotonic()
        if self.engine is not None:
            self.engine.ring(image)

    def read(self, path: Path) -> None:
        """Have a worker read an image on which tasks will come soon, where one has the time."""
        if self.engine is not None:
            with contextlib.suppress(InputError):  # which the task will tell
                self.engine.read(place_of(path))

    def read_along(self, writer: BlobWriter) -> Along | None:
        """Have a worker read an image while it comes, where it is NIfTI and one has the time; see `Engine.read_along`."""
        if self.engine is None or not writer.name.lower().endswith(NIFTI_SUFFIXES):
            return None
        return self.engine.read_along(writer.path.name)

    def submit_work(
        self,
        name: str,
        given: Mapping[str, Any],
        *,
        owner: str,
        prompts: Mapping[str, Any] | None = None,
        beside: Mapping[str, BlobWriter] | None = None,
        lane: str = BACKGROUND,
    ) -> Task:
        """A piece of work, see `delineate.runners.work`. Raises `StoreError`.

        given : its input; prompts : what is shown of it; beside : files that `given` names, by role; lane : the front one where it
        is short and somebody waits.
        """
        writer = self.blobs.incoming(f"{name}.json")
        writer.write(json.dumps(dict(given)).encode("ascii"))
        task = self.tasks.submit(
            model=name, archive=writer, owner=owner, protocol=WORK, priority=INTERACTIVE if lane == FRONT else BATCH, prompts=prompts,
            beside=beside, lane=lane,
        )  # fmt: skip
        if lane == FRONT:
            self.ring()
        elif lane == BACKGROUND and self.engine is not None:
            self.engine.ring_background()
        return task

    def require_model(self, name: str) -> Model:
        """The model of a name, as it was at most half a second ago. Raises `UnknownModelError`."""
        try:
            return self._model(name)
        except SettingsError as error:  # the name is there twice: nobody's fault who asks for it
            raise UnknownModelError(f"the model {name!r} cannot be used: {error.message}", error.advice) from None

    def _model(self, name: str) -> Model:
        try:
            return self.shelf.get(name)
        except UnknownModelError:
            trained, version = split(name)
            if trained not in TRAINERS:
                raise
            if version is not None:
                self._model(trained)  # where it has learned nothing, that is the reason
                raise UnknownModelError(f"the model {trained} has no version {version}", f"GET /model/info/{trained} lists them.") from None
            advice = f"Label images, then train it: POST /train/{trained}, or `delineate label train start`."
            raise UnknownModelError(f"the model {trained} has learned nothing yet", advice) from None

    def result(self, task: Task) -> Blob | None:
        """The result of a task, None while it waits or runs.

        Raises
        ------
        ModelError, TaskCancelledError, ResultLostError
            It will never have one.
        """
        if not task.state.is_final:
            return None
        if task.state is TaskState.FAILED:
            raise failure_error(task.failure)
        if task.state is TaskState.CANCELLED:
            raise TaskCancelledError("the task was cancelled")
        blob = task.blob("result")
        if blob is None:
            raise ResultLostError("the task finished, but its result is gone")
        return blob

    def found(self, task: Task) -> dict[str, Any]:
        """What a piece of work found, empty where it has no result. Raises `BlobError`."""
        blob = task.blob("result")
        return {} if blob is None else read_answer(self.file(blob))

    def file(self, blob: Blob) -> Path:
        """The file of a blob, compared with its digest when it was not before. Raises `BlobError`."""
        return self.blobs.verified(blob.digest)

    def log(self, task: Task) -> bytes:
        """What the model printed, empty where it printed nothing or has not ended."""
        blob = task.blob("log")
        try:
            return self.file(blob).read_bytes() if blob else b""
        except OSError as error:
            raise BlobError(f"a stored log cannot be read: {error.strerror}") from error

    def register(self, model: Model, archive: BlobWriter | None) -> Model:
        """Add a model; its archive, if any, must be safe to unpack. Raises `SettingsError`, `ArchiveError`."""
        if archive is not None:
            with ArchiveReader(archive.path, self._limits) as reader:
                reader.names()
        return self.models.register(model, archive)

    def purge(self, now: float) -> int:
        """Remove tasks that ended longer ago than the retention says: how many; and versions of models beyond those that are kept."""
        days = self.settings.retention_days
        for name in TRAINERS:
            self.models.prune(name, self.settings.model_versions)
        return self.tasks.purge(now - days * _DAY) if days else 0

    def disk_free(self) -> int:
        """Bytes left where the data are."""
        return shutil.disk_usage(self.settings.data).free

    def is_database_well(self) -> bool:
        """Whether the database answers."""
        with contextlib.suppress(DelineateError):
            self.database.changes()
            return True
        return False

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def model_folders(settings: Settings) -> list[tuple[Path, str]]:
    """The built-in models, then those of the settings."""
    return [(Path(delineate.models.__path__[0]), "builtin"), *((folder, "folder") for folder in settings.models)]


def archive_limits(settings: Settings) -> Limits:
    """The limits of archives after the settings."""
    return Limits(entries=settings.max_entries, total_bytes=settings.max_unpacked_mb << 20, entry_bytes=settings.max_unpacked_mb << 20)


def priority_of(text: str) -> int:
    """A priority by name or number. Raises `InputError`."""
    if not text:
        return NORMAL
    if text in PRIORITIES:
        return PRIORITIES[text]
    if re.fullmatch("[0-9]{1,2}", text) and int(text) <= max(PRIORITIES.values()):  # `isdecimal` takes digits of all scripts
        return int(text)
    raise InputError(f"{text[:32]!r} is no priority", "Use batch, normal or interactive.")


def container_model(name: str, image: str, description: str, flags: Mapping[str, bool]) -> Model:
    """The record of a model registered as a container. Raises `SettingsError`."""
    if not image.strip():
        raise SettingsError("container_tag is missing", "Name the image, such as registry.example/model:1.")
    parameters = {"image": image.strip(), "pull": flags.get("pull_on_every_run", False)}
    return Model(
        name=name,
        runner="container",
        description=description[:4000],
        parameters=parameters,
        resources=Resources(gpu=flags.get("use_gpu", False)),
        source="http",
    )


def _prompts(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # a thousand brackets within each other
        values = None
    if not isinstance(values, dict):
        raise InputError("the prompts are no JSON object", 'Send a form field such as prompts={"foreground": [[10, 20, 30]]}.')
    return values
