"""The entries of a tar archive, plain or gzipped, read once from begin to end without trust (POSIX.1-2001 ustar and pax, GNU long names).

The standard library decodes a header block. It is not left to walk the archive: on the Pythons we run on it reads an
extended header of any size into memory, takes negative sizes, and accepts an archive that was cut off between entries.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import os
import tarfile
from typing import BinaryIO, Dict, Iterator, NamedTuple, Optional, Union

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.gzip_codec import MAGIC as GZIP_MAGIC
from delineate.gzip_codec import GzipReader
from delineate.protocols.archive_entries import Entry, Limits, NameRegister, Tally, is_damage, quoted

BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(BLOCK)

_SCRATCH = 1 << 16
_EXTENSION_BYTES = 1 << 20  # of one extended header: names and times take hundreds
_EXTENSIONS = 8  # extended headers before one entry
_PADDING = 1 << 24  # zeros after the end that are read to reach the gzip checksum
_ENTRY_OVERHEAD = 4 * BLOCK

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSION_TYPES = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip


class PlainSource:
    """The bytes of an open ``.tar``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0

    def readinto(self, view: memoryview) -> int:
        """Some bytes; 0 at the end."""
        count = int(self._file.readinto(view))  # type: ignore[attr-defined]
        self.position += count
        return count

    def skip(self, count: int) -> None:
        """Go on by `count` bytes."""
        # Beyond the end is no error yet: the next header is missing there.
        self._file.seek(count, os.SEEK_CUR)
        self.position += count

    def finish(self) -> None:
        """Nothing to verify: a tar has no checksum of its content."""


class GzipSource:
    """The unpacked bytes of an open ``.tar.gz``, of which `tally` allows so many and not one more."""

    def __init__(self, file: BinaryIO, tally: Tally, most: int) -> None:
        self._gzip = GzipReader(file)
        self._tally = tally
        self._most = most
        self.position = 0

    def readinto(self, view: memoryview) -> int:
        """Some bytes; 0 at the end."""
        if self.position > self._most:
            self._tally.require(self.position)
        try:
            count = self._gzip.readinto(view)
        except Exception as error:
            if not is_damage(error):
                raise
            if isinstance(error, EOFError):
                raise _cut_off() from error
            raise ArchiveError("the gzip data of the archive is damaged: %s" % error, "Send the archive again.") from error
        self.position += count
        return count

    def skip(self, count: int) -> None:
        """Go on by `count` bytes."""
        scratch = memoryview(bytearray(min(_SCRATCH, count)))
        while count:
            done = self.readinto(scratch[:count])
            if not done:
                raise _cut_off()
            count -= done

    def finish(self) -> None:
        """Read to the end of the gzip data, whose checksum is verified there."""
        scratch = memoryview(bytearray(_SCRATCH))
        end = self.position + _PADDING
        while self.readinto(scratch):
            if self.position > end:
                raise ArchiveError("the archive goes on after its end", "Send one tar archive.")


Source = Union[PlainSource, GzipSource]


def tar_source(file: BinaryIO, length: int, limits: Limits, packed: bool) -> Source:
    """The bytes of the tar in `file` of `length` bytes; `packed`: whether gzip is around it."""
    if not packed:
        return PlainSource(file)
    tally = Tally(limits, length)
    return GzipSource(file, tally, tally.headroom(_ENTRY_OVERHEAD) + _PADDING)


def is_tar(block: bytes) -> bool:
    """Whether the first block of a file is that of a tar archive."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return len(block) == BLOCK and block == ZEROS
    return True


def tar_entries(source: Source, length: int, limits: Limits) -> Iterator[Entry]:
    """Each entry in turn; while it is the current one, its bytes may be read from `source`.

    Raises
    ------
    ArchiveError
        Cut off (also between two entries: the end mark is missing), damaged, unsafe names, links, devices, sparse files.
    ArchiveLimitError
        More than `limits` allow, before the bytes are read.
    """
    tally = Tally(limits, length)
    register = NameRegister()
    while True:
        header = _next_header(source)
        if header is None:
            break
        name = register.add(header.name, header.is_folder)
        tally.add(name, header.size)
        start = source.position
        yield Entry(name, header.size, start, header.size, is_folder=header.is_folder)
        source.skip(_padded(header.size) - (source.position - start))
    source.finish()


class _Header(NamedTuple):
    name: str
    size: int
    is_folder: bool


class _Extended:
    """What the extended headers before an entry say of it."""

    def __init__(self) -> None:
        self.name: Optional[str] = None
        self.size: Optional[int] = None

    def take(self, kind: bytes, content: bytes, where: str) -> None:
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = str(content.split(b"\0", 1)[0], "utf-8", "surrogateescape")
        elif kind != tarfile.GNUTYPE_LONGLINK:
            self._take_pax(_pax_records(content, where), kind == tarfile.XGLTYPE, where)

    def _take_pax(self, records: Dict[str, bytes], for_all: bool, where: str) -> None:
        if any(key.startswith("GNU.sparse") for key in records):
            raise ArchiveError("%s is a sparse file" % where, "Send regular files only.")
        if for_all and {"path", "size"} & set(records):
            raise ArchiveError("the archive names all its entries alike", "Send the archive again.")
        if "path" in records:
            self.name = str(records["path"], "utf-8", "surrogateescape")
        if "size" in records:
            digits = records["size"]
            if not digits.isdigit() or len(digits) > 20:
                raise ArchiveError("%s has no sensible size" % where, "Send the archive again.")
            self.size = int(digits)


def _next_header(source: Source) -> Optional[_Header]:
    """The header of the next file or folder, the extended ones before it applied; None at the end."""
    extended = _Extended()
    for _ in range(_EXTENSIONS + 1):
        block = _take(source, BLOCK)
        if block == ZEROS:
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise ArchiveError("the tar archive is damaged: %s" % error, "Send the archive again.") from error
        where = "entry %s of the archive" % quoted(extended.name or info.name)
        if info.size < 0:
            raise ArchiveError("%s has no sensible size" % where, "Send the archive again.")
        if info.type not in _EXTENSION_TYPES:
            return _header(info, extended, where)
        if info.size > _EXTENSION_BYTES:
            raise ArchiveLimitError("an extended header of %s is larger than %d bytes" % (where, _EXTENSION_BYTES))
        extended.take(info.type, _take(source, _padded(info.size))[: info.size], where)
    raise ArchiveError("%s has more than %d extended headers" % (where, _EXTENSIONS), "Send the archive again.")


def _header(info: tarfile.TarInfo, extended: _Extended, where: str) -> _Header:
    name = info.name if extended.name is None else extended.name
    if info.type == tarfile.DIRTYPE or (info.type in _FILES and name.endswith("/")):
        return _Header(name, 0, True)
    if info.type not in _FILES:
        raise ArchiveError("%s is %s" % (where, _KINDS.get(info.type, "of a kind unknown to us")), "Send regular files only.")
    return _Header(name, info.size if extended.size is None else extended.size, False)


def _pax_records(content: bytes, where: str) -> Dict[str, bytes]:
    """Records ``LENGTH KEY=VALUE\\n`` of a pax header; a later one of a key wins."""
    records = {}
    position = 0
    while position < len(content) and content[position]:
        digits = content[position : position + 21].split(b" ", 1)[0]
        end = position + int(digits) if digits.isdigit() and len(digits) <= 20 else 0
        record = content[position + len(digits) + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise ArchiveError("an extended header of %s is damaged" % where, "Send the archive again.")
        records[str(key, "utf-8", "replace")] = value
        position = end
    return records


def _take(source: Source, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        done = source.readinto(view)
        if not done:
            raise _cut_off()
        view = view[done:]
    return bytes(data)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _cut_off() -> ArchiveError:
    return ArchiveError("the tar archive is cut off", "Send the archive again.")


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins so is gzip data."""
    return head.startswith(GZIP_MAGIC)
