"""Bone in a CT.

What is dense inside the body, except what contrast medium makes dense: blood and bowel are brightest in their middle and fade
at the wall, bones have a bright cortex around a darker marrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.models.morphology import FAR, bounds, close, contact, depth, dilate, fill_slices, shares, sizes
from delineate.models.sampling import Blocks, Mask, Triple, Values
from delineate.models.trunk import body_on_blocks

COARSE = 2.0
"""Size of the blocks on which bones are looked for, mm."""

DENSE = 160
"""HU above which a voxel can be bone."""

CERTAIN = 280
"""HU that some voxels of every bone exceed: cortex, also with partial volume."""

BLOOD = 430
"""HU that blood with contrast medium rarely exceeds once it has mixed."""

SMOOTH = 0.11
"""Blood is even: its deviation over some millimetres is below this share of its mean; marrow's is not."""

GAP = 8.0
"""Balls of this radius, mm, do not pass the openings of a cortex that the image cuts: the veins' behind a vertebra's body."""

FINE = 1.0
"""Size of the pixels, mm, on which they are closed, and never the voxels: a cortex of one has no width on a grid of its own."""

CUT = 20.0
"""How far from the first and last slice, mm, a bone can lack the wall that the image cut off."""

SPONGY = 50.0
"""The least area, mm², of spongy bone that is filled behind such openings."""

TRABECULA = 100
"""HU that spongy bone exceeds in places, also where fat lowers its mean to that of soft tissue."""

SMALLEST = 0.25
"""Parts smaller than this, ml, are calcifications or noise."""


def find_bones(hu: Values, spacing: Triple) -> Mask:
    """Bones with their marrow on the grid of `hu` (shape and mm spacing z, y, x)."""
    blocks = Blocks.of(hu.shape, spacing, COARSE)
    coarse = blocks.mean(hu)
    body = _body(hu, spacing, blocks)
    found = np.zeros(coarse.shape, dtype=bool)
    box = bounds(body & (coarse > DENSE))
    if box is None:
        return np.zeros(hu.shape, dtype=bool)
    found[box] = bones_on_blocks(coarse[box], body[box], blocks.coarse)
    return _drawn(found, coarse, hu, blocks)


def _body(hu: Values, spacing: Triple, blocks: Blocks) -> Mask:
    """The body on the bones' blocks; it may be found on larger ones."""
    large = Blocks.of(hu.shape, spacing, 3.0)
    body = body_on_blocks(large.mean(hu), large.coarse)
    index = []
    for length, step, large_step in zip(hu.shape, blocks.factor, large.factor, strict=True):
        middles = np.minimum(np.arange(0, length, step) + step // 2, length - 1)
        index.append(middles // large_step)
    return body[np.ix_(*index)]


def bones_on_blocks(hu: np.ndarray, body: Mask, spacing: Triple) -> Mask:
    """Bones on coarse blocks."""
    contrast = _contrast(hu, body & (hu > 0.75 * DENSE), spacing)
    dense = body & (hu > DENSE) & ~contrast
    labels, count = ndimage.label(dense, np.ones((3, 3, 3)))
    if count == 0:
        return dense
    volume = sizes(labels, count) * float(np.prod(spacing)) / 1000
    # In an image of few slices every part is small.
    least = min(SMALLEST, 0.15 * hu.shape[0] * spacing[0] / 10)
    keep = (volume >= least) & (shares(labels, count, hu > CERTAIN) > 0.05)
    keep[0] = False
    bone = keep[labels]
    # Cracks and thin cortex close over what is nearly as dense; the gap between two bones does not.
    bone |= close(bone, max(3.0, 1.05 * max(spacing[1:])), spacing) & body & (hu > 0.6 * DENSE) & ~contrast
    return _marrow(hu, _spongy(hu, bone, body & ~contrast, spacing), spacing) & ~contrast


def _contrast(hu: np.ndarray, dense: Mask, spacing: Triple) -> Mask:
    """Vessels, chambers and bowel filled with contrast medium: even inside, and soft tissue around instead of cortex."""
    width = [min(5, int(6 / s) // 2 * 2 + 1, n // 2 * 2 + 1) for s, n in zip(spacing, hu.shape, strict=True)]
    width = [max(3, w) if n >= 3 else 1 for w, n in zip(width, hu.shape, strict=True)]
    mean = ndimage.uniform_filter(hu, width)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(hu * hu, width) - mean * mean, 0))
    even = dense & (mean < 1.6 * BLOOD) & (deviation < np.maximum(SMOOTH * mean, 28))
    labels, count = ndimage.label(even)
    volume = sizes(labels, count) * float(np.prod(spacing)) / 1000
    reach = max(w * s / 2 for w, s in zip(width, spacing, strict=True)) + 2
    margin = [int(reach / s) + 2 for s in spacing]
    result = np.zeros_like(dense)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if volume[label] < 0.4:
            continue
        grown = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True))
        part = labels[grown] == label
        around = dilate(part, reach, spacing)
        level = float(np.median(hu[grown][part]))
        rim = hu[grown][around & ~part]
        # A vessel's wall may hold chalk, and a vertebra may touch it; most of its rim is darker all the same.
        if level < BLOOD and np.mean(rim < 0.6 * level) - np.mean(rim > 1.2 * level) > 0.1:
            result[grown] |= around & dense[grown] & (hu[grown] < level + 60)
    return result


def _spongy(hu: np.ndarray, bone: Mask, body: Mask, spacing: Triple) -> Mask:
    """Add spongy bone that is less dense than the threshold but lies between cortices: vertebrae of the elderly."""
    large = Blocks.of(bone.shape, spacing, 4.0)
    hull = large.spread(close(large.mean(bone) > 0.2, 12.0, large.coarse))
    # Cortex would outshine the mean of what is beside it.
    between = hull & ~bone & body & (ndimage.uniform_filter(np.minimum(hu, 1.25 * DENSE), 3) > 0.6 * DENSE)
    # Opened: the voxels that mix cortex with what is beside it are one thick, and no marrow.
    labels, count = ndimage.label(ndimage.binary_opening(between) if min(bone.shape) > 2 else between)
    keep = contact(labels, count, bone | (between & (labels == 0))) > 0.6
    keep[0] = False
    spongy = keep[labels]
    result: Mask = bone | spongy | (ndimage.binary_dilation(spongy) & between)
    return result


def _marrow(hu: np.ndarray, bone: Mask, spacing: Triple) -> Mask:
    """Fill what bone encloses in a slice where it is marrow: red (above 70 HU) or yellow (fat), not the spinal canal or brain."""
    result: Mask = bone.copy()
    for axis in range(3):
        holes = fill_slices(bone, axis) & ~bone
        structure = np.zeros((3, 3, 3), dtype=bool)
        structure[1] = ndimage.generate_binary_structure(2, 1)
        labels, count = ndimage.label(holes, np.moveaxis(structure, 0, axis))
        if count == 0:
            continue
        area = sizes(labels, count) * float(np.prod([s for a, s in enumerate(spacing) if a != axis]))
        means = np.append(0.0, ndimage.mean(hu, labels, np.arange(1, count + 1)))
        red, yellow = (means > 70) & (area < 2000), (means < 5) & (means > -150) & (area < 400)
        keep = red | yellow | (area < 25)
        keep[0] = False
        result |= keep[labels]
    return result | _cut_marrow(hu, result, spacing)


def _cut_marrow(hu: np.ndarray, bone: Mask, spacing: Triple) -> Mask:
    """Spongy bone left open by a gap in the cortex, or as dense as soft tissue, near the image's ends: no endplate closes it there."""
    near = max(1, int(CUT / spacing[0]))
    found = np.zeros_like(bone)
    ends = range(len(bone)) if len(bone) <= 2 * near else (*range(near), *range(len(bone) - near, len(bone)))
    for k in ends:
        holes = _behind_gaps(bone[k], spacing)
        labels, count = ndimage.label(ndimage.binary_opening(holes))
        if count == 0:
            continue
        area = sizes(labels, count) * spacing[1] * spacing[2]
        # Muscle and fat between two bones touch less bone; brain and spinal cord are even and have no trabeculae.
        rim = bone[k] | (holes & (labels == 0))
        inner = np.where(ndimage.binary_erosion(labels > 0), labels, 0)
        spongy = shares(inner, count, hu[k] > TRABECULA) > 0.08
        keep = spongy & (area >= SPONGY) & (area < 2000) & (contact(labels[None], count, rim[None]) > 0.85)
        keep[0] = False
        found[k] = keep[labels]
    return found


def _behind_gaps(bone: Mask, spacing: Triple) -> Mask:
    """What bone encloses within one slice but for gaps, at most `GAP` mm deep into a ball; never closed towards a neighbour."""
    wider = GAP + 1.5 * max(spacing[1:])
    labels, _ = ndimage.label(_filled(bone, wider, spacing[1:]) & ~bone)
    times = [max(2, round(s / FINE)) for s in spacing[1:]]
    fine = [s / n for s, n in zip(spacing[1:], times, strict=True)]
    margin = [int(wider / s) + 3 for s in spacing[1:]]
    found = np.zeros_like(bone)
    for box in ndimage.find_objects(labels):
        if (box[0].stop - box[0].start) * (box[1].stop - box[1].start) * spacing[1] * spacing[2] < SPONGY:
            continue
        y, x = (slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True))
        large = np.repeat(np.repeat(bone[y, x], times[0], axis=0), times[1], axis=1)
        filled = _filled(large, GAP, fine).reshape(bone[y, x].shape[0], times[0], -1, times[1])
        found[y, x] |= filled.all(axis=(1, 3))
    return found & ~bone


def _filled(bone: Mask, radius: float, spacing: Sequence[float]) -> Mask:
    """One slice closed and filled. The radius is just below whole pixels: a gap is bridged by less than a pixel's depth."""
    step = max(spacing)
    closed = close(bone[None], (math.ceil(radius / step) - 0.01) * step, (FAR, spacing[0], spacing[1]))
    result: Mask = fill_slices(closed)[0]
    return result


def _drawn(coarse: Mask, means: np.ndarray, hu: Values, blocks: Blocks) -> Mask:
    """The border on the full grid: half way between the bone and soft tissue."""
    if max(blocks.factor) == 1:  # voxels too large to peel: they would take thin cortex with them
        return coarse
    step = max(blocks.coarse)
    inner = blocks.spread(depth(coarse, blocks.coarse) > 1.01 * step if not coarse.all() else coarse)
    outer = blocks.spread(dilate(coarse, 0.8 * step, blocks.coarse))
    core = blocks.spread(coarse)
    edge = blocks.spread(_half_way(means))
    limit = 30 / float(np.prod(blocks.spacing[1:]))
    for k in range(hu.shape[0]):
        part = inner[k] | (outer[k] & (hu[k] > edge[k]))
        labels, count = ndimage.label(part)
        if count:
            keep = shares(labels, count, core[k]) > 0.2
            keep[0] = False
            part = keep[labels]
        labels, count = ndimage.label(~part)
        if count > 1:  # noise and marrow spaces
            small = (sizes(labels, count) <= limit) & (shares(labels, count, core[k]) > 0.6)
            small[0] = False
            part |= small[labels]
        inner[k] = part
    return inner


def _half_way(hu: np.ndarray) -> npt.NDArray[np.int16]:
    """HU half way between soft tissue and the densest bone near a block; thin cortex and spongy bone stay whole."""
    densest = ndimage.maximum_filter(hu, 3)
    result: npt.NDArray[np.int16] = np.clip((densest + 50) / 2, DENSE - 10, 250).astype(np.int16)
    return result
