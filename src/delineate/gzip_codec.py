"""Gzip streams as fast as the machine allows: ISA-L (`isal`) where it is installed, else zlib.

Both write one gzip member of level 1 with no name, no time stamp and no extra field, so the same
bytes in give the same bytes out, and readers that stop after the first member see everything.

One thread compresses. Blocks compressed by several threads can be joined into one member too, in
half the time on two cores, but ISA-L then now and then chose other (equally valid) matches: one
block in some thousands differed from run to run, and results are compared byte for byte.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import zlib
from typing import Any, BinaryIO, Iterable, Union

try:
    from isal import isal_zlib
except ImportError:
    _deflate: Any = zlib
else:
    _deflate = isal_zlib

MAGIC = b"\x1f\x8b"
LEVEL = 1
HIGHEST_RATIO = 1032
"""Deflate cannot yield more bytes than this for each byte it is given (RFC 1951: 258 bytes for two bits)."""

ERRORS = (EOFError, zlib.error, _deflate.error)
"""What a stream that is cut off (`EOFError`) or damaged raises."""

_GZIP_WINDOW = 31  # 15 bits of window, plus 16 for the gzip wrapper
_INPUT = 1 << 18  # bytes read at once, and
_OUTPUT = 1 << 20  # bytes inflated at once: what fits the processor's cache
_LONGEST_TAIL = 64 << 20


def compress(blocks: Iterable[Union[bytes, memoryview]], file: BinaryIO) -> None:
    """Write `blocks` of bytes, one after the other, to `file` as one gzip member."""
    stream = _deflate.compressobj(LEVEL, _deflate.DEFLATED, _GZIP_WINDOW)
    for block in blocks:
        file.write(stream.compress(block))
    file.write(stream.flush())


class GzipReader:
    """Reads a gzip stream of one or more members from where `file` stands; what follows the last member is ignored.

    Not built on `gzip.GzipFile`: that takes twice the time to fill an array, and loses what it has read when it meets
    something behind the last member. Raises `ERRORS`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = _deflate.decompressobj(_GZIP_WINDOW)
        self._pending = b""
        self._ended = False

    def readinto(self, view: memoryview) -> int:
        """Fill `view` with decompressed bytes: how many there were, less than its length at the end of the stream only."""
        filled = 0
        while filled < len(view):
            block = self._inflate(len(view) - filled)
            if not block:
                break
            view[filled : filled + len(block)] = block
            filled += len(block)
        return filled

    def finish(self) -> None:
        """Read on to the end, so that the checksum is verified; a tail of more than 64 MiB is not worth the time."""
        count = 0
        while count < _LONGEST_TAIL:
            block = self._inflate(_OUTPUT)
            if not block:
                return
            count += len(block)

    def _inflate(self, limit: int) -> bytes:
        """Up to `limit` bytes, none at the end of the stream only."""
        while not self._ended:
            data = self._pending or self._file.read(_INPUT)
            block: bytes = self._member.decompress(data, min(limit, _OUTPUT))
            self._pending = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if self._member.eof:
                self._next_member()
            if block:
                return block
            if not data and not self._ended:
                raise EOFError("the stream ends before its end mark")
        return b""

    def _next_member(self) -> None:
        # Tapes and block devices pad with zeros, between members as well.
        while len(self._pending) < len(MAGIC):
            more = self._file.read(_INPUT)
            self._pending = (self._pending + more).lstrip(b"\0")
            if not more:
                break
        self._pending = self._pending.lstrip(b"\0")
        self._ended = self._pending[: len(MAGIC)] != MAGIC
        self._member = _deflate.decompressobj(_GZIP_WINDOW)
