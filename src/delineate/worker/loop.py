"""Claim, work, rest."""

from __future__ import annotations

import logging
import math
import time

from delineate.errors import StorageFullError, StoreError
from delineate.store.database import Database
from delineate.task import FRONT, WORK, Task
from delineate.worker import space
from delineate.worker.attempt import Attempt, Workplace
from delineate.worker.channel import RESTING_LOOK
from delineate.worker.work_attempt import WorkAttempt

_log = logging.getLogger(__name__)

EAGER_LOOK, IDLE_LOOK = (
    0.008,
    RESTING_LOOK,
)  # s between two looks at whether anything changed, soon after a task and later: each costs 0.1 ms
EAGER = 5.0  # s after a task
EAGER_CLAIM, IDLE_CLAIM = 0.2, 1.0  # s after which to try a claim though nothing changed: a task put off becomes due by itself
TROUBLE_WAIT = 1.0  # s after the store failed


class Loop:
    """One worker's life: tasks of one lane, one after the other, until it is told to stop or found none for `idle` seconds.

    `lease` in seconds; the engine renews it.
    """

    def __init__(self, place: Workplace, database: Database, lease: float, *, lane: str = FRONT, idle: float = math.inf) -> None:
        self._place = place
        self._lease = lease
        self._lane = lane
        self._idle = idle
        self._database = database
        self._worked = time.monotonic()
        self._rung = 0.0  # up to which submission tasks are ours to take; later ones may be reserved for another worker

    def run(self) -> None:
        """Work until the channel says stop.

        The server rings when a task arrives (`LocalEngine.ring`); looking is for tasks that came by another door.
        """
        channel = self._place.channel
        channel.ready()
        self._rung = time.time()
        while not channel.stopping.is_set() and time.monotonic() - self._worked < self._idle:
            try:
                task = self._next_task()
            except StoreError as error:
                _log.error("no task could be claimed: %s", error.message)
                channel.stopping.wait(TROUBLE_WAIT)
                continue
            if task is not None:
                self._work(task)
        self._place.warm.close()

    def _next_task(self) -> Task | None:
        """The next task, or None after some rest. Raises `StoreError`."""
        if space.is_short(self._place.desk.folder):
            raise StorageFullError(f"less than {space.FLOOR >> 20} MiB are free on the disk of {self._place.desk.folder}")
        seen = self._database.changes()
        self._hear()
        task = self._place.tasks.claim(self._place.name, self._lease, self._lane, rung=self._rung)
        if task is None:
            self._rest(seen)
        return task

    def _hear(self) -> float:
        """Take note of the engine's calls; seconds until there is one to note, 0 where there was."""
        rung, pause = self._place.channel.rung()
        if rung is None:
            return pause
        self._rung = max(self._rung, rung)
        return 0.0

    def _work(self, task: Task) -> None:
        (WorkAttempt if task.protocol == WORK else Attempt)(self._place, task).run()
        self._worked = time.monotonic()

    def _rest(self, seen: int) -> None:
        """Wait until there may be a task."""
        channel = self._place.channel
        now = time.monotonic()
        is_eager = now - self._worked < EAGER
        until = now + (EAGER_CLAIM if is_eager else IDLE_CLAIM)
        look = EAGER_LOOK if is_eager else IDLE_LOOK
        while not channel.stopping.is_set() and time.monotonic() < until:
            pause = self._hear()
            if not pause:
                return
            if channel.wake.wait(min(look, pause)):
                channel.wake.clear()
            elif self._database.changes() != seen:
                return
