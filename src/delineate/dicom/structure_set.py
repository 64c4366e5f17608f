"""RTSTRUCT files as they are: regions, and their contours in millimetres. Any that conform, and others with notes."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import nlargest
from io import BytesIO
from operator import itemgetter
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.dicom.contours import Contours, Part, gathered
from delineate.dicom.decimals import read_numbers
from delineate.dicom.elements import DataSet, Element
from delineate.dicom.header import AGAIN, BIG_ENDIAN, DEFLATED, NotDicomError, ShortError, inflate, is_explicit_at, parse_header
from delineate.dicom.nesting import require_shallow
from delineate.dicom.parts import pydicom
from delineate.dicom.said import Said, name_in, of_region, snomed_in
from delineate.errors import ImageError
from delineate.segmentation import Colour

RTSTRUCT: Final = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED: Final = "CLOSED_PLANAR"
XOR: Final = "CLOSEDPLANAR_XOR"

ROI_CONTOURS: Final = 0x30060039
COLOUR: Final = 0x3006002A
CONTOURS: Final = 0x30060040
TYPE: Final = 0x30060042
COUNT: Final = 0x30060046
DATA: Final = 0x30060050
ROI_NUMBER: Final = 0x30060084

_LARGEST: Final = 1 << 32
_FARTHEST: Final = 1e7  # mm; what is farther is no place in a patient
_MOST: Final = 5000  # regions: which overlap is a table of all by all
_CLOSED: Final = frozenset((CLOSED.encode(), XOR.encode()))
_AT_ONCE: Final = 1 << 20  # bytes of text that are read at once
_LONGEST: Final = 64  # contours that tell which way the planes lie
_GIVE: Final = "Give an RTSTRUCT file."


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region of interest; code : SNOMED CT code, frame : of reference, each empty where the file does not say; said : what else it
    says, see `said`."""

    number: int
    name: str
    colour: Colour | None = None
    code: str = ""
    frame: str = ""
    said: Said = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureSet:
    """What an RTSTRUCT file holds.

    frames_of_reference, series_uids : of the images that it refers to; contours : of `regions`, by their place in that tuple
    notes : sentences on what is odd
    """

    label: str
    frames_of_reference: tuple[str, ...]
    series_uids: tuple[str, ...]
    regions: tuple[Region, ...]
    contours: ContourTexts
    notes: tuple[str, ...] = ()


def load(path: str | PathLike[str]) -> StructureSet:
    """Read a file.

    Raises
    ------
    ImageError
        No such file, no RTSTRUCT, damaged.
    """
    path = Path(path)
    data, at, order = _data_set(path)
    notes: list[str] = []
    try:
        return _structure_set(path.name, DataSet(data, order), at, notes)
    except (struct.error, ValueError) as error:
        raise ImageError(f"{path.name} is damaged: its contours cannot be read", AGAIN) from error


def _data_set(path: Path) -> tuple[bytes, int, str]:
    """Bytes, where the data set begins in them, and their order."""
    try:
        data = path.read_bytes()
        header = parse_header(path, path.name, len(data), data)
    except NotDicomError:
        raise ImageError(f"{path.name} is not a DICOM file", _GIVE) from None
    except ShortError:
        raise ImageError(f"{path.name} is cut off: its header ends in the middle", AGAIN) from None
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}", "Check the path.") from None
    if header.text("SOPClassUID") != RTSTRUCT and header.text("Modality") != "RTSTRUCT":
        raise ImageError(f"{path.name} holds no contours: its Modality is {header.text('Modality')!r}", _GIVE)
    if header.syntax == DEFLATED:
        return inflate(data[header.packed :], path.name, _LARGEST), 0, "<"
    return data, _begin(data), ">" if header.syntax == BIG_ENDIAN else "<"


def _begin(data: bytes) -> int:
    """Where the data set begins: after the meta information."""
    at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\x02\x00":
        at = next(DataSet(data).elements(at, len(data), True)).after
    return at


def _structure_set(name: str, source: DataSet, at: int, notes: list[str]) -> StructureSet:
    data, is_explicit = source.data, is_explicit_at(source.data, at)
    found = next((e for e in source.elements(at, len(data), is_explicit) if e.tag == ROI_CONTOURS), None)
    begin = _element_begin(data, found) if found else len(data)
    rest = data[at:begin] + (data[found.after :] if found else b"")
    label, regions, frames, series = _described(rest, source, is_explicit, name, notes)
    if len(regions) > _MOST:
        raise ImageError(f"{name} has {len(regions)} regions, more than {_MOST}", "Split it.")
    lists = _Lists(source, {region.number: place for place, region in enumerate(regions)}, notes)
    if found is None:
        notes.append("ROIContourSequence is missing: there are no contours")
    else:
        for item in source.items(found):
            lists.take(*item)
    contours = lists.contours([region.name for region in regions])
    coloured = tuple(replace(region, colour=lists.colours.get(place)) for place, region in enumerate(regions))
    return StructureSet(
        label=label, frames_of_reference=frames, series_uids=series, regions=coloured, contours=contours, notes=tuple(notes)
    )


def _element_begin(data: bytes, element: Element) -> int:
    """Where its tag stands, before a length of four bytes and what else there is."""
    head = element.begin - 8
    return head if data[head : head + 4] in (b"\x06\x30\x39\x00", b"\x30\x06\x00\x39") else head - 4


_Described = tuple[str, list[Region], tuple[str, ...], tuple[str, ...]]


def _described(data: bytes, source: DataSet, is_explicit: bool, name: str, notes: list[str]) -> _Described:
    """By a library, of all but the contours what is needed: label, regions, frames of reference, series."""
    library = pydicom()
    try:
        about = require_shallow(library.filereader.read_dataset(BytesIO(data), not is_explicit, source.is_little), name)
        frames = [str(item.get("FrameOfReferenceUID", "")) for item in about.get("ReferencedFrameOfReferenceSequence") or ()]
        frames += [str(item.get("ReferencedFrameOfReferenceUID", "")) for item in about.get("StructureSetROISequence") or ()]
        label = str(about.get("StructureSetLabel") or "")
        return label, _regions(about, notes), tuple(dict.fromkeys(filter(None, frames))), tuple(dict.fromkeys(_series(about)))
    except Exception as error:  # what a library makes of damaged elements is anything
        raise ImageError(f"the attributes of {name} cannot be read", AGAIN) from error


def _regions(about: Any, notes: list[str]) -> list[Region]:
    observations = {_whole(item.get("ReferencedROINumber")): item for item in about.get("RTROIObservationsSequence") or ()}
    regions: list[Region] = []
    used: set[str] = set()
    for item in about.get("StructureSetROISequence") or ():
        number = _whole(item.get("ROINumber"))
        if any(region.number == number for region in regions):
            notes.append(f"two regions have ROINumber {number}: the first is taken")
            continue
        said = of_region(item, observations.get(number))
        name = str(item.get("ROIName") or "").strip()
        if not name:
            name = name_in(said) or f"ROI {number}"
            notes.append(f"region {number} has no name: it is called {name}")
        frame = str(item.get("ReferencedFrameOfReferenceUID") or "")
        regions.append(Region(number=number, name=_unused(name, used, notes), code=snomed_in(said), frame=frame, said=said))
    return regions


def _unused(name: str, used: set[str], notes: list[str]) -> str:
    unique, count = name, 2
    while unique in used:
        unique, count = f"{name} ({count})", count + 1
    used.add(unique)
    if unique != name:
        notes.append(f"two regions are called {name}: one is {unique} now")
    return unique


def _series(about: Any) -> Iterator[str]:
    for frame in about.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.get("SeriesInstanceUID") or "")


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1


class _Lists:
    """Contours as they are found, one structure's item after the other."""

    def __init__(self, source: DataSet, places: dict[int, int], notes: list[str]) -> None:
        self._source, self._places, self._notes = source, places, notes
        self._found: list[tuple[int, int, int]] = []
        self._others: dict[tuple[int, str], int] = {}
        self.colours: dict[int, Colour] = {}

    def take(self, begin: int, end: int, is_explicit: bool) -> None:
        """An item of ROIContourSequence."""
        data = self._source.data
        found = {element.tag: element for element in self._source.elements(begin, end, is_explicit)}
        number = _whole(data[found[ROI_NUMBER].begin : found[ROI_NUMBER].end].strip(b" \0") if ROI_NUMBER in found else "")
        place = self._places.get(number)
        if place is None:
            self._notes.append(f"contours refer to region {number}, which is not in StructureSetROISequence: left out")
            return
        if COLOUR in found:
            self._take_colour(place, data[found[COLOUR].begin : found[COLOUR].end])
        if CONTOURS in found:
            for item in self._source.items(found[CONTOURS]):
                self._take_contour(place, *item)

    def _take_colour(self, place: int, text: bytes) -> None:
        try:
            red, green, blue = (min(max(int(part), 0), 255) for part in text.strip(b" \0").split(b"\\"))
            self.colours[place] = (red, green, blue)
        except ValueError:
            self._notes.append("a ROIDisplayColor is not three numbers: left out")

    def _take_contour(self, place: int, begin: int, end: int, is_explicit: bool) -> None:
        kind, first, after = b"", 0, 0
        for element in self._source.elements(begin, end, is_explicit):
            if element.tag == DATA:
                first, after = element.begin, element.end
            elif element.tag == TYPE:
                kind = self._source.data[element.begin : element.end].strip(b" \0")
        if kind and kind not in _CLOSED:
            why = f"of the type {kind.decode('latin-1')[:20]}: left out"
            self._others[place, why] = self._others.get((place, why), 0) + 1
        else:
            self._found.append((place, first, after))

    def contours(self, names: list[str]) -> ContourTexts:
        """All that were found."""
        self._notes += [_left_out(names[place], count, why) for (place, why), count in self._others.items()]
        return ContourTexts(self._source.data, names, sorted(self._found, key=itemgetter(0)))


def _left_out(name: str, count: int, why: str) -> str:
    return f"{name}: {count} {'contours are' if count > 1 else 'contour is'} {why}"


class ContourTexts:
    """Contours as a file's bytes, read when they are asked for: as numbers they take as much memory again.

    found : structure, begin and end of each, sorted by structures
    """

    def __init__(self, data: bytes, names: Sequence[str], found: Sequence[tuple[int, int, int]]) -> None:
        self._data, self._names, self._found = data, names, found

    def without(self, structures: Collection[int]) -> ContourTexts:
        """Those of other structures."""
        return ContourTexts(self._data, self._names, [item for item in self._found if item[0] not in structures])

    def parts(self) -> Iterator[Part]:
        """All, whole structures together."""
        first = size = 0
        for number, (structure, begin, end) in enumerate(self._found):
            if size > _AT_ONCE and structure != self._found[number - 1][0]:
                yield partial(self._read, self._found[first:number])
                first, size = number, 0
            size += end - begin
        yield partial(self._read, self._found[first:])

    def all(self) -> Contours:
        """All of them at once."""
        return self._read(self._found, [])

    def normal(self) -> np.ndarray:
        """The unit vector across the contours, by the longest of them; zeros where they have none."""
        return self._read(nlargest(_LONGEST, self._found, key=lambda item: item[2] - item[1]), []).normal()

    def _read(self, found: Sequence[tuple[int, int, int]], notes: list[str]) -> Contours:
        """Some of them, without those that enclose nothing."""
        texts = [self._data[begin:end].strip(b" \0") for _, begin, end in found]
        sizes = np.array([text.count(b"\\") + 1 for text in texts], dtype=np.int64)
        numbers = read_numbers(texts)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        structures = np.array([structure for structure, _, _ in found], dtype=np.int64)
        is_finite = np.logical_and.reduceat(np.abs(numbers) < _FARTHEST, starts[:-1]) if len(sizes) else np.zeros(0, dtype=bool)
        is_damaged = ((sizes % 3 != 0) | ~is_finite) & (sizes > 1)
        is_short = ~is_damaged & (sizes < 9)
        for chosen, why in ((is_damaged, "damaged (ContourData): left out"), (is_short, "of fewer than three points: left out")):
            places, counts = np.unique(structures[chosen], return_counts=True)
            notes += [_left_out(self._names[place], count, why) for place, count in zip(places.tolist(), counts.tolist(), strict=True)]
        kept = np.flatnonzero(~is_damaged & ~is_short)
        if len(kept) == len(sizes):
            return Contours(structures, starts // 3, numbers.reshape(-1, 3))
        begins, chosen = gathered(starts, kept)
        return Contours(structures[kept], begins // 3, numbers[chosen].reshape(-1, 3))
