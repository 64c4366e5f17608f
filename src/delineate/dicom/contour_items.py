"""ROIContourSequence as bytes: implicit VR little endian, lengths stated (PS3.5, 7.5).

Explicit types would make values over 64 kB, which contours are, of an unknown type.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from delineate.dicom.source import Instance
from delineate.dicom.structure_set import CLOSED, COLOUR, CONTOURS, COUNT, DATA, ROI_CONTOURS, ROI_NUMBER, TYPE, XOR
from delineate.errors import ImageError
from delineate.segmentation import Colour

_LARGEST = 0xFFFFFFFE
_IMAGES = 0x30060016
_NUMBER = 0x30060048
_SOP_CLASS, _SOP_INSTANCE, _FRAME = 0x00081150, 0x00081155, 0x00081160
_ITEM = 0xFFFEE000


def element(tag: int, value: bytes, pad: bytes = b" ") -> bytes:
    """An element; values are of even length."""
    value += pad[: len(value) % 2]
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


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
        self._head = struct.Struct("<HHI")

    def contours(self, slices: Iterable[int], counts: Iterable[int], texts: Iterable[bytes], is_xor: bool) -> Iterator[bytes]:
        """One structure's contours, each with its slice, the number of its points and their coordinates as text."""
        images, kind, pack = self._images, self._types[is_xor], self._head.pack
        for number, (place, count, text) in enumerate(zip(slices, counts, texts, strict=True), 1):
            size = len(text) + len(text) % 2
            head = images[place] + kind + element(COUNT, b"%d" % count) + element(_NUMBER, b"%d" % number)
            yield pack(_ITEM >> 16, _ITEM & 0xFFFF, len(head) + 8 + size) + head + pack(DATA >> 16, DATA & 0xFFFF, size)
            yield text if size == len(text) else text + b" "


def region(number: int, colour: Colour, contours: list[bytes]) -> list[bytes]:
    """One item of the sequence, in parts."""
    before = element(COLOUR, b"\\".join(b"%d" % value for value in colour))
    after = element(ROI_NUMBER, b"%d" % number)
    head = _opened(CONTOURS, sum(map(len, contours)))
    size = len(before) + len(head) + sum(map(len, contours)) + len(after)
    return [_opened(_ITEM, size), before, head, *contours, after]


def sequence(regions: list[list[bytes]]) -> list[bytes]:
    """The whole sequence, in parts."""
    parts = [part for item in regions for part in item]
    return [_opened(ROI_CONTOURS, sum(map(len, parts))), *parts]


def _opened(tag: int, size: int) -> bytes:
    if size > _LARGEST:
        raise ImageError("contours of more than 4 GB do not fit in an RTSTRUCT file", "Write fewer structures.")
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, size)
