"""What compressed pixels say of their own size, before a decoder believes it.

Decoders take memory by the size in the code stream; one that is damaged, or made to, has others than the header, and at least
one decoder never ends with a height of 0. JPEG and JPEG-LS: the frame header (ITU-T T.81, B.2.2); JPEG 2000: SIZ (T.800, A.5.1).
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from delineate.dicom.header import AGAIN, Header
from delineate.dicom.pixel_format import PixelFormat
from delineate.errors import ImageError

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_START: Final = 1 << 16  # bytes of a fragment in which its size must be told
_JPEG, _J2K, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_FRAME_HEADERS: Final = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))


def require_sizes(header: Header, form: PixelFormat) -> None:
    """Compare the size in each code stream with Rows and Columns.

    Raises
    ------
    ImageError
        They differ, or the fragments make no sense.
    OSError
        The file cannot be read.
    """
    with header.path.open("rb") as file:
        file.seek(header.offset)
        is_table = True  # the first item says where frames begin
        while True:
            head = file.read(8)
            if head[:4] == _END:
                return
            if len(head) < 8 or head[:4] != _ITEM:
                raise ImageError(f"the fragments of PixelData of {header.name} are cut off or damaged", AGAIN)
            (length,) = struct.unpack("<I", head[4:])
            following = file.tell() + length
            if following > header.size:
                raise ImageError(f"{header.name} is cut off: {following - header.size} bytes of its PixelData are missing", AGAIN)
            if not is_table:
                _require_size(file, length, header, form)
            is_table = False
            file.seek(following)


def _require_size(file: BinaryIO, length: int, header: Header, form: PixelFormat) -> None:
    try:
        found = size_of(file.read(min(length, _START)))
    except (struct.error, IndexError):
        found = (0, 0)
    if found is not None and found != (form.rows, form.columns):
        words = f"{found[1]} x {found[0]} pixels instead of Columns x Rows, {form.columns} x {form.rows}"
        raise ImageError(f"the PixelData of {header.name} says {words}", AGAIN)


def size_of(start: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a fragment with which a code stream begins; None where it goes on with one, or is of another kind.

    Raises `struct.error` or IndexError where it is cut off or damaged.
    """
    if start.startswith(_JP2):
        at = start.find(_J2K)
        start = start[at:] if at >= 0 else b""
        return _of_jpeg_2000(start)
    if start.startswith(_J2K):
        return _of_jpeg_2000(start)
    return _of_jpeg(start) if start.startswith(_JPEG) else None


def _of_jpeg_2000(start: bytes) -> tuple[int, int]:
    right, bottom, left, top = struct.unpack_from(">4I", start, 8)
    return bottom - top, right - left


def _of_jpeg(start: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while start[at] == 0xFF and start[at + 1] == 0xFF:
            at += 1  # fill
        if start[at] != 0xFF:
            raise struct.error("no marker")
        kind = start[at + 1]
        (length,) = struct.unpack_from(">H", start, at + 2)
        if kind in _FRAME_HEADERS:
            rows, columns = struct.unpack_from(">2H", start, at + 5)
            return rows, columns
        at += 2 + length
