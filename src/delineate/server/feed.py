"""What changed in the store since the last look, in two small queries however many people wait."""

from __future__ import annotations

from typing import Final, NamedTuple

import sqlalchemy as sa

from delineate.store.database import Database
from delineate.store.statements import EVENTS_AFTER, NEWEST_EVENT, RUNNING
from delineate.store.tables import TASKS

_PROGRESS: Final = sa.select(TASKS.c.id, TASKS.c.fraction, TASKS.c.message).where(TASKS.c.state == RUNNING)

QUIET_KINDS: Final = frozenset({"submitted", "claimed", "cancel-requested"})
"""Events after which a task has certainly not ended."""


class Change(NamedTuple):
    """One event row: its id, the task's id, its kind."""

    event: int
    task: int
    kind: str


class Feed:
    """Changes of all tasks. Microseconds where nothing happened; every method may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def version(self) -> int:
        """Grows whenever any process commits."""
        return self._database.changes()

    def newest(self) -> int:
        """Id of the newest event, 0 where there is none."""
        with self._database.read() as connection:
            return NEWEST_EVENT.first(connection).id or 0

    def after(self, event: int) -> list[Change]:
        """Events after one, oldest first."""
        with self._database.read() as connection:
            return [Change(*row) for row in EVENTS_AFTER.all(connection, last=event)]

    def progress(self) -> dict[int, tuple[float, str]]:
        """Fraction and message of every running task by its id; there are as many as workers."""
        with self._database.read() as connection:
            return {row.id: (row.fraction, row.message) for row in connection.execute(_PROGRESS)}
