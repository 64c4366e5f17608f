"""Tasks: submit, cancel, delete, and administration. Reading is in `records`, the workers' verbs in `leases`."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delineate.errors import InputError
from delineate.store.leases import RESERVED, TaskLeases
from delineate.store.records import task_of
from delineate.store.statements import (
    CANCELLED,
    CHANGE_TASK,
    FAILED,
    FINISHED,
    INSERT_QUEUE,
    INSERT_TASK,
    PENDING,
    RUNNING,
    TASK_BY_KEY,
    TURNS,
)  # fmt: skip
from delineate.store.tables import BLOBS, TASKS
from delineate.store.writer import BlobWriter
from delineate.task import FRONT, NORMAL, Failure, Task, TaskState

_BATCH: Final = 100  # tasks purged in one transaction, so that nobody waits long
_FINAL: Final = (FINISHED, FAILED, CANCELLED)
_FRESH: Final[dict[str, Any]] = {
    "started": None, "finished": None, "attempt": 0, "lost": 0, "not_before": 0.0, "lease_holder": None, "lease_expires": None,
    "cancel_requested": False, "fraction": 0.0, "message": "", "failure": None,
}  # fmt: skip


class TaskStore(TaskLeases):
    """The tasks: one row each, with its events and blobs. Shared by threads and processes.

    Any verb may raise `StoreBusyError`, `StorageFullError` or `StoreError`; it has then changed nothing.
    """

    def lightly(self) -> TaskStore:
        """The same tasks, for those that somebody waits for: what is done is safe when processes die, but not brought to the disk.

        After a power cut whoever waited is gone as well.
        """
        other = copy.copy(self)
        other.database, other.blobs = self.database.lightly(), self.blobs.lightly()
        return other

    def submit(
        self,
        *,
        model: str,
        archive: BlobWriter,
        owner: str,
        protocol: str,
        priority: int = NORMAL,
        prompts: Mapping[str, Any] | None = None,
        key: str | None = None,
        beside: Mapping[str, BlobWriter] | None = None,
        lane: str = FRONT,
        rung: bool = False,
    ) -> Task:
        """A new task: its row and its input are there, and safe, when this returns. The writers are used up.

        `key` makes it idempotent: the same owner, key, model and content answer the same task again. `beside`: further files
        by role, kept as long as the input, which refers to them. `rung`: the engine is told at once whose it should be; others
        leave it for `RESERVED` seconds.

        Raises
        ------
        InputError
            The key was used for something else, or is too long.
        """
        with ExitStack() as stack:
            writers = {"input": archive, **(beside or {})}
            for writer in writers.values():
                stack.enter_context(writer)
            _check_key(key)
            for writer in writers.values():
                writer.seal()
            values: dict[str, Any] = {"model": model, "owner": owner, "protocol": protocol, "key": key, "lane": lane}
            values |= {"prompts": dict(prompts or {}), "rung": rung}
            try:
                task, is_new = self._submitted(writers, values | {"rank": -priority})
            except BaseException as error:
                self._abandon(writers.values(), error)
                raise
        if is_new:
            self._forget()
        return task

    def _submitted(self, writers: Mapping[str, BlobWriter], values: Mapping[str, Any]) -> tuple[Task, bool]:
        """The task, and whether it is new."""
        for writer in writers.values():
            self.blobs.place(writer)
        with self.database.write() as connection:
            known = self._with_key(connection, values["owner"], values["key"])
            if known is not None:
                return self._same(connection, known, values, writers["input"].digest), False
            row = self._insert(connection, dict(values))
            blobs = [self._place(connection, row["id"], role, writers[role], replaces=False) for role in sorted(writers)]
            self._event(connection, row["id"], "submitted", values["owner"], values["protocol"])
            return task_of(row, blobs), True

    def _insert(self, connection: Connection, values: dict[str, Any]) -> dict[str, Any]:
        """The row of a new task, as it is in the table."""
        turn = self._new_turn(connection, values["owner"], values["rank"])
        now = self._clock()  # not before the files are on the disk: that may take longer than a task is reserved
        values["not_before"] = now + RESERVED if values.pop("rung") else 0.0
        row = _FRESH | values | {"uid": _new_uid(), "state": PENDING, "turn": turn, "created": now, "grids": [], "provenance": {}}
        return row | {"id": INSERT_TASK.insert(connection, **row)}

    def _new_turn(self, connection: Connection, owner: str, rank: int) -> int:
        """The later of the queue's virtual time and the owner's last turn, plus one; each priority has a queue of its own."""
        turns = TURNS.first(connection, by=owner, at_rank=rank)
        if turns.now is None:
            INSERT_QUEUE.run(connection, rank=rank, turn=0)
        return max(turns.mine or 0, turns.now or 0) + 1

    def _with_key(self, connection: Connection, owner: str, key: str | None) -> Any | None:
        if key is None:
            return None
        return TASK_BY_KEY.first(connection, by=owner, which=key)

    def _same(self, connection: Connection, row: Any, values: Mapping[str, Any], digest: str) -> Task:
        same = row.model == values["model"] and row.prompts == values["prompts"] and digest in self._digests(connection, row.id, "input")
        if not same:
            raise InputError("this idempotency key was used for another request", "Use a new key for every new request.")
        return self._load(connection, row.id)

    def cancel(self, uid: str, who: str = "") -> Task:
        """Stop a task: a waiting one at once, a running one as soon as its worker hears of it; a final one stays as it is.

        Raises `UnknownTaskError`.
        """
        with self.database.write() as connection:
            row = self._row(connection, uid)
            if row.state == PENDING or (row.state == RUNNING and row.lease_expires is None):
                values = {"state": CANCELLED, "finished": self._clock(), "lease_holder": None}
                self._change(connection, row.id, values, "cancelled", who)
            elif row.state == RUNNING and not row.cancel_requested:
                self._change(connection, row.id, {"cancel_requested": True}, "cancel-requested", who)
            return self._load(connection, row.id)

    def _change(self, connection: Connection, id: int, values: Mapping[str, Any], kind: str, who: str, why: str = "") -> None:
        CHANGE_TASK.run(connection, which=id, **values)
        self._event(connection, id, kind, who, why)

    def delete(self, uid: str, who: str = "") -> None:
        """Remove a task and its files, whatever its state; its events stay. Raises `UnknownTaskError`."""
        with self.database.write() as connection:
            digests = self._erase(connection, [self._row(connection, uid).id], "deleted", who)
        self._forget(digests)

    def delete_many(self, uids: Iterable[str], who: str = "") -> int:
        """`delete` for many, in one transaction: how many there were. Those that are gone already do not matter."""
        query = sa.select(TASKS.c.id).where(TASKS.c.uid.in_(list(uids)))
        with self.database.write() as connection:
            ids = list(connection.execute(query).scalars())
            digests = self._erase(connection, ids, "deleted", who) if ids else []
        self._forget(digests)
        return len(ids)

    def purge(self, finished_before: float) -> int:
        """Remove the tasks that ended before a time, Unix seconds; their events stay. Returns how many."""
        count = 0
        query = sa.select(TASKS.c.id).where(TASKS.c.finished < finished_before, TASKS.c.state.in_(_FINAL)).limit(_BATCH)
        while True:
            with self.database.write() as connection:
                ids = list(connection.execute(query).scalars())
                digests = self._erase(connection, ids, "purged", "retention") if ids else []
            self._forget(digests)
            count += len(ids)
            if len(ids) < _BATCH:
                return count

    def _erase(self, connection: Connection, ids: Iterable[int], kind: str, who: str) -> list[str]:
        ids = list(ids)
        digests = list(connection.execute(sa.select(BLOBS.c.digest).where(BLOBS.c.task.in_(ids))).scalars())
        connection.execute(sa.delete(TASKS).where(TASKS.c.id.in_(ids)))
        for id in ids:
            self._event(connection, id, kind, who)
        return digests

    def replay(self, uid: str, who: str = "") -> Task:
        """Queue a failed or cancelled task again, as new: its input is kept, its tries and its log are not.

        Raises
        ------
        InputError
            The task is of another state.
        UnknownTaskError
            It does not exist.
        """
        with self.database.write() as connection:
            row = self._row(connection, uid)
            if row.state not in (FAILED, CANCELLED):
                raise InputError(f"the task is {row.state}: only a failed or cancelled one can be replayed", "Submit it anew instead.")
            task, stale = self._queue_again(connection, row, "replayed", who)
        self._forget(stale)
        return task

    def _queue_again(self, connection: Connection, row: Any, kind: str, who: str) -> tuple[Task, list[str]]:
        stale = self._digests(connection, row.id, "result", "log")
        connection.execute(sa.delete(BLOBS).where(BLOBS.c.task == row.id, BLOBS.c.role.in_(("result", "log"))))
        turn = self._new_turn(connection, row.owner, row.rank)
        self._change(connection, row.id, _FRESH | {"state": PENDING, "turn": turn, "provenance": {}}, kind, who)
        return self._load(connection, row.id), stale

    def set_state(self, id: int, state: TaskState, who: str) -> Task:
        """What an administrator says a task's state is; a worker that has it loses it.

        ``pending`` queues it again as `replay` does. ``running`` is for a worker outside of this system: no lease ends it.
        Raises `UnknownTaskError`.
        """
        stale: list[str] = []
        with self.database.write() as connection:
            row = self._row_by_id(connection, id)
            if state is TaskState.PENDING:
                task, stale = self._queue_again(connection, row, "pending", who)
            else:
                self._change(connection, id, self._declared(row, state, who), state.value, who, "set by an administrator")
                task = self._load(connection, id)
        self._forget(stale)
        return task

    def _declared(self, row: Any, state: TaskState, who: str) -> dict[str, Any]:
        values: dict[str, Any] = {"state": state.value, "lease_holder": None, "lease_expires": None, "cancel_requested": False}
        values |= {"failure": None, "finished": self._clock()}
        if state is TaskState.RUNNING:
            values |= {"lease_holder": f"administrator:{who}", "finished": None, "started": self._clock(), "attempt": row.attempt + 1}
        elif state is TaskState.FAILED:
            values["failure"] = asdict(Failure(kind="model", message="An administrator set the task to failed."))
        return values

    def put_result(self, id: int, result: BlobWriter, who: str) -> Task:
        """Give a task the result that a worker outside of this system made; its state is set apart. Raises `UnknownTaskError`."""
        with result:
            result.seal()
            try:
                self.blobs.place(result)
                with self.database.write() as connection:
                    stale = self._digests(connection, self._row_by_id(connection, id).id, "result")
                    self._place(connection, id, "result", result, replaces=bool(stale))
                    self._event(connection, id, "result-replaced", who)
                    task = self._load(connection, id)
            except BaseException as error:
                self._abandon([result], error)
                raise
        self._forget(stale)
        return task


def _check_key(key: str | None) -> None:
    if key is not None and not 0 < len(key) <= 255:
        raise InputError("the idempotency key must have 1 to 255 characters", "Use a random uuid.")


def _new_uid() -> str:
    while True:
        uid = secrets.token_urlsafe(32)
        if not uid.startswith("-"):  # a command line would take it for an option
            return uid
