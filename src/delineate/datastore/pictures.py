"""Whether a picture is whole, by its frame: no pixel is decoded, and nothing that a file says of its size costs memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from delineate.errors import ImageError

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_TIFF: Final = {b"II*\x00": "<I", b"MM\x00*": ">I", b"II+\x00": "<Q", b"MM\x00+": ">Q"}
_TAIL: Final = 64 << 10  # bytes that a camera may have put behind the picture


def require_picture(path: Path, extension: str) -> None:
    """Look at a PNG, JPEG or TIFF file.

    Raises `ImageError` for one that is something else than its extension says, or is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        if extension == ".png":
            is_right, is_whole = start.startswith(_PNG), _ends_png
        elif extension in (".jpg", ".jpeg"):
            is_right, is_whole = start.startswith(_JPEG), _ends_jpeg
        else:
            is_right, is_whole = start[:4] in _TIFF, _has_directory
        if not is_right or len(start) < 16:
            raise ImageError(f"the file is not what its name says: no {extension[1:].upper()} image", "Export the image again.")
        if not is_whole(file, size):
            raise ImageError("the file is cut off or damaged", "Export or send the image again.")


def _ends_png(file: BinaryIO, size: int) -> bool:
    """Chunks up to the one that ends the picture; the first says how large it is (PNG specification, 5.3)."""
    place, is_first = len(_PNG), True
    while place + 12 <= size:
        file.seek(place)
        length, kind, *sides = struct.unpack(">I4s2I", file.read(16).ljust(16, b"\0"))
        if is_first and (kind != b"IHDR" or 0 in sides):
            return False
        place, is_first = place + 12 + length, False
        if kind == b"IEND":
            return bool(place <= size)
    return False


def _ends_jpeg(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - _TAIL))
    return b"\xff\xd9" in file.read()


def _has_directory(file: BinaryIO, size: int) -> bool:
    """Whether the first directory is in the file, its entries too; pixels may lie anywhere (TIFF 6.0, 2)."""
    file.seek(0)
    order = _TIFF[file.read(4)]
    is_big = order[1] == "Q"
    file.seek(8 if is_big else 4)
    (place,) = struct.unpack(order, file.read(struct.calcsize(order)))
    count_of, entry = (order[0] + "Q", 20) if is_big else (order[0] + "H", 12)
    if place + struct.calcsize(count_of) > size:
        return False
    file.seek(place)
    (count,) = struct.unpack(count_of, file.read(struct.calcsize(count_of)))
    return bool(count > 0 and place + struct.calcsize(count_of) + count * entry <= size)
