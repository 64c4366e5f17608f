"""From the grid that was sent to the grid a model wants, and back.

Permuting and flipping axes is exact. A change of spacing follows one convention: a voxel's value is
at its centre, and the two grids are compared in world coordinates, never by their array sizes.
Between two grids whose axes are parallel each axis is interpolated by itself, which is the same as
interpolating in three dimensions and needs numpy alone.

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

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delineate.errors import GeometryError
from delineate.geometry import DIRECTION_TOLERANCE, Geometry
from delineate.model import AS_SENT
from delineate.orientation import AxisMap, reorientation
from delineate.segmentation import Segmentation
from delineate.volume import Volume

Axis = tuple[float, float]
"""One axis of a target grid in a source grid's index: (index of the first target voxel, source voxels per target voxel)."""

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
    """The image on another grid with parallel axes (`GeometryError` where they are not); the nearest value beyond its edges."""
    mapped = volume.mapped(_aligning(volume.geometry, geometry))
    if mapped.geometry.matches(geometry):
        return replace(mapped, voxels=np.ascontiguousarray(mapped.voxels), geometry=geometry)
    voxels = mapped.voxels
    # float32 holds all whole numbers of 16 bits; the wider types need more
    work = np.float32 if voxels.dtype.itemsize <= 2 or voxels.dtype == np.float32 else np.float64
    result = voxels
    axes = _axes(mapped.geometry, geometry)
    # The axis that shrinks most goes first, the rest is then less work.
    for axis in sorted(range(3), key=lambda i: geometry.size[i] / mapped.geometry.size[i]):
        result = _interpolate(result, 2 - axis, axes[axis], geometry.size[axis], work)
    return replace(mapped, voxels=_as_type(result, voxels.dtype), geometry=geometry)


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
    along = cosines[range(3), order]
    ideal = np.zeros((3, 3))
    ideal[range(3), order] = np.sign(along)
    if sorted(order) != [0, 1, 2] or np.abs(cosines - ideal).max() > 10 * DIRECTION_TOLERANCE:
        raise GeometryError(
            f"the axes of the grids are not parallel: {source} against {target}", "Resample the image onto an unrotated grid."
        )
    return AxisMap(order, tuple(bool(c < 0) for c in along))


def _axes(source: Geometry, target: Geometry) -> tuple[Axis, Axis, Axis]:
    first = source.to_index(target.origin)
    step = np.array(target.spacing) / np.array(source.spacing)
    x, y, z = ((float(first[i]), float(step[i])) for i in range(3))
    return x, y, z


def _taps(axis: Axis, count: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights, shape (count, taps), of the source voxels of each of `count` target voxels; indices stay below `limit`."""
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


def _interpolate(values: np.ndarray, axis: int, where: Axis, count: int, work: type[np.floating]) -> np.ndarray:
    """Interpolate along one array axis."""
    index, weight = _taps(where, count, values.shape[axis])
    shape = [1, 1, 1]
    shape[axis] = count
    result: np.ndarray | None = None
    for tap in range(index.shape[1]):
        if not weight[:, tap].any():
            continue
        term = values.take(index[:, tap], axis=axis).astype(work, copy=False)
        term *= weight[:, tap].astype(work).reshape(shape)
        result = term if result is None else np.add(result, term, out=result)
    assert result is not None  # weights sum to 1
    return result


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    values += 0.5
    np.floor(values, out=values)
    return values.astype(dtype)


def _resample_labels(labels: np.ndarray, axes: tuple[Axis, Axis, Axis], geometry: Geometry) -> np.ndarray:
    """One layer, plane by plane; the labels differ among the eight neighbours of few points, and only these are weighed."""
    result = np.zeros(geometry.shape, labels.dtype)
    if labels.dtype == np.bool_:
        return _resample_labels(labels.view(np.uint8), axes, geometry).view(np.bool_)
    near, share, inside = zip(*(_neighbours(axes[i], geometry.size[i], labels.shape[2 - i]) for i in range(3)), strict=True)
    columns, rows = near[0], near[1]
    for z in np.flatnonzero(inside[2]):
        planes = [labels[k] for k in near[2][z]]
        if not any(plane.any() for plane in planes):
            continue
        corners = [plane[row][:, column] for plane in planes for row in rows.T for column in columns.T]
        plane = corners[0].copy()
        mixed = np.zeros(plane.shape, dtype=bool)
        for corner in corners[1:]:
            mixed |= corner != plane
        y, x = np.nonzero(mixed)
        if len(y):
            weights = (share[2][z][:, None, None, None] * share[1][y].T[None, :, None, :] * share[0][x].T[None, None, :, :]).reshape(8, -1)
            plane[y, x] = _strongest(np.stack([corner[y, x] for corner in corners]), weights)
        plane[~inside[1], :] = 0
        plane[:, ~inside[0]] = 0
        result[z] = plane
    return result


def _neighbours(axis: Axis, count: int, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each target voxel along an axis: its two source voxels, their weights (count, 2), and whether it is on the source grid."""
    centre = axis[0] + axis[1] * np.arange(count)
    first = np.floor(centre).astype(np.int64)
    after = centre - first
    index = np.clip(np.stack([first, first + 1], axis=1), 0, limit - 1)
    return index, np.stack([1 - after, after], axis=1), (centre > -0.5 - EQUAL) & (centre < limit - 0.5 + EQUAL)


def _strongest(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of neighbours' labels and weights, both of shape (8, points): the label of the largest sum at each point."""
    sums = np.zeros(weights.shape)
    for label, weight in zip(labels, weights, strict=True):
        sums += np.where(labels == label, weight, 0.0)
    winning = sums >= sums.max(axis=0) - EQUAL
    highest = np.iinfo(labels.dtype).max
    structures: np.ndarray = np.where(winning & (labels > 0), labels, highest).min(axis=0)
    background = ~(winning & (labels > 0)).any(axis=0)
    return np.where(background, 0, structures).astype(labels.dtype)
