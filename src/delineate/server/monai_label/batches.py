"""A model run on many images: ordinary tasks of the lowest priority, some at a time, and their answers saved as labels.

A batch is work as any other, in a lane that the server takes from, since workers do its images: its row, progress and log are
those of a task. How far it is follows from labels that name it and from the tasks of its images, known by keys made of batch and
image; so it goes on after any interruption.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Final

from delineate.datastore.faults import UnknownItemError
from delineate.errors import BlobError, DelineateError, LeaseLostError, ModelError, StoreError
from delineate.protocols.dicom_request import OUTPUTS
from delineate.protocols.infer_result import StoredResult
from delineate.runners.work import write_answer
from delineate.server.listening import Listening
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.asking import Asked, Asking
from delineate.server.monai_label.errands import sent_as
from delineate.server.monai_label.keeping import Keeping
from delineate.server.monai_label.works import public_id
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import BATCH as LOWEST
from delineate.task import SERVER, Failure, Task

BATCH: Final = "batch"
"""The work."""

_HOLDER: Final = "server"  # of the lease, which nobody but the next server ends
_AHEAD: Final = 2  # tasks for each worker: the next one is there when one ends
_PAUSE: Final = 0.25  # s between two looks for a batch, and whether the one that runs was stopped
_LATER: Final = 5.0  # s until its end is written again, where that failed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is to be done.

    images : ids, as chosen when it began; tag : of the labels that are saved, empty to save none.
    most : images at once, 0 for as many as the workers take.
    output : what is made of each image in DICOM, of `delineate.protocols.dicom_request.OUTPUTS`; empty for nothing.
    id : what labels and tasks name it by; empty for what follows from its task's uid.
    """

    model: str
    images: tuple[str, ...]
    tag: str
    params: Mapping[str, Any]
    output: str = ""
    most: int = 0
    id: str = ""


class Run:
    """A batch that runs: how far it is."""

    def __init__(self, task: Task, batch: Batch) -> None:
        self.task = task
        self.batch = batch
        self.id = batch.id or public_id(task)
        self.failed = 0
        self.is_stopped = False
        self.done: dict[str, dict[str, Any]] = {}  # what is answered of an image
        self.waiting: set[str] = set()  # uids of tasks
        self.lines: list[str] = []

    def fail(self, image: str, reason: str) -> None:
        """An image could not be done."""
        self.failed += 1
        self.lines.append(f"{image}: {reason}")

    @property
    def said(self) -> str:
        """How far it is, in words."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{len(self.done)} of {len(self.batch.images)} images done{failed}"

    @property
    def fraction(self) -> float:
        """How far it is, 0 to 1."""
        return (len(self.done) + self.failed) / max(1, len(self.batch.images))


class Batches:
    """One batch after the other. Belongs to one event loop; `submit` and `log` may be called from any thread."""

    def __init__(
        self, service: Service, annotation: Annotation, asking: Asking, keeping: Keeping, listening: Listening, threads: Threads
    ) -> None:  # fmt: skip
        self._service = service
        self._annotation = annotation
        self._asking = asking
        self._keeping = keeping
        self._listening = listening
        self._threads = threads
        self._current: Run | None = None
        self._work: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """The server runs; a batch that was interrupted goes on."""
        if self._annotation.has_datastore:
            await self._threads.run(partial(self._service.tasks.release, _HOLDER, "the server was stopped", counted=False))
            await self._threads.run(self._take_over)
            self._work = asyncio.get_running_loop().create_task(self._serve())

    async def end(self) -> None:
        """The server stops: the batch goes on later."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def submit(self, batch: Batch, owner: str, request: Mapping[str, Any]) -> Task:
        """The task of a batch; request : as it was sent. Blocks."""
        return self._service.submit_work(BATCH, asdict(batch), owner=owner, prompts=request, lane=SERVER)

    def log(self, task: Task) -> bytes:
        """What is to be said of a batch that runs."""
        run = self._current
        return b"" if run is None or run.task.id != task.id else _text(run.lines)

    async def _serve(self) -> None:
        tasks = self._service.tasks
        while True:
            try:
                while (task := await self._threads.run(partial(tasks.claim, _HOLDER, math.inf, SERVER))) is not None:
                    await self._run(task)
            except Exception as error:
                _log.error("a batch ended early: %s", error, exc_info=not isinstance(error, DelineateError))
                failure = Failure(kind="crash", message="The server failed; its log has the reason.")
                with contextlib.suppress(DelineateError):
                    await self._threads.run(partial(tasks.release, _HOLDER, failure))
            await asyncio.sleep(_PAUSE)

    async def _run(self, task: Task) -> None:
        run = self._current = Run(task, await self._threads.run(partial(self._read, task)))
        images = iter(run.batch.images)
        wide = max(1, self._service.settings.workers) * _AHEAD
        watch = asyncio.get_running_loop().create_task(self._watch(run))
        try:
            await asyncio.gather(*(self._one_after_the_other(run, images) for _ in range(min(wide, run.batch.most or wide))))
        finally:
            watch.cancel()
        while not await self._threads.run(partial(self._settle, run)):
            await asyncio.sleep(_LATER)

    def _read(self, task: Task) -> Batch:
        blob = task.blob("input")
        if blob is None:
            raise BlobError("what a batch was to do is gone")
        values = json.loads(self._service.file(blob).read_bytes())
        return Batch(**{**values, "images": tuple(values["images"])})

    async def _watch(self, run: Run) -> None:
        """Note how far it is, and stop it where somebody asks for that."""
        while not run.is_stopped:
            try:
                beat = partial(self._service.tasks.heartbeat, run.task.uid, _HOLDER, math.inf, run.fraction, run.said)
                run.is_stopped = not await self._threads.run(beat)
            except LeaseLostError:  # deleted, or another state was set
                run.is_stopped = True
            except StoreError as error:
                _log.warning("how far a batch is could not be noted: %s", error.message)
            await asyncio.sleep(0 if run.is_stopped else _PAUSE)
        for uid in list(run.waiting):
            await self._cancel(uid)

    async def _cancel(self, uid: str) -> None:
        with contextlib.suppress(DelineateError):
            await self._threads.run(partial(self._service.waited_for.cancel, uid, "the batch was stopped"))

    def _settle(self, run: Run) -> bool:
        """Write its end: whether that is done."""
        tasks, blobs, uid = self._service.tasks, self._service.blobs, run.task.uid
        try:
            log = blobs.incoming()
            log.write(_text([*run.lines, run.said]))
            if run.is_stopped:
                tasks.cancelled(uid, _HOLDER, log=log)
                return True
            result = blobs.adopt(write_answer(blobs.coming(secrets.token_hex(16)), run.done))
            if run.failed:
                failure = Failure(kind="model", message=f"{run.failed} of {len(run.batch.images)} images failed.")
                tasks.fail(uid, _HOLDER, failure, log=log, result=result)
            else:
                tasks.finish(uid, _HOLDER, log=log, result=result)
        except LeaseLostError:
            pass
        except DelineateError as error:
            _log.error("the end of a batch could not be written: %s", error.message)
            return False
        return True

    async def _one_after_the_other(self, run: Run, images: Iterator[str]) -> None:
        for image in images:
            if run.is_stopped:
                return
            await self._one(run, image)

    async def _one(self, run: Run, image: str) -> None:
        try:
            if await self._threads.run(partial(self._is_done, run, image)):
                run.done[image] = {"label": image, "tag": run.batch.tag, "params": {}}
                return
            await self._annotation.fetch(image)
            task = await self._threads.run(partial(self._ask, run, image))
            run.waiting.add(task.uid)
            if run.is_stopped:
                await self._cancel(task.uid)
            try:
                ended = await self._listening.finished(None, task.uid)
            finally:
                run.waiting.discard(task.uid)
            if ended is None:
                await asyncio.Event().wait()  # the server stops: until `end`
                return
            params = await self._threads.run(partial(self._keep, run, image, ended))
            run.done[image] = {"label": image, "tag": run.batch.tag, "params": params}
        except DelineateError as error:
            if not run.is_stopped:
                run.fail(image, error.message)
        except Exception:
            _log.exception("an image of a batch")
            run.fail(image, "the server failed; its log has the reason")

    def _is_done(self, run: Run, image: str) -> bool:
        """Whether this batch, before it was interrupted, saved a label of the image."""
        tag = run.batch.tag
        try:
            return bool(tag) and self._annotation.datastore.label(image, tag).info.get("batch") == run.id
        except UnknownItemError:
            return False

    def _ask(self, run: Run, image: str) -> Task:
        batch, key = run.batch, hashlib.sha256(f"{run.id} {image}".encode()).hexdigest()
        asked = Asked(
            model=self._service.require_model(batch.model), image=image, session="", params=batch.params, owner=run.task.owner,
            session_owner="", key=f"batch-{key}", priority=LOWEST, name=batch.model,
            output="" if self._annotation.web is not None else batch.output,  # labels go there by themselves, at every try the same
        )  # fmt: skip
        return self._asking.submit(asked)

    def _keep(self, run: Run, image: str, task: Task) -> dict[str, Any]:
        stored, batch = self._keeping.answer(task), run.batch
        if batch.tag:
            info: dict[str, Any] = {"batch": run.id, "model": batch.model, "params": dict(stored.params)}
            if batch.output and self._annotation.web is not None:
                info |= sent_as(batch.output)
            elif batch.output:
                stored = _in_dicom(stored, batch.output)
            self._keeping.save(task, stored, image, batch.tag, info)
        self._keeping.forget(task)
        return dict(stored.params)

    def _take_over(self) -> None:
        """Batches as they were kept before, in files: those that were interrupted become tasks."""
        folder = self._service.settings.data / "batches"
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                kept = json.loads(path.read_bytes())
                if kept["ended"] is None:
                    batch = Batch(**{field.name: kept[field.name] for field in fields(Batch) if field.name in kept})
                    self.submit(batch, kept["owner"], kept["request"])
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _in_dicom(stored: StoredResult, kind: str) -> StoredResult:
    """The same answer with its file in DICOM as the one to be saved."""
    if kind not in stored.dicom:
        raise ModelError("the model found no structures", "Look at the image.", "output")
    return replace(stored, file=stored.dicom[kind], filename=OUTPUTS[kind])


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
