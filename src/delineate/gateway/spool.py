"""Files of what was received: written so that a name stands for a whole file, whatever ends this process or the machine's power.

A file gets its last name, which holds its size and a checksum, before it is brought to the disk with its folder's entry; so
one wait is enough, and a file of which nobody knows is recognised as whole or not. The row in the database needs no wait of
its own: where it was lost, the file is found again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import shutil
import struct
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

from delineate.dicom.header import AGAIN, DEFLATED, Header, ShortError, parse_header
from delineate.errors import ImageError
from delineate.gateway.upper_layer import IMPLEMENTATION, VERSION
from delineate.nifti_codec import crc32

_NAME: Final = re.compile(r"[0-9a-f]{16}-(\d+)-([0-9a-f]{8})\.dcm")
_GATHERED: Final = 1 << 16  # bytes that are written at once: most of a slice is, before its last piece comes
_BLOCK: Final = 1 << 20
_WAITING: Final = 16  # threads that wait for the disk
_HEAD: Final = 1 << 15  # bytes in which most headers end
_PACKED: Final = 1 << 22  # bytes in which deflated ones end
_NAME_OF_IT: Final = "the object"


class TooLargeError(Exception):
    """An object over the limit."""


def meta(sop_class: str, instance: str, syntax: str, sender: str) -> bytes:
    """What stands before a data set in a file (PS3.10, 7.1)."""
    elements = _element(1, b"OB", b"\0\1") + _element(2, b"UI", sop_class.encode("ascii")) + _element(3, b"UI", instance.encode("ascii"))
    elements += _element(0x10, b"UI", syntax.encode("ascii")) + _element(0x12, b"UI", IMPLEMENTATION.encode())
    elements += _element(0x13, b"SH", VERSION.encode()) + _element(0x16, b"AE", sender.encode("ascii", "replace"))
    return bytes(128) + b"DICM" + _element(0, b"UL", struct.pack("<I", len(elements))) + elements


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) & 1:
        value += b"\0" if vr == b"UI" else b" "
    if vr == b"OB":
        return struct.pack("<HH2sxxI", 2, number, vr, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


class Part:
    """A file that grows while it is received, `most` bytes long at most.

    An `OSError` on writing is raised by `write` and again by `keep`: whoever receives may go on until the end. Of headers that
    are long, or deflated, one is read at a time (`one`), and not into memory: a stranger decides how long they are.
    """

    def __init__(self, path: Path, begin: bytes, most: int, waiting: Executor, one: threading.Lock) -> None:
        self.path = path
        self._waiting = waiting
        self._one = one
        self._is_deflated = DEFLATED.encode() in begin
        self.size = 0
        self._most = most
        self._buffer = bytearray()
        self._first = b""  # of what is written
        self._sum = 0
        self._written = 0
        self._file = -1
        self._error: OSError | None = None
        self._begin = bytes(begin)
        self.write(memoryview(self._begin))

    def write(self, data: memoryview) -> None:
        """Append; `TooLargeError` over the limit, `OSError` where the disk refuses."""
        self.size += len(data)
        if self.size > self._most:
            raise TooLargeError
        if len(self._buffer) + len(data) < _GATHERED:
            self._buffer += data
            return
        self._flush()
        self._append(data)

    def _flush(self) -> None:
        gathered, self._buffer = self._buffer, bytearray()
        self._append(memoryview(gathered))

    def _append(self, data: memoryview) -> None:
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if len(self._first) < _HEAD:
            self._first += data[: _HEAD - len(self._first)]
        self._sum = crc32(data, self._sum)
        self._written += len(data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._error = error
            raise

    def header(self) -> Header:
        """What stands before the pixels; errors as in `header.parse_header`."""
        if not self._is_deflated:
            with contextlib.suppress(ShortError):
                return parse_header(self.path, _NAME_OF_IT, self.size, self._first or bytes(self._buffer[:_HEAD]))
        self._flush()
        with self._one:
            if self._is_deflated:
                return self._parsed(os.pread(self._file, _PACKED, 0))
            with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as data:
                return self._parsed(cast(bytes, data))

    def _parsed(self, data: bytes) -> Header:
        try:
            return parse_header(self.path, _NAME_OF_IT, self.size, data)
        except ShortError:
            raise ImageError("the header of the object is too long", AGAIN) from None

    def keep(self, folder: Path, is_synced: bool = True) -> Path:
        """Give it its last name; returns when it stays on the disk, or before where that is not to be waited for."""
        if self._buffer:
            self._flush()
        if self._error is not None:
            raise self._error
        target = folder / f"{secrets.token_hex(8)}-{self._written}-{self._sum:08x}.dcm"
        self.path.rename(target)
        self.path = target
        if is_synced:
            entry = self._waiting.submit(sync, folder)  # at once: one write of a journal holds both, and one wait
            try:
                os.fsync(self._file)
            finally:
                entry.result()
        self.close()
        return target

    def close(self) -> None:
        """Close; the file stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Remove it."""
        self.close()
        self.path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file to the disk, or the entries of a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class Spool:
    """The folder of all files: those that are coming, those of each series by its number, those set aside, those of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting = ThreadPoolExecutor(_WAITING, "gateway-disk")
        self._one = threading.Lock()
        self.coming = folder / "coming"
        self.aside = folder / "aside"
        for name in (self.coming, self.aside, folder / "series", folder / "versions", folder / "jobs"):
            name.mkdir(parents=True, exist_ok=True, mode=0o700)

    def clear(self) -> None:
        """Remove what was coming when the process ended: no sender was told that we have it."""
        for path in self.coming.iterdir():
            path.unlink()

    def part(self, begin: bytes, most: int) -> Part:
        """A file for an object that comes."""
        return Part(self.coming / secrets.token_hex(8), begin, most, self._waiting, self._one)

    def sync(self, paths: Sequence[Path]) -> None:
        """Bring files and their folders' entries to the disk."""
        for done in self._waiting.map(sync, [*paths, *{path.parent for path in paths}]):
            assert done is None

    def close(self) -> None:
        """End the threads that wait for the disk."""
        self._waiting.shutdown()

    def series(self, number: int) -> Path:
        """The folder of a series' files, made where it is missing."""
        folder = self.folder / "series" / str(number)
        if not folder.is_dir():
            folder.mkdir(exist_ok=True, mode=0o700)
            sync(folder.parent)
        return folder

    def version(self, series: int, number: int, files: Sequence[str]) -> Path:
        """A folder with the files of a version alone: more may come while they are read."""
        folder = self.folder / "versions" / f"{series}-{number}"
        folder.mkdir(exist_ok=True, mode=0o700)
        source = self.folder / "series" / str(series)
        for name in set(files) - {path.name for path in folder.iterdir()}:
            try:
                (folder / name).hardlink_to(source / name)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without links
                shutil.copyfile(source / name, part := self.coming / secrets.token_hex(8))
                part.rename(folder / name)
        return folder

    def forget_version(self, series: int, number: int) -> None:
        """Remove the folder of a version; its files stay with the series."""
        shutil.rmtree(self.folder / "versions" / f"{series}-{number}", ignore_errors=True)

    def job(self, number: int) -> Path:
        """The folder of a job's files, made where it is missing."""
        folder = self.folder / "jobs" / str(number)
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def forget_series(self, number: int) -> None:
        """Remove a series' files."""
        shutil.rmtree(self.folder / "series" / str(number), ignore_errors=True)
        for folder in (self.folder / "versions").glob(f"{number}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in self.aside.glob(f"{number}-*"):
            path.unlink(missing_ok=True)

    def forget_job(self, number: int) -> None:
        """Remove a job's files."""
        shutil.rmtree(self.folder / "jobs" / str(number), ignore_errors=True)

    def set_aside(self, path: Path, series: int) -> Path:
        """Move a file to those that are kept, but belong to nothing."""
        target = self.aside / f"{series}-{path.name}"
        path.rename(target)
        sync(self.aside)
        return target

    def forget_others(self, series: Collection[int], jobs: Collection[int]) -> None:
        """Remove what is of no series and job of these: whose removal was interrupted."""
        for path in (self.folder / "series").iterdir():
            if int(path.name) not in series:
                self.forget_series(int(path.name))
        for path in (self.folder / "versions").iterdir():
            if int(path.name.partition("-")[0]) not in series:
                shutil.rmtree(path, ignore_errors=True)
        for path in (self.folder / "jobs").iterdir():
            if int(path.name) not in jobs:
                self.forget_job(int(path.name))

    def found(self) -> Iterator[tuple[int, Path]]:
        """Every file of a series, with the series' number."""
        for folder in (self.folder / "series").iterdir():
            for path in folder.iterdir():
                yield int(folder.name), path

    def free(self) -> int:
        """Bytes that the disk has left for us."""
        return shutil.disk_usage(self.folder).free


def is_whole(path: Path) -> bool:
    """Whether a file is what its name says."""
    match = _NAME.fullmatch(path.name)
    if match is None or path.stat().st_size != int(match[1]):
        return False
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total = crc32(block, total)
    return total == int(match[2], 16)


def same_object(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(_BLOCK):
            if block != second.read(_BLOCK):
                return False
    return True
