"""Uploaded images that expire: each a folder under a name that nobody can guess, and a row."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from delineate.datastore.faults import SessionExpiredError, UnknownSessionError
from delineate.datastore.names import file_name
from delineate.datastore.reading import checked_info, checked_who
from delineate.errors import InputError
from delineate.protocols.archive import ArchiveReader, Limits
from delineate.store.database import Database
from delineate.store.faults import storage_error
from delineate.store.tables import SESSIONS

if TYPE_CHECKING:
    from typing_extensions import Buffer

EXPIRY: Final = 3600.0
"""Seconds after its last use for which a session lasts, where its maker says nothing."""

_UID: Final = re.compile(r"[A-Za-z0-9_-]{32,43}")
_INCOMING: Final = ".incoming-"
_TOUCH: Final = 1.0  # seconds: a use is written down that often at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One uploaded image.

    Parameters
    ----------
    uid : the right to use it
    owner : who made it; empty where there are no accounts
    path : its folder
    image : the one file in it, or the folder itself where there are several, as of a DICOM series
    size : bytes of all files
    meta : what its maker keeps with it
    created, accessed : Unix seconds
    expiry : seconds after the last access
    """

    uid: str
    owner: str
    path: Path
    image: Path
    size: int
    meta: Mapping[str, Any]
    created: float
    accessed: float
    expiry: float


class _File(io.FileIO):
    """A file of a session. Without a buffer: what a full disk did not take would be in its way when it is closed and removed."""

    def write(self, data: Buffer) -> int:
        """Append. Raises `StorageFullError` or `StoreError`."""
        view = memoryview(data).cast("B")
        left = view
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            raise storage_error(error, "storing incoming data") from error
        return len(view)


class SessionUpload:
    """Files on their way into a session. Leaving the context removes what did not become one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        try:
            while (descriptor := _locked(folder)) is None:
                pass
        except OSError as error:
            raise storage_error(error, "making a folder for a session") from error
        self._descriptor = descriptor

    def open(self, name: str) -> BinaryIO:
        """A new file to write to and close. Raises `InputError` for a name that cannot be a file's."""
        name = file_name(name)
        taken, number = name, 1
        while taken in self.names:  # slices of one name from several folders
            number += 1
            taken = f"{number}-{name}"
        self.names.append(taken)
        try:
            return _File(self.folder / taken, "xb")
        except OSError as error:
            raise storage_error(error, "making a file of a session") from error

    def __enter__(self) -> SessionUpload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # gone already where it became a session
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class SessionStore:
    """The sessions, shared by threads and processes.

    Parameters
    ----------
    folder : made where it is missing; its own
    database : migrated
    longest : seconds, the most that a maker may ask for
    limits : of archives that are unpacked
    sync : whether what was answered survives a power cut; False is for tests
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        *,
        longest: float = EXPIRY,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        sync: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.database = database
        self._longest = longest
        self._limits = limits
        self._clock = clock
        self._sync = sync
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, "making the folder for sessions") from error

    def incoming(self) -> SessionUpload:
        """A place for the files of a new session."""
        return SessionUpload(self.folder / f"{_INCOMING}{secrets.token_hex(16)}")

    def create(
        self, upload: SessionUpload, *, owner: str = "", expiry: float = 0.0, unpack: bool = False, meta: Mapping[str, Any] | None = None
    ) -> Session:
        """Make a session of what was uploaded; it is there, and safe, when this returns.

        Parameters
        ----------
        expiry : seconds after the last use; 0 for the longest, which is also the most
        unpack : the one file is an archive, whose files are meant

        Raises
        ------
        InputError
            Nothing was uploaded, or what is to be kept with it is no JSON object.
        ArchiveError
            What is to be unpacked is no archive, or not a safe one.
        """
        kept = checked_info(meta)
        if not upload.names:
            raise InputError("no file was uploaded", "Send one or more files.")
        if unpack:
            self._unpack(upload)
        uid = _new_uid()
        files = [path for path in sorted(upload.folder.rglob("*")) if path.is_file()]
        now = self._clock()
        lasts = min(expiry, self._longest) if expiry > 0 else self._longest
        values = {
            "uid": uid, "owner": checked_who(owner), "name": files[0].relative_to(upload.folder).as_posix() if len(files) == 1 else "",
            "size": sum(path.stat().st_size for path in files), "meta": kept, "created": now, "accessed": now, "expiry": lasts,
        }  # fmt: skip
        try:
            self._settle(upload.folder, files)
            upload.folder.rename(self.folder / uid)
            if self._sync:
                _bring_to_disk(self.folder)
        except OSError as error:
            raise storage_error(error, "storing a session") from error
        try:
            with self.database.write() as connection:
                connection.execute(sa.insert(SESSIONS), values)
        except BaseException:
            shutil.rmtree(self.folder / uid, ignore_errors=True)
            raise
        return self.get(uid)

    def _unpack(self, upload: SessionUpload) -> None:
        if len(upload.names) != 1:
            raise InputError("one archive can be unpacked, not several files", "Send one archive, or the files as they are.")
        archive = upload.folder / upload.names[0]
        packed = upload.folder.parent / f"{upload.folder.name}-packed"
        try:
            archive.rename(packed)
            with ArchiveReader(packed, self._limits) if self._limits else ArchiveReader(packed) as reader:
                if not reader.extract(upload.folder):
                    raise InputError("the archive is empty", "Send an archive with files in it.")
        except OSError as error:
            raise storage_error(error, "unpacking an archive") from error
        finally:
            with contextlib.suppress(OSError):  # the next sweep takes what is left
                packed.unlink(missing_ok=True)

    def _settle(self, folder: Path, files: list[Path]) -> None:
        if self._sync:
            for path in (*files, *(path for path in folder.rglob("*") if path.is_dir()), folder):
                _bring_to_disk(path)

    def get(self, uid: str, *, owner: str | None = None, touch: bool = False) -> Session:
        """A session; `touch` says that it was used, which makes it last longer. `owner`: only this one's.

        Raises
        ------
        SessionExpiredError
            It was not used for too long; it is gone now.
        UnknownSessionError
            There is none, or it is somebody else's.
        """
        with self.database.read() as connection:
            row = self._row(connection, uid, owner)
        now = self._clock()
        if row.accessed + row.expiry < now:
            self._remove(uid)
            raise SessionExpiredError("the session has expired")
        session = self._session(row)
        if not session.image.exists():
            self._remove(uid)
            raise UnknownSessionError("the session's files are gone")
        if touch and now - row.accessed >= _TOUCH:
            with self.database.write(light=True) as connection:
                connection.execute(sa.update(SESSIONS).where(SESSIONS.c.uid == uid).values(accessed=now))
                session = self._session(self._row(connection, uid, owner))
        return session

    def remove(self, uid: str, *, owner: str | None = None) -> Session:
        """Remove a session and its files: what it was. Raises `UnknownSessionError`."""
        session = self.get(uid, owner=owner)
        self._remove(uid)
        return session

    def sweep(self) -> int:
        """Remove what expired and what interrupted uploads left: how many. Safe while others upload."""
        with self.database.read() as connection:
            expired = list(
                connection.execute(sa.select(SESSIONS.c.uid).where(SESSIONS.c.accessed + SESSIONS.c.expiry < self._clock())).scalars()
            )
        for uid in expired:
            self._remove(uid)
        return len(expired) + sum(self._remove_orphan(path) for path in self.folder.iterdir())

    def _remove_orphan(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its maker lives
            with self.database.read() as connection:
                is_known = connection.execute(sa.select(SESSIONS.c.uid).where(SESSIONS.c.uid == path.name)).first() is not None
            if is_known:
                return False
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif time.time() - path.stat().st_ctime > EXPIRY:  # an archive that is being unpacked
                path.unlink(missing_ok=True)
            return not path.exists()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)

    def _row(self, connection: Connection, uid: str, owner: str | None) -> Row[Any]:
        known = _UID.fullmatch(uid)
        row = connection.execute(sa.select(SESSIONS).where(SESSIONS.c.uid == uid)).first() if known else None
        if row is None or (owner is not None and row.owner != checked_who(owner)):
            raise UnknownSessionError("the session is unknown or has expired")
        return row

    def _session(self, row: Row[Any]) -> Session:
        path = self.folder / row.uid
        return Session(
            uid=row.uid, owner=row.owner, path=path, image=path / row.name if row.name else path, size=row.size, meta=row.meta,
            created=row.created, accessed=row.accessed, expiry=row.expiry,
        )  # fmt: skip

    def _remove(self, uid: str) -> None:
        with self.database.write() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.uid == uid))
        with contextlib.suppress(OSError):  # the next sweep takes what is left
            shutil.rmtree(self.folder / uid)


def _locked(folder: Path) -> int | None:
    """A new folder, open and locked: whoever can lock it knows that its maker is dead. None where a sweep was quicker."""
    folder.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if folder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    os.close(descriptor)
    return None


def _new_uid() -> str:
    while True:
        uid = secrets.token_urlsafe(24)
        if not uid.startswith("-"):  # a command line would take it for an option
            return uid


def _bring_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
