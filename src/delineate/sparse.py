"""Gzip of arrays that are mostly zero, such as label maps: what is empty is not compressed again and again.

One member, as of `nifti_codec.write`. A stretch of zeros between two full flushes always comes to the same bytes: it is compressed
once. The checksum of the whole is put together from those of its parts, which zlib can do and Python's `zlib` cannot: without
ISA-L (`isal`) all is compressed as it comes. Source: RFC 1951 and 1952.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import BinaryIO, Final

import numpy as np

from delineate import nifti_codec

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

_STRETCH: Final = 1 << 18  # bytes: one slice of 512 x 512 voxels
_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no name, no time, an unknown system
_LEVEL, _RAW = 1, -15


def write(blocks: Iterable[bytes | memoryview], file: BinaryIO) -> None:
    """Write blocks of bytes, one after the other, to `file` as one gzip member."""
    if isal_zlib is None:
        nifti_codec.write(blocks, file)
        return
    empty, of_empty = _empty()
    stream = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _RAW)
    checksum = size = 0
    is_flushed = True
    file.write(_HEAD)
    for block in blocks:
        data = np.frombuffer(block, np.uint8)
        size += data.size
        for first in range(0, data.size, _STRETCH):
            part = data[first : first + _STRETCH]
            if part.size == _STRETCH and not part.view(np.uint64).max():
                if not is_flushed:  # nothing behind the zeros may refer to what is before them
                    file.write(stream.flush(isal_zlib.Z_FULL_FLUSH))
                file.write(empty)
                checksum = isal_zlib.crc32_combine(checksum, of_empty, _STRETCH)
                is_flushed = True
            else:
                file.write(stream.compress(part))
                checksum = isal_zlib.crc32(part, checksum)
                is_flushed = False
    file.write(stream.flush(isal_zlib.Z_FINISH))
    file.write(checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))


@lru_cache(maxsize=1)
def _empty() -> tuple[bytes, int]:
    """A stretch of zeros, compressed and flushed, and its checksum."""
    zeros = bytes(_STRETCH)
    stream = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _RAW)
    return stream.compress(zeros) + stream.flush(isal_zlib.Z_FULL_FLUSH), isal_zlib.crc32(zeros)
