"""Remarks inside of compressed pixels: comments and what applications left, blanked where they stand; and what follows an image.

JPEG and JPEG-LS: COM and APPn (ITU-T T.81, B.2.4) without JFIF, SPIFF and Adobe's, which say how colours are meant; JPEG 2000:
COM (T.800, A.9.2). They may stand between scans and in tiles, too. Nothing changes its length, so offset tables stay true.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_JPEG, _J2K = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_REMARKS: Final = frozenset((0xFE, *range(0xE1, 0xE8), *range(0xE9, 0xEE), 0xEF))
_MARKER: Final = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")  # none stands within the data of a scan
_J2K_REMARK, _J2K_TILE, _J2K_DATA = 0x64, 0x90, 0x93
_IMAGE, _IMAGE_END, _SCAN = 0xD8, 0xD9, 0xDA


def without_remarks(fragments: bytes, *, is_rle: bool = False) -> bytes:
    """Encapsulated pixels with blanked remarks, and zeros behind each image; run lengths (RLE) hold no remarks.

    Raises
    ------
    ValueError
        The fragments or an image in them make no sense, or are of another form, such as a file format of its own.
    """
    content = bytearray(fragments)
    places = list(_fragments(fragments))
    if is_rle:
        return bytes(content)
    stream = _Stream(fragments, places)
    for first, last, fill in stream.blanked():
        for (begin, end), start in zip(places, stream.starts, strict=False):
            low, high = max(first, start), min(last, start + end - begin)
            if low < high:
                content[begin + low - start : begin + high - start] = fill * (high - low)
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


class _Stream:
    """The images of all fragments, one after the other: each may take several.

    Attributes
    ----------
    starts : where the fragments begin in it, and its length
    """

    def __init__(self, content: bytes, places: Sequence[tuple[int, int]]) -> None:
        self.data = b"".join(content[begin:end] for begin, end in places)
        self.starts = [0, *accumulate(end - begin for begin, end in places)]
        self._found: list[tuple[int, int, bytes]] = []

    def blanked(self) -> list[tuple[int, int, bytes]]:
        """What is to be filled, and with what."""
        at = 0
        while at < len(self.data):
            if self.data.startswith(_J2K, at):
                end = self._j2k(at + 2)
            elif self.data.startswith(_JPEG, at):
                end = self._jpeg(at + 2)
            else:
                raise ValueError("no image, or a file within the file")
            at = self._next(end)
            self._found.append((end, at, b"\0"))
        return self._found

    def _next(self, at: int) -> int:
        """Where the next fragment begins, or all ends."""
        return self.starts[bisect_left(self.starts, at)]

    def _segment(self, at: int, is_remark: bool, kind: int = 0) -> int:
        """Where a segment ends whose length stands at `at`; `kind` : bytes of a remark that say of which kind it is."""
        if at + 2 > len(self.data):
            raise ValueError("no segment")
        (length,) = struct.unpack_from(">H", self.data, at)
        if length < 2 + kind or at + length > len(self.data):
            raise ValueError("no segment")
        if is_remark:
            self._found.append((at + 2 + kind, at + length, b" "))
        return at + int(length)

    def _jpeg(self, at: int) -> int:
        """Where a JPEG or JPEG-LS image ends that begins before `at`."""
        is_scan = False
        while found := _MARKER.search(self.data, at):
            kind, begin = self.data[found.start() + 1], found.start()
            if not is_scan and self.data[at:begin].strip(b"\xff"):
                raise ValueError("no marker")
            if kind == _IMAGE_END:
                return found.end()
            if kind == _IMAGE and self._next(begin) == begin:
                return begin  # the one before has no end
            if kind == _IMAGE:
                raise ValueError("an image within an image")
            at = self._segment(found.end(), kind in _REMARKS)
            is_scan = kind == _SCAN
        if not is_scan:
            raise ValueError("no scan")
        return len(self.data)

    def _j2k(self, at: int) -> int:
        """Where a JPEG 2000 codestream ends that begins before `at`."""
        is_tile = False
        while at < len(self.data):
            if is_tile and (not any(self.data[at : self._next(at)]) or self.data.startswith(_J2K, at)):
                return at  # its end is missing
            kind = self._marker(at)
            if kind == _IMAGE_END:
                return at + 2
            is_tile = kind == _J2K_TILE
            at = self._tile(at) if is_tile else self._segment(at + 2, kind == _J2K_REMARK, 2 if kind == _J2K_REMARK else 0)
        if not is_tile:
            raise ValueError("no tile")
        return at

    def _marker(self, at: int) -> int:
        if at + 2 > len(self.data) or self.data[at] != 0xFF:
            raise ValueError("no marker")
        return self.data[at + 1]

    def _tile(self, begin: int) -> int:
        """Where a part of a tile ends."""
        at = self._segment(begin + 2, False)
        if at != begin + 12:
            raise ValueError("no tile")
        (length,) = struct.unpack_from(">I", self.data, begin + 6)
        while (kind := self._marker(at)) != _J2K_DATA:
            at = self._segment(at + 2, kind == _J2K_REMARK, 2 if kind == _J2K_REMARK else 0)
        end = begin + length if length else self.data.find(b"\xff\xd9", at)
        if not at + 2 <= end <= len(self.data):
            raise ValueError("no tile")
        return int(end)
