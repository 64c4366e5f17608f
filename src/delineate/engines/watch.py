"""What an engine holds a running task to: time, memory, its lease, and the wish of whoever sent it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from delineate.errors import LeaseLostError, StoreError, UnknownTaskError
from delineate.runners import memory
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import Failure, TaskState

LOOK = 0.1  # s between two looks at a running task
TIME_GRACE = 1.0  # s over the limit: a runner that keeps to it by itself says more than we can
CANCEL_GRACE = 0.6  # s for a model to stop by itself
KILLS_FRESH = 1.0  # s
PROGRESS_INTERVAL = 0.25  # s between two writes of progress


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why a worker is killed. `failure` is None where the task was cancelled, or is no longer the worker's."""

    why: str
    failure: Failure | None = None


class TaskWatch:
    """One running task of one worker. The engine asks `look` ten times a second.

    The lease is renewed here and not by the worker: the engine knows that the process lives and ends it when its time
    is up, while a model that holds the interpreter would silence a thread of the worker's own.

    kills : how many processes the kernel has killed for want of memory, at most a moment ago.
    """

    def __init__(
        self, uid: str, worker: str, database: Database, tasks: TaskStore, lease: float, clock: Callable[[], float] = time.monotonic,
        kills: Callable[[], int] = memory.kernel_kills,
    ) -> None:  # fmt: skip
        self.uid = uid
        self._worker = worker
        self._database = database
        self._tasks = tasks
        self._lease = lease
        self._clock = clock
        self._began = clock()
        self._renewed = self._looked = self._began
        self._limit = float("inf")
        self._memory = 0
        self._fraction, self._message, self._is_news = 0.0, "", False
        self._seen = -1
        self._stopping_since: float | None = None
        self._lease_lost = False
        self._kernel_kills = kills()

    def is_due(self) -> bool:
        """Whether it is time to look: most tasks end before the first time, and cost nothing."""
        return self._clock() - self._looked >= LOOK

    @property
    def is_cancelled(self) -> bool:
        """Whether the task is to end as cancelled."""
        return self._stopping_since is not None and not self._lease_lost

    def limit(self, seconds: float, memory_bytes: int) -> None:
        """What the task may take, from its beginning on."""
        self._limit, self._memory = seconds, memory_bytes

    def progress(self, fraction: float, message: str) -> None:
        """What the model says of its progress."""
        self._fraction, self._message, self._is_news = fraction, message, True

    def look(self, process: int, cancel: Callable[[], None]) -> Verdict | None:
        """Check everything; None to go on. `cancel` is called once, to ask the worker to stop by itself."""
        now = self._looked = self._clock()
        used = memory.used_beyond(process, self._memory) if self._memory else 0
        if used:
            return Verdict(why="over its memory limit", failure=_memory_failure(used >> 20, self._memory >> 20))
        if now > self._began + self._limit + TIME_GRACE:
            message = f"the model took longer than its time limit of {self._limit:g} s and was stopped"
            return Verdict(
                why="over its time limit",
                failure=Failure(kind="timeout", message=message, advice="Raise time_limit of the model, or send less."),
            )
        if self._stopping_since is None and self._is_unwanted(now):
            self._stopping_since = now
            cancel()
        if self._stopping_since is not None and now > self._stopping_since + CANCEL_GRACE:
            return Verdict(why="its task was taken away" if self._lease_lost else "its task was cancelled")
        return None

    def killed_by_kernel(self) -> bool:
        """Whether the kernel has killed for want of memory since the task began."""
        return memory.kernel_kills() > self._kernel_kills

    def _is_unwanted(self, now: float) -> bool:
        try:
            due = now - self._renewed
            if due > self._lease / 3 or (self._is_news and due > PROGRESS_INTERVAL):
                self._renewed, self._is_news = now, False
                return not self._tasks.heartbeat(self.uid, self._worker, self._lease, self._fraction, self._message)
            seen = self._database.changes()
            if seen == self._seen:
                return False
            self._seen = seen
            task = self._tasks.get(self.uid)
        except (LeaseLostError, UnknownTaskError):
            self._lease_lost = True
            return True
        except StoreError:  # busy or full: the lease lasts for two more tries
            return False
        self._lease_lost = task.state is not TaskState.RUNNING or task.lease_holder != self._worker
        return task.cancel_requested or self._lease_lost


class RecentKills:
    """`memory.kernel_kills` as it was at most a second ago: the kernel writes a page of text for each look, and tasks may come and go
    a hundred times in that time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[float, int] | None = None

    def __call__(self) -> int:
        """How many."""
        now = self._clock()
        if self._seen is None or now - self._seen[0] > KILLS_FRESH:
            self._seen = now, memory.kernel_kills()
        return self._seen[1]


def _memory_failure(used_mb: int, limit_mb: int) -> Failure:
    return Failure(
        kind="memory",
        message=f"the model used {used_mb} MiB, more than its limit of {limit_mb} MiB, and was stopped",
        advice="Send a smaller image, or raise memory_mb of the model.",
    )
