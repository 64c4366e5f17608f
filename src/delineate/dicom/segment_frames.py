"""The frames of a SEG file as bytes: which there are, where each lies, and its pixels, one frame in memory at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from delineate.dicom.derived import Code, coded, encoded, item
from delineate.dicom.header import EXPLICIT
from delineate.dicom.packing import Packing, run_lengths
from delineate.dicom.segment_module import MAXIMUM, Kind, bits_of, decimal
from delineate.dicom.source import Instance, Series
from delineate.errors import InputError
from delineate.segmentation import Structure

_LARGEST: Final = 0xFFFFFFFE
_SOURCE: Final[Code] = ("121322", "DCM", "Source image for image processing operation")
_DERIVED: Final[Code] = ("113076", "DCM", "Segmentation")
_PER_FRAME, _CONTENT, _INDICES = 0x52009230, 0x00209111, 0x00209157
_POSITION_ITEM, _POSITION, _DERIVATION = 0x00209113, 0x00200032, 0x00089124
_SEGMENT_ITEM, _SEGMENT, _PIXELS = 0x0062000A, 0x0062000B, 0x7FE00010
_TABLE: Final = 1 << 16


class Frame(NamedTuple):
    """One frame: the place of its structure among all, -1 for those of all together, and its slice."""

    structure: int
    slice: int


def frames_of(kind: Kind, layers: Sequence[np.ndarray], structures: Sequence[Structure]) -> list[Frame]:
    """The frames that hold anything; one where nothing does, since a file has one."""
    present = [_present(layer) for layer in layers]
    found = [
        Frame(number, place)
        for number, item in enumerate(structures)
        for place, labels in enumerate(present[item.layer])
        if item.label in labels
    ]
    if kind == "labelmap":
        return [Frame(-1, place) for place in sorted({frame.slice for frame in found})] or [Frame(-1, 0)]
    return found or [Frame(0, 0)]


def _present(layer: np.ndarray) -> list[set[int]]:
    """The labels in each slice."""
    result = []
    for plane in layer:
        flat = plane.reshape(-1)
        begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1  # of runs of one label, of which there are few
        result.append(set(np.unique(flat[begins]).tolist()) | {int(flat[0])})
    return result


def groups(frames: Sequence[Frame], source: Series) -> bytes:
    """PerFrameFunctionalGroupsSequence."""
    ranks = {place: rank for rank, place in enumerate(sorted({frame.slice for frame in frames}), 1)}
    same = {place: _of_slice(source, place) for place in ranks}
    items = []
    for structure, place in frames:
        before, after = same[place]
        values = (ranks[place],) if structure < 0 else (structure + 1, ranks[place])
        content = _sequence(_CONTENT, _element(_INDICES, b"UL", struct.pack(f"<{len(values)}I", *values)))
        segment = b"" if structure < 0 else _sequence(_SEGMENT_ITEM, _element(_SEGMENT, b"US", struct.pack("<H", structure + 1)))
        items.append(_item(before + content + after + segment))
    return _element(_PER_FRAME, b"SQ", b"".join(items))


def _of_slice(source: Series, place: int) -> tuple[bytes, bytes]:
    position = "\\".join(decimal(value) for value in source.planes.positions[place]).encode()
    derivation = _sequence(_DERIVATION, _derivation(source.instances[place]))
    return derivation, _sequence(_POSITION_ITEM, _element(_POSITION, b"DS", position))


def _derivation(instance: Instance) -> bytes:
    image = item(
        ReferencedSOPClassUID=instance.sop_class,
        ReferencedSOPInstanceUID=instance.sop_instance,
        SpatialLocationsPreserved="YES",
        PurposeOfReferenceCodeSequence=[coded(_SOURCE)],
    )
    if instance.frame:
        image.ReferencedFrameNumber = instance.frame
    return encoded(item(SourceImageSequence=[image], DerivationCodeSequence=[coded(_DERIVED)]), EXPLICIT)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Explicit; values are of even length."""
    value += b" "[: len(value) % 2]
    if vr == b"SQ":
        if len(value) > _LARGEST:
            raise InputError("the frames' descriptions take more than 4 GB", "Write fewer structures.")
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _sequence(tag: int, value: bytes) -> bytes:
    return _element(tag, b"SQ", _item(value))


def _item(value: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def pixels(
    kind: Kind, packing: Packing, frames: Sequence[Frame], layers: Sequence[np.ndarray], structures: Sequence[Structure]
) -> Iterator[bytes | memoryview]:
    """PixelData, in parts.

    Raises
    ------
    InputError
        More than 4 GB; structures that overlap in a label map; run lengths of bits.
    """
    bits = bits_of(kind, len(structures))
    if packing == "rle":
        if kind == "binary":
            raise InputError("bits are not packed by run lengths (RLE)", "Write a label map, or the packing deflated.")
        yield from run_lengths(_planes(kind, frames, layers, structures))
        return
    size = -(-len(frames) * layers[0][0].size * bits // 8)
    size += size % 2
    if size > _LARGEST:
        raise InputError(f"the frames take {size / 1e9:.1f} GB and a SEG file holds 4.2", "Write a label map, or fewer structures.")
    yield struct.pack("<HH2sHI", _PIXELS >> 16, _PIXELS & 0xFFFF, b"OW" if bits == 16 else b"OB", 0, size)
    written = 0
    parts: Iterable[memoryview]
    if kind == "binary":
        parts = _packed(_masks(frames, layers, structures))
    else:
        parts = (np.ascontiguousarray(plane).data.cast("B") for plane in _planes(kind, frames, layers, structures))
    for part in parts:
        written += len(part)
        yield part
    yield b"\0" * (size - written)


def _masks(frames: Sequence[Frame], layers: Sequence[np.ndarray], structures: Sequence[Structure]) -> Iterator[np.ndarray]:
    return (layers[structures[number].layer][place] == structures[number].label for number, place in frames)


def _planes(kind: Kind, frames: Sequence[Frame], layers: Sequence[np.ndarray], structures: Sequence[Structure]) -> Iterator[np.ndarray]:
    """Frames of 8 or 16 bits."""
    if kind == "labelmap":
        return _label_planes(frames, layers, structures, np.dtype(f"<u{bits_of(kind, len(structures)) // 8}"))
    return (mask.view(np.uint8) * np.uint8(MAXIMUM) for mask in _masks(frames, layers, structures))


def _packed(masks: Iterable[np.ndarray]) -> Iterator[memoryview]:
    """Bits of all frames without a gap, the first pixel in the lowest bit (PS3.5, 8.1.1)."""
    rest = np.zeros(0, dtype=bool)
    for mask in masks:
        flat = mask.reshape(-1)
        joined = np.concatenate([rest, flat]) if len(rest) or flat.size % 8 else flat
        whole = joined.size // 8 * 8
        rest = joined[whole:].copy()
        yield np.packbits(joined[:whole], bitorder="little").data
    yield np.packbits(rest, bitorder="little").data


def _label_planes(
    frames: Sequence[Frame], layers: Sequence[np.ndarray], structures: Sequence[Structure], kind: np.dtype
) -> Iterator[np.ndarray]:
    known = [_Numbers(place, layer.dtype, structures, kind) for place, layer in enumerate(layers)]
    for _, place in frames:
        plane = known[0].of(layers[0][place])
        for numbers, layer in zip(known[1:], layers[1:], strict=True):
            other = numbers.of(layer[place])
            both = (plane != 0) & (other != 0)
            if both.any():
                first, second = structures[int(plane[both][0]) - 1].name, structures[int(other[both][0]) - 1].name
                raise InputError(f"{first} and {second} overlap: a label map cannot hold both", "Write the kind binary.")
            plane = plane | other
        yield plane


class _Numbers:
    """A segment's number by a layer's label; 0 for labels of no structure."""

    def __init__(self, place: int, labels: np.dtype, structures: Sequence[Structure], kind: np.dtype) -> None:
        found = sorted((item.label, number) for number, item in enumerate(structures, 1) if item.layer == place)
        self._labels = np.array([label for label, _ in found] or [0])
        self._numbers = np.array([number for _, number in found] or [0], kind)
        self._table = self._looked_up(np.arange(_TABLE if labels.itemsize == 2 else 256)) if labels.itemsize <= 2 else None

    def of(self, plane: np.ndarray) -> np.ndarray:
        """The numbers of a slice."""
        if self._table is None:
            return self._looked_up(plane)
        if plane.dtype == self._table.dtype == np.uint8:
            return np.frombuffer(plane.tobytes().translate(self._table.tobytes()), np.uint8).reshape(plane.shape)  # a fifth of the time
        return np.take(self._table, plane)

    def _looked_up(self, labels: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self._labels, labels), len(self._labels) - 1)
        return np.where(self._labels[at] == labels, self._numbers[at], self._numbers.dtype.type(0))
