"""How long tasks took, by model and end: read from the events as they come, so that a look costs what happened since the last."""

from __future__ import annotations

import threading
from typing import Any, Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Histogram

from delineate.store.database import Database
from delineate.store.statements import CANCELLED, FAILED, FINISHED
from delineate.store.tables import EVENTS, TASKS

MODELS: Final = 50
"""Models with figures of their own; more, one after the other, would fill Prometheus' memory for ever."""

OTHER: Final = "(other)"
DELETED: Final = "(deleted)"
"""In place of a model's name, which cannot begin so: those beyond `MODELS`; tasks that were deleted before the look."""

_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_AT_ONCE: Final = 5_000  # events in one query

_NEWEST: Final = sa.select(sa.func.max(EVENTS.c.id))
_END: Final = EVENTS.alias("ended")
_BEGIN: Final = EVENTS.alias("begun")
_BEFORE: Final = EVENTS.alias("before")
_LAST_BEGIN: Final = (
    sa.select(sa.func.max(_BEFORE.c.id))
    .where(_BEFORE.c.task == _END.c.task, _BEFORE.c.id < _END.c.id, _BEFORE.c.kind.in_(["submitted", "claimed", "returned"]))
    .scalar_subquery()
)
_ENDED: Final = (
    sa.select(_END.c.kind, (_END.c.at - _BEGIN.c.at).label("seconds"), TASKS.c.model)
    .select_from(_END.join(_BEGIN, _BEGIN.c.id == _LAST_BEGIN).outerjoin(TASKS, TASKS.c.id == _END.c.task))
    .where(_END.c.id > sa.bindparam("last"), _END.c.id <= sa.bindparam("until"))
    .where(_END.c.kind.in_([FINISHED, FAILED, CANCELLED]), _BEGIN.c.kind == "claimed")
)


class Durations:
    """A histogram of the seconds from the last claim of a task to its end, since this server was started.

    Tasks that were cancelled while they waited took no time, and are not counted.
    """

    def __init__(self, database: Database, registry: CollectorRegistry) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._seconds = Histogram(
            "delineate_task_seconds", "Tasks by model and end, from their last claim on.", ("model", "state"),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._last = self._newest()

    def look(self) -> None:
        """Count what ended since the last look. May be called from any thread; raises `StoreError` and its kin."""
        with self._lock:
            newest = self._newest()
            while self._last < newest:
                until = min(newest, self._last + _AT_ONCE)
                for row in self._ended(until):
                    self._seconds.labels(self._name(row.model), row.kind).observe(max(0.0, row.seconds))
                self._last = until

    def _newest(self) -> int:
        with self._database.read() as connection:
            return connection.execute(_NEWEST).scalar() or 0

    def _ended(self, until: int) -> list[Any]:
        with self._database.read() as connection:
            return list(connection.execute(_ENDED, {"last": self._last, "until": until}).all())

    def _name(self, model: str | None) -> str:
        if model is None:
            return DELETED
        if model not in self._models and len(self._models) >= MODELS:
            return OTHER
        self._models.add(model)
        return model
