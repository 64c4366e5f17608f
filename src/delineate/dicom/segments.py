"""SEG files as they are: segments, and frames each with its own place and pixels. Any that conform, and others with notes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from delineate.dicom.cielab import from_cielab
from delineate.dicom.elements import DataSet
from delineate.dicom.header import AGAIN, DEFLATED, LONG, Header, NotDicomError, inflate, is_explicit_at, meta, read_header
from delineate.dicom.nesting import require_shallow
from delineate.dicom.parts import pydicom
from delineate.dicom.said import Said, name_in, snomed_in
from delineate.dicom.segment_module import GENERAL, LABELMAP, SEGMENTATION, what_was_said
from delineate.dicom.segment_pixels import Pixels
from delineate.errors import ImageError
from delineate.segmentation import Colour

_PER_FRAME: Final = 0x52009230
_GIVE: Final = "Give a SEG file."
_LARGEST: Final = 1 << 33
_MACROS: Final = {
    # functional group: (attributes of it by tag)
    0x00209113: (0x00200032,),
    0x00209116: (0x00200037,),
    0x00289110: (0x00280030, 0x00180088, 0x00180050),
    0x0062000A: (0x0062000B,),
}
_POSITION, _ORIENTATION, _SPACING, _BETWEEN, _THICKNESS, _SEGMENT = 0x00200032, 0x00200037, 0x00280030, 0x00180088, 0x00180050, 0x0062000B
_DERIVATION, _SOURCES, _INSTANCE, _NUMBER = 0x00089124, 0x00082112, 0x00081155, 0x00081160


class Segment(NamedTuple):
    """What a file says of a segment; code : SNOMED CT, empty where the file does not say; said : what else it says, see `said`."""

    number: int
    name: str
    colour: Colour | None
    code: str
    said: Said


class Place(NamedTuple):
    """Where a frame lies, LPS mm; position None where the file does not say; source : SOP Instance UID and frame it was made of."""

    position: tuple[float, ...] | None
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    source: tuple[str, int] = ("", 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """What a SEG file holds.

    kind : ``BINARY``, ``FRACTIONAL`` or ``LABELMAP``; size : columns, rows; step : mm between slices, 0 where the file does not
    say; owners : number of each frame's segment, 0 in a label map; places : of the frames; pixels : of the frames
    """

    name: str
    kind: str
    segments: tuple[Segment, ...]
    size: tuple[int, int]
    step: float
    owners: tuple[int, ...]
    places: tuple[Place, ...]
    pixels: Pixels
    background: frozenset[int]
    frame_of_reference: str
    series_uids: tuple[str, ...]


def load(path: str | PathLike[str], notes: list[str]) -> Segments:
    """Read all but the pixels of a file.

    Raises
    ------
    ImageError
        No such file, no SEG, damaged.
    """
    path = Path(path)
    try:
        header = read_header(path)
        if header.text("SOPClassUID") not in (SEGMENTATION, LABELMAP) and header.text("Modality") != "SEG":
            raise ImageError(f"{path.name} holds no segmentation: its Modality is {header.text('Modality')!r}", _GIVE)
        data, at, pixels = _bytes(header)
    except NotDicomError:
        raise ImageError(f"{path.name} is not a DICOM file", _GIVE) from None
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}", "Check the path.") from None
    try:
        return _segments(header, data, at, pixels, notes)
    except (struct.error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ImageError(f"{path.name} is damaged: its frames' descriptions make no sense", AGAIN) from error


def _bytes(header: Header) -> tuple[bytes, int, bytes | None]:
    """The data set before its pixels, where it begins, and its pixels where they had to be inflated."""
    if header.offset < 0:
        raise ImageError(f"{header.name} has no PixelData", AGAIN)
    with header.path.open("rb") as file:
        data = file.read() if header.syntax == DEFLATED else file.read(header.offset)
    if header.syntax != DEFLATED:
        return data, meta(data)[1], None
    data = inflate(data[header.packed :], header.name, _LARGEST)
    return data[: header.offset], 0, data[header.offset :]


def _segments(header: Header, data: bytes, at: int, inflated: bytes | None, notes: list[str]) -> Segments:
    walk, is_explicit = DataSet(data, header.order), is_explicit_at(data, at)
    end = len(data) - (12 if is_explicit and data[-8:-6] in LONG else 8)
    found = next((e for e in walk.elements(at, end, is_explicit) if e.tag == _PER_FRAME), None)
    if found is None:
        raise ImageError(f"{header.name} has no PerFrameFunctionalGroupsSequence", AGAIN)
    begin = data.rindex(struct.pack(header.order + "HH", 0x5200, 0x9230), 0, found.begin)
    about = _decoded(data[at:begin] + data[found.after : end], header, is_explicit)
    shared = _shared(about)
    items = [_values(walk, *item) for item in walk.items(found)]
    kind = str(about.get("SegmentationType") or "BINARY").upper()
    count = int(about.get("NumberOfFrames") or 1)
    if len(items) != count:
        raise ImageError(f"{header.name} has {count} frames and describes {len(items)}", AGAIN)
    values = [{**shared, **item} for item in items]
    size = (int(about.Columns), int(about.Rows))
    step = float(shared.get(_BETWEEN) or shared.get(_THICKNESS) or 0)
    background = {0}
    if about.get("PixelPaddingValue") is not None:
        background.add(int(about.PixelPaddingValue))
    return Segments(
        name=header.name,
        kind=kind,
        segments=_named(about, notes),
        size=size,
        step=step,
        owners=tuple(0 if kind == "LABELMAP" else int(item[_SEGMENT]) for item in values),
        places=tuple(map(partial(_place, header.name), values)),
        pixels=Pixels(header, about, count, kind, inflated),
        background=frozenset(background),
        frame_of_reference=str(about.get("FrameOfReferenceUID") or ""),
        series_uids=tuple(str(item.get("SeriesInstanceUID", "")) for item in about.get("ReferencedSeriesSequence") or ()),
    )


def _decoded(data: bytes, header: Header, is_explicit: bool) -> Any:
    library = pydicom()
    try:
        about = library.filereader.read_dataset(BytesIO(data), not is_explicit, header.order == "<")
        require_shallow(about, header.name).decode()
        return about
    except Exception as error:  # what a library makes of damaged elements is anything
        raise ImageError(f"the attributes of {header.name} cannot be read", AGAIN) from error


def _shared(about: Any) -> dict[int, Any]:
    result: dict[int, Any] = {}
    for groups in about.get("SharedFunctionalGroupsSequence") or ():
        for macro, tags in _MACROS.items():
            for item in groups[macro].value if macro in groups else ():
                for tag in tags:
                    if tag in item and item[tag].value is not None:
                        value = item[tag].value
                        result[tag] = value if isinstance(value, (int, float)) else tuple(float(part) for part in value)
    return result


def _values(walk: DataSet, begin: int, end: int, is_explicit: bool) -> dict[int, Any]:
    """What the functional groups of one frame say."""
    result: dict[int, Any] = {}
    for macro in walk.elements(begin, end, is_explicit):
        if macro.tag in _MACROS:
            for item in walk.items(macro):
                for element in walk.elements(*item):
                    if element.tag in _MACROS[macro.tag]:
                        result[element.tag] = _value(walk, element.tag, walk.data[element.begin : element.end])
        elif macro.tag == _DERIVATION:
            result[_DERIVATION] = (walk, macro)  # looked at where a frame does not say where it lies
    return {tag: value for tag, value in result.items() if value not in ((), None)}


def _value(walk: DataSet, tag: int, content: bytes) -> Any:
    if tag == _SEGMENT:
        return int.from_bytes(content[:2], "little" if walk.is_little else "big")
    numbers = tuple(float(part) for part in content.strip(b" \0").split(b"\\") if part.strip())
    return (numbers[0] if numbers else None) if tag in (_BETWEEN, _THICKNESS) else numbers


def _place(name: str, values: dict[int, Any]) -> Place:
    orientation, spacing = values.get(_ORIENTATION), values.get(_SPACING)
    if orientation is None or len(orientation) != 6 or spacing is None or len(spacing) != 2:
        raise ImageError(f"{name} does not say how its frames lie (ImageOrientationPatient, PixelSpacing)", AGAIN)
    position = values.get(_POSITION)
    numbers = [*orientation, *spacing, *(position or ())]
    if not np.isfinite(numbers).all() or min(spacing) <= 0 or (position is not None and len(position) != 3):
        raise ImageError(f"{name} has frames at places that make no sense (ImagePositionPatient, PixelSpacing)", AGAIN)
    source = ("", 0)
    if position is None and _DERIVATION in values:
        source = _source(*values[_DERIVATION])
    return Place(position, orientation, (spacing[1], spacing[0]), source)


def _source(walk: DataSet, derivation: Any) -> tuple[str, int]:
    for element in _nested(walk, derivation, _SOURCES):
        found = {inner.tag: walk.data[inner.begin : inner.end].decode("latin-1").strip(" \0") for inner in element}
        return found.get(_INSTANCE, ""), int(found.get(_NUMBER, "0").split("\\")[0])
    return "", 0


def _nested(walk: DataSet, outer: Any, tag: int) -> Iterator[list[Any]]:
    for item in walk.items(outer):
        for element in walk.elements(*item):
            if element.tag == tag:
                yield from (list(walk.elements(*inner)) for inner in walk.items(element))


def _named(about: Any, notes: list[str]) -> tuple[Segment, ...]:
    result: list[Segment] = []
    used: set[str] = set()
    for item in about.get("SegmentSequence") or ():
        number = int(item.get("SegmentNumber") or 0)
        said = what_was_said(item)
        label = str(item.get("SegmentLabel") or item.get("SegmentDescription") or name_in(said)).strip()
        name = label or f"segment_{number}"
        if name in used:
            name = next(f"{name}_{count}" for count in range(2, 1 << 20) if f"{name}_{count}" not in used)
            notes.append(f"two segments are called {label}: one is {name} here")
        used.add(name)
        code = snomed_in(said)
        result.append(Segment(number, name, _colour(item), "" if code in GENERAL else code, said))
    return tuple(result)


def _colour(item: Any) -> Colour | None:
    values = item.get("RecommendedDisplayCIELabValue")
    return from_cielab([int(value) for value in values]) if values is not None and len(values) == 3 else None
