"""ROIContourSequence as bytes: implicit VR little endian, lengths stated (PS3.5, 7.5).

Explicit types would make values over 64 kB, which contours are, of an unknown type.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from delineate.dicom.source import Instance
from delineate.dicom.structure_set import CLOSED, COLOUR, CONTOURS, COUNT, DATA, ROI_CONTOURS, ROI_NUMBER, TYPE, XOR
from delineate.errors import ImageError
from delineate.segmentation import Colour

_LARGEST: Final = 0xFFFFFFFE
_IMAGES, _NUMBER = 0x30060016, 0x30060048
_SOP_CLASS, _SOP_INSTANCE, _FRAME = 0x00081150, 0x00081155, 0x00081160
_ITEM: Final = 0xFFFEE000
_HEAD: Final = struct.Struct("<HHI")


def element(tag: int, value: bytes, pad: bytes = b" ") -> bytes:
    """An element; values are of even length."""
    value += pad[: len(value) % 2]
    return _opened(tag, len(value)) + value


def _opened(tag: int, size: int) -> bytes:
    if size > _LARGEST:
        raise ImageError("contours of more than 4 GB do not fit in an RTSTRUCT file", "Write fewer structures.")
    return _HEAD.pack(tag >> 16, tag & 0xFFFF, size)


def _image(instance: Instance) -> bytes:
    """The slice that a contour was drawn on, and what kind of contour comes after it."""
    sop_class, sop_instance, frame = instance
    value = element(_SOP_CLASS, sop_class.encode(), b"\0") + element(_SOP_INSTANCE, sop_instance.encode(), b"\0")
    if frame:
        value += element(_FRAME, str(frame).encode())
    return element(_IMAGES, element(_ITEM, value))


class Items:
    """Makes contours of one image."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._images = [_image(instance) for instance in instances]
        self._types = [element(TYPE, kind.encode()) for kind in (CLOSED, XOR)]

    def head(self, number: int, place: int, count: int, size: int, is_xor: bool) -> bytes:
        """A contour's item up to its coordinates, which are `size` bytes of text and a blank where that is odd.

        number : among the structure's; place : of its slice; count : of points
        """
        size += size % 2
        head = self._images[place] + self._types[is_xor] + element(COUNT, b"%d" % count) + element(_NUMBER, b"%d" % number)
        return _opened(_ITEM, len(head) + 8 + size) + head + _opened(DATA, size)


@contextlib.contextmanager
def opened_region(file: BinaryIO, number: int, colour: Colour, size: int) -> Iterator[None]:
    """One item of the sequence, within which contours of `size` bytes are written."""
    before = element(COLOUR, b"\\".join(b"%d" % value for value in colour)) + _opened(CONTOURS, size)
    after = element(ROI_NUMBER, b"%d" % number)
    file.write(_opened(_ITEM, len(before) + size + len(after)) + before)
    yield
    file.write(after)


@contextlib.contextmanager
def opened_sequence(file: BinaryIO) -> Iterator[None]:
    """The whole sequence, within which its items are written; its length is known, and stated, in the end."""
    begin = file.tell()
    file.write(_opened(ROI_CONTOURS, 0))
    yield
    end = file.tell()
    head = _opened(ROI_CONTOURS, end - begin - _HEAD.size)
    file.seek(begin)
    file.write(head)
    file.seek(end)
