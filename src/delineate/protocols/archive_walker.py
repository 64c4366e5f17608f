"""Zip and tar archives of anybody, listed and read without trust and in constant memory.

Source: PKWARE APPNOTE 6.3; POSIX.1-2001 ustar and pax; GNU long names.

The standard library parses a zip's directory and a tar's header blocks. What it does not check on every Python is checked
here: a directory of any size, entries that overlap (one packed byte unpacked many times), local headers that say something
else, links. It is not left to walk a tar: it reads an extended header of any size into memory, takes negative sizes, and
accepts an archive that was cut off between entries.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import tarfile
import zipfile
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.nifti_codec import GZIP_MAGIC
from delineate.protocols.archive_entries import (
    Entry,
    EntryStream,
    Limits,
    NameRegister,
    PathLike,
    Tally,
    faulty,
    is_junk,
    quoted,
    zip_stream,
)

ZIP, TAR, TAR_GZ = "zip", "tar", "tar.gz"

_AGAIN = "Send the archive again."
_REGULAR = "Send regular files only."
_OTHERS = (
    (b"BZh", "a bzip2 file"), (b"\xfd7zXZ\x00", "an xz file"), (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"), (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"), (b"PK\x07\x08", "a part of a split zip archive"),
)  # fmt: skip

_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_LOCAL = struct.Struct("<4s2HH2H3L2H")  # signature, version, flags, method, time, date, crc, packed, size, lengths
_ENCRYPTED, _PATCH, _UTF8 = 0x1 | 0x40 | 0x2000, 0x20, 0x800
_UNIX, _MACINTOSH = 3, 19
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES"}
_DIRECTORY_BYTES = 512  # per allowed entry: several times what one takes

_HEADER = tarfile.BLOCKSIZE
_ZEROS = bytes(_HEADER)
_EXTENSION_BYTES = 1 << 20  # of one extended header: names and times take hundreds
_EXTENSIONS = 8  # extended headers before one entry
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip


class ArchiveWalker:
    """A zip or tar, told apart by content, read from begin to end.

    It keeps no file open between calls. Every call but `kind` reads the archive's directory when it is the first, and
    raises `ArchiveError` or `ArchiveLimitError` for an archive that is not safe and whole. What a Macintosh or Windows
    adds of its own (``__MACOSX/``, ``._name``, ``.DS_Store``) is checked and then treated as if it were not there.

    Parameters
    ----------
    path : the archive, any suffix
    limits : Limits; what is allowed in it

    Raises
    ------
    ArchiveError
        Neither zip nor tar.
    OSError
        The file cannot be read.
    """

    def __init__(self, path: PathLike, limits: Optional[Limits] = None) -> None:
        self.path = os.fspath(path)
        self.limits = limits or Limits()
        with open(self.path, "rb") as file:
            self._length = os.fstat(file.fileno()).st_size
            self.kind = _kind(file.read(_HEADER))
        self._entries: Optional[List[Entry]] = None

    def entries(self) -> List[Entry]:
        """Files and folders in the order of the archive."""
        if self._entries is None:
            with self._file() as file:
                self._entries = [entry for entry, _ in self._walk(file)]
        return list(self._entries)

    def names(self) -> List[str]:
        """Names of the files, relative with ``/``, in the order of the archive."""
        return [entry.name for entry in self.entries() if not entry.is_folder]

    def files(self) -> Iterator[Tuple[str, EntryStream]]:
        """Each file's name and its bytes, in order; a stream can be read once, until the next is asked for."""
        with self._file() as file:
            for entry, stream in self._walk(file):
                if not entry.is_folder:
                    yield entry.name, stream

    def _file(self) -> BinaryIO:
        return open(self.path, "rb", buffering=1 << 16)

    def _walk(self, file: BinaryIO) -> Iterator[Tuple[Entry, EntryStream]]:
        for entry, stream in self._walk_zip(file) if self.kind == ZIP else self._walk_tar(file):
            if not is_junk(entry.name):
                yield entry, stream

    def _walk_zip(self, file: BinaryIO) -> Iterator[Tuple[Entry, EntryStream]]:
        for entry in _zip_entries(file, self._length, self.limits) if self._entries is None else self._entries:
            yield entry, zip_stream(entry, file)

    def _walk_tar(self, file: BinaryIO) -> Iterator[Tuple[Entry, EntryStream]]:
        source = self._source(file)
        for entry in _tar_entries(source, self._length, self.limits):
            yield entry, EntryStream(entry, source.readinto)

    def _source(self, file: BinaryIO) -> TarSource:
        if self.kind == TAR_GZ:
            raise ArchiveError("the archive is a tar that is packed with gzip", "Send it as it is, or as a zip.")
        return TarSource(file)


def _kind(head: bytes) -> str:
    if not head:
        raise ArchiveError("the archive is empty: it has no bytes")
    if head.startswith(_ZIP_MAGICS):
        return ZIP
    if head.startswith(GZIP_MAGIC):
        return TAR_GZ
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        if head != _ZEROS:
            what = next((text for magic, text in _OTHERS if head.startswith(magic)), "neither zip nor tar")
            raise ArchiveError("the file is not an archive we read: it is %s" % what) from None
    return TAR


# ---- zip


def _zip_entries(file: BinaryIO, length: int, limits: Limits) -> List[Entry]:
    """All entries in the order of the directory, by what it declares; unpacking never yields more than that."""
    infos, directory = _directory(file, limits)
    tally, register = Tally(limits, length), NameRegister()
    entries, extents = [], []
    for info in infos:
        is_folder = _is_zip_folder(info)
        name = register.add(info.orig_filename, is_folder)
        tally.add(name, info.file_size)
        _require_readable(info, name)
        start = _data_start(file, info, name)
        extents.append((info.header_offset, start + info.compress_size, name))
        is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
        entries.append(Entry(name, info.file_size, start, info.compress_size, is_deflated, info.CRC, is_folder))
    extents.sort()
    for (_, end, name), limit in zip(extents, [begin for begin, _, _ in extents[1:]] + [directory]):
        if end > limit:
            raise faulty(name, "overlaps what follows it")
    return entries


class _Bounded:
    """A file of which no more than `most` bytes are read at once: the library reads a directory whole, of any size."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > self._most:
            raise ArchiveLimitError("the directory of the archive is larger than its entries allow (limit: entries)")
        return self._file.read(self._most if count < 0 else count)


def _directory(file: BinaryIO, limits: Limits) -> Tuple[List[zipfile.ZipInfo], int]:
    bounded: Any = _Bounded(file, limits.entries * _DIRECTORY_BYTES + (1 << 17))
    try:
        with zipfile.ZipFile(bounded) as archive:
            return archive.infolist(), archive.start_dir
    except OSError as error:
        if error.errno != errno.EINVAL:  # a position before the file's begin is the archive's fault, all else the disk's
            raise
        why = "its directory points out of it"
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        why = str(error) or type(error).__name__
    raise ArchiveError("the zip archive is cut off or damaged: %s" % why, _AGAIN)


def _is_zip_folder(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system in (_UNIX, _MACINTOSH) else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "a device, pipe or socket"
        raise faulty(info.orig_filename, "is " + what, _REGULAR)
    is_folder = info.orig_filename.endswith("/")
    if is_folder and info.file_size:
        raise faulty(info.orig_filename, "is a folder with content")
    return is_folder


def _require_readable(info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise faulty(name, "is encrypted", "Send an archive without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _PATCH:
        method = _METHODS.get(info.compress_type, "method %d" % info.compress_type)
        raise faulty(name, "is packed with " + method, "Store or deflate the entries.")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise faulty(name, "is damaged: stored in %d bytes of %d" % (info.compress_size, info.file_size))


def _data_start(file: BinaryIO, info: zipfile.ZipInfo, name: str) -> int:
    """Where the data begin, after the local header, which must be that of the same entry."""
    if info.header_offset < 0:
        raise faulty(name, "begins before the archive")
    file.seek(info.header_offset)
    raw = file.read(_LOCAL.size)
    if len(raw) < _LOCAL.size or not raw.startswith(_ZIP_MAGICS[0]):
        raise faulty(name, "is not where the directory says")
    _, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(raw)
    own = file.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    if own != info.orig_filename or method != info.compress_type or flags & _ENCRYPTED:
        raise faulty(name, "is another one in its own header than in the directory")
    return int(info.header_offset + _LOCAL.size + name_length + extra_length)


# ---- tar


class TarSource:
    """The bytes of a tar, from begin to end: those of a file as they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0

    def readinto(self, view: memoryview) -> int:
        """Some bytes; 0 at the end."""
        count = int(self._file.readinto(view))  # type: ignore[attr-defined]
        self.position += count
        return count

    def skip(self, count: int) -> None:
        """Go on by `count` bytes. Beyond the end is no error yet: the next header is missing there."""
        self._file.seek(count, os.SEEK_CUR)
        self.position += count

    def finish(self) -> None:
        """Verify what follows the last entry: nothing, a tar has no checksum of its content."""


def _tar_entries(source: TarSource, length: int, limits: Limits) -> Iterator[Entry]:
    """Each entry in turn; while it is the current one, its bytes may be read from `source`."""
    tally, register = Tally(limits, length), NameRegister()
    while True:
        info = _next_header(source)
        if info is None:
            break
        is_folder = _is_tar_folder(info)
        name, size, start = register.add(info.name, is_folder), 0 if is_folder else info.size, source.position
        tally.add(name, size)
        yield Entry(name, size, start, size, is_folder=is_folder)
        source.skip(_padded(size) - (source.position - start))
    source.finish()


def _next_header(source: TarSource) -> Optional[tarfile.TarInfo]:
    """The header of the next file or folder, the extended ones before it applied; None at the end."""
    extended: Dict[str, bytes] = {}
    for _ in range(_EXTENSIONS + 1):
        block = _take(source, _HEADER)
        if block == _ZEROS:
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise ArchiveError("the tar archive is damaged: %s" % error, _AGAIN) from error
        if "path" in extended:
            info.name = str(extended["path"], "utf-8", "surrogateescape")
        if info.type not in (*_LONG_NAMES, *_PAX):
            info.size = _pax_size(extended.get("size", b"%d" % info.size), info.name)
            return info
        if _pax_size(b"%d" % info.size, info.name) > _EXTENSION_BYTES:
            raise ArchiveLimitError("an extended header of %s is larger than %d bytes" % (quoted(info.name), _EXTENSION_BYTES))
        extended.update(_extension(info.type, _take(source, _padded(info.size))[: info.size], info.name))
    raise faulty(info.name, "has more than %d extended headers" % _EXTENSIONS)


def _is_tar_folder(info: tarfile.TarInfo) -> bool:
    is_file = info.type in _FILES
    if is_file and info.name.endswith("/") and info.size:  # to some readers a file, to others a folder that hides what follows
        raise faulty(info.name, "is a folder with content")
    if not is_file and info.type != tarfile.DIRTYPE:
        what = _KINDS.get(info.type, "of a kind unknown to us")
        raise faulty(info.name, "is " + what, _REGULAR)
    return not is_file or info.name.endswith("/")


def _extension(kind: bytes, content: bytes, name: str) -> Dict[str, bytes]:
    """What an extended header says of the entry that follows: ``path``, ``size`` and other keys of pax."""
    if kind in _LONG_NAMES:
        return {"path": content.split(b"\0", 1)[0]} if kind == tarfile.GNUTYPE_LONGNAME else {}
    records = {}
    position = 0
    while position < len(content) and content[position]:  # LENGTH KEY=VALUE\n
        digits = content[position : position + 21].split(b" ", 1)[0]
        end = position + int(digits) if digits.isdigit() and len(digits) <= 20 else 0
        key, equals, value = content[position + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise faulty(name, "is damaged: its extended header makes no sense")
        records[str(key, "utf-8", "replace")] = value
        position = end
    if any(key.startswith("GNU.sparse") for key in records):
        raise faulty(name, "is a sparse file", _REGULAR)
    if kind == tarfile.XGLTYPE and {"path", "size"} & set(records):
        raise ArchiveError("the archive names all its entries alike", _AGAIN)
    return records


def _pax_size(digits: bytes, name: str) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise faulty(name, "has no sensible size")
    return int(digits)


def _take(source: TarSource, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        done = source.readinto(view)
        if not done:
            raise ArchiveError("the tar archive is cut off", _AGAIN)
        view = view[done:]
    return bytes(data)


def _padded(size: int) -> int:
    return -(-size // _HEADER) * _HEADER
