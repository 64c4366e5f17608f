"""Frames of a SEG file made smaller, for whoever asks for it: each by run lengths, or the whole file deflated."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import numpy as np

from delineate.dicom.header import DEFLATED, EXPLICIT
from delineate.dicom.parts import pydicom

Packing = Literal["none", "rle", "deflated"]

SYNTAXES: Final[dict[Packing, str]] = {"none": EXPLICIT, "rle": "1.2.840.10008.1.2.5", "deflated": DEFLATED}
_PIXELS: Final = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
_LEVEL: Final = 1  # label maps are mostly one value: what takes longer finds little more


def run_lengths(planes: Iterable[np.ndarray]) -> Iterator[bytes]:
    """PixelData of frames by run lengths (PS3.5, annex G), one fragment each; the table of their offsets is empty."""
    library = pydicom()
    encoder = library.pixels.get_encoder(library.uid.RLELossless)
    yield _PIXELS + _item(b"")
    for plane in planes:
        bits = 8 * plane.itemsize
        about = {"bits_allocated": bits, "bits_stored": bits, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2"}
        rows, columns = plane.shape
        packed = encoder.encode(np.ascontiguousarray(plane), rows=rows, columns=columns, samples_per_pixel=1, number_of_frames=1, **about)
        yield _item(packed + b"\0"[: len(packed) % 2])
    yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _item(value: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def deflated(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """A data set deflated (PS3.5, A.5), of even length."""
    packer, size = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS), 0
    for part in parts:
        packed = packer.compress(part)
        size += len(packed)
        yield packed
    last = packer.flush()
    yield last + b"\0"[: (size + len(last)) % 2]
