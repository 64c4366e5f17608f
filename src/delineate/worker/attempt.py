"""One try at one task, from its input blob to its settlement."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import delineate
from delineate.errors import BlobError, DelineateError, LeaseLostError, ModelError, SettingsError, StorageFullError, StoreError
from delineate.model import AS_SENT, Model
from delineate.protocols.archive import Limits
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.store.blobs import BlobStore
from delineate.store.faults import storage_error
from delineate.store.tasks import TaskStore
from delineate.store.writer import BlobWriter
from delineate.task import Failure, Task
from delineate.volume import Volume
from delineate.worker import resident, space
from delineate.worker.channel import Cancelled, Channel
from delineate.worker.check import Answer, ExpectedGrid, check
from delineate.worker.convert import expected_grid, from_model, to_model
from delineate.worker.desk import Desk
from delineate.worker.job import DeclaredJob
from delineate.worker.publish import publish
from delineate.worker.retries import retry_after
from delineate.worker.shelf import ModelShelf
from delineate.worker.stage import Sent, stage
from delineate.worker.strays import kill_strays, own_strays
from delineate.worker.tasklog import TaskLog, read_log
from delineate.worker.warm import WarmRunners

_log = logging.getLogger(__name__)

FINDING_LIMIT = 3600.0  # s for unpacking a model's files
BROKEN_KINDS = frozenset({"crash", "memory", "timeout", "start"})
"""Failures after which a runner is not used again."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a worker works with.

    desk : its folders; defaults : parameters by runner that the administrator sets, under those of the model; device : for provenance.
    """

    name: str
    tasks: TaskStore
    blobs: BlobStore
    models: ModelShelf
    channel: Channel
    warm: WarmRunners
    desk: Desk
    limits: Limits = field(default_factory=Limits)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    device: str = ""


class Attempt:
    """One try at one task that this worker holds."""

    def __init__(self, place: Workplace, task: Task) -> None:
        self._place = place
        self._task = task
        self._began = time.monotonic()
        self._model: Model | None = None
        self._grids: list[dict[str, Any]] | None = None
        self._log = TaskLog(place.desk.log)

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
            self._place.tasks.cancelled(self._task.uid, self._place.name)

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
        sent = stage(place.blobs.verified(blob.digest), place.desk.input, model, place.limits, place.channel.raise_if_cancelled)
        self._grids = sent.grids
        place.channel.raise_if_cancelled()
        images = to_model(sent.images, model)
        expected = expected_grid(sent.images[0].geometry, images[0].geometry, sent.factor, model)
        answer = self._segment(model, model_folder, sent, images, expected)
        self._publish(model, sent, expected, answer)

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

    def _segment(self, model: Model, folder: Path | None, sent: Sent, images: tuple[Volume, ...], expected: ExpectedGrid) -> Answer:
        place, output = self._place, self._place.desk.output
        job_class: Callable[..., Job] = Job if model.orientation == AS_SENT else DeclaredJob
        job = job_class(
            images=images,
            input_folder=sent.folder if model.orientation == AS_SENT else place.desk.declared,
            output_folder=output,
            prompts=self._task.prompts,
            report=place.channel.report,
            log=self._log.write,
            deadline=self._began + model.time_limit,
            task=f"{place.name}-{self._task.id}",
        )
        try:
            with self._log.captured(), place.channel.interruptible():
                # A model with a limit of its own gets the room that others hold.
                budget = model.resources.memory_mb << 19 if model.resources.memory_mb else None
                result: Segmentation | None = place.warm.get(model, folder, budget).segment(job)
            place.channel.raise_if_cancelled()
            answer = check(result, output, model, expected)
        except ModelError as error:
            place.channel.raise_if_cancelled()  # a model that was told to stop may say so in its own way
            if error.kind in BROKEN_KINDS:
                place.warm.drop(model.name)
            if space.ran_out(error, place.desk.folder):
                raise StorageFullError("there was no space left on the worker's disk while the model ran") from error
            raise
        for note in answer.notes:
            self._log.write(note)
        return answer

    def _publish(self, model: Model, sent: Sent, expected: ExpectedGrid, answer: Answer) -> None:
        image, path = sent.images[0].geometry, self._place.desk.result
        # One layer after the other: all of them on the contour grid may be more than fits into memory.
        layers = (
            (layer.name, from_model(layer, image, sent.factor, expected, model)[0], sent.contours, layer.names) for layer in answer.layers
        )
        log = read_log(self._log.path)
        publish(path, layers, answer.others, log, model)
        self._place.channel.raise_if_cancelled()
        self._place.tasks.finish(
            self._task.uid,
            self._place.name,
            result=self._place.blobs.adopt(path),
            log=self._log_blob(log),
            provenance=self._provenance(),
            grids=self._grids,
        )

    def _fail(self, failure: Failure) -> None:
        self._place.tasks.fail(
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
        writer = self._place.blobs.incoming()
        writer.write(text)
        return writer

    def _provenance(self) -> dict[str, Any]:
        model = self._model
        about = {} if model is None else {"model_version": model.version, "model_digest": model.digest, "runner": model.runner}
        return {
            **about,
            "delineate": delineate.__version__,
            "worker": self._place.name,
            "device": self._place.device,
            "seconds": round(time.monotonic() - self._began, 4),
            "peak_memory_mb": resident.peak() >> 20,
        }
