"""Images of the fake host: what it keeps (`HostImage`) and what it hands out (`XMimImage`)."""

# ruff: noqa: D102, N802  - the host's own names, which the specification describes

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.testing.mimhost.calls import HostObject, Ledger, host_call
from delineate.testing.mimhost.contours import HostContour, XMimContour
from delineate.testing.mimhost.options import Options
from delineate.testing.mimhost.patient import XMimDicomInfo
from delineate.testing.mimhost.space import XMimSpace, single, vector
from delineate.volume import Volume


class HostImage:
    """An image as the test sees it; nothing here counts as a call.

    Attributes
    ----------
    number : 0, 1, … in the order in which the host got them.
    volume : stored voxels, slope and intercept, and where they are.
    frames : how many times the volume is there, one after the other; above 1 the image has four dimensions.
    multiplier : voxels of a new contour in each voxel, along x, y, z.
    dicom : attributes, tag → value; None: the image has none.
    contours : those that exist, in order. Two may have one name.
    """

    def __init__(
        self,
        ledger: Ledger,
        options: Options,
        serial: Callable[[], int],
        number: int,
        volume: Volume,
        *,
        multiplier: tuple[int, int, int],
        name: str,
        dicom: Mapping[int, Any] | None,
        frames: int,
    ) -> None:
        self.options, self.number, self.volume = options, number, volume
        self.multiplier, self.name, self.dicom, self.frames = multiplier, name, dicom, frames
        self.contours: list[HostContour] = []
        self.changes = 0
        self._ledger, self._serial = ledger, serial

    @property
    def geometry(self) -> Geometry:
        """Where the image is, LPS mm."""
        return self.volume.geometry

    @property
    def contour_geometry(self) -> Geometry:
        """The grid of its new contours."""
        return self.geometry.refined(self.multiplier)

    @property
    def dims(self) -> list[int]:
        """Voxels along x, y, z, and times if there are several."""
        return [*self.geometry.size, *([self.frames] if self.frames > 1 else [])]

    @property
    def names(self) -> list[str]:
        """Names of the contours, in order."""
        return [contour.name for contour in self.contours]

    @property
    def handle(self) -> XMimImage:
        """What an extension gets of it."""
        return XMimImage(self._ledger, self)

    def add_contour(self, name: str, mask: np.ndarray | None = None, *, multiplier: tuple[int, int, int] | None = None) -> HostContour:
        """Draw a contour by hand: bool `mask` (z, y, x) on the contours' grid, nothing inside where there is none."""
        contour = HostContour(self, self._ledger, name, multiplier or self.multiplier, self._serial())
        if mask is not None:
            contour.put(mask)
        self.contours.append(contour)
        self.changes += 1
        return contour

    def remove(self, contour: HostContour) -> None:
        """Delete a contour: whoever still holds it gets an error from every call."""
        self.contours = [other for other in self.contours if other is not contour]
        contour.exists = False
        self.changes += 1

    def contour(self, name: str) -> HostContour:
        """The one contour of that name; KeyError where there is none or several."""
        found = [contour for contour in self.contours if contour.name == name]
        if len(found) != 1:
            raise KeyError(f"{len(found)} contours are called {name!r}; there are {self.names}")
        return found[0]

    def segmentation(self) -> Segmentation:
        """All contours that are on the contours' grid, to write or to look at; two of one name are an error."""
        masks = {c.name: c.mask for c in self.contours if c.multiplier == self.multiplier}
        return Segmentation.from_masks(masks, self.contour_geometry)


class XMimDataArray(HostObject):
    """Voxels of an image: a fresh array each time."""

    __slots__ = ()
    _kept: tuple[HostImage, bool]

    @host_call
    def copyToNPArray(self) -> np.ndarray:
        image, is_scaled = self._kept
        array = image.volume.values() if is_scaled else image.volume.voxels
        if array is image.volume.voxels:
            array = array.copy(order="C")
        if image.frames > 1:
            array = np.stack([array] * image.frames)
        return self._ledger.hand_out(array)


class XMimImageInfo(HostObject):
    """What an image is called, and its DICOM attributes."""

    __slots__ = ()
    _kept: HostImage

    @host_call
    def getModality(self) -> str:
        return self._kept.volume.modality

    @host_call
    def getCustomName(self) -> str:
        return self._kept.name

    @host_call
    def getDicomInfo(self) -> XMimDicomInfo | None:
        image = self._kept
        return None if image.dicom is None else XMimDicomInfo(self._ledger, (image.dicom, image.options.numbers))


class ContourIterator(HostObject):
    """Goes over contours."""

    __slots__ = ()
    _kept: dict[str, Any]

    def __iter__(self) -> ContourIterator:
        return self

    def __next__(self) -> XMimContour:
        found = self._next()
        if found is None:
            raise StopIteration
        return found

    @host_call
    def _next(self) -> XMimContour | None:
        state, image = self._kept, self._kept["image"]
        contours = state["contours"] if state["contours"] is not None else image.contours
        if image.options.contours == "fail-fast" and state["changes"] != image.changes:
            self._ledger.refuse("java.util.ConcurrentModificationException", "contours were added or deleted while they were gone over")
        if state["at"] >= len(contours):
            return None
        state["at"] += 1
        found: HostContour = contours[state["at"] - 1]
        return found.handle


class XMimContours(HostObject):
    """The contours of an image: to go over, and nothing else."""

    __slots__ = ()
    _kept: tuple[HostImage, list[HostContour] | None]

    @host_call
    def __iter__(self) -> Iterator[XMimContour]:
        image, contours = self._kept
        return ContourIterator(self._ledger, {"image": image, "contours": contours, "changes": image.changes, "at": 0})


class XMimImage(HostObject):
    """An image."""

    __slots__ = ()
    _kept: HostImage

    @host_call
    def getRawData(self) -> XMimDataArray:
        return XMimDataArray(self._ledger, (self._kept, False))

    @host_call
    def getScaledData(self) -> XMimDataArray:
        return XMimDataArray(self._ledger, (self._kept, True))

    @host_call
    def getNoxelSizeInMm(self) -> object:
        return vector(single(self._kept.geometry.spacing), self._kept.options)

    @host_call
    def getSpace(self) -> XMimSpace:
        return XMimSpace(self._ledger, self._kept)

    @host_call
    def getInfo(self) -> XMimImageInfo:
        return XMimImageInfo(self._ledger, self._kept)

    @host_call
    def getContours(self) -> XMimContours:
        image = self._kept
        return XMimContours(self._ledger, (image, list(image.contours) if image.options.contours == "snapshot" else None))

    @host_call
    def createNewContour(self, name: str) -> XMimContour:
        if type(name) is not str or not name:
            self._ledger.refuse("java.lang.IllegalArgumentException", "createNewContour takes a name")
        return self._kept.add_contour(name).handle
