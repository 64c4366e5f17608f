"""Reading tasks, and what every change of one has in common."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delineate.errors import StoreBusyError, StoreError, UnknownTaskError
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.statements import BLOBS_OF_TASK, DELETE_BLOB, INSERT_BLOB, INSERT_EVENT, PENDING, TASK_BY_ID, TASK_BY_UID
from delineate.store.tables import BLOBS, EVENTS, MODEL_VERSIONS, MODELS, TASKS
from delineate.store.writer import BlobWriter
from delineate.task import WORK, Blob, Failure, Task, TaskEvent, TaskState

UID: Final = re.compile(r"[A-Za-z0-9_-]{43}")

_NAMES: Final = {"input": "input.zip", "result": "result.zip", "log": "container.log"}
_CHUNK: Final = 500  # values in one IN list: below every database's limit
_UNKNOWN: Final = "no such task, or it was deleted"
_ROW_FIELDS: Final = (
    "uid", "id", "model", "owner", "protocol", "created", "started", "finished", "attempt", "lost", "not_before",
    "lease_holder", "lease_expires", "cancel_requested", "fraction", "message", "prompts", "provenance", "lane",
)  # fmt: skip


class TaskRecords:
    """The task table, for reading; `TaskStore` adds the verbs that change it.

    Parameters
    ----------
    clock : Unix seconds.
    tries : how often a task may end by its own fault (crash, memory) before it fails.
    losses : how often it may end without (worker lost) before it fails.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, clock: Callable[[], float] = time.time, *, tries: int = 3, losses: int = 20
    ) -> None:
        self.database = database
        self.blobs = blobs
        self._clock = clock
        self._tries = tries
        self._losses = losses
        self._unnamed: set[str] = set()

    def get(self, uid: str) -> Task:
        """The task of a uid. Raises `UnknownTaskError`, also for what cannot be a uid."""
        with self.database.read() as connection:
            return self._complete(connection, self._row(connection, uid))

    def find(self, id: int) -> Task:
        """The task of an id, for administration. Raises `UnknownTaskError`."""
        with self.database.read() as connection:
            return self._load(connection, id)

    def get_many(self, uids: Iterable[str]) -> dict[str, Task]:
        """The tasks of many uids by uid, in one query; what is unknown or deleted is left out."""
        wanted = sorted({uid for uid in uids if UID.fullmatch(uid)})
        found: dict[str, Task] = {}
        with self.database.read() as connection:
            for chunk in _chunks(wanted):
                rows = connection.execute(sa.select(TASKS).where(TASKS.c.uid.in_(chunk))).all()
                found.update((task.uid, task) for task in self._tasks_of(connection, rows))
        return found

    def tasks(
        self,
        state: TaskState | None = None,
        model: str | None = None,
        *,
        owner: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[Task]:
        """Tasks, newest first; `before` is the id at which the last page ended."""
        query = sa.select(TASKS).order_by(TASKS.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(TASKS.c.state == TaskState(state).value)
        if model is not None:
            query = query.where(TASKS.c.model == model)
        if owner is not None:
            query = query.where(TASKS.c.owner == owner)
        if before is not None:
            query = query.where(TASKS.c.id < before)
        with self.database.read() as connection:
            return self._tasks_of(connection, connection.execute(query).all())

    def work(self, name: str = "", *, limit: int = 1) -> list[Task]:
        """Tasks that the server gave itself to do work of a name, newest first; all of them without one."""
        query = sa.select(TASKS).where(TASKS.c.protocol == WORK).order_by(TASKS.c.id.desc()).limit(limit)
        if name:
            query = query.where(TASKS.c.model == name)
        with self.database.read() as connection:
            return self._tasks_of(connection, connection.execute(query).all())

    def events(self, uid: str, after: int = 0) -> list[TaskEvent]:
        """What happened to a task, oldest first, after the event of id `after`. Raises `UnknownTaskError`."""
        with self.database.read() as connection:
            task = self._row(connection, uid).id
            query = sa.select(EVENTS).where(EVENTS.c.task == task, EVENTS.c.id > after).order_by(EVENTS.c.id)
            rows = connection.execute(query).all()
        return [TaskEvent(id=row.id, uid=uid, at=row.at, kind=row.kind, who=row.who, why=row.why) for row in rows]

    def last_events(self, uids: Iterable[str]) -> dict[str, int]:
        """Id of the newest event of each task by uid; what is unknown or deleted is left out."""
        wanted = sorted({uid for uid in uids if UID.fullmatch(uid)})
        newest = sa.select(sa.func.max(EVENTS.c.id)).where(EVENTS.c.task == TASKS.c.id).scalar_subquery()
        found: dict[str, int] = {}
        with self.database.read() as connection:
            for chunk in _chunks(wanted):
                rows = connection.execute(sa.select(TASKS.c.uid, newest.label("event")).where(TASKS.c.uid.in_(chunk)))
                found.update((row.uid, row.event or 0) for row in rows)
        return found

    def counts(self) -> dict[TaskState, int]:
        """How many tasks are in each state."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(TASKS.c.state, sa.func.count().label("n")).group_by(TASKS.c.state)).all()
        found = {row.state: row.n for row in rows}
        return {state: found.get(state.value, 0) for state in TaskState}

    def oldest_pending(self) -> float | None:
        """When the oldest waiting task was created, Unix seconds."""
        query = sa.select(TASKS.c.created).where(TASKS.c.state == PENDING).order_by(TASKS.c.id).limit(1)
        with self.database.read() as connection:
            created: float | None = connection.execute(query).scalar()
        return created

    # What the verbs share

    def _row(self, connection: Connection, uid: str) -> Any:
        row = TASK_BY_UID.first(connection, which=uid) if UID.fullmatch(uid) else None
        if row is None:
            raise UnknownTaskError(_UNKNOWN)
        return row

    def _row_by_id(self, connection: Connection, id: int) -> Any:
        known = isinstance(id, int) and 0 < id < 1 << 63
        row = TASK_BY_ID.first(connection, which=id) if known else None
        if row is None:
            raise UnknownTaskError(_UNKNOWN)
        return row

    def _load(self, connection: Connection, id: int) -> Task:
        return self._complete(connection, self._row_by_id(connection, id))

    def _complete(self, connection: Connection, row: Any) -> Task:
        return task_of(row._asdict(), self._blobs(connection, row.id))

    def _blobs(self, connection: Connection, task: int) -> list[Blob]:
        return [_blob(row) for row in BLOBS_OF_TASK.all(connection, which=task)]

    def _tasks_of(self, connection: Connection, rows: Sequence[Any]) -> list[Task]:
        blobs: dict[int, list[Blob]] = {}
        for chunk in _chunks([row.id for row in rows]):
            for row in connection.execute(sa.select(BLOBS).where(BLOBS.c.task.in_(chunk)).order_by(BLOBS.c.role)):
                blobs.setdefault(row.task, []).append(_blob(row))
        return [task_of(row._mapping, blobs.get(row.id, [])) for row in rows]

    def _event(self, connection: Connection, task: int, kind: str, who: str = "", why: str = "") -> None:
        INSERT_EVENT.run(connection, task=task, at=self._clock(), kind=kind, who=who, why=why)

    def _place(self, connection: Connection, task: int, role: str, writer: BlobWriter, *, replaces: bool) -> Blob:
        """Name a placed file as the task's only blob of the role, in the place of another one where it `replaces` one."""
        self.blobs.confirm(writer)
        if replaces:
            DELETE_BLOB.run(connection, which=task, as_role=role)
        blob = Blob(role=role, name=writer.name or _NAMES.get(role, role), digest=writer.digest, size=writer.size)
        INSERT_BLOB.run(connection, task=task, role=role, name=blob.name, digest=blob.digest, size=blob.size)
        return blob

    def _digests(self, connection: Connection, task: int, *roles: str) -> list[str]:
        return [blob.digest for blob in self._blobs(connection, task) if not roles or blob.role in roles]

    def _abandon(self, writers: Iterable[BlobWriter], error: BaseException) -> None:
        """The transaction that was to name these files failed: they go, or, while the database is locked, a little later."""
        digests = [writer.digest for writer in writers if writer.is_placed]
        if isinstance(error, StoreBusyError):
            self._unnamed.update(digests)
        else:
            self._forget(digests)

    def _forget(self, digests: Iterable[str] = ()) -> None:
        """Remove the files that no row names any more; what fails here is left to the next time, at last to the next sweep."""
        if not self._unnamed and not digests:
            return
        wanted, self._unnamed = {*digests, *self._unnamed}, set()
        try:
            remove_unnamed(self.database, self.blobs, sorted(wanted))
        except StoreError:  # the rows are right; a file too many is not worth the caller's failure
            self._unnamed |= wanted


def remove_unnamed(database: Database, blobs: BlobStore, digests: Sequence[str]) -> int:
    """Remove those blobs that no row names, inside write transactions: how many."""
    count = 0
    for chunk in _chunks(digests):
        with database.write() as connection:
            unnamed = set(chunk) - _named(connection, chunk)
            for digest in unnamed:
                blobs.remove(digest)
            count += len(unnamed)
    return count


def sweep(database: Database, blobs: BlobStore, *, older_than: float = 0.0) -> int:
    """Remove what interrupted work left: files of dead writers, blobs that no row names. Returns how many.

    Safe while other processes submit and finish tasks. `older_than` seconds spares fresh incoming files.
    """
    count = blobs.clean_incoming(older_than)
    for digests in blobs.digests():
        for chunk in _chunks(digests):
            with database.read() as connection:  # a first look without the lock: nearly always there is nothing to do
                suspects = sorted(set(chunk) - _named(connection, chunk))
            if suspects:
                count += remove_unnamed(database, blobs, suspects)
    return count


def _named(connection: Connection, digests: Sequence[str]) -> set[str]:
    by_task = sa.select(BLOBS.c.digest).where(BLOBS.c.digest.in_(digests))
    by_model = sa.select(MODELS.c.archive).where(MODELS.c.archive.in_(digests))
    by_version = sa.select(MODEL_VERSIONS.c.archive).where(MODEL_VERSIONS.c.archive.in_(digests))
    return set(connection.execute(sa.union_all(by_task, by_model, by_version)).scalars())


def _chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _blob(row: Any) -> Blob:
    return Blob(role=row.role, name=row.name, digest=row.digest, size=row.size)


def task_of(fields: Mapping[str, Any], blobs: Iterable[Blob]) -> Task:
    """The task whose row has these `fields`."""
    failure = fields["failure"]
    return Task(
        **{name: fields[name] for name in _ROW_FIELDS},
        state=TaskState(fields["state"]),
        priority=-fields["rank"],
        blobs=tuple(blobs),
        grids=tuple(fields["grids"]),
        failure=None if failure is None else Failure(**failure),
    )
