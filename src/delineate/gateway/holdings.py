"""What the node holds, in one SQLite file: series, their versions, jobs, deliveries, and what happened.

States. A series with fresh instances is *arriving*; when it is whole it gets a version: *whole* → *working* (it has jobs) →
*done*, or *held* with a reason, or *noted* where late arrivals are only noted, or *replaced* by a newer one. A job: *waiting* →
*sent* (its task is known) → *delivering* → *done*, or *held*, or *replaced*. A delivery: *waiting* → *done*, *held* or *replaced*.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from delineate.errors import StorageFullError, StoreBusyError, StoreError
from delineate.gateway.holdings_schema import TABLES, VERSION

FILE: Final = "node.sqlite"
_BUSY: Final = 30.0  # seconds to wait for another process, which changes a row or two
_EVENTS: Final = 100_000  # kept

Row = sqlite3.Row

_LOG: Final = logging.getLogger("delineate.gateway")


class Holdings:
    """The file. For several threads; other processes (the commands) may have it open as well.

    Attributes
    ----------
    name : of this node, made up once, so that keys of two nodes differ.
    """

    def __init__(self, folder: Path, clock: Any = time.time) -> None:
        self.path = folder / FILE
        self.clock = clock
        self._lock = threading.RLock()
        self._told: list[tuple[int, str]] = []  # what happened in the transaction that is open
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._line = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        self.path.chmod(0o600)
        self._line.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self._line.execute(f"PRAGMA {pragma}")
        self._make()
        self.name: str = self.rows("SELECT name FROM node")[0]["name"]

    def _make(self) -> None:
        with self.change() as line:
            (version,) = line.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in TABLES.split(";"):
                    line.execute(statement)
                line.execute("INSERT INTO node VALUES (?)", (secrets.token_hex(8),))
                line.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise StoreError(f"{self.path} was made by another version of Delineate", "Use that version, or another data folder.")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._line.close()

    @contextlib.contextmanager
    def change(self, lasting: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction. `lasting`: on the disk at its end; else it survives this process, and the machine's power only with the next.

        Raises
        ------
        StorageFullError, StoreBusyError, StoreError
            Nothing was changed.
        """
        with self._lock:
            try:
                self._line.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
                self._line.execute("BEGIN IMMEDIATE")
                try:
                    yield self._line
                except BaseException:
                    self._line.execute("ROLLBACK")
                    raise
                self._line.execute("COMMIT")
                for level, words in self._told:
                    _LOG.log(level, "%s", words)
            except sqlite3.Error as error:
                if self._line.in_transaction:
                    self._line.execute("ROLLBACK")
                raise _mapped(error) from error
            finally:
                self._told.clear()

    def rows(self, statement: str, *values: Any) -> list[Row]:
        """What a query finds."""
        with self._lock:
            try:
                named = values[0] if len(values) == 1 and isinstance(values[0], dict) else values
                return self._line.execute(statement, named).fetchall()
            except sqlite3.Error as error:
                raise _mapped(error) from error

    def one(self, statement: str, *values: Any) -> Row | None:
        """The first row that a query finds."""
        found = self.rows(statement, *values)
        return found[0] if found else None

    def event(
        self, line: sqlite3.Connection, words: str, series: int | None = None, job: int | None = None, level: int = logging.INFO
    ) -> None:
        """Note what happened, in words without anything that could name a patient; they come into the log, too."""
        self._told.append((level, words if series is None else f"series {series}: {words}"))
        line.execute("INSERT INTO events (at, series, job, words) VALUES (?, ?, ?, ?)", (self.clock(), series, job, words))

    # Arriving

    def series(self, uid: str, sender: str, modality: str) -> int:
        """The number of a series, a new one where it is not known."""
        known = self.one("SELECT id FROM series WHERE uid = ? AND sender = ?", uid, sender)
        if known is not None:
            return int(known["id"])
        with self.change(lasting=True) as line:  # its folder is named by it
            line.execute(
                "INSERT INTO series (uid, sender, modality, last) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (uid, sender, modality, self.clock()),
            )
            (number,) = line.execute("SELECT id FROM series WHERE uid = ? AND sender = ?", (uid, sender)).fetchone()
            self.event(line, f"began to arrive from {sender}", number)
        return int(number)

    def add(self, series: int, uid: str, file: str, size: int) -> str:
        """Note an instance; the name of the file that holds it, another one where it was there before."""
        with self.change(lasting=False) as line:
            line.execute("UPDATE series SET is_open = 1, is_released = 0, last = ? WHERE id = ?", (self.clock(), series))
            found = line.execute("SELECT file FROM instances WHERE series = ? AND uid = ?", (series, uid)).fetchone()
            if found is not None:
                return str(found["file"])
            line.execute("INSERT INTO instances (series, uid, file, size) VALUES (?, ?, ?, ?)", (series, uid, file, size))
            line.execute("UPDATE series SET fresh = fresh + 1, bytes = bytes + ? WHERE id = ?", (size, series))
        return file

    def set_aside(self, series: int, uid: str, file: str, reason: str) -> None:
        """Note a file that is kept, but belongs to nothing."""
        with self.change() as line:
            line.execute("INSERT INTO aside VALUES (?, ?, ?, ?, ?)", (series, uid, file, reason, self.clock()))
            self.event(line, reason, series)

    def ended(self, series: int, is_whole: bool) -> None:
        """The last association that brought something of a series has ended; `is_whole`: as it should."""
        with self.change(lasting=False) as line:
            line.execute("UPDATE series SET is_open = ? WHERE id = ?", (0 if is_whole else 1, series))
            if not is_whole:
                self.event(line, "the sender broke off, or something of it was refused", series)

    def arriving(self) -> list[Row]:
        """Series that have something new, or of which the sender broke off (or the node did: `is_open`)."""
        return self.rows("SELECT * FROM series WHERE fresh > 0 OR is_open ORDER BY id")

    def make_version(self, series: int, state: str, reason: str = "", advice: str = "") -> int:
        """All instances that there are become a version; older ones that are not done are replaced."""
        now = self.clock()
        with self.change() as line:
            line.execute("UPDATE series SET version = version + 1, fresh = 0, is_open = 0, is_released = 0 WHERE id = ?", (series,))
            (number,) = line.execute("SELECT version FROM series WHERE id = ?", (series,)).fetchone()
            line.execute("UPDATE instances SET version = ? WHERE series = ? AND version IS NULL", (number, series))
            (count,) = line.execute("SELECT count(*) FROM instances WHERE series = ?", (series,)).fetchone()
            if state != "noted":
                self.replace(line, series)
            line.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)", (series, number, count, now, state, reason, advice))
            self.event(line, f"version {number} of {count} instances: {reason or state}", series)
        return int(number)

    def replace(self, line: sqlite3.Connection, series: int) -> None:
        """What is under way of a series' versions ends: results that did not leave yet never do, whatever they wait for."""
        now = self.clock()
        line.execute(
            "UPDATE deliveries SET state = 'replaced', changed = ? WHERE state IN ('waiting', 'held') AND job IN"
            " (SELECT id FROM jobs WHERE series = ? AND state IN ('delivering', 'held'))",
            (now, series),
        )
        line.execute(
            "UPDATE jobs SET state = 'replaced', changed = ? WHERE series = ? AND state IN ('waiting', 'sent', 'delivering', 'held')",
            (now, series),
        )
        line.execute(
            "UPDATE versions SET state = 'replaced' WHERE series = ? AND state IN ('whole', 'working', 'held', 'noted')", (series,)
        )

    def nothing_new(self, series: int) -> None:
        """What came was there before."""
        with self.change() as line:
            line.execute("UPDATE series SET is_open = 0, is_released = 0, fresh = 0 WHERE id = ?", (series,))
            self.event(line, "sent again; nothing was new", series)

    def files(self, series: int, version: int) -> list[str]:
        """Names of the files of a version."""
        found = self.rows("SELECT file FROM instances WHERE series = ? AND version <= ? ORDER BY file", series, version)
        return [row["file"] for row in found]

    def held(self) -> int:
        """Bytes of all series."""
        found = self.one("SELECT coalesce(sum(bytes), 0) AS total FROM series")
        return int(found["total"]) if found else 0

    def prune_events(self) -> None:
        """Keep the last hundred thousand events."""
        with self.change() as line:
            line.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (_EVENTS,))


def _mapped(error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL") or "disk is full" in str(error):
        return StorageFullError("no space is left for the node's database")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "locked" in str(error):
        return StoreBusyError("the node's database stayed locked")
    return StoreError(f"the node's database failed: {error}", "Check the disk of the node's data folder.")
