"""Planes that are on no grid, made into one for a model, and labels from there back onto the planes.

The grid's axes are the planes' own: along columns, along rows, along the normal. So a sheared stack (gantry tilt) is only
shifted within its planes, and unevenly spaced planes are interpolated between only where there is none. Linear, in floating
point, whole numbers rounded half up; a pixel's value is at its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from delineate.dicom.planes import SHIFT, Planes
from delineate.dicom.threads import in_turn
from delineate.errors import GeometryError, ImageError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.resampling import labels_to_grid
from delineate.segmentation import Segmentation

_MOST: Final = 2.0  # times as many planes as there are, at most, so that all lie on the grid
_WIDEST: Final = 4.0  # times the width of a plane that the planes of one stack may be shifted
_ON_PLANE: Final = 1e-3  # of the distance between planes


def grid_over(planes: Planes) -> Geometry:
    """The grid for a stack that is on none: it covers all planes, and its first and last planes are theirs.

    Raises `ImageError` for slices that lie beside each other.
    """
    places, spacing = planes.places, np.array(planes.spacing)
    low = places[:, :2].min(axis=0)
    extra = np.ceil((places[:, :2].max(axis=0) - low) / spacing - SHIFT).astype(int)
    if (extra > _WIDEST * np.array(planes.size)).any():
        raise ImageError(
            "the slices do not lie over each other (ImagePositionPatient): they are shifted by more than their width",
            "Give the slices of one stack.",
        )
    step, count = _steps(planes)
    corner = planes.axes @ np.array([*low, places[0, 2]])
    size = (planes.size[0] + int(extra[0]), planes.size[1] + int(extra[1]), count)
    return Geometry(size, (*planes.spacing, step), tuple(corner), tuple(planes.axes.ravel()))


def _steps(planes: Planes) -> tuple[float, int]:
    """mm between the grid's planes, and their number: the shortest distance, unless that makes very many."""
    if len(planes) < 2:
        return planes.step, 1
    total = float(planes.places[-1, 2] - planes.places[0, 2])
    if planes.is_even:
        return total / (len(planes) - 1), len(planes)
    parts = max(1, round(total / float(planes.distances.min())))
    if parts + 1 > _MOST * len(planes):
        parts = max(1, round(total / planes.usual))
    return total / parts, parts + 1


def on_grid(planes: Planes, voxels: np.ndarray, geometry: Geometry, fill: float) -> np.ndarray:
    """Planes interpolated onto the grid of `grid_over`.

    Parameters
    ----------
    voxels : shape (planes, rows, columns)
    fill : the value where no plane reaches

    Returns
    -------
    ndarray, shape (z, y, x), of the type of `voxels`
    """
    work = np.float32 if voxels.dtype.itemsize <= 2 or voxels.dtype == np.float32 else np.float64
    result = np.empty(geometry.shape, voxels.dtype)
    along = planes.places[:, 2] - planes.places[0, 2]
    step = geometry.spacing[2]
    shifts = (planes.places[:, :2] - np.array(geometry.origin) @ planes.axes[:, :2]) / np.array(planes.spacing)
    kept: dict[int, np.ndarray] = {}
    for index, target in enumerate(result):
        low, weight = _between(along, index * step, _ON_PLANE * step)
        needed = [low] if weight == 0 else [low, low + 1]
        kept = {i: kept[i] if i in kept else _shifted(voxels[i], shifts[i], geometry.shape[1:], fill, work) for i in needed}
        mixed = kept[low] if weight == 0 else (1 - weight) * kept[low] + weight * kept[low + 1]
        target[...] = np.floor(mixed + 0.5) if voxels.dtype.kind in "iu" else mixed
    return result


def _between(along: np.ndarray, at: float, close: float) -> tuple[int, float]:
    """The plane at or before a place, and how far towards the next one the place is, 0 to 1."""
    low = int(np.clip(np.searchsorted(along, at + close) - 1, 0, len(along) - 1))
    if low == len(along) - 1 or at - along[low] <= close:
        return low, 0.0
    return low, float(min((at - along[low]) / (along[low + 1] - along[low]), 1.0))


def _shifted(plane: np.ndarray, shift: np.ndarray, shape: Sequence[int], fill: float, work: type[np.floating]) -> np.ndarray:
    """A plane moved by `shift` (columns, rows; pixels, fractions too) within a larger one."""
    moved = plane.astype(work)
    inside = []
    for axis in (1, 0):
        count = plane.shape[axis]
        at = np.arange(shape[axis]) - shift[1 - axis]
        first = np.floor(at + 1e-6).astype(np.int64)
        weight = work(max(float(at[0] - first[0]), 0.0))
        low = moved.take(np.clip(first, 0, count - 1), axis=axis)
        moved = low if weight < 1e-5 else (1 - weight) * low + weight * moved.take(np.clip(first + 1, 0, count - 1), axis=axis)
        inside.append((at > -0.5 - 1e-6) & (at < count - 0.5 + 1e-6))
    columns, rows = inside
    moved[~rows, :] = fill
    moved[:, ~columns] = fill
    return moved


def labels_on_planes(planes: Planes, segmentation: Segmentation) -> tuple[np.ndarray, ...]:
    """The layers of a segmentation on the planes an image came from, each of shape (planes, rows, columns).

    Exact where the segmentation is on the planes' own grid, in whatever order of axes; else each plane is taken from the
    segmentation's grid by its own position.

    Raises
    ------
    GeometryError
        A grid whose axes are not parallel to the planes'.
    """
    own = planes.geometry
    if own is not None:
        turned = segmentation.mapped(reorientation(segmentation.geometry, own.axis_codes))
        if turned.geometry.matches(own):
            return tuple(np.ascontiguousarray(layer) for layer in turned.layers)
    if not len(planes):
        raise GeometryError("a stack without planes")
    result = tuple(np.empty((len(planes), planes.size[1], planes.size[0]), layer.dtype) for layer in segmentation.layers)
    parts = in_turn(lambda index: labels_to_grid(segmentation, planes.plane(index)).layers, range(len(planes)))
    for index, layers in enumerate(parts):
        for target, layer in zip(result, layers, strict=True):
            target[index] = layer[0]
    return result
