"""Files by their BLAKE3 digest: ``incoming/`` holds what is being written, ``blake3/ab/abcd…`` what rows name.

Nothing here knows the database. Those who name a blob confirm it, and those who remove one do so, inside a write
transaction, the only one of all processes: a row then never names a file that is not there, and no file that a row
names is removed.
"""

from __future__ import annotations

import copy
import fcntl
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from delineate.errors import BlobError
from delineate.store.faults import storage_error
from delineate.store.writer import BlobWriter

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_REMEMBERED: Final = 65536  # digests whose file was seen to be right
_BLOCK: Final = 1 << 20

_Stamp = tuple[int, int, int, int]


class BlobStore:
    """The folder of blobs, shared by threads and processes.

    Parameters
    ----------
    folder : made where it is missing; ``incoming`` and ``blake3`` are on one file system.
    sync : whether a placed blob survives a power cut; False is for tests.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self.folder = Path(folder)
        self._sync = sync
        self._incoming = self.folder / "incoming"
        self._placed = self.folder / "blake3"
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, _Stamp] = OrderedDict()
        try:
            for part in (self._incoming, self._placed):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, "making the folder for blobs") from error

    def incoming(self, name: str = "") -> BlobWriter:
        """A new file to write to. Raises `StorageFullError` or `StoreError`."""
        return BlobWriter.create(self._incoming / secrets.token_hex(16), name=name, sync=self._sync)

    def coming(self, name: str) -> Path:
        """Where the file is that a writer writes to, by the last part of its path."""
        return self._incoming / Path(name).name

    def adopt(self, path: Path, name: str = "") -> BlobWriter:
        """Take over a finished file that lies on the same file system: hashed, moved when placed, removed when not."""
        return BlobWriter.adopt(Path(path), name=name, sync=self._sync)

    def path(self, digest: str) -> Path:
        """Where a blob is or would be. Raises `BlobError` when `digest` is no digest in hex."""
        if not _DIGEST.fullmatch(digest):
            raise BlobError("a stored file is named by something that is no digest")
        return self._placed / digest[:2] / digest

    def place(self, writer: BlobWriter) -> Path:
        """Put a sealed file in its digest's place, before the transaction that names it: bringing it to the disk takes time.

        The transaction must then `confirm` it, because until a row names it a sweep may remove it.
        """
        target = self.path(writer.digest)
        if not target.parent.is_dir():
            try:
                target.parent.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise storage_error(error, "making a folder for blobs") from error
            self._sync_folder(self._placed)
        writer.link(target)
        self._sync_folder(target.parent)
        return target

    def confirm(self, writer: BlobWriter) -> None:
        """Make sure that a placed file is still there; only inside the write transaction that names it."""
        if not (writer.is_placed and self.path(writer.digest).exists()):
            self.place(writer)

    def lightly(self) -> BlobStore:
        """The same files, of which a new one survives the death of all processes but perhaps not a power cut."""
        other = copy.copy(self)
        other._sync = False
        return other

    def _sync_folder(self, folder: Path) -> None:
        if not self._sync:
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, "storing a folder of blobs") from error

    def verified(self, digest: str) -> Path:
        """The file of a blob, read and compared with its digest the first time and whenever the file changed.

        Raises
        ------
        BlobError
            Missing, unreadable, or altered.
        """
        path = self.path(digest)
        try:
            with path.open("rb", buffering=0) as file:
                stamp = _stamp(os.fstat(file.fileno()))
                with self._lock:
                    if self._seen.get(digest) == stamp:
                        return path
                found = blake3()
                while block := file.read(_BLOCK):
                    found.update(block)
        except FileNotFoundError:
            raise BlobError("a stored file is missing") from None
        except OSError as error:
            raise BlobError(f"a stored file cannot be read: {error.strerror}") from error
        if found.hexdigest() != digest:
            raise BlobError("a stored file was altered: it no longer has the digest it was stored with")
        self._remember(digest, stamp)
        return path

    def _remember(self, digest: str, stamp: _Stamp) -> None:
        with self._lock:
            self._seen[digest] = stamp
            self._seen.move_to_end(digest)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)

    def remove(self, digest: str) -> None:
        """Remove a blob, missing or not; only inside a write transaction that saw that no row names it."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, "removing a stored file") from error
        with self._lock:
            self._seen.pop(digest, None)

    def digests(self) -> Iterator[list[str]]:
        """All blobs that are there, one sub-folder at a time."""
        for folder in sorted(self._placed.iterdir()):
            if folder.is_dir():
                yield sorted(entry.name for entry in folder.iterdir() if _DIGEST.fullmatch(entry.name))

    def clean_incoming(self, older_than: float = 0.0) -> int:
        """Remove incoming files whose writer is dead and that were last written `older_than` seconds ago: how many."""
        count = 0
        for path in self._incoming.iterdir():
            try:
                count += _remove_orphan(path, time.time() - older_than)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(error, "removing what an interrupted upload left") from error
        return count


def _stamp(status: os.stat_result) -> _Stamp:
    # The change time as well: the modification time can be set back by whoever alters a file.
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _remove_orphan(path: Path, before: float) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_mtime > before:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
        path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
