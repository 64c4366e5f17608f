"""The directory of a zip archive, read without trust (PKWARE APPNOTE 6.3).

The standard library parses the central directory; what it does not check on every Python we run on is checked here:
its size, entries that overlap (one packed byte unpacked many times), local headers that say something else, links.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
from typing import Any, BinaryIO, List, Tuple

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.protocols.archive_entries import DEFLATED, STORED, Entry, Limits, NameRegister, Tally, quoted

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")

_LOCAL = struct.Struct("<4s2HH2H3L2H")  # signature, version, flags, method, time, date, crc, packed, size, lengths
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCH = 0x20
_UTF8 = 0x800
_UNIX, _MACINTOSH = 3, 19
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES"}
_DIRECTORY_BYTES = 512  # per allowed entry: several times what one takes


def zip_entries(file: BinaryIO, length: int, limits: Limits) -> List[Entry]:
    """All entries of the zip archive `file` of `length` bytes, in the order of its directory.

    Raises
    ------
    ArchiveError
        Cut off, damaged, encrypted, packed in a way we do not read, overlapping, unsafe names, links.
    ArchiveLimitError
        More than `limits` allow, by what the directory declares; unpacking never yields more than that.
    """
    infos, directory = _directory(file, limits)
    tally = Tally(limits, length)
    register = NameRegister()
    entries = []
    extents = []
    for info in infos:
        is_folder = _is_folder(info)
        name = register.add(info.orig_filename, is_folder)
        tally.add(name, info.file_size)
        _require_readable(info, name)
        start = _data_start(file, info, name)
        extents.append((info.header_offset, start + info.compress_size, name))
        entries.append(Entry(name, info.file_size, start, info.compress_size, info.compress_type, info.CRC, is_folder))
    _require_apart(extents, directory)
    return entries


class _Bounded:
    """A file of which no more than `most` bytes are read at once: the library reads a directory whole, of any size."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

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
    raise ArchiveError("the zip archive is cut off or damaged: %s" % why, "Send the archive again.")


def _is_folder(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system in (_UNIX, _MACINTOSH) else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "a device, pipe or socket"
        raise ArchiveError("entry %s of the archive is %s" % (quoted(info.orig_filename), what), "Send regular files only.")
    if not info.orig_filename.endswith("/"):
        return False
    if info.file_size:
        raise ArchiveError("entry %s of the archive is a folder with content" % quoted(info.orig_filename))
    return True


def _require_readable(info: zipfile.ZipInfo, name: str) -> None:
    where = "entry %s of the archive" % quoted(name)
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError("%s is encrypted" % where, "Send an archive without a password.")
    if info.compress_type not in (STORED, DEFLATED) or info.flag_bits & _PATCH:
        method = _METHODS.get(info.compress_type, "method %d" % info.compress_type)
        raise ArchiveError("%s is packed with %s" % (where, method), "Store or deflate the entries.")
    if info.compress_type == STORED and info.compress_size != info.file_size:
        raise ArchiveError("%s is damaged: stored in %d bytes of %d" % (where, info.compress_size, info.file_size))


def _data_start(file: BinaryIO, info: zipfile.ZipInfo, name: str) -> int:
    """Where the data begin, after the local header, which must be that of the same entry."""
    where = "entry %s of the archive" % quoted(name)
    if info.header_offset < 0:
        raise ArchiveError("%s begins before the archive" % where)
    file.seek(info.header_offset)
    raw = file.read(_LOCAL.size)
    if len(raw) < _LOCAL.size or not raw.startswith(MAGICS[0]):
        raise ArchiveError("%s is not where the archive's directory says" % where, "Send the archive again.")
    _, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(raw)
    own = file.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    if own != info.orig_filename or method != info.compress_type or flags & _ENCRYPTED:
        raise ArchiveError("%s is another one in its own header than in the archive's directory" % where, "Send the archive again.")
    return int(info.header_offset + _LOCAL.size + name_length + extra_length)


def _require_apart(extents: List[Tuple[int, int, str]], directory: int) -> None:
    extents = sorted(extents)
    ends = [begin for begin, _, _ in extents[1:]] + [directory]
    for (_, end, name), limit in zip(extents, ends):
        if end > limit:
            raise ArchiveError("entry %s of the archive overlaps what follows it" % quoted(name), "Send the archive again.")
