"""Which worker processes there are, for people to look at; nothing is decided by it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from delineate.store.database import Database
from delineate.store.tables import WORKERS


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker process: `id` is its name in leases; `started` and `seen` are Unix seconds; `device` what it computes on."""

    id: str
    host: str
    pid: int
    device: str
    started: float
    seen: float


class WorkerStore:
    """The workers that said that they are there."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock

    def register(self, id: str, *, device: str = "cpu", host: str | None = None, pid: int | None = None) -> Worker:
        """A worker starts; one of the same id is replaced. Host and process default to the caller's."""
        now = self._clock()
        worker = Worker(id=id, host=host or socket.gethostname(), pid=pid or os.getpid(), device=device, started=now, seen=now)
        with self.database.write() as connection:
            connection.execute(sa.delete(WORKERS).where(WORKERS.c.id == id))
            connection.execute(sa.insert(WORKERS), vars(worker))
        return worker

    def seen(self, id: str) -> None:
        """A worker is still there."""
        with self.database.write() as connection:
            connection.execute(sa.update(WORKERS).where(WORKERS.c.id == id).values(seen=self._clock()))

    def remove(self, id: str) -> None:
        """A worker stopped, or was found dead; unknown ones are no error."""
        with self.database.write() as connection:
            connection.execute(sa.delete(WORKERS).where(WORKERS.c.id == id))

    def workers(self) -> list[Worker]:
        """All of them, by id."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(WORKERS).order_by(WORKERS.c.id)).all()
        return [Worker(**row._mapping) for row in rows]
