"""What stands in a DICOM file before its pixels, as far as it is needed, fast: a fifth of a millisecond a file.

A walk over the elements of PS3.5, chapter 7, that decodes none and keeps the bytes of a few. Written here because a
library decodes every element of every slice; libraries read the rest: nested sequences and compressed pixels. Nothing in
a file is trusted: lengths are held against the file's, nesting has a limit.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from delineate.dicom.attributes import DOUBLES, FLOAT_PIXELS, NAMES, PIXELS, PRESENCE
from delineate.errors import ImageError

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
NATIVE: Final = frozenset((IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED))

AGAIN: Final = "Export or send the file again."

_STEPS: Final = (1 << 15, 1 << 18, 1 << 22, 1 << 26, 1 << 30)  # bytes read of a file until its pixels are reached
_HEADER: Final = 1 << 26  # bytes of an inflated header
_LONGEST: Final = 1 << 20  # bytes that are kept of one value
_ELEMENTS: Final = 1 << 16  # beside each other; a file has some hundreds
DEEPEST: Final = 32
LONG: Final = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT: Final = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM",
     b"UI", b"UL", b"US")
)  # fmt: skip
UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PREAMBLE: Final = 132


class NotDicomError(Exception):
    """A file of another format."""


class ShortError(Exception):
    """The bytes that were read end before the header does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """The elements of one file that `attributes` names, as bytes.

    path : of the file; name : how to call it to a person; syntax : transfer syntax UID; order : ``<`` or ``>``;
    size : bytes of the file; offset, length : of the value of Pixel Data, -1 where there is none, length -1 where it is in
    fragments; packed : where the deflated content begins, within which `offset` counts; -1 where nothing is deflated.
    """

    path: Path
    name: str
    syntax: str
    order: str
    size: int
    offset: int
    length: int
    elements: dict[str, bytes] = field(repr=False)
    packed: int = -1

    @property
    def has_pixels(self) -> bool:
        """Whether there is Pixel Data."""
        return self.offset >= 0

    def text(self, name: str) -> str:
        """An attribute as text, empty where it is missing or empty."""
        raw = self.elements.get(name)
        return raw.decode("latin-1").strip(" \0") if raw else ""

    def texts(self, name: str) -> tuple[str, ...]:
        """The values of an attribute, none where it is missing or empty."""
        text = self.text(name)
        return tuple(part.strip() for part in text.split("\\")) if text else ()

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """`count` finite numbers, None where the attribute is missing or empty.

        Raises
        ------
        ImageError
            Another count, or no numbers.
        """
        text = self.text(name)
        if not text:
            return None
        try:
            values = tuple(map(float, text.split("\\")))
        except ValueError:
            values = ()
        if len(values) != count or not all(-1e30 < value < 1e30 for value in values):
            raise ImageError(f"{name} of {self.name} is {_quoted(text)} instead of {count} {'numbers' if count > 1 else 'number'}", AGAIN)
        return values

    def number(self, name: str) -> float | None:
        """One finite number, None where the attribute is missing or empty."""
        found = self.numbers(name, 1)
        return None if found is None else found[0]

    def short(self, name: str) -> int | None:
        """A whole number in two bytes, None where the attribute is missing or empty."""
        raw = self.elements.get(name)
        if not raw:
            return None
        if len(raw) != 2:
            raise ImageError(f"{name} of {self.name} has {len(raw)} bytes instead of 2", AGAIN)
        return int(struct.unpack(self.order + "H", raw)[0])

    def word(self, name: str) -> str:
        """An attribute by which images are told apart, as text, whatever its type."""
        raw = self.elements.get(name)
        if name in DOUBLES and raw and len(raw) % 8 == 0:
            return "\\".join(f"{value:g}" for (value,) in struct.iter_unpack(self.order + "d", raw))
        return self.text(name)

    @property
    def frames(self) -> int:
        """Number of Frames, 1 where the file does not say; `ImageError` where it is no whole number."""
        text = self.text("NumberOfFrames")
        if not text:
            return 1
        if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
            raise ImageError(f"NumberOfFrames of {self.name} is {_quoted(text)}", AGAIN)
        return int(text)


def read_header(path: Path, name: str = "") -> Header:
    """Read what stands before the pixels.

    Raises
    ------
    NotDicomError
        A file of another format.
    ImageError
        A DICOM file that is cut off or damaged before its pixels.
    """
    name = name or path.name
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = b""
        for step in _STEPS:
            file.seek(0)
            data = file.read(min(step, size)) or b""
            if len(data) < 8:
                raise NotDicomError
            try:
                return parse_header(path, name, size, data)
            except ShortError:
                if len(data) >= size:
                    break
    raise _cut_off(name) if _is_marked(data) else NotDicomError()


def _is_marked(data: bytes) -> bool:
    return data[128:_PREAMBLE] == b"DICM"


def _cut_off(name: str) -> ImageError:
    return ImageError(f"{name} is cut off: its header ends in the middle", AGAIN)


def parse_header(path: Path, name: str, size: int, data: bytes) -> Header:
    """As `read_header`, of a file's first bytes; `size` is that of all."""
    syntax, at = meta(data)
    elements: dict[str, bytes] = {}
    order = ">" if syntax == BIG_ENDIAN else "<"
    if not syntax:
        syntax, order = _guessed(data, at, name)
    packed, is_marked, is_whole = -1, _is_marked(data), len(data) == size
    if syntax == DEFLATED:
        packed, data, at = at, inflate(data[at:], name, _HEADER), 0
    try:
        offset, length = _walk(data, at, order, is_explicit_at(data, at), elements)
    except struct.error as error:
        if not is_whole:
            raise ShortError from None
        raise (_cut_off(name) if elements or is_marked else NotDicomError()) from error
    except ValueError as error:
        if not elements and not is_marked:
            raise NotDicomError from None
        raise ImageError(f"{name} is damaged: its header makes no sense", AGAIN) from error
    if not elements and not is_marked:
        raise NotDicomError
    return Header(
        path=path, name=name, syntax=syntax, order=order, size=size, offset=offset, length=length, elements=elements, packed=packed
    )


def meta(data: bytes) -> tuple[str, int]:
    """The transfer syntax, empty where nobody says, and where the data set begins: after the meta information (PS3.10, 7.1)."""
    at = _PREAMBLE if data[128:132] == b"DICM" else 0
    syntax = ""
    while data[at : at + 2] == b"\x02\x00":
        if len(data) < at + 12:
            raise ShortError
        element, vr, length = struct.unpack_from("<H2sH", data, at + 2)
        at += 8
        if vr in LONG:
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        elif vr not in SHORT:
            raise NotDicomError
        if element == 0x0010:
            syntax = data[at : at + length].decode("latin-1").strip(" \0")
        at += length
        if at > len(data):
            raise ShortError
    return syntax, at


def is_explicit_at(data: bytes, at: int) -> bool:
    """Whether types stand in the data set. Its first element shows it; some writers' transfer syntax is wrong about it."""
    return data[at + 4 : at + 6] in SHORT or data[at + 4 : at + 6] in LONG


def _guessed(data: bytes, at: int, name: str) -> tuple[str, str]:
    """Syntax and order of a data set of which nobody says it: its first element is of a low, even group."""
    if len(data) >= at + 8:
        little, big = struct.unpack_from("<H", data, at)[0], struct.unpack_from(">H", data, at)[0]
        order, group = ("<", little) if little <= big else (">", big)
        if group in (0x0008, 0x0010, 0x0018, 0x0020):
            if is_explicit_at(data, at):
                return (BIG_ENDIAN if order == ">" else EXPLICIT), order
            if order == "<" and struct.unpack_from("<I", data, at + 4)[0] < 1 << 16:
                return IMPLICIT, order
    if not _is_marked(data):
        raise NotDicomError
    raise ImageError(f"{name} does not say how it is encoded: it has no TransferSyntaxUID", AGAIN)


def inflate(packed: bytes, name: str, most: int) -> bytes:
    """The first bytes of deflated content, `most` of them at most; fewer where there are no more, or the packed ones end."""
    try:
        return zlib.decompressobj(-15).decompress(packed, most)
    except zlib.error as error:
        raise ImageError(f"{name} is damaged: it cannot be inflated", AGAIN) from error


def _pixels(tag: int, at: int, length: int, elements: dict[str, bytes]) -> tuple[int, int]:
    if tag in FLOAT_PIXELS:
        elements["FloatPixelData"] = b"1"
    return (at, -1 if length == UNDEFINED else length) if tag == PIXELS else (-1, -1)


def _walk(data: bytes, at: int, order: str, is_explicit: bool, elements: dict[str, bytes]) -> tuple[int, int]:
    """Collect elements up to the pixels; where their value begins and its length, (-1, -1) where there are none.

    Raises
    ------
    struct.error
        The bytes end before the pixels, and within an element.
    ValueError
        They make no sense.
    """
    end = len(data)
    head = struct.Struct(order + ("HH2sH" if is_explicit else "HHI")).unpack_from
    wide = struct.Struct(order + "I").unpack_from
    vr = b""
    for _ in range(_ELEMENTS):
        if at >= end:
            return -1, -1
        if is_explicit:
            group, element, vr, length = head(data, at)
            at += 8
            if vr in LONG:
                (length,) = wide(data, at)
                at += 4
            elif vr not in SHORT:
                raise ValueError("no value representation")
        else:
            group, element, length = head(data, at)
            at += 8
        tag = group << 16 | element
        if tag >= PIXELS or tag in FLOAT_PIXELS:
            return _pixels(tag, at, length, elements)
        name = NAMES.get(tag)
        if name is not None and name not in PRESENCE and length != UNDEFINED:
            elements[name] = data[at : at + min(length, _LONGEST)]
        elif name is not None:
            elements[name] = b"1"
        at = at + length if length != UNDEFINED else after_sequence(data, at, order, is_explicit and vr != b"UN", 0)
        if at > end:
            raise struct.error("the value ends beyond the bytes")
    raise ValueError("too many elements")


def after_sequence(data: bytes, at: int, order: str, is_explicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    while True:
        group, element, length = struct.unpack_from(order + "HHI", data, at)
        at += 8
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise ValueError("no item in a sequence")
        at = at + length if length != UNDEFINED else after_item(data, at, order, is_explicit, depth)


def after_item(data: bytes, at: int, order: str, is_explicit: bool, depth: int) -> int:
    """Where an item of undefined length ends."""
    while True:
        group, element, length = struct.unpack_from(order + "HHI", data, at)
        if (group << 16 | element) == _ITEM_END:
            return at + 8
        inner = is_explicit
        if is_explicit:
            vr, length = struct.unpack_from(order + "2sH", data, at + 4)
            if vr in LONG:
                (length,) = struct.unpack_from(order + "I", data, at + 8)
                at += 4
                inner = vr != b"UN"  # what nobody knew the type of stays implicit (PS3.5, 6.2.2)
            elif vr not in SHORT:
                raise ValueError("no value representation")
        at += 8
        at = at + length if length != UNDEFINED else after_sequence(data, at, order, inner, depth + 1)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
