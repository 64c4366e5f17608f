"""A model run on many images: ordinary tasks of the lowest priority, some at a time, and their answers saved as labels."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from delineate.datastore.faults import UnknownItemError
from delineate.errors import DelineateError, ModelError
from delineate.protocols.dicom_request import OUTPUTS
from delineate.protocols.infer_result import StoredResult
from delineate.server.files import Files
from delineate.server.listening import Listening
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.asking import Asked, Asking
from delineate.server.monai_label.batch_records import BatchRecord, BatchRecords
from delineate.server.monai_label.errands import sent_as
from delineate.server.monai_label.faults import BusyError
from delineate.server.monai_label.keeping import Keeping
from delineate.server.service import Service
from delineate.task import BATCH, Task

_LINES: Final = 20  # of details
_AHEAD: Final = 2  # tasks for each worker: the next one is there when one ends

_log = logging.getLogger(__name__)


class Run:
    """A batch that runs: how far it is."""

    def __init__(self, record: BatchRecord) -> None:
        self.record = record
        self.done = 0
        self.failed = 0
        self.is_stopped = False
        self.results: dict[str, Any] = {}
        self.ended = asyncio.Event()
        self.waiting: set[str] = set()  # uids of tasks
        self._lines: deque[str] = deque(maxlen=_LINES)

    def note(self, text: str) -> None:
        """Add a line for the person who asks."""
        self._lines.append(text)

    @property
    def details(self) -> tuple[str, ...]:
        """The last lines."""
        failed = f", {self.failed} failed" if self.failed else ""
        return (*self._lines, f"{self.done} of {len(self.record.images)} images done{failed}")


class Batches:
    """One batch at a time; one that the server's end interrupted goes on with the next start. Belongs to one event loop."""

    def __init__(
        self, service: Service, annotation: Annotation, asking: Asking, keeping: Keeping, listening: Listening, files: Files
    ) -> None:  # fmt: skip
        self._service = service
        self._annotation = annotation
        self._asking = asking
        self._keeping = keeping
        self._listening = listening
        self._files = files
        self.records = BatchRecords(service.settings.data / "batches", sync=service.settings.sync)
        self.current: Run | None = None
        self._work: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def resume(self) -> None:
        """Go on with the batch that was interrupted, if any."""
        open_ones = [record for record in await self._files.run(self.records.all) if record.ended is None]
        if open_ones and self._annotation.has_datastore:
            self._begin(open_ones[-1])

    async def start(self, record: BatchRecord) -> Run:
        """Begin one. Raises `BusyError`."""
        async with self._starting:
            if self.current is not None:
                raise BusyError("a batch runs already")
            await self._files.run(lambda: self.records.save(record))
            return self._begin(record)

    async def stop(self) -> Run | None:
        """Stop the one that runs, if any, and wait for its end: its tasks are cancelled, labels that are saved stay."""
        run = self.current
        if run is not None:
            run.is_stopped = True
            for uid in list(run.waiting):
                await self._files.run(partial(self._service.waited_for.cancel, uid, "the batch was stopped"))
            await run.ended.wait()
        return run

    async def close(self) -> None:
        """The server stops: the batch goes on later."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def _begin(self, record: BatchRecord) -> Run:
        run = self.current = Run(record)
        self._work = asyncio.get_running_loop().create_task(self._run(run))
        return run

    async def _run(self, run: Run) -> None:
        images = iter(run.record.images)
        wide = max(1, self._service.settings.workers) * _AHEAD
        if run.record.most:
            wide = min(wide, run.record.most)
        try:
            await asyncio.gather(*(self._one_after_the_other(run, images) for _ in range(wide)))
        except Exception:
            _log.exception("a batch ended early")
            run.failed += 1
            run.note("the server failed; its log has the reason")
        state = "STOPPED" if run.is_stopped else "ERROR" if run.failed else "DONE"
        run.record = replace(run.record, ended=time.time(), state=state, details=run.details)
        try:
            await self._files.run(lambda: self.records.save(run.record))
        finally:
            self.current = None
            run.ended.set()

    async def _one_after_the_other(self, run: Run, images: Iterator[str]) -> None:
        for image in images:
            if run.is_stopped:
                return
            await self._one(run, image)

    async def _one(self, run: Run, image: str) -> None:
        record = run.record
        try:
            if await self._files.run(lambda: self._is_done(record, image)):
                run.done += 1
                return
            await self._annotation.fetch(image)
            task = await self._files.run(lambda: self._submit(record, image))
            run.waiting.add(task.uid)
            if run.is_stopped:
                await self._files.run(lambda: self._service.waited_for.cancel(task.uid, "the batch was stopped"))
            try:
                ended = await self._listening.finished(None, task.uid)
            finally:
                run.waiting.discard(task.uid)
            if ended is None:
                run.ended.set()  # without an end of the record: nobody is to wait for what goes on after the next start
                await asyncio.Event().wait()  # until `close`
                return
            params = await self._files.run(lambda: self._keep(record, image, ended))
        except DelineateError as error:
            if not run.is_stopped:
                run.failed += 1
                run.note(f"{image}: {error.message}")
            return
        run.done += 1
        run.results[image] = {"label": image, "tag": record.tag, "params": params}

    def _is_done(self, record: BatchRecord, image: str) -> bool:
        """Whether this batch, before it was interrupted, saved a label of the image."""
        try:
            return bool(record.tag) and self._annotation.datastore.label(image, record.tag).info.get("batch") == record.id
        except UnknownItemError:
            return False

    def _submit(self, record: BatchRecord, image: str) -> Task:
        key = hashlib.sha256(f"{record.id} {image}".encode()).hexdigest()
        asked = Asked(
            model=self._service.require_model(record.model), image=image, session="", params=record.params, owner=record.owner,
            session_owner="", key=f"batch-{key}", priority=BATCH, name=record.model,
            output="" if self._annotation.web is not None else record.output,  # labels go there by themselves, at every try the same
        )  # fmt: skip
        return self._asking.submit(asked)

    def _keep(self, record: BatchRecord, image: str, task: Task) -> dict[str, Any]:
        stored = self._keeping.answer(task)
        if record.tag:
            info: dict[str, Any] = {"batch": record.id, "model": record.model, "params": dict(stored.params)}
            if record.output and self._annotation.web is not None:
                info |= sent_as(record.output)
            elif record.output:
                stored = _in_dicom(stored, record.output)
            self._keeping.save(task, stored, image, record.tag, info)
        self._keeping.forget(task)
        return dict(stored.params)


def _in_dicom(stored: StoredResult, kind: str) -> StoredResult:
    """The same answer with its file in DICOM as the one to be saved."""
    if kind not in stored.dicom:
        raise ModelError("the model found no structures", "Look at the image.", "output")
    return replace(stored, file=stored.dicom[kind], filename=OUTPUTS[kind])
