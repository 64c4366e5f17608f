"""Keeps one worker alive, and settles what it left when it dies."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from delineate.engines.process import WorkerOptions, WorkerProcess
from delineate.engines.watch import LOOK, RecentKills, TaskWatch, Verdict
from delineate.errors import LeaseLostError, StoreError, UnknownTaskError
from delineate.protocols.reference import Place
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import FRONT, Failure
from delineate.worker.channel import FORGET, READ, READ_ALONG, WHOLE
from delineate.worker.desk import LOG_NAME, desks_folder
from delineate.worker.lock import SUFFIX
from delineate.worker.retries import retry_after
from delineate.worker.tasklog import read_log

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0  # s before a worker that died at its start is started again
REST = 1.0  # s between two looks for a task of the background, where nobody rings
_FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}


@dataclass(kw_only=True)
class WorkerStatus:
    """How one worker is: `state` is starting, idle, busy, waiting (to be started again) or stopped; `last_end` why it last died."""

    index: int
    device: str = ""
    state: str = "stopped"
    pid: int = 0
    tasks: int = 0
    restarts: int = 0
    last_end: str = ""


class Keeper:
    """One worker's keeper, with a thread of its own.

    Parameters
    ----------
    index : of the worker, from 1; prefix : of its names; memory_bytes : limit of a task that declares none. A worker of the
    background is started when there is a task for it, and ends by itself.

    `name` is that of the worker process this keeper is answerable for, "" while there is none.
    """

    def __init__(
        self,
        index: int,
        prefix: str,
        device: str,
        options: WorkerOptions,
        database: Database,
        tasks: TaskStore,
        blobs: BlobStore,
        *,
        memory_bytes: int,
    ) -> None:
        self.status = WorkerStatus(index=index, device=device)
        self.name = ""
        self._prefix = prefix
        self._options = options
        self._database = database
        self._tasks = tasks
        self._blobs = blobs
        self._memory_bytes = memory_bytes
        self._lane = options.lane
        self._logger = logging.getLogger(f"delineate.worker.{index}")
        self._wake_reader, self._wake_writer = os.pipe()
        self._rung = threading.Event()
        self._stop_at: float | None = None
        self._watch: TaskWatch | None = None
        self._worker: WorkerProcess | None = None
        self._warm: frozenset[str] = frozenset()
        self._along: tuple[str, str] | None = None  # what it reads beforehand: the file that comes, and the image once it is known
        self._is_settling = False
        self._was_ready = False
        self._kills = RecentKills()
        self.on_settled: Callable[[], None] = _nobody
        self._thread = threading.Thread(target=self._keep, name=f"keeper-{index}", daemon=True)

    def start(self) -> None:
        """Start the worker, in the background."""
        self._thread.start()

    @property
    def is_free(self) -> bool:
        """Whether a task would be begun at once, or in the moment that it takes to commit a result."""
        return self._worker is not None and (self.status.state == "idle" or self._is_settling)

    @property
    def reads_beforehand(self) -> bool:
        """Whether the worker was told of an image since its last task; another one takes its place."""
        return self._along is not None

    def has_warm(self, image: str) -> bool:
        """Whether the worker has this image decoded, as far as it said, or was told to read it along."""
        return image in self._warm or (self._along is not None and self._along[1] == image)

    def ring(self, after: float = 0.0) -> None:
        """There may be a task: the worker looks, after `after` seconds, or once it is free. Any thread; never blocks."""
        worker = self._worker
        if worker is None:
            self._rung.set()
        else:
            worker.tell("look", after=after, said=time.time())

    def read(self, place: Place) -> bool:
        """Have the worker read an image of which a task may come; False where it has something else to do, as `read_along`."""
        return self._begin(("", place.key), READ, place=place.to_json())

    def read_along(self, file: str) -> bool:
        """Have the worker read a file while it comes; False where it has something else to do. Not for two threads at once."""
        return self._begin((file, ""), READ_ALONG, file=file)

    def _begin(self, what: tuple[str, str], command: str, **more: Any) -> bool:
        worker = self._worker
        if worker is None or (self._along is not None and self._along[0]) or not self.is_free:
            return False
        self._along = what
        worker.tell(command, **more)
        return True

    def is_whole(self, file: str, blob: str, image: str) -> None:
        """All of the file came: it is this blob, and tasks on it will name `image`. Any thread."""
        worker, along = self._worker, self._along
        if worker is not None and along == (file, ""):
            self._along = file, image
            worker.tell(WHOLE, file=file, blob=blob)

    def forget(self, file: str) -> None:
        """No task will name the file. Any thread."""
        worker, along = self._worker, self._along
        if worker is not None and along is not None and along[0] == file:
            self._along = None
            worker.tell(FORGET, file=file)

    def stop(self, grace: float) -> None:
        """Tell the worker to finish its task within `grace` seconds; returns at once, see `join`."""
        self._stop_at = time.monotonic() + grace
        self._rung.set()
        os.write(self._wake_writer, b"x")

    def join(self) -> None:
        """Wait until the worker is gone and its task settled."""
        self._thread.join()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _keep(self) -> None:
        backoff = FIRST_BACKOFF
        while self._stop_at is None:
            self._was_ready = False
            try:
                if self._lane != FRONT and not self._is_wanted():
                    continue
                self._live()
            except Exception as error:  # whatever it was, the next worker may fare better
                self.status.last_end = f"could not be kept: {type(error).__name__}: {error}"
                self._logger.exception("the worker could not be kept")
            backoff = FIRST_BACKOFF if self._was_ready else min(LONGEST_BACKOFF, backoff * 2)
            if self._stop_at is None:
                self.status.restarts += 1
            if not self._was_ready and self._stop_at is None:
                self.status.state = "waiting"
                select.select([self._wake_reader], [], [], backoff)
        self.status.state = "stopped"

    def _is_wanted(self) -> bool:
        """Whether there is a task for a worker that does not run all the time; after some rest where there is none."""
        if self._tasks.is_due(self._lane):
            return True
        self.status.state = "stopped"
        self._rung.wait(REST)
        self._rung.clear()
        return False

    def _live(self) -> None:
        """One worker from its start to its end."""
        self.name = f"{self._prefix}-{self.status.index}-{secrets.token_hex(4)}"
        worker = self._worker = WorkerProcess(self.name, self.status.device, self._options, self._logger)
        self.status.pid, self.status.state = worker.pid, "starting"
        verdict = None
        try:
            verdict = self._attend(worker)
        finally:
            worker.kill()
            code = worker.wait()
            worker.close()
            self._worker, self.status.pid, self._warm, self._along, self._is_settling = None, 0, frozenset(), None, False
            with contextlib.suppress(StoreError):  # the engine finds its lock free, and gives its tasks back a little later
                self._settle(worker.name, code or 0, verdict)
            self._watch = None
            self.name = ""

    def _attend(self, worker: WorkerProcess) -> Verdict | None:
        """Hear and watch it until it ends (None) or must be killed."""
        errors_open, told_to_stop = True, False
        while True:
            sources = [worker.events, *([worker.errors] if errors_open else []), *([] if told_to_stop else [self._wake_reader])]
            busy = self._watch is not None or self._stop_at is not None
            ready, _, _ = select.select(sources, [], [], LOOK if busy else None)
            if worker.errors in ready:
                errors_open = worker.read_errors()
            if worker.events in ready:
                events = worker.read_events()
                if events is None:
                    return None
                for event in events:
                    self._hear(worker.name, event)
            if self._stop_at is not None:
                if not told_to_stop:
                    worker.tell("stop")
                    told_to_stop = True
                if time.monotonic() > self._stop_at:
                    return Verdict(why="the server stops")
            verdict = self._look(worker)
            if verdict is not None:
                return verdict

    def _look(self, worker: WorkerProcess) -> Verdict | None:
        watch = self._watch
        return watch.look(worker.pid, lambda: worker.tell("cancel", task=watch.uid)) if watch is not None and watch.is_due() else None

    def _hear(self, name: str, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "ready":
            self._was_ready, self.status.state = True, "idle"
        elif kind == "started":
            if self._watch is None or self._watch.uid != event["task"]:
                self._watch = TaskWatch(event["task"], name, self._database, self._tasks, self._options.lease, kills=self._kills)
            self._watch.limit(event["limit"], event["memory_mb"] << 20 or self._memory_bytes)
            self.status.state, self._along = "busy", None  # it gives up what this task does not name
        elif kind == "settling":
            self._is_settling = True
        elif kind == "warm":
            self._warm = frozenset(event["images"])
        elif kind == "progress" and self._watch is not None:
            self._watch.progress(event["fraction"], event["message"])
        elif kind == "done":
            self.on_settled()
            self._watch = None
            self._is_settling = False
            self.status.state, self.status.tasks = "idle", self.status.tasks + 1

    def _settle(self, name: str, code: int, verdict: Verdict | None) -> None:
        """Settle the task it held, if any, then give back whatever is still its own; then its lock and files go."""
        reason = verdict.why if verdict is not None else _ending(code)
        watch = self._watch
        stopping = self._stop_at is not None
        is_in_order = code == 0 and (stopping or (self._lane != FRONT and watch is None))
        if not is_in_order:
            self.status.last_end = reason
            self._logger.warning("the worker ended: %s", reason)
        if watch is not None:
            failure = verdict.failure if verdict is not None else self._fault(code, watch)
            with contextlib.suppress(LeaseLostError, UnknownTaskError):
                if failure is not None:
                    self._fail(name, watch.uid, failure)
                elif verdict is not None and watch.is_cancelled:
                    self._tasks.cancelled(watch.uid, name)
        self._tasks.release(name, reason, counted=not (stopping and verdict is not None))
        shutil.rmtree(desks_folder(self._options.data) / name, ignore_errors=True)
        (self._options.data / "run" / f"{name}{SUFFIX}").unlink(missing_ok=True)

    def _fault(self, code: int, watch: TaskWatch) -> Failure | None:
        """What the model is to blame for; None where something outside ended the worker."""
        if code == -signal.SIGKILL and watch.killed_by_kernel():
            return Failure(
                kind="memory",
                message="the machine ran out of memory and the model was killed",
                advice="Send a smaller image, or add memory.",
            )
        if code > 0 or -code in _FAULTS:
            return Failure(kind="crash", message=f"the model crashed its worker: {_ending(code)}", advice="See the task's log.")
        return None

    def _fail(self, name: str, uid: str, failure: Failure) -> None:
        text = read_log(desks_folder(self._options.data) / name / LOG_NAME)
        log = None
        if text:
            log = self._blobs.incoming()
            log.write(text)
        self._tasks.fail(uid, name, failure, log=log, retry_after=retry_after(self._tasks.get(uid), failure))


def _nobody() -> None:
    """Nobody wants to know."""


def _ending(code: int) -> str:
    if code >= 0:
        return f"it ended with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
