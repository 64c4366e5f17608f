"""From the forest's opinion of each voxel to a structure: what neighbours that look alike make of it, and how smooth its labels were.

A forest judges voxels one by one. In an image of another patient some of them look like nothing it has seen, in the middle of much
that it knows. So a border is wanted where the image has an edge as strong as those under the labels, and gaps are closed
that the labels never had.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.models.cut import border_weights, minimal_cut
from delineate.models.morphology import bounds, close
from delineate.training.working import Array

Mask = npt.NDArray[np.bool_]
Chance = npt.NDArray[np.uint8]

_STRENGTH: Final = 0.4
"""What a border between equal values costs, where a voxel that the forest is sure of costs 1."""

_EDGE: Final = 0.2
"""Of the usual step over a label's border: with such a step a border costs 0.6 of its strength."""

_SURE: Final = 3.0  # a logarithm of odds that counts as certain
_CALL: Final = 5  # of 255: less is no call for a structure
_ROUNDS: Final = 60
_ROOM: Final = 3
_WIDEST: Final = 3
"""Working voxels; the widest gap that is closed is twice this."""

_PASSES: Final = 4

_ALLOWED: Final = 0.03
"""Of a structure's labels: where a closing adds more, its dents are its own and not closed."""

_UNIT: Final = (1.0, 1.0, 1.0)


def settled(chance: Chance, values: Array, contrast: float) -> Chance:
    """What a structure is by its voxels and their neighbours: above 127 inside, ordered by how likely the voxels are.

    Parameters
    ----------
    chance : 0 to 255, shape (z, y, x); values : of the working grid; contrast : the usual step over the border of the labels.
    """
    result: Chance = chance // 2
    box = bounds(chance > _CALL)
    if box is None or contrast <= 0:
        result += np.where(chance > 127, np.uint8(128), np.uint8(0))
        return result
    part = tuple(slice(max(0, b.start - _ROOM), b.stop + _ROOM) for b in box)
    p = np.clip((np.arange(256) / 255).astype(np.float32), 1e-4, 1 - 1e-4)
    cost = np.clip(np.log((1 - p) / p) / _SURE, -1, 1)[chance[part]]
    inside = minimal_cut(cost, border_weights(values[part], _UNIT, _EDGE * contrast, _STRENGTH), _ROUNDS)
    result[part] += np.where(inside > 0.5, np.uint8(128), np.uint8(0))
    return result


def filled(mask: Mask, radius: int) -> Mask:
    """Close gaps narrower than twice `radius` voxels and fill what is enclosed in planes of two of the three directions; 0: as it is.

    Again until nothing changes: where a cavity is filled from two sides a slit may be left, which is a gap.
    """
    result = mask
    for _ in range(_PASSES if radius else 0):
        before, result = result, _filled_once(result, radius)
        if np.array_equal(before, result):
            break
    return result


def _filled_once(mask: Mask, radius: int) -> Mask:
    result = close(mask, float(radius), _UNIT)
    box = bounds(result)
    if box is None:
        return mask
    part = result[box]
    votes = np.zeros(part.shape, dtype=np.uint8)
    for axis in range(3):
        votes += _enclosed(part, axis)
    part |= votes >= 2
    return result


def _enclosed(mask: Mask, axis: int) -> Mask:
    """Background that reaches no edge of its plane across `axis`."""
    moved = np.moveaxis(mask, axis, 0)
    result = np.stack([ndimage.binary_fill_holes(plane) for plane in moved])
    return np.moveaxis(result & ~moved, 0, axis)


def smoothness(mask: Mask, planes: Mask) -> int:
    """The widest closing, as a radius in voxels, that would leave a structure's labels nearly as they are.

    planes : those that are annotated, shape (z,); each is judged by itself, for what is between them is unknown.
    """
    there = np.flatnonzero(planes & mask.any(axis=(1, 2)))
    size = int(np.count_nonzero(mask[there]))
    for radius in range(1, _WIDEST + 1):
        added = 0
        for k in there:
            plane = mask[k : k + 1]
            closed = close(plane, float(radius), (1e6, 1.0, 1.0))
            added += int(np.count_nonzero(ndimage.binary_fill_holes(closed[0]) & ~plane[0]))
        if added > _ALLOWED * size:
            return radius - 1
    return _WIDEST
