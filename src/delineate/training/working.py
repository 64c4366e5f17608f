"""An image as the forest looks at it: LPS axes, one spacing, values that mean the same in every image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.models.hounsfield import LOWEST, hounsfield
from delineate.orientation import reorientation
from delineate.resampling import spaced, volume_to_grid
from delineate.volume import Volume

Array: TypeAlias = npt.NDArray[np.float32]

HU, RELATIVE = "HU", "relative"
SCALES = (HU, RELATIVE)
"""What values mean: Hounsfield units, or shares of the image's own range (MR and all else)."""

FINEST, COARSEST = 2.0, 3.0
"""Bounds of the working spacing, mm."""

MOST_VOXELS = 4_000_000
"""Voxels of the working grid; an image that has more of them is looked at more coarsely."""

_PLANES = 8
_RANGE = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Working:
    """An image on its working grid.

    values : float32, shape (z, y, x); scale : one of `SCALES`; geometry : LPS, `spacing` mm along every axis.
    """

    values: Array
    geometry: Geometry
    scale: str

    @property
    def spacing(self) -> float:
        """Size of a voxel, mm."""
        return self.geometry.spacing[0]


def scale_of(volume: Volume) -> str:
    """What the image's values can be taken for: `HU` where they are a CT's, else `RELATIVE`."""
    if volume.units == HU or volume.modality == "CT":
        return HU
    try:
        hounsfield(_thinned(volume), lambda text: None)
    except ModelError:
        return RELATIVE
    return HU


def spacing_for(volume: Volume) -> float:
    """The working spacing that suits an image: its voxels' mean size, within bounds, in steps of a half millimetre."""
    size = float(np.prod(volume.geometry.spacing)) ** (1 / 3)
    return float(min(COARSEST, max(FINEST, round(2 * size) / 2)))


def working(volume: Volume, spacing: float, scale: str, log: Callable[[str], None] = lambda text: None) -> Working:
    """Bring an image of any orientation to its working grid; beside it, little memory is used.

    Parameters
    ----------
    volume : one image; spacing : mm; scale : what its values are to be.
    log : what has to be said about the values.

    Raises
    ------
    ModelError
        Kind ``input``: values that are no CT's where `HU` are wanted, or none that are finite.
    """
    turned = volume.mapped(reorientation(volume.geometry, "LPS"))
    extent = [n * s for n, s in zip(turned.geometry.size, turned.geometry.spacing, strict=True)]
    spacing = max(spacing, (math.prod(extent) / MOST_VOXELS) ** (1 / 3))
    grid = spaced(turned.geometry, (spacing,) * 3)
    low, high = (float(LOWEST), 0.0) if scale == HU else _range(_thinned(turned).values())
    values = np.empty(grid.shape, dtype=np.float32)
    offset = _ct_offset(turned, log) if scale == HU else 0.0
    for first in range(0, grid.shape[0], _PLANES):
        planes = slice(first, min(first + _PLANES, grid.shape[0]))
        part = resampled(turned, grid, planes)
        values[planes] = np.clip(part + offset, LOWEST, 3071) if scale == HU else np.clip((part - low) / (high - low), -0.25, 1.5) * 1000
    return Working(values, grid, scale)


def fingerprint(volume: Volume) -> bytes:
    """A digest of an image's real values, whatever the order of its axes; the grid's place does not count."""
    thin = _thinned(volume.mapped(reorientation(volume.geometry, "LPS"))).values()
    digest = hashlib.sha256(repr(thin.shape).encode("ascii"))
    digest.update(np.rint(np.nan_to_num(thin.astype(np.float64)) * 16).astype("<i8").tobytes())
    return digest.digest()


def nearest(geometry: Geometry, grid: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each plane, row and column (z, y, x) of a working grid the index of the nearest one of the LPS grid it came from."""
    steps = []
    for axis in (2, 1, 0):
        first = geometry.to_index(grid.origin)[axis]
        place = first + np.arange(grid.size[axis]) * grid.spacing[axis] / geometry.spacing[axis]
        steps.append(np.clip(np.floor(place + 0.5).astype(np.int64), 0, geometry.size[axis] - 1))
    return steps[0], steps[1], steps[2]


def _ct_offset(volume: Volume, log: Callable[[str], None]) -> float:
    """What to add to get Hounsfield units: some CTs have lost their intercept."""
    thin = _thinned(volume)
    found = hounsfield(thin, log)
    real = np.nan_to_num(thin.values().astype(np.float64), nan=LOWEST)
    inside = (real > LOWEST) & (real < 1000)
    return float(np.median(found[inside] - np.rint(real[inside]))) if inside.any() else 0.0


def _thinned(volume: Volume) -> Volume:
    """Every few voxels of the image: enough to judge its values by."""
    step = tuple(max(1, n // 96) for n in volume.voxels.shape)
    voxels = np.ascontiguousarray(volume.voxels[tuple(slice(None, None, s) for s in step)])
    size = (voxels.shape[2], voxels.shape[1], voxels.shape[0])
    return replace(volume, voxels=voxels, geometry=replace(volume.geometry, size=size))


def _range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The values that become 0 and 1000: robust against a few bright vessels and against how much air is around."""
    finite = values[np.isfinite(values)].astype(np.float32)
    if finite.size == 0 or float(np.ptp(finite)) == 0:
        raise ModelError("the image holds no contrast: every voxel has the same value", "Send another image.", kind="input")
    low, high = np.percentile(finite, _RANGE)
    tissue = finite[finite > low + 0.1 * (high - low)]
    if tissue.size > 100:
        high = np.percentile(tissue, 95)
    return (float(low), float(high)) if high > low else (float(finite.min()), float(finite.max()))


def resampled(volume: Volume, grid: Geometry, planes: slice) -> Array:
    """Real values of some planes of the working grid; of the image, only what they need is touched."""
    part = replace(grid, size=(*grid.size[:2], planes.stop - planes.start), origin=tuple(grid.to_world((0, 0, planes.start))))
    ends = [volume.geometry.to_index(grid.to_world((0, 0, k)))[2] for k in (planes.start, planes.stop - 1)]
    margin = 2 + grid.spacing[2] / volume.geometry.spacing[2]
    low = max(0, math.floor(ends[0] - margin))
    high = min(volume.geometry.size[2], math.ceil(ends[1] + margin) + 1)
    cut = replace(volume.geometry, size=(*volume.geometry.size[:2], high - low), origin=tuple(volume.geometry.to_world((0, 0, low))))
    source = replace(volume, voxels=np.ascontiguousarray(volume.voxels[low:high]), geometry=cut)
    if source.voxels.dtype.kind == "f":
        source = replace(source, voxels=np.nan_to_num(source.voxels, nan=LOWEST, posinf=3071, neginf=LOWEST))
    return volume_to_grid(source, part).values().astype(np.float32)
