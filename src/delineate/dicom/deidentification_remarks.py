"""Remarks inside of compressed pixels: comments and what applications left, blanked where they stand.

JPEG and JPEG-LS: COM and APPn (ITU-T T.81, B.2.4) without JFIF, SPIFF and Adobe's, which say how colours are meant; JPEG 2000:
COM (T.800, A.9.2). Nothing changes its length, so offset tables stay true.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_JPEG, _J2K, _JP2 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_REMARKS: Final = frozenset((0xFE, *range(0xE1, 0xE8), *range(0xE9, 0xEE), 0xEF))
_J2K_REMARK, _J2K_TILE = 0x64, 0x90
_SCAN: Final = 0xDA


def without_remarks(fragments: bytes) -> bytes:
    """Encapsulated pixels with blanked remarks.

    Raises
    ------
    ValueError
        The fragments or the beginning of one make no sense, or are wrapped in a file format of their own.
    """
    content = bytearray(fragments)
    for begin, end in _fragments(fragments):
        start = fragments[begin : begin + 12]
        if start.startswith(_JP2):
            raise ValueError("a file within the file")
        if start.startswith((_JPEG, _J2K)):
            for first, last in _remarks(fragments, begin + 2, end, start.startswith(_J2K)):
                content[first:last] = b" " * (last - first)
    return bytes(content)


def _fragments(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each fragment begins and ends, the offset table left out."""
    at, is_table = 0, True
    while at + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHI", data, at)
        tag, at = group << 16 | element, at + 8
        if tag == _END:
            return
        if tag != _ITEM or at + length > len(data):
            raise ValueError("no fragment")
        if not is_table:
            yield at, at + length
        is_table = False
        at += length


def _remarks(data: bytes, at: int, end: int, is_j2k: bool) -> Iterator[tuple[int, int]]:
    """Where the contents of remarks stand before the first scan or tile."""
    while at + 4 <= end:
        while data[at] == 0xFF and data[at + 1] == 0xFF and at + 4 < end:
            at += 1  # fill
        if data[at] != 0xFF:
            raise ValueError("no marker")
        kind = data[at + 1]
        if kind == (_J2K_TILE if is_j2k else _SCAN):
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2 or at + 2 + length > end:
            raise ValueError("no segment")
        if is_j2k and kind == _J2K_REMARK:
            yield at + 6, at + 2 + length  # after the kind of remark
        elif not is_j2k and kind in _REMARKS:
            yield at + 4, at + 2 + length
        at += 2 + length
