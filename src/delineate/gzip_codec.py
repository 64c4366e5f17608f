"""Gzip streams as fast as the machine allows: ISA-L (`isal`) where it is installed, else zlib.

Both write one gzip member of level 1 with no name, no time stamp and no extra field, so the same
bytes in give the same bytes out, and readers that stop after the first member see everything.

One thread compresses. Blocks compressed by several threads can be joined into one member too, in
half the time on two cores, but ISA-L then now and then chose other (equally valid) matches: one
block in some thousands differed from run to run, and results are compared byte for byte.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any, BinaryIO, Iterable, Union

try:
    from isal import igzip, isal_zlib
except ImportError:
    _deflate: Any = zlib
    _gzip: Any = gzip
else:
    _deflate = isal_zlib
    _gzip = igzip

MAGIC = b"\x1f\x8b"
LEVEL = 1
HIGHEST_RATIO = 1032
"""Deflate cannot yield more bytes than this for each byte it is given (RFC 1951: 258 bytes for two bits)."""

_GZIP_WINDOW = 31  # 15 bits of window, plus 16 for the gzip wrapper
BLOCK = 1 << 20


def compress(blocks: Iterable[Union[bytes, memoryview]], file: BinaryIO) -> None:
    """Write `blocks` of bytes, one after the other, to `file` as one gzip member."""
    stream = _deflate.compressobj(LEVEL, _deflate.DEFLATED, _GZIP_WINDOW)
    for block in blocks:
        file.write(stream.compress(block))
    file.write(stream.flush())


class GzipReader:
    """Reads a gzip stream of one or more members from where `file` stands; what follows the last member is ignored.

    Errors of a damaged or cut-off stream are `EOFError`, `OSError` or `zlib.error`, as in the standard library.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._stream: BinaryIO = _gzip.GzipFile(fileobj=file, mode="rb")

    def readinto(self, view: memoryview) -> int:
        """Fill `view` with decompressed bytes: how many there were, less than its length at the end of the stream only."""
        filled = 0
        while filled < len(view):
            count = self._some(view[filled:])
            if not count:
                break
            filled += count
        return filled

    def finish(self) -> None:
        """Read on to the end of the stream, so that its checksum is verified; a tail beyond 64 MiB is not worth the time."""
        scratch = memoryview(bytearray(BLOCK))
        for _ in range(64):
            if not self._some(scratch):
                return

    def _some(self, view: memoryview) -> int:
        try:
            return int(self._stream.readinto(view))  # type: ignore[attr-defined]
        except OSError as error:
            # Bytes after the last member are no part of the stream; a wrong first member is the caller's to find by its magic.
            if "Not a gzipped file" in str(error):
                return 0
            raise
