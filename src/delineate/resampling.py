"""From the grid that was sent to the grid a model wants, and back.

Permuting and flipping axes is exact. A change of spacing follows one convention: a voxel's value is
at its centre, and the two grids are compared in world coordinates, never by their array sizes.
Between two grids whose axes are parallel each axis is interpolated by itself, which is the same as
interpolating in three dimensions and needs numpy alone. Images go onto turned grids by SimpleITK; labels do not.

- Images are interpolated linearly. Along an axis that becomes coarser, the linear interpolant is
  averaged over (new / old - 1) old voxels, so that fine structure fades instead of aliasing. Ramps come out
  exactly either way.
- Label maps: each structure's indicator is interpolated linearly, and the largest one wins. Among
  equals a structure wins over the background, then the lower label: thin structures survive, nothing
  is shifted, and where grid points fall half way between voxels structures grow rather than shrink.
- The outermost voxels reach to the grid's edge: points between the last centre and the edge take
  the last value; for label maps all beyond the edge is background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from delineate.errors import GeometryError, MissingPartError
from delineate.geometry import DIRECTION_TOLERANCE, Geometry
from delineate.model import AS_SENT
from delineate.orientation import AxisMap, reorientation
from delineate.segmentation import Segmentation
from delineate.volume import Volume

Axis = tuple[float, float]
"""One axis of a target grid in a source grid's index: (index of the first target voxel, source voxels per target voxel)."""

Taps = tuple[np.ndarray, np.ndarray]
"""Of each target voxel along an axis the source voxels that it is made of and their weights, both of shape (count, taps)."""

_THREADS = 2
_NONE = 1e-9  # a weight that is rounding
EQUAL = 1e-6  # weights of structures that differ by less are rounding


def to_model_grid(volume: Volume, orientation: str, spacing: Sequence[float] | None = None) -> Volume:
    """The image as a model wants it.

    Parameters
    ----------
    volume : Volume
    orientation : axis codes such as ``LPS``; an oblique grid stays oblique, its axes in the nearest order. ``as-sent``: unchanged.
    spacing : mm along x, y, z of the new grid, None to keep; the centre of the image stays where it is.

    Returns
    -------
    Volume
        C-contiguous voxels of the same type (whole numbers are rounded), with the same slope and intercept.
    """
    mapped = volume if orientation == AS_SENT else volume.mapped(reorientation(volume.geometry, orientation))
    if spacing is not None:
        mapped = volume_to_grid(mapped, spaced(mapped.geometry, spacing))
    return replace(mapped, voxels=np.ascontiguousarray(mapped.voxels))


def spaced(geometry: Geometry, spacing: Sequence[float]) -> Geometry:
    """The grid of another spacing (mm, x, y, z) with the same axes and centre that covers the same space to within half a voxel."""
    step = np.asarray(spacing, dtype=np.float64)
    if step.shape != (3,) or not (step > 0).all():
        raise GeometryError(f"a spacing is three positive numbers, not {tuple(spacing)}")
    if np.allclose(step, geometry.spacing, rtol=1e-6, atol=0):
        return geometry
    old = np.array(geometry.size)
    size = np.maximum(1, np.floor(old * np.array(geometry.spacing) / step + 0.5).astype(np.int64))
    first = (old - 1) / 2 - (size - 1) / 2 * step / np.array(geometry.spacing)
    return Geometry(tuple(size), tuple(step), tuple(geometry.to_world(first)), geometry.direction)


def volume_to_grid(volume: Volume, geometry: Geometry) -> Volume:
    """The image on another grid; the nearest value beyond its edges.

    Raises
    ------
    MissingPartError
        The grids' axes are not parallel, and SimpleITK, which interpolates between such grids, is not installed.
    """
    if not _are_parallel(volume.geometry, geometry):
        return replace(volume, voxels=_turned(volume, geometry), geometry=geometry)
    mapped = volume.mapped(_aligning(volume.geometry, geometry))
    if mapped.geometry.matches(geometry):
        return replace(mapped, voxels=np.ascontiguousarray(mapped.voxels), geometry=geometry)
    axes = _axes(mapped.geometry, geometry)
    taps = [_taps(axes[i], geometry.size[i], mapped.geometry.size[i]) for i in range(3)]
    return replace(mapped, voxels=_interpolated(mapped.voxels, taps, geometry.shape), geometry=geometry)


def labels_to_grid(segmentation: Segmentation, geometry: Geometry) -> Segmentation:
    """The structures on another grid with parallel axes; exact where only the order of the axes or the extent differs.

    Raises
    ------
    GeometryError
        Axes that are not parallel.
    """
    mapped = segmentation.mapped(_aligning(segmentation.geometry, geometry))
    if mapped.geometry.matches(geometry):
        layers = tuple(np.ascontiguousarray(layer) for layer in mapped.layers)
    else:
        axes = _axes(mapped.geometry, geometry)
        layers = tuple(_resample_labels(layer, axes, geometry) for layer in mapped.layers)
    return replace(mapped, geometry=geometry, layers=layers)


def _aligning(source: Geometry, target: Geometry) -> AxisMap:
    """How to permute and flip the source's axes so that they point along the target's."""
    cosines = target.matrix.T @ source.matrix
    order = tuple(int(i) for i in np.abs(cosines).argmax(axis=1))
    if not _are_parallel(source, target):
        raise GeometryError(
            f"the axes of the grids are not parallel: {source} against {target}", "Resample the image onto an unrotated grid."
        )
    return AxisMap(order, tuple(bool(c < 0) for c in cosines[range(3), order]))


def _are_parallel(source: Geometry, target: Geometry) -> bool:
    cosines = np.abs(target.matrix.T @ source.matrix)
    ideal = np.eye(3)[cosines.argmax(axis=1)]
    return bool((ideal.sum(axis=0) == 1).all() and np.abs(cosines - ideal).max() <= 10 * DIRECTION_TOLERANCE)


def _turned(volume: Volume, geometry: Geometry) -> np.ndarray:
    """On a grid whose axes are not parallel to the image's."""
    try:
        import SimpleITK
    except ImportError:
        raise MissingPartError("resampling between grids whose axes are not parallel (SimpleITK)", "images") from None
    library: Any = SimpleITK  # which has no types
    image = library.GetImageFromArray(volume.voxels)
    image.SetOrigin(volume.geometry.origin)
    image.SetSpacing(volume.geometry.spacing)
    image.SetDirection(volume.geometry.direction)
    kind = library.sitkFloat32 if _work(volume.voxels) == np.float32 else library.sitkFloat64
    grid = (geometry.origin, geometry.spacing, geometry.direction)
    found = library.Resample(image, geometry.size, library.Transform(), library.sitkLinear, *grid, 0.0, kind, True)
    values: np.ndarray = library.GetArrayFromImage(found)
    return (values if volume.voxels.dtype.kind == "f" else _rounded(values)).astype(volume.voxels.dtype, copy=False)


def _work(voxels: np.ndarray) -> np.dtype:
    """In what to interpolate: 32 bits hold all whole numbers of 16 bits; the wider types need more."""
    return np.dtype(np.float32 if voxels.dtype.itemsize <= 2 or voxels.dtype == np.float32 else np.float64)


def _axes(source: Geometry, target: Geometry) -> tuple[Axis, Axis, Axis]:
    first = source.to_index(target.origin)
    step = np.array(target.spacing) / np.array(source.spacing)
    x, y, z = ((float(first[i]), float(step[i])) for i in range(3))
    return x, y, z


def _taps(axis: Axis, count: int, limit: int) -> Taps:
    """Of each of `count` target voxels; indices stay below `limit`."""
    centre = axis[0] + axis[1] * np.arange(count)
    width = max(0.0, axis[1] - 1.0)
    first = np.floor(centre - width / 2).astype(np.int64)
    taps = int(np.ceil(width)) + 2
    index = first[:, None] + np.arange(taps)
    distance = centre[:, None] - index
    if width > 1e-6:
        weight = (_triangle_integral(distance + width / 2) - _triangle_integral(distance - width / 2)) / width
    else:
        weight = np.maximum(0.0, 1.0 - np.abs(distance))
    return np.clip(index, 0, limit - 1), weight / weight.sum(axis=1, keepdims=True)


def _triangle_integral(at: np.ndarray) -> np.ndarray:
    """The integral from minus infinity of max(0, 1 - abs(t))."""
    inside = np.clip(at, -1.0, 1.0)
    integral: np.ndarray = np.where(inside < 0, (inside + 1) ** 2 / 2, 1 - (1 - inside) ** 2 / 2)
    return integral


def _interpolated(voxels: np.ndarray, taps: Sequence[Taps], shape: tuple[int, int, int]) -> np.ndarray:
    """Plane by plane, so that all but the voxels themselves stays in the cache; `taps` along x, y, z."""
    work = _work(voxels)
    if abs(voxels.strides[2]) != voxels.itemsize:
        voxels = np.ascontiguousarray(voxels)  # planes of a turned array are all over the memory
    result = np.empty(shape, voxels.dtype)
    many = -(-shape[0] // _THREADS)

    def fill(first: int) -> None:
        for number, plane in _planes(voxels, taps, range(first, min(first + many, shape[0])), work):
            result[number] = _rounded(plane) if voxels.dtype.kind != "f" else plane

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(fill, range(0, shape[0], many)))
    return result


def _planes(voxels: np.ndarray, taps: Sequence[Taps], numbers: range, work: np.dtype) -> Iterator[tuple[int, np.ndarray]]:
    """Some of the target's planes; z goes first where it shrinks, last where it grows: the rest is then less work."""
    index, weight = taps[2]
    is_first = len(index) < len(voxels)
    kept: dict[int, np.ndarray] = {}
    for number in numbers:
        needed: dict[int, float] = {}
        for place, share in zip(index[number].tolist(), weight[number].tolist(), strict=True):
            needed[place] = needed.get(place, 0.0) + share
        needed = {place: share for place, share in needed.items() if share}
        if is_first:
            yield number, _within(_mixed([(voxels[place], share) for place, share in needed.items()], work), taps, work)
            continue
        kept = {place: kept[place] if place in kept else _within(voxels[place], taps, work) for place in needed}
        yield number, _mixed([(kept[place], share) for place, share in needed.items()], work)


def _mixed(planes: Sequence[tuple[np.ndarray, float]], work: np.dtype) -> np.ndarray:
    """The weighted sum, a new array."""
    plane, share = planes[0]
    result: np.ndarray = np.multiply(plane, work.type(share), dtype=work)
    for plane, share in planes[1:]:
        result += np.multiply(plane, work.type(share), dtype=work)
    return result


def _within(plane: np.ndarray, taps: Sequence[Taps], work: np.dtype) -> np.ndarray:
    """Interpolated along rows and columns."""
    for axis in sorted((0, 1), key=lambda axis: len(taps[1 - axis][0]) / plane.shape[axis]):
        index, weight = taps[1 - axis]
        result: np.ndarray | None = None
        for tap in range(index.shape[1]):
            if not weight[:, tap].any():
                continue
            term = plane.take(index[:, tap], axis=axis, mode="clip").astype(work, copy=False)
            term *= weight[:, tap].astype(work).reshape((-1, 1) if axis == 0 else (1, -1))
            result = term if result is None else np.add(result, term, out=result)
        assert result is not None  # weights sum to 1
        plane = result
    return plane


def _rounded(values: np.ndarray) -> np.ndarray:
    values += values.dtype.type(0.5)
    np.floor(values, out=values)
    return values


def _resample_labels(labels: np.ndarray, axes: tuple[Axis, Axis, Axis], geometry: Geometry) -> np.ndarray:
    """One layer, plane by plane; the labels differ among the eight neighbours of few points, and only these are weighed."""
    result = np.zeros(geometry.shape, labels.dtype)
    if labels.dtype == np.bool_:
        return _resample_labels(labels.view(np.uint8), axes, geometry).view(np.bool_)
    (column_near, column_share, on_columns), (row_near, row_share, on_rows), (near, share, on_planes) = (
        _neighbours(axes[i], geometry.size[i], labels.shape[2 - i]) for i in range(3)
    )
    for z in np.flatnonzero(on_planes):
        planes = [(labels[k], weight) for k, weight in zip(near[z], share[z].tolist(), strict=True) if weight > _NONE]
        filled = np.logical_or.reduce([plane != 0 for plane, _ in planes])
        rows = _reached(row_near, on_rows, filled.any(axis=1))
        columns = _reached(column_near, on_columns, filled.any(axis=0))
        if rows.stop > rows.start and columns.stop > columns.start:
            across, along = _sides(row_near[rows], row_share[rows]), _sides(column_near[columns], column_share[columns])
            result[z, rows, columns] = _mixed_labels(planes, across, along)
    return result


def _reached(near: np.ndarray, is_inside: np.ndarray, is_filled: np.ndarray) -> slice:
    """The target voxels along an axis, on the source grid, among whose two source voxels there may be a structure."""
    filled = np.flatnonzero(is_filled)
    if not len(filled):
        return slice(0, 0)
    found = np.flatnonzero(is_inside & (near[:, 0] <= filled[-1]) & (near[:, 1] >= filled[0]))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


_Side = tuple[slice | np.ndarray, np.ndarray]


def _sides(near: np.ndarray, share: np.ndarray) -> list[_Side]:
    """Source voxels along an axis, a slice where they follow each other, and weights; those that weigh nothing are left out."""
    sides: list[_Side] = []
    for index, weight in zip(near.T, share.T, strict=True):
        if (weight > _NONE).any():
            follow = bool((np.diff(index) == 1).all())
            sides.append((slice(int(index[0]), int(index[-1]) + 1) if follow else index, weight))
    return sides


def _mixed_labels(planes: Sequence[tuple[np.ndarray, float]], rows: Sequence[_Side], columns: Sequence[_Side]) -> np.ndarray:
    """The strongest label at each point of a plane, a new array."""
    corners, weights = [], []
    for plane, deep in planes:
        for row, across in rows:
            lines = plane[row]
            for column, along in columns:
                corners.append(lines[:, column])
                weights.append((deep, across, along))
    result: np.ndarray = corners[0].copy()
    mixed = np.zeros(result.shape, dtype=bool)
    for corner in corners[1:]:
        mixed |= corner != result
    y, x = np.nonzero(mixed)
    if len(y):
        shares = np.stack([deep * across[y] * along[x] for deep, across, along in weights])
        result[y, x] = _strongest(np.stack([corner[y, x] for corner in corners]), shares)
    return result


def _neighbours(axis: Axis, count: int, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each target voxel along an axis: its two source voxels, their weights (count, 2), and whether it is on the source grid."""
    centre = axis[0] + axis[1] * np.arange(count)
    first = np.floor(centre).astype(np.int64)
    after = centre - first
    index = np.clip(np.stack([first, first + 1], axis=1), 0, limit - 1)
    return index, np.stack([1 - after, after], axis=1), (centre > -0.5 - EQUAL) & (centre < limit - 0.5 + EQUAL)


def _strongest(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of neighbours' labels and weights, both of shape (neighbours, points): the label of the largest sum at each point."""
    sums = np.zeros(weights.shape)
    for label, weight in zip(labels, weights, strict=True):
        sums += np.where(labels == label, weight, 0.0)
    winning = sums >= sums.max(axis=0) - EQUAL
    highest = np.iinfo(labels.dtype).max
    structures: np.ndarray = np.where(winning & (labels > 0), labels, highest).min(axis=0)
    background = ~(winning & (labels > 0)).any(axis=0)
    return np.where(background, 0, structures).astype(labels.dtype)
