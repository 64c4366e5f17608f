"""Pixels of a SEG file's frames, one at a time: bits, fractions over a threshold, or label maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

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
        self._is_native = header.syntax in NATIVE
        self._inflated = None if inflated is None else np.frombuffer(inflated, np.uint8)
        if self._is_native:
            self._require_whole()

    def _require_whole(self) -> None:
        needed = -(-self._count * self._rows * self._columns * self._bits // 8)
        header = self._header
        there = header.size - header.offset if self._inflated is None else len(self._inflated)
        if there < needed:
            raise ImageError(f"{header.name} is cut off: {needed - there} bytes of its PixelData are missing", AGAIN)

    def _opened(self) -> contextlib.AbstractContextManager[BinaryIO | None]:
        return contextlib.nullcontext() if self._inflated is not None else self._header.path.open("rb", buffering=0)

    def _bytes(self, file: BinaryIO | None, start: int, stop: int) -> np.ndarray:
        """Of the pixels, read when they are needed: a mapped file would count as memory."""
        if file is None:
            assert self._inflated is not None
            return self._inflated[start:stop]
        file.seek(self._header.offset + start)
        content = np.frombuffer(file.read(stop - start), np.uint8)
        if len(content) < stop - start:
            raise ImageError(f"{self._header.name} became shorter while it was read", AGAIN)
        return content

    def masks(self, frames: list[int], threshold: float) -> Iterator[tuple[int, np.ndarray]]:
        """Of each frame its first row that holds anything and, from it to the last such row, what is inside: bool."""
        if self._bits == 1 and self._is_native:
            with self._opened() as file:
                for frame in frames:
                    yield self._unpacked(file, frame)
            return
        least = max(threshold * self._highest, 1e-9)
        for plane in self.planes(frames):
            yield _trimmed(plane >= least)

    def _unpacked(self, file: BinaryIO | None, frame: int) -> tuple[int, np.ndarray]:
        size = self._rows * self._columns
        first = frame * size
        content = self._bytes(file, first // 8, (first + size + 7) // 8)
        filled = content != 0
        if not filled.any():
            return 0, np.zeros((0, self._columns), dtype=bool)
        begin, end = int(filled.argmax()), len(filled) - int(filled[::-1].argmax())
        offset = first % 8  # bits before the frame's own
        low = max(begin * 8 - offset, 0) // self._columns
        high = min(-(-(end * 8 - offset) // self._columns), self._rows)
        start, stop = low * self._columns + offset, high * self._columns + offset
        bits = np.unpackbits(content[start // 8 : -(-stop // 8)], bitorder="little")[start % 8 :][: stop - start]
        return low, bits.view(bool).reshape(high - low, self._columns)

    def planes(self, frames: list[int]) -> Iterator[np.ndarray]:
        """Stored values of frames."""
        kind = np.dtype(np.uint16 if self._bits == 16 else np.uint8)
        if not self._is_native:
            yield from self._decoded(frames, kind)
            return
        size = self._rows * self._columns * kind.itemsize
        with self._opened() as file:
            for frame in frames:
                content = self._bytes(file, frame * size, (frame + 1) * size)
                yield content.view(kind.newbyteorder("<")).reshape(self._rows, self._columns)

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
