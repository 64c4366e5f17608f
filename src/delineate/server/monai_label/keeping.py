"""What becomes of the answer to an infer: read out of its archive, saved as a label, forgotten."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from delineate.datastore.records import LabelRecord
from delineate.errors import BlobError, DelineateError, ModelError
from delineate.protocols.infer_result import StoredResult, read_infer_result
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.label_names import LABEL_NAMES, AnsweredNames
from delineate.server.service import Service
from delineate.task import Task, TaskState
from delineate.worker.referred import place_of, read_reference

SOON: Final = 0.2  # s
"""Removing a task costs as much as answering a small one: it is done for many at once, and not while the next is asked for."""


class Keeping:
    """Blocks, all of it, but for `forget_soon`."""

    def __init__(self, service: Service, annotation: Annotation, answered: AnsweredNames) -> None:
        self._service = service
        self._annotation = annotation
        self._answered = answered
        self._lock = threading.Lock()
        self._forgotten: list[str] = []
        self._timer: threading.Timer | None = None

    def answer(self, task: Task, image: str = "", tag: str = "") -> StoredResult:
        """The answer of a task that ended; of an image of the datastore its names are remembered, and under a tag it is saved as a label.

        Raises
        ------
        ModelError, TaskCancelledError, ResultLostError, BlobError
            There is none.
        """
        blob = self._service.result(task)
        found = None if blob is None else read_infer_result(self._service.file(blob))
        if found is None:
            raise BlobError("the result holds no answer for this API")
        stored = replace(found, params={**found.params, "latencies": _latencies(task)})
        if image:
            self._note(image, task, stored)
        if tag and stored.file is not None:
            self.save(task, stored, image, tag, {"model": task.model, "params": dict(stored.params)})
        return stored

    def _note(self, image: str, task: Task, stored: StoredResult) -> None:
        entry = self._annotation.datastore.state().entries.get(image) if self._annotation.has_datastore else None
        if entry is not None:
            self._answered.note(image, entry.image.version, task.model, stored.params.get(LABEL_NAMES))

    def save(self, task: Task, stored: StoredResult, image: str, tag: str, info: Mapping[str, Any]) -> LabelRecord | None:
        """Save an answer's file as a label, in the name of the task's owner; None where it has none.

        Raises as `LocalDatastore.save_label`, and `ModelError` where the image is another one than the model saw.
        """
        if stored.file is None:
            return None
        store = self._annotation.datastore
        self._require_unchanged(task, store.image(image).path)
        writer = store.incoming(stored.filename or "answer.nii.gz")
        with writer:
            for block in stored.file:
                writer.write(block)
            return store.save_label(image, tag, writer, info=info, who=task.owner)

    def _require_unchanged(self, task: Task, path: Path) -> None:
        """A series that came from elsewhere may have left this disk meanwhile; then nothing is compared."""
        blob = task.blob("input")
        reference = None if blob is None else read_reference(self._service.file(blob))
        if reference is not None and path.exists() and place_of(path).key != reference.images[0].key:
            raise ModelError("the image was changed while the model was at work", "Send the request again.", "input")

    def forget(self, task: Task) -> None:
        """Remove a finished task with its files; one that failed stays, for whoever looks into it."""
        if task.state is TaskState.FINISHED:
            with contextlib.suppress(DelineateError):
                self._service.waited_for.delete(task.uid, "answered")

    def forget_soon(self, task: Task) -> None:
        """The same, a little later. Any thread; does not block."""
        if task.state is not TaskState.FINISHED:
            return
        with self._lock:
            self._forgotten.append(task.uid)
            if self._timer is None:
                self._timer = threading.Timer(SOON, self._forget_all)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Forget at once what is to be forgotten soon."""
        with self._lock:
            timer = self._timer
        if timer is not None:
            timer.cancel()
            self._forget_all()

    def _forget_all(self) -> None:
        with self._lock:
            uids, self._forgotten, self._timer = self._forgotten, [], None
        with contextlib.suppress(DelineateError):
            self._service.waited_for.delete_many(uids, "answered")


def _latencies(task: Task) -> dict[str, float]:
    """Seconds by what they were spent on; ``total`` from the request's arrival on, waiting for a worker included."""
    spent = task.provenance.get("latencies")
    return {**(spent if isinstance(spent, dict) else {}), "total": round((task.finished or task.created) - task.created, 4)}
