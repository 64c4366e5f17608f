"""Which axial planes of a label map speak where nobody says which were looked at.

A plane that holds a structure was looked at. A plane without it, between planes that hold it, was skipped: nobody knows. Beyond the
last plane the structure may have ended, or the annotator has stopped: there the image is asked.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]

_BEYOND: Final = 100.0
"""mm beyond an end for which a structure that has ended is taken as absent."""

_TAPERED: Final = 0.2
"""Of the largest cross-section: an end smaller than this, and shrinking, is an end."""

_GONE: Final = 0.05
"""Of the last contour's pixels: where fewer still look like the structure, it has ended."""

_MARGIN: Final = 10.0
"""mm more that stay unknown where the image, not the labels, says that a structure has ended."""

_LIKE: Final = (5.0, 95.0)
"""Percentiles of the values in the last planes between which a pixel looks like the structure."""


def speaking_planes(mask: Mask, values: npt.NDArray[np.generic], spacing: float) -> Mask:
    """The planes that say where a structure is and where it is not.

    Parameters
    ----------
    mask : of the structure, shape (z, y, x), planes from feet to head.
    values : of the image, same shape; spacing : of planes, mm.

    Returns
    -------
    shape (z,). Planes that hold the structure. Beyond each end, for 100 mm: all planes, where the cross-section tapers off; those
    from where nothing under the last contour looks like the structure any more, where it ends abruptly. None between.
    A structure without a voxel is known to be absent everywhere.
    """
    speaking: Mask = np.asarray(mask.any(axis=(1, 2)))
    there = np.flatnonzero(speaking)
    if there.size == 0:
        return np.ones_like(speaking)
    step = int(np.median(np.diff(there))) if there.size > 1 else 1
    areas = np.count_nonzero(mask, axis=(1, 2))
    speaking[_beyond(mask, values, areas, there, step, spacing)] = True
    down = _beyond(mask[::-1], values[::-1], areas[::-1], mask.shape[0] - 1 - there[::-1], step, spacing)
    speaking[mask.shape[0] - 1 - down] = True
    return speaking


def _beyond(
    mask: Mask, values: npt.NDArray[np.generic], areas: npt.NDArray[np.intp], there: npt.NDArray[np.intp], step: int, spacing: float
) -> npt.NDArray[np.intp]:
    """Planes after the last one that holds the structure in which it is absent."""
    last = int(there[-1])
    first = last + step if tapers(areas[there]) else _end(mask, values, there, step, spacing)
    stop = min(mask.shape[0], last + 1 + int(np.ceil(_BEYOND / spacing)))
    return np.arange(min(first, stop), stop)


def tapers(areas: npt.NDArray[np.intp]) -> bool:
    """Whether cross-sections, in the order of their planes, shrink to little at the last one."""
    small = areas[-1] <= _TAPERED * areas.max()
    return bool(small and areas.size > 2 and areas[-1] <= areas[-2] <= areas[-3])


def _end(mask: Mask, values: npt.NDArray[np.generic], there: npt.NDArray[np.intp], step: int, spacing: float) -> int:
    """The first plane in which surely nothing under the last contour goes on."""
    last = int(there[-1])
    inside = np.concatenate([values[k][mask[k]] for k in there[-3:]])
    low, high = np.percentile(inside, _LIKE)
    footprint = ndimage.binary_erosion(mask[last])
    footprint = footprint if footprint.any() else mask[last]
    for k in range(last + 1, mask.shape[0]):
        pixels = values[k][footprint]
        if np.mean((pixels >= low) & (pixels <= high)) < _GONE:
            at_once = k == last + 1 and step == 1  # it was labelled to its end
            return k if at_once else k + max(step, int(np.ceil(_MARGIN / spacing)))
    return len(mask)
