"""Pixels of a SEG file's frames, one at a time: bits, fractions over a threshold, or label maps."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from delineate.dicom.header import AGAIN, NATIVE, Header
from delineate.dicom.parts import pydicom
from delineate.errors import ImageError

_SAY: Final = "Export it again, uncompressed."


class Pixels:
    """The frames of one file, decoded when they are asked for; those of compressed files in their order.

    Raises `ImageError` where the file is shorter than its frames, or of a kind that no SEG is.
    """

    def __init__(self, header: Header, about: Any, count: int, kind: str, inflated: bytes | None) -> None:
        self._header, self._count = header, count
        self._rows, self._columns = int(about.Rows), int(about.Columns)
        self._bits = int(about.BitsAllocated)
        self._highest = float(about.get("MaximumFractionalValue") or (1 << self._bits) - 1)
        wanted = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}.get(kind, ())
        if self._bits not in wanted or (header.order == ">" and self._bits != 8):
            raise ImageError(f"{header.name} is a SEG of type {kind!r} with {self._bits} bits: not known", _SAY)
        self._data: np.ndarray | None = None
        if header.syntax in NATIVE:
            self._data = self._native(inflated)

    def _native(self, inflated: bytes | None) -> np.ndarray:
        needed = -(-self._count * self._rows * self._columns * self._bits // 8)
        if inflated is None:
            with self._header.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            data = np.frombuffer(mapped, np.uint8)[self._header.offset :]
        else:
            data = np.frombuffer(inflated, np.uint8)
        if len(data) < needed:
            raise ImageError(f"{self._header.name} is cut off: {needed - len(data)} bytes of its PixelData are missing", AGAIN)
        return data[:needed]

    def masks(self, frames: list[int], threshold: float) -> Iterator[tuple[int, np.ndarray]]:
        """Of each frame its first row that holds anything and, from it to the last such row, what is inside: bool."""
        if self._bits == 1 and self._data is not None:
            for frame in frames:
                yield self._unpacked(frame)
            return
        least = max(threshold * self._highest, 1e-9)
        for plane in self.planes(frames):
            yield _trimmed(plane >= least)

    def _unpacked(self, frame: int) -> tuple[int, np.ndarray]:
        assert self._data is not None
        size = self._rows * self._columns
        first = frame * size
        content = self._data[first // 8 : (first + size + 7) // 8]
        filled = np.flatnonzero(content)
        if not len(filled):
            return 0, np.zeros((0, self._columns), dtype=bool)
        offset = first % 8  # bits before the frame's own
        low = max(int(filled[0]) * 8 - offset, 0) // self._columns
        high = min(-(-(int(filled[-1]) * 8 + 8 - offset) // self._columns), self._rows)
        start, stop = low * self._columns + offset, high * self._columns + offset
        bits = np.unpackbits(content[start // 8 : -(-stop // 8)], bitorder="little")[start % 8 :][: stop - start]
        return low, bits.view(bool).reshape(high - low, self._columns)

    def planes(self, frames: list[int]) -> Iterator[np.ndarray]:
        """Stored values of frames."""
        kind = np.dtype(np.uint16 if self._bits == 16 else np.uint8)
        if self._data is None:
            yield from self._decoded(frames, kind)
            return
        size = self._rows * self._columns * kind.itemsize
        for frame in frames:
            yield self._data[frame * size : (frame + 1) * size].view(kind.newbyteorder("<")).reshape(self._rows, self._columns)

    def _decoded(self, frames: list[int], kind: np.dtype) -> Iterator[np.ndarray]:
        library = pydicom()
        try:
            for plane in library.pixels.iter_pixels(self._header.path, raw=True, indices=frames):
                if plane.shape != (self._rows, self._columns) or plane.dtype.itemsize > kind.itemsize:
                    raise ImageError(f"the PixelData of {self._header.name} decodes to frames of another size", AGAIN)
                yield plane
        except ImageError:
            raise
        except Exception as error:  # what decoders make of damaged fragments is anything
            words = library.uid.UID(self._header.syntax).name
            raise ImageError(f"the PixelData of {self._header.name} cannot be decoded ({words})", _SAY) from error


def _trimmed(mask: np.ndarray) -> tuple[int, np.ndarray]:
    rows = np.flatnonzero(mask.any(axis=1))
    return (int(rows[0]), mask[rows[0] : rows[-1] + 1]) if len(rows) else (0, mask[:0])
