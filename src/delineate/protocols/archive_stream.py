"""The bytes of one entry as a file that can be read once, from begin to end, checked on the way.

Runs on Python 3.7 and newer with the standard library alone; ISA-L's checksum is used where it is installed.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO, Callable, Optional

from delineate.errors import ArchiveError
from delineate.protocols.archive_names import DEFLATED, Entry, quoted

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

BLOCK = 1 << 20

ReadInto = Callable[[memoryview], int]


class EntryStream(io.RawIOBase):
    """Reads one entry; `ArchiveError` where its bytes end early or its checksum is wrong."""

    def __init__(self, entry: Entry, source: ReadInto) -> None:
        super().__init__()
        self.entry = entry
        self._source = source
        self._owned: Optional[BinaryIO] = None
        self._left = entry.size
        self._crc = 0

    def own(self, file: BinaryIO) -> None:
        """Close `file` when this is closed."""
        self._owned = file

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill what can be filled at once; 0 at the end, which is where the checksum is compared."""
        view = memoryview(buffer).cast("B")[: self._left]
        count = self._source(view) if view else 0
        if view and not count:
            raise ArchiveError("entry %s of the archive is cut off" % quoted(self.entry.name), "Send the archive again.")
        self._left -= count
        if self.entry.crc is not None:
            self._crc = crc32(view[:count], self._crc)
            if not self._left and self._crc != self.entry.crc:
                raise _damaged(self.entry, "its checksum is wrong")
        return count

    def finish(self) -> None:
        """Read what is left, so that the checksum is verified."""
        scratch = bytearray(min(BLOCK, self._left + 1))
        while self.readinto(scratch):
            pass

    def close(self) -> None:
        """Close the file it owns, if any."""
        if self._owned is not None and not self.closed:
            self._owned.close()
        super().close()


def is_damage(error: Exception) -> bool:
    """Whether an error of a decompressor tells of damaged data, and not of the disk, the memory or what was found already.

    The codecs in use have an error class each, without a common base.
    """
    return not isinstance(error, (ArchiveError, MemoryError)) and getattr(error, "errno", None) is None


class Inflater:
    """Unpacks the raw deflate data of `entry` from where `file` stands."""

    def __init__(self, entry: Entry, file: BinaryIO) -> None:
        self._entry = entry
        self._file = file
        self._left = entry.packed
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed = b""

    def readinto(self, view: memoryview) -> int:
        """Some unpacked bytes; 0 when there are no more."""
        while not self._stream.eof:
            if not self._packed and self._left:
                self._packed = self._file.read(min(BLOCK, self._left))
                self._left -= len(self._packed)
                if not self._packed:
                    return 0
            try:
                data = self._stream.decompress(self._packed, len(view))
            except zlib.error as error:
                raise _damaged(self._entry, str(error)) from None
            stalled = not data and not self._left and not self._stream.unconsumed_tail
            self._packed = self._stream.unconsumed_tail
            if data:
                view[: len(data)] = data
                return len(data)
            if stalled:
                return 0
        return 0


def file_stream(entry: Entry, file: BinaryIO) -> EntryStream:
    """The stream of an entry whose bytes begin at ``entry.start`` of `file`."""
    file.seek(entry.start)
    if entry.method == DEFLATED:
        return EntryStream(entry, Inflater(entry, file).readinto)
    return EntryStream(entry, file.readinto)  # type: ignore[attr-defined]


def _damaged(entry: Entry, why: str) -> ArchiveError:
    return ArchiveError("entry %s of the archive is damaged: %s" % (quoted(entry.name), why), "Send the archive again.")
