"""Voxels of a contour as the fake host keeps them: the box around them, as bits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

Box = tuple[slice, slice, slice]


class UnkeptError(RuntimeError):
    """The host was told not to keep voxels, and is asked for them."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a mask of `shape` (z, y, x): how many voxels are inside, their box, their digest, and the box as bits."""

    shape: tuple[int, int, int]
    count: int = 0
    box: Box | None = None
    digest: str = ""
    bits: np.ndarray | None = None

    @classmethod
    def of(cls, mask: np.ndarray, keep: str) -> Kept:
        """Of a bool array (z, y, x); `keep` is ``all``, ``digest`` or ``count``."""
        shape = (mask.shape[0], mask.shape[1], mask.shape[2])
        count = int(np.count_nonzero(mask))
        if keep == "count" or not count:
            return cls(shape, count)
        box = _box(mask)
        planes = mask[box]
        bits = np.empty((len(planes), -(-planes[0].size // 8)), dtype=np.uint8) if keep == "all" else None
        digest = hashlib.blake2b(repr((shape, [(part.start, part.stop) for part in box])).encode(), digest_size=16)
        for z, plane in enumerate(planes):  # one plane at a time: the host shall not add a copy of the mask to what a test measures
            packed = np.packbits(plane)
            digest.update(packed.data)
            if bits is not None:
                bits[z] = packed
        return cls(shape, count, box, digest.hexdigest(), bits)

    def mask(self, dtype: str = "bool") -> np.ndarray:
        """A fresh array (z, y, x) of 0 and 1.

        Raises
        ------
        UnkeptError
            The voxels were not kept.
        """
        array = np.zeros(self.shape, dtype=dtype)
        if self.count:
            if self.bits is None or self.box is None:
                raise UnkeptError("the voxels of contours are not kept: make the host with keep='all'")
            for plane, packed in zip(array[self.box], self.bits, strict=True):
                plane[...] = np.unpackbits(packed, count=plane.size).reshape(plane.shape)
        return array


def _box(mask: np.ndarray) -> Box:
    """The smallest box around what is inside; the slices that are empty are looked at once."""
    z = _extent(np.any(mask, axis=(1, 2)))
    rows: np.ndarray = np.any(mask[z], axis=0)
    return (z, _extent(np.any(rows, axis=1)), _extent(np.any(rows, axis=0)))


def _extent(line: Any) -> slice:
    first, last = np.flatnonzero(line)[[0, -1]]
    return slice(int(first), int(last) + 1)
