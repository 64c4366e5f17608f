"""What an archive may hold, by name and size; the bytes of an entry, checked on the way; the zip of stored entries we write.

Runs on Python 3.7 and newer with numpy alone; ISA-L's checksum is used where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import unicodedata
import zipfile
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Callable, Dict, Iterator, NamedTuple, Optional, Type, Union

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.nifti_codec import INFLATE_ERRORS, Inflater

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

PathLike = Union[str, "os.PathLike[str]"]

MIB = 1 << 20
BLOCK = 1 << 20  # bytes read and written at once
DEPTH = 32  # folders in folders: deeper serves nobody and makes removing the folder slow
PART_BYTES = 255  # what common file systems take for one name

_REGULAR_FILE = 0o100644 << 16  # one that anybody may read, where an unpacker looks at it
_UNIX = 3
_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$", re.IGNORECASE)
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]')


class Entry(NamedTuple):
    """One file or folder of an archive.

    name : safe, relative, with ``/``; size : bytes unpacked; start : where its bytes begin in the archive (for a
    ``.tar.gz`` in the unpacked tar); packed : how many they are there; is_deflated : else they are stored;
    crc : CRC-32 of what is unpacked, None where the format has none; is_folder : whether it is a folder.
    """

    name: str
    size: int
    start: int
    packed: int
    is_deflated: bool = False
    crc: Optional[int] = None
    is_folder: bool = False


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most; an error names the field that was exceeded.

    entries : files and folders together; entry_bytes, total_bytes : of one file, of all, unpacked; ratio : bytes unpacked
    over bytes of the archive, looked at beyond `ratio_from` unpacked bytes only: an empty mask of 80 MB deflates 1000 to 1
    and is no attack, what fills a disk is.
    """

    entries: int = 10000
    entry_bytes: int = 16 * 1024 * MIB
    total_bytes: int = 20 * 1024 * MIB
    ratio: float = 200.0
    ratio_from: int = 256 * MIB


class Tally:
    """Counts entries and bytes against the limits; `packed` is the size of the archive."""

    def __init__(self, limits: Limits, packed: int) -> None:
        self._limits = limits
        self._by_ratio = int(max(limits.ratio_from, limits.ratio * packed))
        self._entries = 0
        self._bytes = 0

    def add(self, name: str, size: int) -> None:
        """Count one entry of `size` unpacked bytes before any of them is read."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveLimitError("the archive has more than %d entries (limit: entries)" % self._limits.entries)
        if size > self._limits.entry_bytes:
            raise ArchiveLimitError("%s unpacks to more than %s (limit: entry_bytes)" % (quoted(name), _amount(self._limits.entry_bytes)))
        self._bytes += size
        self.require(self._bytes, name)

    def require(self, total: int, name: str = "") -> None:
        """Check that `total` unpacked bytes are allowed."""
        where = " with %s" % quoted(name) if name else ""
        if total > self._limits.total_bytes:
            raise ArchiveLimitError(
                "the archive%s unpacks to more than %s (limit: total_bytes)" % (where, _amount(self._limits.total_bytes))
            )
        if total > self._by_ratio:
            raise ArchiveLimitError("the archive%s unpacks to more than %g times its size (limit: ratio)" % (where, self._limits.ratio))

    def headroom(self, overhead: int) -> int:
        """Bytes that a stream around the entries may have, where each entry costs `overhead` bytes on top."""
        return min(self._limits.total_bytes, self._by_ratio) + overhead * (self._limits.entries + 1)


class NameRegister:
    """The names of one archive: safe each, and no two that a file system may take for the same."""

    def __init__(self) -> None:
        self._files: Dict[str, str] = {}
        self._folders: Dict[str, str] = {}

    def add(self, raw: str, is_folder: bool) -> str:
        """The safe form of the name `raw`; `ArchiveError` where there is none, or it is taken."""
        if is_folder and raw in (".", "./"):
            return ""  # the top itself, with which `tar -c .` begins
        name = safe_name(raw)
        parents = name.split("/")
        for depth in range(1, len(parents) + (1 if is_folder else 0)):
            self._folder("/".join(parents[:depth]))
        if not is_folder:
            key = name_key(name)
            if key in self._files or key in self._folders:
                raise _doubled(name, self._files.get(key) or self._folders[key])
            self._files[key] = name
        return name

    def __contains__(self, name: str) -> bool:
        """Whether a file has that name, or one that a file system may take for the same."""
        return name_key(name) in self._files

    def _folder(self, name: str) -> None:
        key = name_key(name)
        if key in self._files or self._folders.setdefault(key, name) != name:
            raise _doubled(name, self._files.get(key) or self._folders[key])


def safe_name(raw: str) -> str:
    """An entry's name as a relative path with ``/``, without ``.`` and empty parts.

    Raises
    ------
    ArchiveError
        It would lead out of the folder, or is one that a file system changes or cannot hold.
    """
    fault = _fault(raw)
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if not fault and not parts:
        fault = "has no name"
    for part in parts:
        fault = fault or _part_fault(part)
    if not fault and len(parts) > DEPTH:
        fault = "is more than %d folders deep" % DEPTH
    if fault:
        raise faulty(raw, fault, "Rename it, or leave it out.")
    return "/".join(parts)


def name_key(name: str) -> str:
    """Equal for names that some file system takes for the same: other case, other composition of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_junk(name: str) -> bool:
    """Whether an entry is what a Macintosh or Windows adds of its own: no part of what was sent."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")


def quoted(name: str) -> str:
    """A name for a message: printable and not endless."""
    text = ascii(name)
    return text if len(text) <= 120 else text[:100] + "…" + text[-12:]


def faulty(name: str, what: str, advice: str = "Send the archive again.") -> ArchiveError:
    """What is wrong with one entry."""
    return ArchiveError("entry %s of the archive %s" % (quoted(name), what), advice)


def _fault(raw: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in raw):
        return "has control characters, or is not UTF-8"
    if "\\" in raw:
        return "has a backslash"
    if raw.startswith("/") or _DRIVE.match(raw):
        return "is an absolute path"
    return ""


def _part_fault(part: str) -> str:
    if part == "..":
        return "leads out of the folder"
    if part != part.rstrip(". "):
        return "ends in a dot or a blank"
    if len(part.encode("utf-8")) > PART_BYTES:
        return "is longer than %d bytes" % PART_BYTES
    if os.name == "nt" and (_RESERVED.match(part) or _NOT_ON_WINDOWS.search(part)):
        return "is no name on Windows"
    return ""


def _doubled(name: str, other: str) -> ArchiveError:
    what = "is there twice" if name == other else "and %s are one name where case does not count" % quoted(other)
    return faulty(name, what, "Give each entry a name of its own.")


def _amount(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1 << 10)):
        if count >= size:
            return "%.4g %s" % (count / size, unit)
    return "%d bytes" % count


class EntryStream(io.RawIOBase):
    """Reads one entry; `ArchiveError` where its bytes end early or its checksum is wrong."""

    def __init__(self, entry: Entry, source: Callable[[memoryview], int]) -> None:
        super().__init__()
        self.entry = entry
        self._source = source
        self._left = entry.size
        self._crc = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill what can be filled at once; 0 at the end, which is where the checksum is compared."""
        view = memoryview(buffer).cast("B")[: self._left]
        try:
            count = self._source(view) if view else 0
            if view and not count:
                raise EOFError
        except EOFError:
            raise faulty(self.entry.name, "is cut off") from None
        except INFLATE_ERRORS as error:
            raise faulty(self.entry.name, "is damaged: %s" % error) from None
        self._left -= count
        if self.entry.crc is not None:
            self._crc = crc32(view[:count], self._crc)
            if not self._left and self._crc != self.entry.crc:
                raise faulty(self.entry.name, "is damaged: its checksum is wrong")
        return count

    def finish(self) -> None:
        """Read what is left, so that the checksum is verified."""
        scratch = bytearray(min(BLOCK, self._left + 1))
        while self.readinto(scratch):
            pass


def zip_stream(entry: Entry, file: BinaryIO) -> EntryStream:
    """The stream of an entry whose bytes begin at ``entry.start`` of `file`."""
    file.seek(entry.start)
    packed: Any = _Window(file, entry.packed)
    return EntryStream(entry, Inflater(packed, raw=True).readinto if entry.is_deflated else file.readinto)  # type: ignore[attr-defined]


class _Window:
    """The next `left` bytes of a file."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file = file
        self._left = left

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data


class StoredZipWriter:
    """Writes a zip whose entries are stored and dated 1980-01-01: same content, same bytes, readable as a stream.

    An error while an entry is written removes the file. `close`, or leaving the context, completes it.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = os.fspath(path)
        self._names = NameRegister()
        self._file: BinaryIO = open(self.path, "wb")  # noqa: SIM115
        self._zip: Optional[zipfile.ZipFile] = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> StoredZipWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add one entry."""
        with self.entry(name, len(data)) as file:
            file.write(data)

    def add_file(self, name: str, path: PathLike) -> None:
        """Add a file byte for byte, in constant memory."""
        with open(path, "rb", buffering=0) as source, self.entry(name, os.fstat(source.fileno()).st_size) as file:
            block = memoryview(bytearray(BLOCK))
            for count in iter(lambda: source.readinto(block), 0):
                file.write(block[:count])

    @contextlib.contextmanager
    def entry(self, name: str, size: int) -> Iterator[BinaryIO]:
        """An open entry to write to, its name in NFC; `size` is at least what will be written."""
        if self._zip is None:
            raise ValueError("the archive is closed")
        info = zipfile.ZipInfo(self._names.add(unicodedata.normalize("NFC", name), is_folder=False))
        info.file_size = size  # what decides whether the header has room for sizes beyond 4 GiB
        info.create_system = _UNIX
        info.external_attr = _REGULAR_FILE
        try:
            with self._zip.open(info, "w") as file:
                yield file  # type: ignore[misc]
        except BaseException:
            self.discard()
            raise

    def has(self, name: str) -> bool:
        """Whether there is an entry of that name, or one that a file system takes for the same."""
        return name in self._names

    def close(self) -> None:
        """Complete the archive; nothing where it is complete, or was discarded."""
        if self._zip is None:
            return
        try:
            self._zip.close()
            self._file.close()
        except BaseException:
            self.discard()
            raise
        self._zip = None

    def discard(self) -> None:
        """Remove the file unless it is complete."""
        if self._zip is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()
        self._zip = None
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.remove(self.path)
