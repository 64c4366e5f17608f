"""One try at one task, from its input blob to its settlement."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import delineate
from delineate.errors import BlobError, DelineateError, InputError, LeaseLostError, ModelError, SettingsError, StorageFullError, StoreError
from delineate.model import Model
from delineate.prompt import Prompts, read_prompts
from delineate.protocols.archive import Limits
from delineate.protocols.dicom_request import DicomAsked, without_dicom
from delineate.protocols.reference import MONAI_LABEL
from delineate.runners.base import Findings, Job
from delineate.segmentation import Segmentation
from delineate.slides.documents import About
from delineate.store.blobs import BlobStore
from delineate.store.faults import storage_error
from delineate.store.shelf import ModelShelf
from delineate.store.tasks import TaskStore
from delineate.store.writer import BlobWriter
from delineate.task import Failure, Task
from delineate.worker import resident, space
from delineate.worker.answer import Layer, add_answer
from delineate.worker.beforehand import ReadBeforehand
from delineate.worker.channel import Cancelled, Channel
from delineate.worker.check import Answer, ExpectedGrid, check
from delineate.worker.convert import expected_grid, from_model
from delineate.worker.desk import Desk
from delineate.worker.images import WarmImages
from delineate.worker.job import LazyJob
from delineate.worker.publish import free_name, publish
from delineate.worker.referred import Files, read_reference
from delineate.worker.retries import retry_after
from delineate.worker.series import require_known_places, require_source
from delineate.worker.slide import add_outlines, require_outlines, staged_slide
from delineate.worker.stage import stage
from delineate.worker.staged import ReferredImages, Staged, from_archive
from delineate.worker.strays import kill_strays, own_strays
from delineate.worker.tasklog import TaskLog, read_log
from delineate.worker.wanted import Wanted, read_wanted
from delineate.worker.warm import WarmRunners

_log = logging.getLogger(__name__)

FINDING_LIMIT = 3600.0  # s for unpacking a model's files
BROKEN_KINDS = frozenset({"crash", "memory", "timeout", "start", "missing"})
"""Failures after which a runner is not used again."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a worker works with.

    desk : its folders; images : decoded ones that stay; beforehand : reads some before a task names them; roots : folders of which
    tasks by reference may name files; defaults : parameters by runner that the administrator sets, under those of the model;
    device : for provenance; data : the server's folder; threads : that a numeric library may start.
    """

    name: str
    tasks: TaskStore
    blobs: BlobStore
    models: ModelShelf
    channel: Channel
    warm: WarmRunners
    desk: Desk
    images: WarmImages = field(default_factory=lambda: WarmImages(0, resident.now))
    beforehand: ReadBeforehand | None = None
    roots: Sequence[Path] = ()
    limits: Limits = field(default_factory=Limits)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    device: str = ""
    data: Path = Path()
    threads: int = 1

    @cached_property
    def files(self) -> Files:
        """Finds what references name."""
        return Files(self.blobs, self.roots)


@dataclass(frozen=True)
class Request:
    """What was asked for beside the images: parameters over the model's defaults, prompts on the model's grid, the file of the
    answer, None where it is the archive, and the files in DICOM."""

    params: Mapping[str, Any]
    prompts: Prompts
    wanted: Wanted | None
    dicom: DicomAsked


class Attempt:
    """One try at one task that this worker holds."""

    def __init__(self, place: Workplace, task: Task) -> None:
        self._place = place
        self._task = task
        # Who waits for an infer is gone after a power cut: nothing of it has to be brought to the disk.
        self._tasks = place.tasks.lightly() if task.protocol == MONAI_LABEL else place.tasks
        self._began = time.monotonic()
        self._model: Model | None = None
        self._grids: list[dict[str, Any]] | None = None
        self._log = TaskLog(place.desk.log)
        self._latencies: dict[str, float] = {}

    def run(self) -> None:
        """Do it and settle it; never raises but for what ends the worker."""
        try:
            self._settle()
        except LeaseLostError:
            _log.warning("a task was no longer ours when it was settled; its result is dropped")
        except StoreError as error:
            _log.error("the store failed, the task goes back: %s", error.message)
            with contextlib.suppress(StoreError):  # else the engine gives it back when the lease ends
                delay = space.wait(self._task) if isinstance(error, StorageFullError) else None
                self._place.tasks.release(self._place.name, error.message, delay=delay)
        finally:
            self._place.channel.done()
            self._log.close()
            self._place.desk.clear()

    def _settle(self) -> None:
        try:
            try:
                self._do()
            except ModelError as error:
                self._fail(Failure(kind=error.kind, message=error.message, advice=error.advice))
            except BlobError as error:
                self._fail(Failure(kind="stored", message=error.message, advice=error.advice))
            except (StoreError, OSError) as error:
                raise error if isinstance(error, StoreError) else storage_error(error, "working on a task") from error
            except SettingsError as error:  # of the model's own description: its runner, its parameters
                self._fail(Failure(kind="start", message=error.message, advice=error.advice))
            except Exception as error:  # a fault of ours: the traceback is kept with the task, not in the server's log
                self._log.write(traceback.format_exc())
                kind = "memory" if isinstance(error, MemoryError) else "crash"
                self._fail(Failure(kind=kind, message=f"the worker failed: {type(error).__name__}: {error}", advice="See the task's log."))
        except Cancelled:
            self._clear_interrupted()
            self._place.tasks.cancelled(self._task.uid, self._place.name, log=self._last_words())

    def _last_words(self) -> BlobWriter | None:
        """The log of a task that was cancelled: whoever cancels an infer is not there to read it."""
        return None

    def _clear_interrupted(self) -> None:
        """A model that was interrupted anywhere is not used again, and what it started goes with it."""
        warm = self._place.warm
        warm.drop(self._task.model)
        if own_strays():
            warm.close()  # some may be of other models: these begin anew, too
            kill_strays()

    def _do(self) -> None:
        place, task = self._place, self._task
        if not place.models.knows(task.model):  # finding it may take a while
            place.channel.started(task.uid, FINDING_LIMIT, 0)
        model, model_folder = self._find_model()
        place.channel.started(task.uid, model.time_limit, model.resources.memory_mb)
        resident.reset_peak()
        blob = task.blob("input")
        if blob is None:
            raise ModelError("the task has no input any more", "Submit it again.", "input")
        path = place.blobs.verified(blob.digest)
        if model.takes_slides:
            self._do_slide(model, model_folder, path)
            return
        dicom = self._asked()
        with self._timed("pre"):
            staged = self._stage(path, model, dicom)
        require_source(staged.series, dicom)
        for note in staged.notes:
            self._log.write(note)
        self._grids = [grid.to_dict() for grid in staged.grids]
        place.channel.raise_if_cancelled()
        request = self._request(staged, model, dicom)
        expected = expected_grid(staged.grids[0], staged.images[0].geometry, staged.factor, model)
        with self._timed("infer"):
            answer = self._segment(model, model_folder, staged, request, expected)
        self._publish(model, staged, request, expected, answer)

    def _do_slide(self, model: Model, folder: Path | None, path: Path) -> None:
        place, params = self._place, {**model.config, **self._task.prompts}
        place.images.make_room(_room(model, place))
        reference = read_reference(path) if self._task.protocol == MONAI_LABEL else None
        with staged_slide(reference, place.files, params) as staged:
            self._latencies.update(pre=self._seconds(), post=0.0)
            with self._timed("infer"), self._minding(model):
                job = Job(images=(), slide=staged.part, **self._fields(model, params, place.desk.declared))
                findings = require_outlines(self._run(model, folder, job))
        about = About(model=model.name, description=model.description, latencies={**self._latencies, "total": self._seconds()})
        add = partial(add_outlines, findings=findings, staged=staged, params=params, about=about, scratch=place.desk.temporary)
        with self._timed("write"):
            publish(place.desk.result, (), {}, read_log(self._log.path), model, add)
        self._finish()

    def _asked(self) -> DicomAsked:
        try:
            return DicomAsked.of(self._task.prompts)
        except InputError as error:
            raise ModelError(error.message, error.advice, "input") from error

    def _stage(self, path: Path, model: Model, asked: DicomAsked) -> Staged:
        """The images of an archive, or of a reference, which is taken only from the server's own door for such tasks."""
        place, checkpoint = self._place, self._place.channel.raise_if_cancelled
        reference = read_reference(path) if self._task.protocol == MONAI_LABEL else None
        needed = frozenset(() if reference is None else (image.key for image in reference.images))
        if place.beforehand is not None:
            place.beforehand.settle(needed, checkpoint)
        place.images.make_room(_room(model, place), needed)
        try:
            if reference is None:
                return from_archive(stage(path, place.desk.input, model, place.limits, checkpoint, asked), model)
            return ReferredImages(place.files, place.images, place.desk.input, checkpoint).stage(reference, model, asked)
        finally:
            place.channel.warm(place.images.contents())

    def _request(self, staged: Staged, model: Model, dicom: DicomAsked) -> Request:
        params = {**model.config, **without_dicom(self._task.prompts)}
        try:
            prompts = read_prompts(params, staged.grids[0], model.labels) if model.prompts else Prompts()
            require_known_places(staged.series, prompts, params)
            wanted = read_wanted(params, staged.suffix) if self._task.protocol == MONAI_LABEL else None
        except InputError as error:
            raise ModelError(error.message, error.advice, "input") from error
        return Request(params, prompts.on(staged.grids[0], staged.images[0].geometry), wanted, dicom)

    def _find_model(self) -> tuple[Model, Path | None]:
        place = self._place
        try:
            model, folder = place.models.find(self._task.model)
        except (StorageFullError, LeaseLostError):
            raise
        except DelineateError as error:
            raise ModelError(error.message, error.advice, "start") from error
        defaults = place.defaults.get(model.runner)
        self._model = replace(model, parameters={**defaults, **model.parameters}) if defaults else model
        return self._model, folder

    def _fields(self, model: Model, params: Mapping[str, Any], input_folder: Path) -> dict[str, Any]:
        """What a job has, whatever it works on."""
        return {
            "input_folder": input_folder,
            "output_folder": self._place.desk.output,
            "prompts": params,
            "report": self._place.channel.report,
            "log": self._log.write,
            "deadline": self._began + model.time_limit,
            "task": f"{self._place.name}-{self._task.id}",
        }

    def _run(self, model: Model, folder: Path | None, job: Job) -> Segmentation | Findings | None:
        place = self._place
        with self._log.captured(), place.channel.interruptible():
            # A model with a limit of its own gets the room that others hold.
            result = place.warm.get(model, folder, _room(model, place)).segment(job)
        place.channel.raise_if_cancelled()
        return result

    @contextlib.contextmanager
    def _minding(self, model: Model) -> Iterator[None]:
        """What to do when the model, or what it gave, fails."""
        place = self._place
        try:
            yield
        except ModelError as error:
            place.channel.raise_if_cancelled()  # a model that was told to stop may say so in its own way
            if error.kind in BROKEN_KINDS:
                place.warm.drop(model.name)
            if space.ran_out(error, place.desk.folder):
                raise StorageFullError("there was no space left on the worker's disk while the model ran") from error
            raise

    def _segment(self, model: Model, folder: Path | None, staged: Staged, request: Request, expected: ExpectedGrid) -> Answer:
        place = self._place
        fields: dict[str, Any] = {
            **self._fields(model, request.params, staged.folder or place.desk.declared),
            "images": staged.images,
            "clicks": request.prompts.clicks,
            "boxes": request.prompts.boxes,
            "label": staged.label,
        }
        job = Job(**fields) if staged.fill is None else LazyJob(fill=staged.fill, **fields)
        with self._minding(model):
            answer = check(self._run(model, folder, job), place.desk.output, model, expected)
        for note in answer.notes:
            self._log.write(note)
        if not answer.layers and self._task.protocol != MONAI_LABEL:
            raise ModelError("the model gave findings and no label map", "Ask for it by the MONAI Label API.", "output")
        return answer

    def _publish(self, model: Model, staged: Staged, request: Request, expected: ExpectedGrid, answer: Answer) -> None:
        image, scratch = staged.grids[0], self._place.desk.temporary
        # One layer after the other: all of them on the contour grid may be more than fits into memory.
        layers: Iterable[Layer] = (
            (layer.name, from_model(layer, image, staged.factor, expected, model)[0], staged.contours, layer.names)
            for layer in answer.layers
        )
        others, dicom = answer.others, dict[str, str]()
        if request.dicom.output and answer.layers:
            layers = tuple(layers)
            others, dicom = self._with_dicom(model, staged, request, layers, others)
        says = None
        if request.wanted is not None or answer.findings is not None:
            says = partial(add_answer, findings=answer.findings or {}, wanted=request.wanted, scratch=scratch, dicom=dicom)
        with self._timed("write"):
            publish(self._place.desk.result, layers, others, read_log(self._log.path), model, says, staged.place)
        self._finish()

    def _with_dicom(
        self, model: Model, staged: Staged, request: Request, layers: Sequence[Layer], others: Mapping[str, Path]
    ) -> tuple[Mapping[str, Path], dict[str, str]]:  # fmt: skip
        """Further files with those in DICOM among them, and the names of these by what was asked for."""
        from delineate.worker.dicom_answer import DicomAnswer  # not before somebody wants one: libraries take a while

        assert staged.series is not None  # or there would have been no beginning
        with self._timed("dicom"):
            files = DicomAnswer(asked=request.dicom, series=staged.series, model=model, task=self._task).write(
                layers, self._place.desk.temporary, self._log.write
            )
        taken = {name.lower() for name in others}
        names = {output: free_name(path.name, taken) for output, path in files.items()}
        return {**others, **{names[output]: path for output, path in files.items()}}, names

    def _finish(self) -> None:
        """Settle a task whose result archive is written."""
        self._place.channel.raise_if_cancelled()
        self._place.channel.settling()
        self._tasks.finish(
            self._task.uid,
            self._place.name,
            result=self._tasks.blobs.adopt(self._place.desk.result),
            log=self._log_blob(read_log(self._log.path)),
            provenance=self._provenance(),
            grids=self._grids,
        )

    def _fail(self, failure: Failure) -> None:
        self._tasks.fail(
            self._task.uid,
            self._place.name,
            failure,
            log=self._log_blob(read_log(self._log.path)),
            provenance=self._provenance(),
            retry_after=retry_after(self._task, failure),
            grids=self._grids,
        )

    def _log_blob(self, text: bytes) -> BlobWriter | None:
        if not text:
            return None
        writer = self._tasks.blobs.incoming()
        writer.write(text)
        return writer

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._latencies[name] = round(time.monotonic() - began, 4)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 4)

    def _provenance(self) -> dict[str, Any]:
        model = self._model
        about = {} if model is None else {"model_version": model.version, "model_digest": model.digest, "runner": model.runner}
        return {
            **about,
            "delineate": delineate.__version__,
            "worker": self._place.name,
            "device": self._place.device,
            "latencies": self._latencies,
            "seconds": self._seconds(),
            "peak_memory_mb": resident.peak() >> 20,
        }


def _room(model: Model, place: Workplace) -> int:
    """Bytes this process may hold before a task of the model begins."""
    return model.resources.memory_mb << 19 if model.resources.memory_mb else place.warm.budget
