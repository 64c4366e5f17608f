"""The connection to the database: transactions, migrations, and a cheap signal that something changed.

SQLite in WAL mode. The statements are portable; what is SQLite's alone stands in `_Line`, `_configure`, `_lock` and `changes`, so
that another database can be added there.
"""

from __future__ import annotations

import copy
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from delineate.errors import SettingsError, StoreBusyError, StoreError
from delineate.store.faults import storage_error, translated
from delineate.store.tables import HEAD, METADATA, VERSION

_KEPT: Final = 8  # connections that stay open for the next transactions
_FIRST_LOOK, _LONGEST_LOOK = 0.0002, 0.004  # seconds between two tries for the writers' lock of all processes


class _Line:
    """A connection that stays open, and whose transactions are begun and ended here: SQLAlchemy's way to do so takes five times as
    long as the database. To SQLAlchemy it is one transaction without end."""

    def __init__(self, connection: Connection, sync: bool) -> None:
        driver = connection.connection.dbapi_connection
        if not isinstance(driver, sqlite3.Connection):
            raise StoreError("the database's driver is not SQLite's")
        self.connection: Connection = connection
        self.driver: sqlite3.Connection = driver
        self._is_waited_for: bool = sync
        connection.begin()

    def wait_for_disk(self, wanted: bool) -> None:
        """Whether the next commits are to survive a power cut."""
        if wanted != self._is_waited_for:
            self.driver.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
            self._is_waited_for = wanted

    def close(self) -> None:
        """Close it, whatever state it is in."""
        with suppress(sqlite3.Error, sa.exc.SQLAlchemyError):
            self.connection.close()


class Database:
    """One database, shared by threads; other processes open their own.

    Parameters
    ----------
    url : ``sqlite:///path``; the folder is made where it is missing.
    busy_timeout : seconds to wait for a lock before `StoreBusyError`.
    sync : whether a commit survives a power cut; False is for tests.

    Raises
    ------
    SettingsError
        A URL that is not of a database file this version can use.
    """

    def __init__(self, url: str, *, busy_timeout: float = 10.0, sync: bool = True) -> None:
        self.path = _file_of(url)
        self._busy_timeout = busy_timeout
        self._sync = sync
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            poolclass=NullPool,  # what is kept is kept here
            connect_args={"timeout": busy_timeout, "check_same_thread": False},
        )
        event.listen(self._engine, "connect", self._configure)
        self._is_light = False
        self._reading: deque[_Line] = deque()  # those that nobody uses now
        self._writing: deque[_Line] = deque()
        # Threads of one process queue here, woken at once; between processes there is only asking again, see `_lock`.
        self._turn = threading.Lock()
        self._watch_lock = threading.Lock()
        self._watch: sqlite3.Connection | None = None
        self._version = -1  # of no connection
        self._changes = 0

    def _configure(self, connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun here, not guessed by the driver
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(self._busy_timeout * 1000)}")
        self._use_wal(cursor)
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._sync else 'OFF'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.close()

    def _use_wal(self, cursor: sqlite3.Cursor) -> None:
        """Switch a new file to WAL. SQLite answers "locked" at once when two processes do so together: ask again."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    cursor.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database. Raises `StoreError` and its kin."""
        with translated(str(self.path)), self._line(self._reading) as line:
            line.driver.execute("BEGIN")
            yield line.connection

    @contextmanager
    def write(self, *, light: bool = False) -> Iterator[Connection]:
        """The only writing transaction of all processes; commits at the end, rolls back on any exception.

        A `light` one survives the death of all processes but perhaps not a power cut: for what may be forgotten then,
        such as who works on a task.

        Raises
        ------
        StoreBusyError
            Others held the lock for longer than the busy timeout.
        StorageFullError, StoreError
            What the disk or the file did.
        """
        if not self._turn.acquire(timeout=self._busy_timeout):
            raise StoreBusyError("the database was busy for too long")
        try:
            with translated(str(self.path)), self._line(self._writing) as line:
                if self._sync:
                    line.wait_for_disk(not (light or self._is_light))
                # A deferred transaction that turns to writing fails at once when another wrote in between: writers lock first.
                self._lock(line.driver)
                yield line.connection
        finally:
            self._turn.release()

    def lightly(self) -> Database:
        """The same database, all of whose writes are light: for tasks that somebody waits for, who is gone after a power cut."""
        other = copy.copy(self)
        other._is_light = True
        return other

    @contextmanager
    def _line(self, free: deque[_Line]) -> Iterator[_Line]:
        """One of the free connections, or a new one, for a transaction that is committed, or rolled back on any exception."""
        try:
            line = free.pop()
        except IndexError:
            line = self._opened(free is self._writing)
        is_well = False
        try:
            try:
                yield line
                line.driver.commit()
            except BaseException:
                line.driver.rollback()
                raise
            finally:
                is_well = not line.driver.in_transaction
        finally:
            if is_well and len(free) < _KEPT:
                free.append(line)
            else:  # a rollback failed, on a broken disk
                line.close()

    def _opened(self, for_writing: bool) -> _Line:
        line = _Line(self._engine.connect(), self._sync)
        if for_writing:
            line.driver.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # what must be read of the file, while it may wait
            # SQLite's own waiting soon sleeps 25 ms and more at a time, where a transaction takes 2: `_lock` asks again instead.
            line.driver.execute("PRAGMA busy_timeout=0")
        return line

    def _lock(self, driver: sqlite3.Connection) -> None:
        """Begin to write. Who has begun waits for nobody any more."""
        deadline = time.monotonic() + self._busy_timeout
        pause = _FIRST_LOOK
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK)

    def migrate(self) -> None:
        """Bring the tables to `HEAD`; safe when several processes do so at once.

        Alembic is imported for a database of an older version only. A new one is made from the metadata, which a
        test holds equal to the migrations.

        Raises
        ------
        StoreError
            The file is of a newer version, or is not ours.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"making the folder {self.path.parent}") from error
        self._make_private()
        with self.read() as connection:
            if _version(connection) == HEAD:
                return
        with self.write() as connection:
            version = _version(connection)
            if version is None:
                self._create(connection)
            elif version != HEAD:
                self._upgrade(connection, version)

    def _make_private(self) -> None:
        """Make a missing file for its owner alone, whatever the umask: SQLite gives its log and index the same mode."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise storage_error(error, f"making the database {self.path}") from error

    def _create(self, connection: Connection) -> None:
        if sa.inspect(connection).get_table_names():
            raise StoreError(f"{self.path} holds tables of another program", "Name another file or data folder.")
        METADATA.create_all(connection)
        VERSION.create(connection, checkfirst=True)
        connection.execute(sa.insert(VERSION).values(version_num=HEAD))

    def _upgrade(self, connection: Connection, version: str) -> None:
        from delineate.store.migrations import is_known, upgrade

        if not is_known(version):
            raise StoreError(f"{self.path} was written by a newer version ({version})", "Install the newer version, or restore a backup.")
        upgrade(connection)

    def changes(self) -> int:
        """A number that has grown whenever any process committed since the last call. Any thread; microseconds.

        SQLite counts the commits of all *other* connections in ``PRAGMA data_version``; this one never writes.
        """
        with self._watch_lock, translated(str(self.path)):
            try:
                version = self._watching().execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return self._changes  # somebody recovers the log after a crash; the next call sees what changed
            if version != self._version:
                self._version = version
                self._changes += 1
            return self._changes

    def _watching(self) -> sqlite3.Connection:
        if self._watch is None:
            self._watch = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        return self._watch

    def close(self) -> None:
        """Close all connections; the object can be used again."""
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
                self._version = -1
        for free in (self._reading, self._writing):
            while free:
                free.pop().close()


def _file_of(url: str) -> Path:
    advice = "Give a file: sqlite:////absolute/path/delineate.db."
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise SettingsError("the database's URL makes no sense", advice) from None
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(f"databases of kind {parsed.get_backend_name()} are not supported yet", advice)
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise SettingsError("the database must be a file, because workers are processes of their own", advice)
    return Path(parsed.database).absolute()


def _version(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION.name):
        return None
    return connection.execute(sa.select(VERSION.c.version_num)).scalar()
