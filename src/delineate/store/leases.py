"""The verbs of workers and of those who watch over them: claim, renew, settle, give back.

A task is a worker's from its claim until it is settled, given back, cancelled or deleted. Every verb checks in its own
transaction that it still is, so a worker that was taken for dead and is not can change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy.engine import Connection

from delineate.errors import LeaseLostError
from delineate.store.records import TaskRecords, task_of
from delineate.store.statements import (
    ADVANCE_QUEUE,
    CANCELLED,
    CHANGE_TASK,
    FAILED,
    FINISHED,
    IS_DUE,
    LEAVE_TASK,
    NEXT,
    PENDING,
    RUNNING,
    TASK_HELD,
    TASKS_EXPIRED,
    TASKS_OF_WORKER,
)  # fmt: skip
from delineate.store.writer import BlobWriter
from delineate.task import FRONT, Failure, Task

LEASE: Final = 30.0
"""Seconds a worker may be silent."""

RESERVED: Final = 0.5
"""Seconds for which a task that was submitted as `rung` is left to those who are rung for it."""

_LOST_BACKOFF, _LOST_LIMIT = 0.1, 30.0  # seconds; a lost worker says nothing about the task: try again soon
_CRASH_BACKOFF, _CRASH_LIMIT = 1.0, 300.0

_NOBODY: Final[dict[str, Any]] = {"lease_holder": None, "lease_expires": None}


class TaskLeases(TaskRecords):
    """The part of `TaskStore` that workers use."""

    def claim(self, worker: str, lease: float = LEASE, lane: str = FRONT, *, rung: float = math.inf) -> Task | None:
        """Take the next task of a lane: by priority, then fair between owners, then by age; None when none is due.

        Fair: each task has a *turn*, the start tag of start-time fair queueing (Goyal, Vin and Cheng, IEEE/ACM
        Transactions on Networking 5, 1997) with tasks of equal cost. `rung`: up to which submission, Unix seconds, the worker was
        called; of later ones it leaves what is `RESERVED`, all of it with 0.
        """
        with self.database.read() as connection:  # idle workers ask often: they do not take the writers' lock
            if IS_DUE.first(connection, now=self._clock(), in_lane=lane, rung=rung) is None:
                return None
        with self.database.write(light=True) as connection:
            now = self._clock()
            row = NEXT.first(connection, now=now, in_lane=lane, rung=rung)
            if row is None:
                return None
            values = {"state": RUNNING, "attempt": row.attempt + 1, "started": now, "fraction": 0.0, "message": ""}
            values |= {"lease_holder": worker, "lease_expires": now + lease}
            CHANGE_TASK.run(connection, which=row.id, **values)
            ADVANCE_QUEUE.run(connection, at_rank=row.rank, reached=row.turn, turn=row.turn)
            self._event(connection, row.id, "claimed", worker)
            return task_of(row._asdict() | values, self._blobs(connection, row.id))

    def is_due(self, lane: str) -> bool:
        """Whether a claim would find a task."""
        with self.database.read() as connection:
            return IS_DUE.first(connection, now=self._clock(), in_lane=lane, rung=math.inf) is not None

    def heartbeat(
        self, uid: str, worker: str, lease: float = LEASE, fraction: float = 0.0, message: str = "", *, attempt: int | None = None
    ) -> bool:
        """Renew the lease and note progress. True: go on; False: somebody asked to cancel.

        Raises
        ------
        LeaseLostError
            The task is no longer this worker's.
        """
        with self.database.write(light=True) as connection:
            row = self._held(connection, uid, worker, attempt)
            CHANGE_TASK.run(connection, which=row.id, lease_expires=self._clock() + lease, fraction=fraction, message=message)
            return not row.cancel_requested

    def finish(
        self,
        uid: str,
        worker: str,
        *,
        result: BlobWriter,
        log: BlobWriter | None = None,
        provenance: Mapping[str, Any] | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
        attempt: int | None = None,
        beside: Mapping[str, BlobWriter] | None = None,
        also: Callable[[Connection], None] | None = None,
    ) -> Task:
        """The task is done: place result and log, and say so, in one transaction.

        A task that somebody cancelled meanwhile ends as cancelled, without its result. The writers are used up either way.
        `beside`: further files by role. `also` is done in the same transaction, so that it happens once and together with the
        end of the task, or not at all.

        Raises
        ------
        LeaseLostError
            The task is no longer this worker's; nothing was changed.
        """
        values: dict[str, Any] = {"state": FINISHED, "failure": None, "fraction": 1.0, "message": ""}
        values |= _optional(provenance, grids)
        return self._settle(uid, worker, attempt, values, {"result": result, "log": log, **(beside or {})}, "", also=also)

    def fail(
        self,
        uid: str,
        worker: str,
        failure: Failure,
        *,
        log: BlobWriter | None = None,
        provenance: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
        attempt: int | None = None,
        result: BlobWriter | None = None,
    ) -> Task:
        """The task did not succeed. It fails, or goes back for another try after `retry_after` seconds while tries are left.

        `result`: what was done nevertheless, of one that fails for good. Tries are counted as in `release`. A task that somebody
        cancelled meanwhile ends as cancelled. Raises `LeaseLostError`.
        """
        values = _optional(provenance, grids)
        if retry_after is None:
            values |= {"state": FAILED, "failure": asdict(failure)}
        return self._settle(uid, worker, attempt, values, {"log": log, "result": result}, failure.sentence(), failure, retry_after)

    def cancelled(self, uid: str, worker: str, *, log: BlobWriter | None = None, attempt: int | None = None) -> Task:
        """The worker stopped because it was asked to. Raises `LeaseLostError`."""
        return self._settle(uid, worker, attempt, {"state": CANCELLED}, {"log": log}, "")

    def _settle(
        self,
        uid: str,
        worker: str,
        attempt: int | None,
        values: dict[str, Any],
        files: Mapping[str, BlobWriter | None],
        why: str,
        failure: Failure | None = None,
        retry_after: float | None = None,
        also: Callable[[Connection], None] | None = None,
    ) -> Task:
        writers = {role: writer for role, writer in files.items() if writer is not None}
        with ExitStack() as stack:
            for writer in writers.values():
                stack.enter_context(writer)
            try:
                for writer in writers.values():
                    writer.seal()
                    self.blobs.place(writer)
                with self.database.write() as connection:
                    row = self._held(connection, uid, worker, attempt)
                    if failure is not None and "state" not in values:
                        values |= self._another_try(row, failure, counted=True, delay=retry_after)
                    if row.cancel_requested:
                        values |= {"state": CANCELLED, "failure": None}
                    named = {role: writer for role, writer in writers.items() if role == "log" or not row.cancel_requested}
                    left = self._leave(connection, row, values, worker, why)
                    blobs = {blob.role: blob for blob in self._blobs(connection, row.id)}
                    stale = [blobs[role].digest for role in named if role in blobs]  # logs of earlier tries
                    stale += [writer.digest for role, writer in writers.items() if role not in named]
                    for role, writer in named.items():
                        blobs[role] = self._place(connection, row.id, role, writer, replaces=role in blobs)
                    if also is not None and not row.cancel_requested:
                        also(connection)
                    task = task_of(left, (blobs[role] for role in sorted(blobs)))
            except BaseException as error:
                self._abandon(writers.values(), error)
                raise
            self._forget(stale)
            return task

    def release(self, worker: str, reason: str | Failure, *, counted: bool = True, delay: float | None = None) -> list[Task]:
        """The worker is gone, or stops: its tasks go back to the queue, or fail when their tries are used up.

        Parameters
        ----------
        reason : a `Failure` says whether the task is at fault: kind ``lost`` counts among the losses, any other among the
            tries. Words alone mean a lost worker.
        counted : False for a stop in good order: the try did not happen, and the task is due at once.
        delay : seconds until a counted try is followed by another, None for what the count says.
        """
        failure = reason if isinstance(reason, Failure) else Failure(kind="lost", message=reason, advice="Submit the task again.")
        with self.database.write() as connection:
            rows = TASKS_OF_WORKER.all(connection, holder=worker)
            return [self._give_back(connection, row, failure, counted, delay) for row in rows]

    def expire(self) -> list[Task]:
        """Give back the tasks whose lease is over, as lost."""
        now = self._clock()
        with self.database.read() as connection:
            if TASKS_EXPIRED.first(connection, now=now) is None:
                return []
        failure = Failure(kind="lost", message="The worker stopped answering.", advice="Submit the task again.")
        with self.database.write() as connection:
            return [self._give_back(connection, row, failure, True) for row in TASKS_EXPIRED.all(connection, now=now)]

    def _give_back(self, connection: Connection, row: Any, failure: Failure, counted: bool, delay: float | None = None) -> Task:
        values = self._another_try(row, failure, counted=counted, delay=delay)
        if row.cancel_requested:
            values |= {"state": CANCELLED, "failure": None}
        return task_of(self._leave(connection, row, values, row.lease_holder, failure.sentence()), self._blobs(connection, row.id))

    def _another_try(self, row: Any, failure: Failure, *, counted: bool, delay: float | None = None) -> dict[str, Any]:
        """What becomes of a running task whose try ended so."""
        if not counted:
            return {"state": PENDING, "attempt": row.attempt - 1, "not_before": 0.0}
        is_lost = failure.kind == "lost"
        lost = row.lost + is_lost
        count = lost if is_lost else row.attempt - lost
        values: dict[str, Any] = {"lost": lost, "failure": asdict(failure)}
        if count >= (self._losses if is_lost else self._tries):
            return values | {"state": FAILED}
        if delay is None:
            first, limit = (_LOST_BACKOFF, _LOST_LIMIT) if is_lost else (_CRASH_BACKOFF, _CRASH_LIMIT)
            delay = min(limit, first * 2.0 ** min(count - 1, 32))
        return values | {"state": PENDING, "not_before": self._clock() + delay}

    def _leave(self, connection: Connection, row: Any, values: dict[str, Any], who: str, why: str) -> dict[str, Any]:
        """Write the end of a try, and return the row as it is then: its lease must still be the one that was read."""
        state = values["state"]
        values = values | _NOBODY
        if state == PENDING:
            values |= {"fraction": 0.0, "message": ""}
        else:
            values |= {"finished": self._clock(), "cancel_requested": False}
        if LEAVE_TASK.run(connection, which=row.id, holder=row.lease_holder, tried=row.attempt, **values) != 1:
            raise LeaseLostError("the task is no longer this worker's")
        self._event(connection, row.id, "returned" if state == PENDING else state, who, why)
        return {**row._asdict(), **values}

    def _held(self, connection: Connection, uid: str, worker: str, attempt: int | None) -> Any:
        row = TASK_HELD.first(connection, which=uid, holder=worker)
        if row is None or attempt not in (None, row.attempt):
            raise LeaseLostError("the task is no longer this worker's: its lease expired, or it was cancelled or deleted")
        return row


def _optional(provenance: Mapping[str, Any] | None, grids: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if provenance is not None:
        values["provenance"] = dict(provenance)
    if grids is not None:
        values["grids"] = [dict(grid) for grid in grids]
    return values
