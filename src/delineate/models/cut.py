"""The minimal cut of a grid: which voxels are inside, so that costs of voxels and of the border between them are least.

The energy is that of Boykov and Jolly (ICCV 2001), a cost for each voxel and a weight for each pair of neighbours. It is found through
its convex relaxation, whose threshold is a minimal cut (Chan, Esedoglu, Nikolova, SIAM J. Appl. Math. 2006), with the
primal-dual steps of Chambolle and Pock (J. Math. Imaging Vis. 2011): whole arrays at a time, no library, and the number of
rounds bounds the time. After few rounds a minimum is only near; a good start makes it near enough.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from delineate.models.sampling import Mask, Triple

Field: TypeAlias = npt.NDArray[np.float32]

_STEP = 0.28  # its square times 12, the largest eigenvalue of the grid, is below 1


def border_weights(values: Field, spacing: Triple, contrast: float, strength: float) -> tuple[Field, ...]:
    """The cost of a border between neighbours, for each axis one smaller than `values` there.

    Parameters
    ----------
    values : shape (z, y, x); spacing : z, y, x, mm
    contrast : the difference of values at which a border costs 0.6 of `strength`; a border between equal values costs all of it.
    """
    nearest = min(spacing)
    weights = []
    for axis, step in enumerate(spacing):
        weight = np.diff(values, axis=axis)
        weight *= np.float32(1 / contrast)
        np.square(weight, out=weight)
        weight *= np.float32(-0.5)
        np.exp(weight, out=weight)
        weight *= np.float32(strength * nearest / step)
        weights.append(weight)
    return tuple(weights)


def minimal_cut(cost: Field, weights: tuple[Field, ...], rounds: int = 60, start: Field | None = None) -> Field:
    """How far each voxel is inside, 0 to 1; above one half is the cut.

    Parameters
    ----------
    cost : of being inside less that of being outside, shape (z, y, x); large numbers decide a voxel
    weights : as of `border_weights`
    start : a guess, by default what the costs alone say
    """
    inside = np.ascontiguousarray((cost < 0) if start is None else start, dtype=np.float32)
    ahead = inside.copy()
    flows = [np.zeros_like(weight) for weight in weights]
    limits = [-weight for weight in weights]
    moved = np.empty_like(inside)
    for _ in range(rounds):
        np.multiply(cost, -_STEP, out=moved)
        moved += inside
        for axis, (flow, weight, limit) in enumerate(zip(flows, weights, limits, strict=True)):
            lower, upper = _neighbours(axis)
            slope = ahead[upper] - ahead[lower]
            slope *= _STEP
            flow += slope
            np.clip(flow, limit, weight, out=flow)
            np.multiply(flow, _STEP, out=slope)
            moved[lower] += slope
            moved[upper] -= slope
        np.clip(moved, 0, 1, out=moved)
        np.multiply(moved, 2, out=ahead)
        ahead -= inside
        inside, moved = moved, inside
    return inside


def energy(mask: Mask, cost: Field, weights: tuple[Field, ...]) -> float:
    """What a cut costs."""
    borders = sum(float(weight[mask[_neighbours(axis)[0]] != mask[_neighbours(axis)[1]]].sum()) for axis, weight in enumerate(weights))
    return float(cost[mask].sum()) + borders


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    lower, upper = [slice(None)] * 3, [slice(None)] * 3
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return tuple(lower), tuple(upper)
