"""Mathematical morphology in millimetres, after Serra; balls by Euclidean distance, so spacing may differ by axis.

What lies beyond the image's edge is unknown, not background: nothing is eroded from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.models.sampling import Mask, Triple

FAR = 1e6
"""Distance between slices, mm, that makes a distance transform work within each slice."""

_FACES = ndimage.generate_binary_structure(3, 1)
_PLANE = _FACES.copy()
_PLANE[[0, 2]] = False


def depth(mask: Mask, spacing: Triple, *, planar: bool = False) -> npt.NDArray[np.float32]:
    """Distance from each inside voxel to the nearest voxel outside, mm; 0 outside; `planar`: within the axial slice.

    Where nothing is outside, the distance is to the edge of the image.
    """
    sampling = (FAR, *spacing[1:]) if planar else spacing
    if mask.all():
        mask = np.pad(mask, 1)
        return ndimage.distance_transform_edt(mask, sampling)[1:-1, 1:-1, 1:-1].astype(np.float32)  # type: ignore[no-any-return]
    return ndimage.distance_transform_edt(mask, sampling).astype(np.float32)  # type: ignore[no-any-return]


def _windowed(operation: Callable[[Mask], Mask], mask: Mask, spacing: Triple, margin: float) -> Mask:
    """Do an operation that reaches at most `margin` mm on the part of the image where the mask is."""
    box = bounds(mask)
    if box is None:
        return np.zeros_like(mask)
    grown = tuple(
        slice(max(0, b.start - int(margin / s) - 2), min(n, b.stop + int(margin / s) + 2))
        for b, s, n in zip(box, spacing, mask.shape, strict=True)
    )
    result = np.zeros_like(mask)
    result[grown] = operation(mask[grown])
    return result


def dilate(mask: Mask, radius: float, spacing: Triple) -> Mask:
    """Grow by a ball of `radius` mm."""
    return _windowed(lambda m: depth(~m, spacing) <= radius if not m.all() else m, mask, spacing, radius)


def erode(mask: Mask, radius: float, spacing: Triple) -> Mask:
    """Shrink by a ball of `radius` mm; nothing comes off at the image's edge."""
    return depth(mask, spacing) > radius if not mask.all() else mask.copy()


def close(mask: Mask, radius: float, spacing: Triple) -> Mask:
    """Fill gaps and dents narrower than a ball of `radius` mm."""
    pad = [min(40, int(radius / s) + 2) for s in spacing]

    def operation(part: Mask) -> Mask:
        # With room around, so that what is grown beyond the edge shrinks back from there.
        room = np.pad(part, [(p, p) for p in pad], mode="edge")
        grown = depth(~room, spacing) <= radius if not room.all() else room
        back = depth(grown, spacing) > radius if not grown.all() else grown
        return back[tuple(slice(p, p + n) for p, n in zip(pad, part.shape, strict=True))] | part

    return _windowed(operation, mask, spacing, radius)


def reconstruct(seed: Mask, inside: Mask) -> Mask:
    """The components of `inside` that `seed` touches (6-connected)."""
    labels, count = ndimage.label(inside)
    keep = np.zeros(count + 1, dtype=bool)
    keep[np.unique(labels[seed & inside])] = True
    keep[0] = False
    result: Mask = keep[labels]
    return result


def fill_slices(mask: Mask, axis: int = 0) -> Mask:
    """Fill what is enclosed within each slice across `axis`: background that does not reach the slice's edge."""
    moved = np.moveaxis(mask, axis, 0)
    pad = np.pad(~moved, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels, _ = ndimage.label(pad, _PLANE)
    edge = np.zeros(int(labels.max()) + 1, dtype=bool)
    edge[labels[:, 0, 0]] = True
    outside = edge[labels][:, 1:-1, 1:-1]
    return np.moveaxis(moved | ~outside, 0, axis)


def bounds(mask: Mask) -> tuple[slice, slice, slice] | None:
    """The box around a mask, None where it is empty."""
    slices = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if line.size == 0:
            return None
        slices.append(slice(int(line[0]), int(line[-1]) + 1))
    return (slices[0], slices[1], slices[2])


def sizes(labels: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Voxels of each label 0 … count."""
    return np.bincount(labels.ravel(), minlength=count + 1)


def shares(labels: npt.NDArray[Any], count: int, mask: Mask) -> npt.NDArray[np.float64]:
    """The share of each label's voxels that lie in a mask."""
    inside = np.bincount(labels.ravel(), weights=mask.ravel(), minlength=count + 1)
    return inside / np.maximum(sizes(labels, count), 1)


def contact(labels: npt.NDArray[Any], count: int, mask: Mask) -> npt.NDArray[np.float64]:
    """The share of each component's faces that border on a mask; faces on the image's edge or within it do not count."""
    total = np.zeros(count + 1)
    touching = np.zeros(count + 1)
    for axis in range(3):
        here: list[slice] = [slice(None)] * 3
        there: list[slice] = [slice(None)] * 3
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        for a, b in ((tuple(here), tuple(there)), (tuple(there), tuple(here))):
            face = (labels[a] > 0) & (labels[b] != labels[a])
            found = labels[a][face]
            total += np.bincount(found, minlength=count + 1)
            touching += np.bincount(found, weights=mask[b][face], minlength=count + 1)
    return touching / np.maximum(total, 1)
