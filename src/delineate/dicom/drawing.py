"""Label maps → ROIContourSequence in a file, a few slices in memory at a time.

Slices come one after the other and hold all structures, the file wants one structure after the other: coordinates wait as
text in a file of their own, and what else a contour's item says is made when they are put together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Final, Literal, NamedTuple

import numpy as np

from delineate.dicom.contour_items import Items, opened_region, opened_sequence
from delineate.dicom.contours import gathered, in_millimetres
from delineate.dicom.decimals import Writer, decimals_for
from delineate.dicom.keyholes import keyholed
from delineate.dicom.simplify import simplified
from delineate.dicom.source import Series
from delineate.dicom.threads import THREADS, in_turn
from delineate.dicom.tracing import Tables, trace
from delineate.segmentation import Colour

Holes = Literal["keyhole", "xor"]

_PIXELS: Final = 1 << 20  # of the slices that are drawn at once: tables of it stay in the cache


class _Contours(NamedTuple):
    """Contours of one structure in some slices: their texts lie one after the other, `at` on."""

    slices: list[int]
    counts: list[int]
    sizes: list[int]
    has_holes: bool
    at: int


class _Slab(NamedTuple):
    """All contours of some slices, by label: where each one's begin and end among them, and their text."""

    labels: list[tuple[int, int, int]]
    slices: np.ndarray
    counts: np.ndarray
    holes: np.ndarray
    texts: list[bytes]


class Drawing:
    """Contours of the structures of one image; to be closed.

    holes : as keyholes, or as contours of their own; tolerance : mm, of `simplify`
    """

    def __init__(self, source: Series, folder: Path, holes: Holes, tolerance: float) -> None:
        self._source, self._holes, self._tolerance = source, holes, tolerance
        self._items = Items(source.instances)
        self._writer = Writer(decimals_for(min(source.planes.spacing)))
        self._spool: BinaryIO = tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".part")  # noqa: SIM115
        self._tables: SimpleQueue[Tables] = SimpleQueue()
        for _ in range(THREADS):
            self._tables.put(Tables())
        self._at = 0
        self._found: dict[tuple[int, int], list[_Contours]] = {}

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, number: int, layer: np.ndarray) -> None:
        """Draw all labels of a label map, shape (slices, rows, columns), but 0."""
        depth = max(1, _PIXELS // max(1, layer.shape[1] * layer.shape[2]))
        for slab in in_turn(partial(self._drawn, layer, depth), range(0, len(layer), depth)):
            for label, first, after in slab.labels:
                part = slice(first, after)
                sizes = list(map(len, slab.texts[part]))
                contours = _Contours(slab.slices[part].tolist(), slab.counts[part].tolist(), sizes, bool(slab.holes[part].any()), self._at)
                self._found.setdefault((number, label), []).append(contours)
                self._at += sum(sizes)
            self._spool.writelines(slab.texts)

    def _drawn(self, layer: np.ndarray, depth: int, first: int) -> _Slab:
        labels = layer[first : first + depth]
        tables = self._tables.get()
        traced = trace(labels, tables)
        self._tables.put(tables)
        if self._holes == "keyhole":
            traced = keyholed(traced, labels)
        if not len(traced):
            return _Slab([], traced.slices, traced.slices, traced.holes, [])
        order = np.argsort(traced.labels, kind="stable")
        starts, corners = gathered(traced.starts, order)
        slices = traced.slices[order] + first
        points = in_millimetres(self._source.planes, slices, starts, traced.corners[corners])
        if self._tolerance > 0:
            starts, points = simplified(starts, points, self._tolerance)
        found, begins = np.unique(traced.labels[order], return_index=True)
        ends = np.append(begins[1:], len(order))
        groups = list(zip(found.tolist(), begins.tolist(), ends.tolist(), strict=True))
        return _Slab(groups, slices, np.diff(starts), traced.holes[order], self._writer.lists(points, starts))

    def has(self, layer: int, label: int) -> bool:
        """Whether a label has contours."""
        return (layer, label) in self._found

    def write(self, file: BinaryIO, regions: Sequence[tuple[tuple[int, int], Colour]]) -> None:
        """The whole sequence; regions : (layer and label, colour) of each.

        Raises
        ------
        ImageError
            More than 4 GB.
        """
        with opened_sequence(file):
            for number, (key, colour) in enumerate(regions, 1):
                heads = list(self._heads(self._found[key]))
                texts = sum(size + size % 2 for contours in self._found[key] for size in contours.sizes)
                with opened_region(file, number, colour, texts + sum(map(len, heads))):
                    file.writelines(self._contours(heads, self._found[key]))

    def _heads(self, found: list[_Contours]) -> Iterator[bytes]:
        is_xor = any(contours.has_holes for contours in found)
        number = 0
        for contours in found:
            for place, count, size in zip(contours.slices, contours.counts, contours.sizes, strict=True):
                number += 1
                yield self._items.head(number, place, count, size, is_xor)

    def _contours(self, heads: list[bytes], found: list[_Contours]) -> Iterator[bytes | memoryview]:
        begin = iter(heads)
        for contours in found:
            self._spool.seek(contours.at)
            texts = memoryview(self._spool.read(sum(contours.sizes)))
            at = 0
            for size in contours.sizes:
                yield next(begin)
                yield texts[at : at + size]
                yield b" "[: size % 2]
                at += size
