"""One file on its way into the blob store: written and hashed at once, then sealed, then placed or discarded."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

from blake3 import blake3

from delineate.errors import StoreError
from delineate.store.faults import storage_error

WRITE_OUT: Final = 32 << 20
"""Bytes after which a background thread begins to bring the file to the disk, so that the last fsync is short."""

_BLOCK: Final = 1 << 20


class BlobWriter:
    """Bytes that become a blob when the store places them in the transaction that names them.

    Leaving the context discards what was not placed. Not for several threads at once.

    name : how the file is called with the task; empty for the role's usual name.
    """

    def __init__(self, path: Path, *, name: str = "", sync: bool = True) -> None:
        self.path = path
        self.name = name
        self.size = 0
        self.is_placed = False
        self._hash = blake3()
        self._sync = sync
        self._sealed = False
        self._write_out: _WriteOut | None = None
        self._unsynced = 0
        self._descriptor = -1

    @classmethod
    def create(cls, path: Path, *, name: str = "", sync: bool = True) -> BlobWriter:
        """A new, empty file at `path`, locked while it is open: whoever can lock it knows that its writer is dead."""
        writer = cls(path, name=name, sync=sync)
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise storage_error(error, "making a file for incoming data") from error
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                writer._descriptor = descriptor
                return writer
            os.close(descriptor)  # a sweep took it between open and lock

    @classmethod
    def adopt(cls, path: Path, *, name: str = "", sync: bool = True) -> BlobWriter:
        """A finished file of the same file system; it is read once for its digest and moved, never copied."""
        writer = cls(path, name=name, sync=sync)
        try:
            writer._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            while block := os.read(writer._descriptor, _BLOCK):
                writer._hash.update(block)
                writer.size += len(block)
        except OSError as error:
            writer._close()
            raise storage_error(error, f"reading {path.name}") from error
        return writer

    @property
    def digest(self) -> str:
        """BLAKE3 of what was written so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append. Raises `StorageFullError` (and then the file is gone) or `StoreError`."""
        if self._sealed or self._descriptor < 0:
            raise ValueError("the blob is sealed, discarded or closed")
        view = memoryview(data).cast("B")
        self._hash.update(view)
        left = view
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            self.discard()
            raise storage_error(error, "storing incoming data") from error
        self.size += len(view)
        self._unsynced += len(view)
        if self._sync and self._unsynced >= WRITE_OUT:
            self._begin_write_out()
        return len(view)

    def _begin_write_out(self) -> None:
        if self._write_out is not None and self._write_out.is_alive():
            return
        self._join()
        self._unsynced = 0
        self._write_out = _WriteOut(self._descriptor)
        self._write_out.start()

    def _join(self) -> None:
        if self._write_out is not None:
            self._write_out.join()
            failed, self._write_out = self._write_out.error, None
            if failed is not None:  # the kernel tells of a lost page once only: the last fsync would not repeat it
                self.discard()
                raise storage_error(failed, "storing incoming data") from failed

    def seal(self) -> None:
        """Nothing more comes. May be called again."""
        if self._sealed:
            return
        if self._descriptor < 0:
            raise ValueError("the blob was discarded or closed")
        self._join()
        self._sealed = True

    def link(self, target: Path) -> None:
        """Let the sealed file be found at `target`, over an equal one if need be, and bring it to the disk.

        It keeps its own name as well until the writer is discarded: so it can be linked again where somebody removed it
        as a file that no row names.
        """
        if not self._sealed or self._descriptor < 0:
            raise ValueError("only a sealed blob can be placed")
        try:
            try:
                os.link(self.path, target)
            except FileExistsError:
                self._link_over(target)
            self.is_placed = True
            if self._sync:  # after it has its name: one journal commit for both, and the folder's own fsync finds little to do
                os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error(error, "bringing incoming data into place") from error

    def _link_over(self, target: Path) -> None:
        other = self.path.with_name(self.path.name + ".link")
        other.unlink(missing_ok=True)
        os.link(self.path, other)
        other.replace(target)
        other.unlink(missing_ok=True)  # still there where `target` was this very file

    def discard(self) -> None:
        """Remove the file; what was placed stays in its place. May be called again."""
        if self._write_out is not None:
            self._write_out.join()
            self._write_out = None
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.discard()
        except OSError as unlink:
            if error is None:
                raise StoreError(f"incoming data could not be removed: {unlink.strerror}") from unlink


class _WriteOut(threading.Thread):
    """Brings what is written so far to the disk."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(name="write-out", daemon=True)
        self._descriptor = descriptor
        self.error: OSError | None = None

    def run(self) -> None:
        """Thread body."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.error = error
