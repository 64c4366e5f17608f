"""Who stands behind what left: UIDs, patients and studies as they were and as they were sent, in one local file.

SQLite; readable by its owner alone. Every pseudonym is chosen by chance, so nothing but this file leads back. Several
processes may use one file: what the first one writes is what the others find.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from delineate.dicom.uids import new_uid
from delineate.errors import StoreError

_WAIT: Final = 30.0  # seconds for another process
_REMEMBERED: Final = 100_000  # UIDs in memory
_VERSION: Final = 1
_LEAST_DAYS, _MOST_DAYS = 365, 3650  # by which a patient's days are shifted, backwards
_TABLES: Final = """
CREATE TABLE uids (original TEXT, patient TEXT, sent TEXT NOT NULL UNIQUE, PRIMARY KEY (original, patient)) WITHOUT ROWID;
CREATE TABLE patients (original TEXT PRIMARY KEY, sent TEXT NOT NULL UNIQUE, days INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE studies (sent TEXT PRIMARY KEY, attributes TEXT NOT NULL) WITHOUT ROWID;
"""


class Patient(NamedTuple):
    """sent : the pseudonym; days : by which all of a patient's days are shifted, negative."""

    sent: str
    days: int


class Origin(NamedTuple):
    """What a UID was, and the pseudonym of its patient."""

    uid: str
    patient: str


class IdentityMap:
    """The file; made where it is not there.

    Raises
    ------
    StoreError
        No file that can be used as one, or another process holds it too long.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._uids: dict[tuple[str, str], str] = {}
        self._depth = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Before SQLite opens it, so that it is never readable by others; its log files take the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise StoreError(f"the map of identities cannot be opened: {error.strerror}", "Check its folder and its rights.") from None
        with _sentences():
            self._connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._prepare()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All that is asked for inside is on the disk afterwards, or none of it. One inside of another is part of that."""
        with self._lock, _sentences():
            self._depth += 1
            try:
                yield
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._depth == 1:
                    self._uids.clear()
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def uid(self, original: str, patient: str) -> str:
        """What a patient's UID is sent as, from now on; inside of `writing`.

        Where two patients' files have one UID, which happens, each gets another: what returns is of one of them.
        """
        question = "SELECT sent FROM uids WHERE original = ? AND patient = ?"
        sent = self._uids.get((original, patient)) or self._first(question, original, patient)
        if sent is None:
            self._begin()
            new = new_uid()
            self._connection.execute("INSERT OR IGNORE INTO uids VALUES (?, ?, ?)", (original, patient, new))
            sent = self._first(question, original, patient) or new
        if len(self._uids) >= _REMEMBERED:
            self._uids.clear()
        self._uids[original, patient] = sent
        return sent

    def patient(self, original: str) -> Patient:
        """The pseudonym of a patient, from now on; inside of `writing`."""
        question = "SELECT sent, days FROM patients WHERE original = ?"
        row = self._connection.execute(question, (original,)).fetchone()
        if row is None:
            self._begin()
            days = -(_LEAST_DAYS + secrets.randbelow(_MOST_DAYS - _LEAST_DAYS + 1))
            new = (original, "ANON" + secrets.token_hex(6).upper(), days)
            self._connection.execute("INSERT OR IGNORE INTO patients VALUES (?, ?, ?)", new)
            row = self._connection.execute(question, (original,)).fetchone()
        return Patient(*row)

    def keep_study(self, sent: str, attributes: Mapping[str, str]) -> None:
        """What patient and study of a study, by its UID as it is sent, are, by keyword; inside of `writing`.

        What a file says counts more than what earlier ones said, what it does not say stays.
        """
        before = self.study(sent)
        after = {**(before or {}), **attributes}
        if after != before:
            self._begin()
            text = json.dumps(after, ensure_ascii=False, sort_keys=True)
            self._connection.execute("INSERT OR REPLACE INTO studies VALUES (?, ?)", (sent, text))

    def origin(self, sent: str) -> Origin | None:
        """What was sent as this UID; None where nothing was."""
        with self._lock, _sentences():
            row = self._connection.execute("SELECT original, patient FROM uids WHERE sent = ?", (sent,)).fetchone()
        return None if row is None else Origin(*row)

    def study(self, sent: str) -> dict[str, str] | None:
        """What `keep_study` kept."""
        with self._lock, _sentences():
            text = self._first("SELECT attributes FROM studies WHERE sent = ?", sent)
        return None if text is None else dict(json.loads(text))

    def _first(self, question: str, *values: str) -> str | None:
        row = self._connection.execute(question, values).fetchone()
        return None if row is None else str(row[0])

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _prepare(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.strip().split("\n"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        self._connection.execute("COMMIT")
        if version not in (0, _VERSION):
            raise StoreError("the map of identities is of another version of Delineate", "Use that version, or another file.")


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the database as ours, without the values that it was asked for."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = "is held by another process" if "locked" in str(error) else "cannot be read or written"
        raise StoreError(f"the map of identities {reason}", "Check the file, its disk and its rights, then try again.") from None
    except sqlite3.Error:
        raise StoreError("the map of identities is damaged or is another file", "Give the right file, or bring back a copy.") from None
