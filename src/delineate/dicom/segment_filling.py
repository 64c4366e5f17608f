"""Segments' frames → label maps on planes; segments that overlap come to lie in layers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count

import numpy as np

from delineate.dicom.header import AGAIN
from delineate.dicom.pixels import LARGEST
from delineate.dicom.placing import Placing, Spot
from delineate.dicom.planes import Planes
from delineate.dicom.segments import Segment, Segments
from delineate.errors import ImageError
from delineate.segmentation import Structure, label_dtype

_Spots = Sequence[tuple[Placing, Spot]]
_Labels = dict[int, int]


def filled(found: Segments, planes: Planes, threshold: float, notes: list[str]) -> tuple[tuple[np.ndarray, ...], tuple[Structure, ...]]:
    """Label maps of shape (slices, rows, columns), and their structures.

    Raises `placing.NoFitError` where frames lie between the planes' pixels.
    """
    segments = _segments(found)
    are_plain = all(segment.number >= 1 for segment in segments)
    labels = {segment.number: segment.number if are_plain else place for place, segment in enumerate(segments, 1)}
    if len(labels) < len(segments) or not set(found.owners) - {0} <= set(labels):
        raise ImageError(f"{found.name} has frames of segments that it does not list, or lists one twice (SegmentNumber)", AGAIN)
    shape = (len(planes), planes.size[1], planes.size[0])
    if np.prod(shape, dtype=np.float64) > LARGEST:
        raise ImageError(f"the slices of {found.name} take more than {LARGEST >> 30} GiB", "Give the series that they were made of.")
    layers = _Layers(shape, np.dtype(label_dtype(max(labels.values(), default=1))))
    spots = _spots(found, planes)
    if found.kind == "LABELMAP":
        _set_labels(found, spots, layers, labels, notes)
    else:
        for number, frames in _frames(found).items():
            layers.add(labels[number], partial(_parts, found, spots, frames, threshold))
    if layers.has_lost:
        notes.append("parts of segments lie outside of the image: left out")
    structures = []
    for item in segments:
        label = labels[item.number]
        structures.append(Structure(item.name, label, layers.places.get(label, 0), item.colour, item.code, item.said))
    return tuple(layers.layers), tuple(structures)


def _segments(found: Segments) -> list[Segment]:
    if found.kind != "LABELMAP":
        return list(found.segments)
    return [segment for segment in found.segments if segment.number not in found.background]


def _spots(found: Segments, planes: Planes) -> _Spots:
    placings: dict[object, Placing] = {}
    spots = []
    for place in found.places:
        key = (place.orientation, place.spacing)
        if key not in placings:
            placings[key] = Placing(planes, place.orientation, place.spacing, found.size)
        spots.append((placings[key], placings[key].spot(np.array(place.position))))
    return spots


def _frames(found: Segments) -> dict[int, list[int]]:
    """The frames of each segment."""
    frames: dict[int, list[int]] = {}
    for frame, number in enumerate(found.owners):
        frames.setdefault(number, []).append(frame)
    return frames


_Part = tuple[int, slice, slice, np.ndarray, bool]


def _parts(found: Segments, spots: _Spots, frames: list[int], threshold: float) -> Iterator[_Part]:
    """Where the pixels of a segment are: slice, rows, columns, what is inside, and whether some of it lies outside of the image."""
    for frame, (low, mask) in zip(frames, found.pixels.masks(frames, threshold), strict=True):
        if not len(mask):
            continue
        placing, spot = spots[frame]
        part, row, column = placing.turned(mask, low, spot)
        rows, columns, inner = placing.window(part, row, column)
        yield spot.slice, rows, columns, inner, inner.size < part.size and int(inner.sum()) < int(part.sum())


class _Layers:
    """Label maps, as many as structures that overlap need: each goes into the first in which nothing is in its way."""

    def __init__(self, shape: tuple[int, int, int], kind: np.dtype) -> None:
        self.layers = [np.zeros(shape, kind)]
        self.places: _Labels = {}
        self.has_lost = False
        self._shape, self._kind = shape, kind

    def add(self, label: int, parts: Callable[[], Iterator[_Part]]) -> None:
        """A structure, by what gives its parts as often as it is called."""
        for place in count():
            if place == len(self.layers):
                self.layers.append(np.zeros(self._shape, self._kind))
            if self._is_set(self.layers[place], label, parts()):
                self.places[label] = place
                return

    def _is_set(self, layer: np.ndarray, label: int, parts: Iterator[_Part]) -> bool:
        """Whether a structure could be set: where another is in its way nothing of it stays, and no part is asked for any more."""
        windows: list[np.ndarray] = []
        has_lost = False
        for number, rows, columns, mask, is_lost in parts:
            window = layer[number, rows, columns]
            met = np.logical_and(window, mask)
            if met.any() and (window[met] != label).any():
                for window in windows:
                    window[window == label] = 0
                return False
            np.copyto(window, self._kind.type(label), where=mask)
            windows.append(window)
            has_lost |= is_lost
        self.has_lost |= has_lost
        return True


def _translated(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table` at each value."""
    if plane.dtype == table.dtype == np.uint8:
        return np.frombuffer(plane.tobytes().translate(table[:256].tobytes()), np.uint8).reshape(plane.shape)  # a fifth of the time
    return np.take(table, plane)


def _set_labels(found: Segments, spots: _Spots, layers: _Layers, labels: _Labels, notes: list[str]) -> None:
    """Frames of label maps."""
    table = np.zeros(1 << 16, layers.layers[0].dtype)
    for number, label in labels.items():
        table[number] = label
    known = np.zeros(1 << 16, dtype=bool)
    known[[*labels, *(number for number in found.background if number >= 0)]] = True
    unknown: set[int] = set()
    frames = list(range(len(spots)))
    for (placing, spot), plane in zip(spots, found.pixels.planes(frames), strict=True):
        part, row, column = placing.turned(plane, 0, spot)
        rows, columns, inner = placing.window(part, row, column)
        values = _translated(inner, table)
        np.copyto(layers.layers[0][spot.slice, rows, columns], values, where=values != 0)
        if int(np.count_nonzero(values)) < int(np.count_nonzero(part)):
            strange = np.unique(part[~known[part]]).tolist()
            unknown.update(strange)
            layers.has_lost |= inner.size < part.size and bool((np.take(table, part) != 0).sum() > (values != 0).sum())
    if unknown:
        notes.append(f"{found.name} has pixels of {len(unknown)} segments that it does not list: left out")
