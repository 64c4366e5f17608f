"""How a structure goes on where its labels stop in the middle of it.

Who labels the lower half of a lung shows its thin base, all of whose voxels are at an edge: of lungs in full this says nothing. But the
image shows them, next to the last labelled slice. So the trees look at some slices more; what they find there, as far as
it hangs together with the labels, teaches the next trees, and these look further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.training.boosting import boosted
from delineate.training.features import NAMES, NARROW
from delineate.training.lessons import gathered, with_twins
from delineate.training.sampling import Index, Looked, Mask, Samples, even
from delineate.training.shaping import filled, settled
from delineate.training.speaking import tapers

_SLIVER: Final = 3.5
"""Working voxels: where no labelled one is as deep inside, in its plane, all of them are at an edge. Thicker ones speak for themselves."""

_LEAST: Final = 15.0
"""mm beyond the labels that must be unknown: between slices labelled here and there nothing is looked for."""

_FURTHEST: Final = 2.0
"""How far beyond, as a multiple of what was labelled."""

_STEP: Final = 0.5
"""How far at once, as a share of what is known."""

_FEWEST: Final = 2  # planes at once

_UNLIKELY: Final = 76  # of 255: what is not found and has less for it is not of the structure; the rest teaches nothing
_INSIDE, _NEAR, _OUTSIDE = 4_000, 3_000, 8_000
_REACH: Final = 2  # working voxels around a structure that count as near
_TREES: Final = 30


@dataclass(eq=False)
class _Way:
    """One direction in which a structure goes on.

    column : its number; ahead : planes that nothing is known of, nearest first; reached : the structure in the plane before these.
    extent : planes from end to end in which it is known.
    """

    column: int
    up: bool
    ahead: Sequence[int]
    extent: int
    reached: Mask

    def stretch(self) -> slice:
        """The next planes."""
        some = self.ahead[: max(_FEWEST, round(_STEP * self.extent))]
        return slice(min(some), max(some) + 1)

    def went(self, planes: slice, inside: Mask) -> None:
        """Go on behind the stretch; nowhere, where the structure was not found to its end."""
        count = planes.stop - planes.start
        self.reached = inside[-1 if self.up else 0]
        self.ahead = self.ahead[count:] if self.reached.any() else ()
        self.extent += count


@dataclass(eq=False)
class _Found:
    """What was found in a stretch: inside and sure, shape (planes, y, x)."""

    column: int
    planes: slice
    inside: Mask
    sure: Mask


def continued(samples: Samples, looked: Looked, seed: int = 0, threads: int = 1) -> Samples:
    """Samples with those of slices beyond the labels, wherever a structure labelled in slivers alone goes on there.

    Parameters
    ----------
    samples : what was chosen of the case.
    """
    rng = np.random.default_rng(seed)
    ways = [way for column in range(len(samples.names)) for way in _ways(looked, column)]
    while ways:
        trees = {column: _trees(samples, column, threads) for column in {way.column for way in ways}}
        found = [_found(way, looked, samples, trees[way.column], threads) for way in ways]
        _part(found, looked)
        for way, one in zip(ways, found, strict=True):
            way.went(one.planes, one.inside)
        samples = _with(samples, found, looked, rng)
        ways = [way for way in ways if way.ahead]
    return samples


def _ways(looked: Looked, column: int) -> Iterator[_Way]:
    """Up and down, where what is labelled of a structure is thin, does not taper off, and enough planes beyond are unknown."""
    mask = looked.truth.labels == column + 1
    known = np.asarray(looked.truth.known[column].any(axis=(1, 2)))
    there = np.flatnonzero(mask.any(axis=(1, 2)))
    if there.size == 0 or max(float(ndimage.distance_transform_edt(mask[k]).max()) for k in there) > _SLIVER:
        return
    areas = np.count_nonzero(mask[there], axis=(1, 2))
    extent = int(there[-1] - there[0] + 1)
    for first, way in ((there[-1], 1), (there[0], -1)):
        beyond = np.arange(first + way, len(mask) if way > 0 else -1, way)
        speaks = np.flatnonzero(known[beyond])
        ahead = beyond[: speaks[0]] if speaks.size else beyond
        ahead = ahead[: int(_FURTHEST * extent)]
        if ahead.size * looked.image.spacing >= _LEAST and not tapers(areas[::way]):
            yield _Way(column, way > 0, ahead.tolist(), extent, mask[first])


def _trees(samples: Samples, column: int, threads: int) -> list[Any]:
    """Two forests, whose mean counts: one tells this image by heart, one knows what holds on the other side, too."""
    name = samples.names[column]
    rows, truth = gathered(name, [samples], [~samples.held])
    wide = with_twins(name, [samples], rows, truth)
    return [
        boosted(rows, truth, NAMES, lambda fraction: None, threads, _TREES),
        boosted(*wide, NARROW, lambda fraction: None, threads, _TREES),
    ]


def _chance(planes: slice, looked: Looked, trees: Sequence[Any], threads: int) -> npt.NDArray[np.uint8]:
    """What the forests take the voxels of some planes for, 0 to 255, shape (planes, y, x)."""
    shape = (planes.stop - planes.start, *looked.image.values.shape[1:])
    said = [np.mean([one.predict(block.rows, num_threads=threads) for one in trees], axis=0) for block in looked.features.blocks(planes)]
    result: npt.NDArray[np.uint8] = np.rint(255 * np.concatenate(said)).astype(np.uint8).reshape(shape)
    return result


def _found(way: _Way, looked: Looked, samples: Samples, trees: Sequence[Any], threads: int) -> _Found:
    """The structure in the next stretch, as far as it hangs together with what is known of it."""
    planes = way.stretch()
    chance = _chance(planes, looked, trees, threads)
    before = np.where(way.reached, np.uint8(255), np.uint8(0))[None]
    known, own = (0, slice(1, None)) if way.up else (-1, slice(None, -1))
    joined = np.concatenate([before, chance] if way.up else [chance, before])
    values = looked.image.values[slice(planes.start - 1, planes.stop) if way.up else slice(planes.start, planes.stop + 1)]
    inside = settled(joined, values, float(samples.contrasts[way.column])) > 127
    parts, count = ndimage.label(filled(inside, int(samples.closings[way.column])))
    keep = np.zeros(count + 1, dtype=bool)
    keep[parts[known][way.reached]] = True
    keep[0] = False
    inside = keep[parts][own]
    return _Found(way.column, planes, inside, inside | (chance < _UNLIKELY))


def _part(found: Sequence[_Found], looked: Looked) -> None:
    """What two structures claim, or one that is labelled otherwise, is of none."""
    claims = np.zeros(looked.truth.labels.shape, dtype=np.uint16)
    claims[looked.truth.labels > 0] = 1
    for one in found:
        claims[one.planes] += one.inside
    for one in found:
        disputed = one.inside & (claims[one.planes] > 1)
        one.inside &= ~disputed
        one.sure &= ~disputed


def _with(samples: Samples, found: Sequence[_Found], looked: Looked, rng: np.random.Generator) -> Samples:
    """Samples and those of the stretches."""
    index = np.unique(np.concatenate([_drawn(one, looked, rng) for one in found]))
    truth = np.zeros(index.size, dtype=np.uint8)
    known = np.zeros((index.size, len(samples.names)), dtype=bool)
    plane = looked.image.values[0].size
    for one in found:
        first = one.planes.start * plane
        here = np.flatnonzero((index >= first) & (index < one.planes.stop * plane))
        inside, sure = (mask.ravel()[index[here] - first] for mask in (one.inside, one.sure))
        truth[here[inside]] = one.column + 1
        known[here, one.column] = sure
    use = known.any(axis=1)
    index, truth, known = index[use], truth[use], known[use]
    return replace(
        samples,
        rows=np.concatenate([samples.rows, looked.features.rows(index)]),
        truth=np.concatenate([samples.truth, truth]),
        known=np.concatenate([samples.known, known]),
        held=np.concatenate([samples.held, np.zeros(index.size, bool)]),
        weight=np.concatenate([samples.weight, np.ones(index.size, np.float32)]),
    )


def _drawn(one: _Found, looked: Looked, rng: np.random.Generator) -> Index:
    """Voxels of a stretch: inside, near and outside, as far as that is sure."""
    first = one.planes.start * looked.image.values[0].size
    outside = one.sure & ~one.inside
    near = np.flatnonzero(ndimage.binary_dilation(one.inside, iterations=_REACH) & outside)
    return np.concatenate(
        [
            even(first + np.flatnonzero(one.inside), looked.looks, _INSIDE, rng),
            first + rng.permutation(near)[:_NEAR],
            even(first + np.flatnonzero(outside), looked.looks, _OUTSIDE, rng),
        ]
    )
