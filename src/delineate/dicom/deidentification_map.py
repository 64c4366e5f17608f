"""Who stands behind what left: UIDs, patients and studies as they were and as they were sent, in one local file.

SQLite; readable by its owner alone. Every pseudonym is chosen by chance, so nothing but this file leads back. Several
processes may use one file: what the first one writes is what the others find. A copy of it is all there is: nothing that was
written waits in a file beside it.

A damaged file must neither lead to another patient nor give a new pseudonym to one that has one. So each row has a proof of
what it holds, without which it is not believed, and all are looked at when the first one is not found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from delineate.dicom.uids import new_uid
from delineate.errors import StoreError

_WAIT: Final = 30.0  # seconds for another process
_REMEMBERED: Final = 100_000  # UIDs in memory
_VERSION: Final = 2
_LEAST_DAYS, _MOST_DAYS = 365, 3650  # by which a patient's days are shifted, backwards
_TABLES: Final = """
CREATE TABLE uids (original TEXT, patient TEXT, sent TEXT NOT NULL UNIQUE, proof INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (original, patient)) WITHOUT ROWID;
CREATE TABLE patients (original TEXT PRIMARY KEY, sent TEXT NOT NULL UNIQUE, days INTEGER NOT NULL,
  proof INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE studies (sent TEXT PRIMARY KEY, attributes TEXT NOT NULL, proof INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID
"""
_ROWS: Final = {  # what a proof is about
    "uids": "SELECT original, patient, sent, proof FROM uids",
    "patients": "SELECT original, sent, days, proof FROM patients",
    "studies": "SELECT sent, attributes, proof FROM studies",
}
_DAMAGED: Final = "the map of identities is damaged or is another file"
_COPY: Final = "Give the right file, or bring back a copy."


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
        self._is_verified = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _make(path)
            path.chmod(0o600)
            is_empty = path.stat().st_size == 0
        except OSError as error:
            raise StoreError(f"the map of identities cannot be opened: {error.strerror}", "Check its folder and its rights.") from None
        if is_empty:  # as a new one never is; taken for one, known patients would get new pseudonyms
            raise StoreError("the map of identities is empty", "Bring back a copy; for a new one give a name that is not there.")
        with _sentences():
            self._connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            try:
                with _readable():
                    self._prepare()
            except BaseException:
                self._connection.close()
                raise

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
        sent = self._uids.get((original, patient)) or self._sent(original, patient)
        if sent is None:
            self._begin()
            new = new_uid()
            words = "INSERT OR IGNORE INTO uids (original, patient, sent, proof) VALUES (?, ?, ?, ?)"
            self._connection.execute(words, (original, patient, new, _proof("uids", original, patient, new)))
            sent = self._sent(original, patient) or new
        if len(self._uids) >= _REMEMBERED:
            self._uids.clear()
        self._uids[original, patient] = sent
        return sent

    def _sent(self, original: str, patient: str) -> str | None:
        row = self._proven("uids", "original = ? AND patient = ?", original, patient)
        return None if row is None else str(row[2])

    def patient(self, original: str) -> Patient:
        """The pseudonym of a patient, from now on; inside of `writing`."""
        row = self._proven("patients", "original = ?", original)
        if row is None:
            self._begin()
            days = -(_LEAST_DAYS + secrets.randbelow(_MOST_DAYS - _LEAST_DAYS + 1))
            new = (original, "ANON" + secrets.token_hex(6).upper(), days)
            words = "INSERT OR IGNORE INTO patients (original, sent, days, proof) VALUES (?, ?, ?, ?)"
            self._connection.execute(words, (*new, _proof("patients", *new)))
            row = self._proven("patients", "original = ?", original) or new
        return Patient(*row[1:])

    def keep_study(self, sent: str, attributes: Mapping[str, str]) -> None:
        """What patient and study of a study, by its UID as it is sent, are, by keyword; inside of `writing`.

        What a file says counts more than what earlier ones said, what it does not say stays.
        """
        before = self.study(sent)
        after = {**(before or {}), **attributes}
        if after != before:
            self._begin()
            text = json.dumps(after, ensure_ascii=False, sort_keys=True)
            words = "INSERT OR REPLACE INTO studies (sent, attributes, proof) VALUES (?, ?, ?)"
            self._connection.execute(words, (sent, text, _proof("studies", sent, text)))

    def origin(self, sent: str) -> Origin | None:
        """What was sent as this UID; None where nothing was."""
        with self._lock, _sentences():
            row = self._found("uids", sent)
        return None if row is None else Origin(row[0], row[1])

    def study(self, sent: str) -> dict[str, str] | None:
        """What `keep_study` kept."""
        with self._lock, _sentences():
            row = self._found("studies", sent)
        return None if row is None else dict(json.loads(row[1]))

    def _found(self, table: str, sent: str) -> tuple[Any, ...] | None:
        row = self._proven(table, "sent = ?", sent)
        if row is None and not self._is_verified:
            self._verify()
        return row

    def _proven(self, table: str, where: str, *values: str) -> tuple[Any, ...] | None:
        """A row without its proof, None where there is none; `sqlite3.DatabaseError` where it is not what was written."""
        with _readable():
            row = self._connection.execute(f"{_ROWS[table]} WHERE {where}", values).fetchone()
            if row is not None and _proof(table, *row[:-1]) != row[-1]:
                raise sqlite3.DatabaseError
        return None if row is None else row[:-1]

    def _verify(self) -> None:
        """`sqlite3.DatabaseError` where the file is not what was written: what is not found in it may yet have been there."""
        with _readable():
            if self._connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError
            for table in ("patients", "studies"):  # UIDs stand in their index once more, with which they were compared
                for row in self._connection.execute(_ROWS[table]):
                    if _proof(table, *row[:-1]) != row[-1]:
                        raise sqlite3.DatabaseError
        self._is_verified = True

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        if not self._is_verified:
            self._verify()

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA journal_mode = DELETE")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 1:
            self._upgrade()
        elif version != _VERSION:
            if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'patients'").fetchone():
                raise sqlite3.DatabaseError
            raise StoreError("the map of identities is of another version of Delineate", "Use that version, or another file.")

    def _upgrade(self) -> None:
        """Rows of the first version had no proofs."""
        self._connection.execute("BEGIN IMMEDIATE")
        if self._connection.execute("PRAGMA user_version").fetchone() == (1,):  # no other process was here first
            if self._connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError
            for table, key in {"uids": ("original", "patient"), "patients": ("original",), "studies": ("sent",)}.items():
                self._connection.execute(f"ALTER TABLE {table} ADD COLUMN proof INTEGER NOT NULL DEFAULT 0")
                found = [row[:-1] for row in self._connection.execute(_ROWS[table])]
                words = f"UPDATE {table} SET proof = ? WHERE {' AND '.join(f'{name} = ?' for name in key)}"  # noqa: S608
                self._connection.executemany(words, [(_proof(table, *row), *row[: len(key)]) for row in found])
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        self._connection.execute("COMMIT")


def _proof(table: str, *values: Any) -> int:
    text = json.dumps((table, *values))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _make(path: Path) -> None:
    """A new map, which is there when it is whole, and readable by its owner alone before that; another process' stays."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with _sentences():
            connection = sqlite3.connect(part, isolation_level=None)
            try:
                connection.execute("BEGIN")
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links, where half a map may be seen, and is refused
            with contextlib.suppress(FileExistsError), path.open("xb") as file:
                path.chmod(0o600)
                file.write(part.read_bytes())
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """What the database's module raises of damaged text and numbers, as the database's."""
    try:
        yield
    except (UnicodeError, TypeError, OverflowError):
        raise sqlite3.DatabaseError from None


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the database as ours, without the values that it was asked for."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = "is held by another process" if "locked" in str(error) else "cannot be read or written"
        raise StoreError(f"the map of identities {reason}", "Check the file, its disk and its rights, then try again.") from None
    except sqlite3.Error:
        raise StoreError(_DAMAGED, _COPY) from None
