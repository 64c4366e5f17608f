"""A minimal cut in a part of an image: decided on blocks, drawn on voxels, in a time that does not depend on the part's size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from delineate.models.cut import Field, border_weights, minimal_cut
from delineate.models.morphology import bounds
from delineate.models.sampling import Blocks, Mask, Triple

Window = tuple[slice, slice, slice]

NODES = 30_000
"""Blocks that a cut is decided on."""

_DECIDED = 1e3  # a cost that no border outweighs
_ALONG = 1.25  # how much the way from what is known counts, against the costs
_VOXELS_SAY = 0.3  # how far from one half a block's share may be for its voxels to decide
_MARGIN = 3  # blocks around what was found, when it is looked at more closely


@dataclass(frozen=True, eq=False)
class CutProblem:
    """What is known of the voxels of a window, arrays of shape (z, y, x).

    values : of the image; cost : of being inside less that of being outside, about -1 to 1; forced : 1 inside, -1 outside, 0 open;
    spacing : z, y, x, mm; contrast : difference of values that makes a border likely; strength : of borders against costs;
    along : mm by which a change of values by the contrast makes a way longer; 0 where ways do not count.
    """

    values: Field
    cost: Field
    forced: npt.NDArray[np.int8]
    spacing: Triple
    contrast: float
    strength: float
    along: float = 0.0

    def part(self, window: Window) -> CutProblem:
        """The same in a part of the window."""
        return CutProblem(self.values[window], self.cost[window], self.forced[window], self.spacing, self.contrast, self.strength)


def cut_window(problem: CutProblem, nodes: int = NODES, rounds: int = 32) -> Mask:
    """The voxels inside; what turns out to be small is looked at again on smaller blocks."""
    coarse, share = _decide(problem, nodes, rounds)
    if max(coarse.factor) == 1:
        return share > 0.5
    near = bounds(share > 0.2)
    if near is None:
        return problem.forced > 0
    grown = _grown(near, [f * _MARGIN for f in coarse.factor], problem.values.shape)
    result = np.zeros(problem.values.shape, dtype=bool)
    if np.prod([s.stop - s.start for s in grown]) < 0.4 * result.size:
        near_by = problem.part(grown)
        cost = 0.5 * near_by.cost + 0.5 * (1 - 2 * share[grown])  # what was decided in the large counts
        result[grown] = cut_window(replace(near_by, cost=cost), nodes, rounds)
        return result
    score = (share - 0.5) - _VOXELS_SAY * np.clip(problem.cost, -1, 1)
    result = score > 0
    result[problem.forced > 0] = True
    result[problem.forced < 0] = False
    return result


def around(points: npt.NDArray[np.int64], margin: float, spacing: Triple, shape: tuple[int, ...]) -> Window:
    """The part of an image of `shape` that reaches `margin` mm around points, z, y, x, shape (n, 3)."""
    window = tuple(slice(int(a), int(b) + 1) for a, b in zip(points.min(axis=0), points.max(axis=0), strict=True))
    return _grown((window[0], window[1], window[2]), [int(np.ceil(margin / s)) for s in spacing], shape)


def shell(shape: tuple[int, ...], image: tuple[int, ...], window: Window) -> Mask:
    """The outermost voxels of a window, but not where it ends with the image."""
    mask = np.zeros(shape, dtype=bool)
    for axis, (part, length) in enumerate(zip(window, image, strict=True)):
        face: list[slice] = [slice(None)] * 3
        if part.start > 0:
            face[axis] = slice(0, 1)
            mask[tuple(face)] = True
        if part.stop < length:
            face[axis] = slice(-1, None)
            mask[tuple(face)] = True
    return mask


def _decide(problem: CutProblem, nodes: int, rounds: int) -> tuple[Blocks, Field]:
    """The blocks, and how far each voxel is inside, 0 to 1."""
    shape, spacing = problem.values.shape, problem.spacing
    extent = np.prod([n * s for n, s in zip(shape, spacing, strict=True)])
    blocks = Blocks.of(shape, spacing, float((extent / nodes) ** (1 / 3)) if np.prod(shape) > nodes else 0.0)
    cost, values = blocks.mean(problem.cost), blocks.mean(problem.values)
    forced = {sign: _blocks_of(problem.forced == sign, blocks) for sign in (-1, 1)}
    if problem.along > 0:
        cost += _ALONG * _nearer_along(values / np.float32(problem.contrast), forced[1], forced[-1], blocks.coarse, problem.along)
    for sign, places in forced.items():  # inside last
        cost.ravel()[places] = -sign * _DECIDED
    weights = border_weights(values, blocks.coarse, problem.contrast, problem.strength)
    share = minimal_cut(cost, weights, rounds)
    if max(blocks.factor) > 1:
        share = ndimage.uniform_filter(blocks.spread(share), blocks.factor, mode="nearest")
    return blocks, share


def _blocks_of(mask: Mask, blocks: Blocks) -> npt.NDArray[np.int64]:
    """Which blocks have voxels of a mask, as indices of the flat array of blocks."""
    shape = tuple(-(-n // f) for n, f in zip(blocks.shape, blocks.factor, strict=True))
    places = tuple(axis // f for axis, f in zip(np.nonzero(mask), blocks.factor, strict=True))
    return np.unique(np.ravel_multi_index(places, shape))


def _nearer_along(
    values: Field, inside: npt.NDArray[np.int64], outside: npt.NDArray[np.int64], spacing: Triple, along: float
) -> Field:  # fmt: skip
    """From -1 where a block is inside to 1 where it is outside, by its distances along the image from what is known.

    A way is longer where values change: by `along` mm for each 1.
    """
    if not (len(inside) and len(outside)):
        return np.zeros_like(values)
    index = np.arange(values.size, dtype=np.int32).reshape(values.shape)
    rows, columns, lengths = [], [], []
    for axis, step in enumerate(spacing):
        lower, upper = (tuple(part if a == axis else slice(None) for a in range(3)) for part in (slice(None, -1), slice(1, None)))
        rows.append(index[lower].ravel())
        columns.append(index[upper].ravel())
        lengths.append((step + along * np.abs(values[lower] - values[upper])).ravel())
    graph = csr_array((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), shape=(values.size, values.size))
    near, far = (dijkstra(graph, directed=False, indices=sources, min_only=True) for sources in (inside, outside))
    nearer: Field = ((near - far) / (near + far + 1e-3)).reshape(values.shape).astype(np.float32)
    return nearer


def _grown(window: Window, margin: list[int], shape: tuple[int, ...]) -> Window:
    z, y, x = (slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(window, margin, shape, strict=True))
    return z, y, x
