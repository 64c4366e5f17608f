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
    packed = bytearray(_HEAD)
    for block in blocks:
        data = np.frombuffer(block, np.uint8)
        size += data.size
        for first, last, is_empty in _stretches(data):
            if is_empty:
                if not is_flushed:  # nothing behind the zeros may refer to what is before them
                    packed += stream.flush(isal_zlib.Z_FULL_FLUSH)
                packed += empty
                checksum = isal_zlib.crc32_combine(checksum, of_empty, _STRETCH)
            else:
                part = data[first:last]
                packed += stream.compress(part)
                checksum = isal_zlib.crc32(part, checksum)
            is_flushed = is_empty
        if len(packed) >= _STRETCH:  # some hundred bytes at a time take longer to write than to make
            file.write(packed)
            packed = bytearray()
    packed += stream.flush(isal_zlib.Z_FINISH)
    file.write(packed + checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))


def _stretches(data: np.ndarray) -> list[tuple[int, int, bool]]:
    """Where each stretch of a block begins and ends, and whether it is a whole one of zeros."""
    whole = data.size // _STRETCH
    filled = data[: whole * _STRETCH].view(np.uint64).reshape(whole, -1).max(axis=1, initial=0) if whole else ()
    found = [(number * _STRETCH, (number + 1) * _STRETCH, not highest) for number, highest in enumerate(filled)]
    return [*found, (whole * _STRETCH, data.size, False)] if data.size % _STRETCH else found


@lru_cache(maxsize=1)
def _empty() -> tuple[bytes, int]:
    """A stretch of zeros, compressed and flushed, and its checksum."""
    zeros = bytes(_STRETCH)
    stream = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _RAW)
    return stream.compress(zeros) + stream.flush(isal_zlib.Z_FULL_FLUSH), isal_zlib.crc32(zeros)
