"""Where an image of the fake host is: its space, points of the patient, and noxels, in which a voxel's centre is its index + 0.5."""

# ruff: noqa: D102, N802  - the host's own names, which the specification describes

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from delineate.geometry import Geometry
from delineate.testing.mimhost.calls import HostObject, JavaVector, host_call
from delineate.testing.mimhost.options import Options

if TYPE_CHECKING:
    from delineate.testing.mimhost.images import HostImage


def tilted(geometry: Geometry, degrees: tuple[float, float, float] = (12.0, -7.0, 21.0)) -> Geometry:
    """The grid turned about its first voxel by angles about the patient's x, y and z axes: an oblique one."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = one @ turn
    return Geometry(geometry.size, geometry.spacing, geometry.origin, tuple((turn @ geometry.matrix).ravel()))


def vector(values: object, options: Options) -> JavaVector | list[float]:
    """A vector as the host hands it out."""
    items = list(np.asarray(values).tolist())
    return items if options.vectors == "list" else JavaVector(items)


def single(values: object) -> list[float]:
    """Numbers in single precision: 1.2 is 1.2000000476837158."""
    result: list[float] = np.asarray(values, dtype=np.float32).tolist()
    return result


def dicom_center(geometry: Geometry, meaning: str) -> list[float]:
    """What ``getDicomCenter`` may mean."""
    corner, middle = [-0.5] * 3, (np.array(geometry.size) - 1) / 2
    places: dict[str, Any] = {
        "first-voxel": geometry.origin,
        "first-corner": geometry.to_world(corner),
        "middle": geometry.to_world(middle),
        "ras": geometry.to_world(middle) * (-1, -1, 1),
        "noxel": np.array(geometry.size) / 2,
        "zero": (0.0, 0.0, 0.0),
    }
    return [float(v) for v in places[meaning]]


def image_orientation(geometry: Geometry, meaning: str) -> list[float]:
    """What ``getIop`` may mean."""
    matrix = geometry.matrix
    values = {
        "rows-columns": matrix.T[:2],
        "columns-rows": matrix.T[[1, 0]],
        "matrix": matrix,
        "identity": np.eye(3)[:2],
    }
    return [float(v) for v in values[meaning].ravel()]


class XMimSpace(HostObject):
    """The space of an image."""

    __slots__ = ()
    _kept: HostImage

    @host_call
    def getNoxSize(self) -> object:
        image = self._kept
        return vector(single(image.geometry.spacing) if image.options.nox_size == "mm" else image.dims, image.options)

    @host_call
    def getDataDims(self) -> object:
        return vector(self._kept.dims, self._kept.options)

    @host_call
    def getDimensionCount(self) -> int:
        return len(self._kept.dims)

    @host_call
    def getDicomCenter(self) -> object:
        return vector(dicom_center(self._kept.geometry, self._kept.options.dicom_center), self._kept.options)

    @host_call
    def getIop(self) -> object:
        return vector(image_orientation(self._kept.geometry, self._kept.options.iop), self._kept.options)


class XMimCoordSystem(HostObject):
    """A system of coordinates: DICOM's."""

    __slots__ = ()


class XMimPointFactory(HostObject):
    """Makes points."""

    __slots__ = ()

    @host_call
    def getDicomCoordSystem(self) -> XMimCoordSystem:
        return XMimCoordSystem(self._ledger)

    @host_call
    def createPoint(self, space: XMimSpace, system: XMimCoordSystem, coordinates: list[float]) -> XMimPoint:
        if not isinstance(space, XMimSpace) or not isinstance(system, XMimCoordSystem):
            self._ledger.refuse("java.lang.IllegalArgumentException", "createPoint takes a space, a coordinate system and coordinates")
        if not isinstance(coordinates, list) or len(coordinates) != 3 or not all(isinstance(v, float) for v in coordinates):
            self._ledger.refuse("java.lang.IllegalArgumentException", "createPoint takes coordinates as a list of three floats")
        return XMimPoint(self._ledger, (space._kept.geometry, tuple(coordinates)))


class XMimPoint(HostObject):
    """A point of the patient, in the space of an image."""

    __slots__ = ()
    _kept: tuple[Geometry, tuple[float, float, float]]

    @host_call
    def toNoxel(self) -> XMimNoxel:
        geometry, coordinates = self._kept
        return XMimNoxel(self._ledger, [float(v) for v in geometry.to_index(coordinates) + 0.5])


class XMimNoxel(HostObject):
    """A place among the voxels of an image."""

    __slots__ = ()
    _kept: list[float]

    @host_call
    def getCoord(self, axis: int) -> float:
        if type(axis) is not int or axis not in (0, 1, 2):
            self._ledger.refuse("java.lang.ArrayIndexOutOfBoundsException", f"getCoord takes 0, 1 or 2, not {axis!r}")
        return self._kept[axis]
