"""Contours of the fake host: what it keeps (`HostContour`) and what it hands out (`XMimContour`)."""

# ruff: noqa: D102, N802  - the host's own names, which the specification describes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from delineate.geometry import Geometry
from delineate.testing.mimhost.calls import HostObject, Ledger, host_call
from delineate.testing.mimhost.space import single, vector
from delineate.testing.mimhost.voxels import Kept

if TYPE_CHECKING:
    from delineate.testing.mimhost.images import HostImage


class HostContour:
    """A contour as the test sees it; nothing here counts as a call.

    Attributes
    ----------
    name, image, multiplier (x, y, z) : its own.
    serial : no other contour of the host ever has it.
    exists : False once it is deleted.
    redraws, writes : how often ``redrawCompletely`` and ``setFromNPArray`` were called.
    """

    def __init__(self, image: HostImage, ledger: Ledger, name: str, multiplier: tuple[int, int, int], serial: int) -> None:
        self.image, self.name, self.multiplier, self.serial = image, name, multiplier, serial
        self.exists = True
        self.redraws = self.writes = 0
        self._ledger = ledger
        self._late: np.ndarray | None = None
        self._kept = Kept(self.geometry.shape)

    @property
    def geometry(self) -> Geometry:
        """Its grid, LPS mm."""
        return self.image.geometry.refined(self.multiplier)

    @property
    def voxels(self) -> Kept:
        """What is kept of its voxels."""
        if self._late is not None:
            self._kept = Kept.of(self._late, self.image.options.keep)
            self._late = None
        return self._kept

    @property
    def mask(self) -> np.ndarray:
        """Its voxels: bool, (z, y, x), on `geometry`; `UnkeptError` where they were not kept."""
        return self.voxels.mask()

    @property
    def count(self) -> int:
        """Voxels inside."""
        return self.voxels.count

    @property
    def handle(self) -> XMimContour:
        """What an extension gets of it."""
        return XMimContour(self._ledger, self)

    def put(self, mask: np.ndarray) -> None:
        """Set its voxels, as a person would by hand."""
        if mask.shape != self.geometry.shape:
            raise ValueError(f"a mask of shape {mask.shape} on a contour of shape {self.geometry.shape}, (z, y, x)")
        self._late, self._kept = None, Kept.of(np.asarray(mask, dtype=bool), self.image.options.keep)

    def write(self, mask: np.ndarray) -> None:
        """What ``setFromNPArray`` does with an array that fits."""
        self.writes += 1
        if self.image.options.reads == "late":
            self._late = mask
        else:
            self._late, self._kept = None, Kept.of(mask, self.image.options.keep)


class _OfContour(HostObject):
    __slots__ = ()
    _kept: HostContour

    def _must_exist(self) -> None:
        if not self._kept.exists:
            self._ledger.refuse("java.lang.IllegalStateException", f"the contour was deleted ({type(self).__name__})")


class XMimContourInfo(_OfContour):
    """What a contour is called."""

    __slots__ = ()

    @host_call
    def getName(self) -> str:
        return self._kept.name


class XMimContourData(_OfContour):
    """The voxels of a contour."""

    __slots__ = ()

    @host_call
    def copyToNPArray(self) -> np.ndarray:
        return self._ledger.hand_out(self._kept.voxels.mask(self._kept.image.options.masks))

    @host_call
    def setFromNPArray(self, array: np.ndarray) -> None:
        wanted = self._kept.geometry.shape
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        if found != f"bool of shape {wanted}":
            message = f"setFromNPArray takes a numpy array, bool of shape {wanted}, not {found}"
            self._ledger.refuse("java.lang.IllegalArgumentException", message)
        self._kept.write(array)


class XMimContour(_OfContour):
    """A contour."""

    __slots__ = ()

    @host_call
    def getData(self) -> XMimContourData:
        return XMimContourData(self._ledger, self._kept)

    @host_call
    def getDims(self) -> object:
        return vector(self._kept.geometry.size, self._kept.image.options)

    @host_call
    def getMultiplier(self) -> object:
        return vector(self._kept.multiplier, self._kept.image.options)

    @host_call
    def getNoxelSizeInMm(self) -> object:
        return vector(single(self._kept.geometry.spacing), self._kept.image.options)

    @host_call
    def getInfo(self) -> XMimContourInfo:
        return XMimContourInfo(self._ledger, self._kept)

    @host_call
    def redrawCompletely(self) -> None:
        self._kept.redraws += 1

    @host_call
    def sanitize(self) -> None:
        """Nothing is known of what it does, so nothing is done."""

    @host_call
    def isEmpty(self) -> bool:
        return not self._kept.count

    @host_call
    def delete(self) -> None:
        self._kept.image.remove(self._kept)
