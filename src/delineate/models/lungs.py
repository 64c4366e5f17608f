"""Left and right lung in a CT.

Aerated tissue inside the body, without airways and without gas; parted where the lungs touch; vessels filled. Which lung
is the left one is a question of the patient's axes and midline, never of the order in which components come.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from delineate.models.airways import find_airways, walled
from delineate.models.morphology import bounds, close, depth, dilate, erode, fill_slices, reconstruct, shares, sizes
from delineate.models.sampling import Blocks, Mask, Triple, Values
from delineate.models.trunk import body_on_blocks

COARSE = 2.5
"""Size of the blocks on which the lungs are looked for, mm."""

AERATED = -400
"""HU halfway between lung (-860) and soft tissue (50)."""

GAS = -962
"""HU of the middle of an air space below which it is gas in the bowel or stomach, whatever its size."""

DARK = -915
"""HU below which only a large air space with vessels in it is lung: emphysema, not gas near much scatter."""

DENSEST = -560
"""HU of the middle above which a region is no lung: stool, partial volume of fat and gas."""

SMALL, LARGE = 350.0, 3000.0
"""Axial cross-section, mm²: below the first nothing is a lung; above the second it need not reach the image's top slice."""

VESSEL = 4.5
"""Radius of the closing that fills vessels and fissures, mm."""


def find_lungs(hu: Values, spacing: Triple) -> tuple[Mask, Mask]:
    """Left and right lung on the grid of `hu`, an LPS array (z, y, x) with mm spacing in that order; empty where there is none."""
    blocks = Blocks.of(hu.shape, spacing, COARSE)
    coarse = blocks.mean(hu)
    body = body_on_blocks(coarse, blocks.coarse)
    nothing = np.zeros(hu.shape, dtype=bool)
    aerated, whole_body = bounds(body & (coarse < AERATED)), bounds(body)
    if aerated is None or whole_body is None:
        return nothing, nothing.copy()
    # All of the body in these slices: it says where the middle is. A margin tells the body's edge from the image's.
    box = tuple(slice(max(0, b.start - 3), b.stop + 3) for b in (aerated[0], *whole_body[1:]))
    left, right, airways = lungs_on_blocks(coarse[box], body[box], blocks.coarse)
    whole = np.zeros((3, *coarse.shape), dtype=bool)
    for number, mask in enumerate((left, right, airways)):
        whole[number][box] = mask
    return _drawn(whole, hu, blocks)


def lungs_on_blocks(hu: np.ndarray, body: Mask, spacing: Triple) -> tuple[Mask, Mask, Mask]:
    """Left lung, right lung and walled airways on coarse blocks."""
    aerated = body & (hu < AERATED)
    airways, middle = find_airways(hu, body, aerated, spacing)
    airways = walled(airways, spacing)
    lung = _lung_parts(hu, aerated & ~airways, spacing)
    if not lung.any():
        return lung, lung.copy(), airways
    middle = middle if middle is not None else midline(hu, body, lung, spacing)
    left, right = _sides(hu, lung, middle, spacing)
    left, right = (_completed(side, other, airways, spacing) for side, other in ((left, right), (right, left)))
    return left, right & ~left, airways & ~left & ~right


def _lung_parts(hu: np.ndarray, aerated: Mask, spacing: Triple) -> Mask:
    """Components that look like lung, without the pockets of gas that touch them."""
    candidates = _lung_like(hu, aerated, spacing)
    lung = _lung_like(hu, candidates & ~_gas(hu, candidates, spacing), spacing)
    if not lung.any():
        return lung
    # Small parts beside a lung, cut off by a fissure, a vessel or the airways' wall, belong to it.
    labels, count = ndimage.label(candidates & ~lung)
    near = shares(labels, count, dilate(lung, 2.2 * max(spacing), spacing)) > 0.3
    medians = np.append(0.0, ndimage.median(hu, labels, np.arange(1, count + 1))) if count else np.zeros(1)
    near &= (sizes(labels, count) < 0.1 * np.count_nonzero(lung)) & (medians > DARK)
    near[0] = False
    result: Mask = lung | near[labels]
    return result


def _lung_like(hu: np.ndarray, aerated: Mask, spacing: Triple) -> Mask:
    """Components with the density and texture of lung, where lungs are.

    A lung goes on upwards to its apex: what is small in all slices and ends below the top of the image is bowel,
    unless it is beside the upper half of a lung (a collapsed one).
    """
    labels, count = ndimage.label(aerated)
    inside = depth(aerated, spacing)
    keep = np.zeros(count + 1, dtype=bool)
    beside = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == label
        area = float(np.count_nonzero(part, axis=(1, 2)).max()) * spacing[1] * spacing[2]
        middle = part & (inside[box] >= 0.5 * inside[box][part].max())
        density = float(np.median(hu[box][middle]))
        if area < SMALL or not GAS < density < DENSEST:
            continue
        if density < DARK:
            keep[label] = area >= LARGE and float(np.std(hu[box][middle])) > 20
        elif area >= LARGE or box[0].stop == hu.shape[0]:
            keep[label] = True
        elif area >= 2 * SMALL:
            beside.append((label, box[0].stop))
    z = np.flatnonzero(keep[labels].any(axis=(1, 2))) if beside and keep.any() else np.zeros(0)
    for label, top in beside:
        keep[label] = bool(z.size) and top > (z[0] + z[-1]) / 2
    result: Mask = keep[labels]
    return result


def _gas(hu: np.ndarray, aerated: Mask, spacing: Triple) -> Mask:
    """Pockets of pure gas that soft tissue encloses: stomach, bowel; a bulla has lung around it."""
    core = erode(aerated, max(3.0, 1.1 * max(spacing)), spacing) & (hu < GAS)
    labels, count = ndimage.label(core)
    result = np.zeros_like(aerated)
    if count == 0:
        return result
    volume = sizes(labels, count) * float(np.prod(spacing)) / 1000
    reach = 3 * max(3.0, 1.1 * max(spacing))
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if volume[label] < 1.0:
            continue
        grown = tuple(slice(max(0, b.start - 6), b.stop + 6) for b in box)
        pocket = labels[grown] == label
        distance = depth(~pocket, spacing)
        around = (distance > reach / 2) & (distance <= reach)
        if np.mean(aerated[grown][around]) < 0.15:
            result[grown] |= (distance <= reach) & aerated[grown] & (hu[grown] < -600)
    return result


def midline(hu: np.ndarray, body: Mask, lung: Mask, spacing: Triple) -> float:
    """The x index of the patient's middle: the spine is the heaviest bone, in front of it may be a sternum.

    Without bone it is the body's centre of mass.
    """
    z = np.flatnonzero(lung.any(axis=(1, 2)))
    part = slice(z[0], z[-1] + 1)
    body_x = np.flatnonzero(body[part].any(axis=(0, 1)))
    centre = float(np.average(np.arange(body.shape[2]), weights=body[part].sum(axis=(0, 1)) + 1e-9))
    width = max(1.0, (body_x[-1] - body_x[0]) / 2)
    # Where the image ends on one side of the body only, it shows a half, and the middle is near that end.
    cut = [float(body[part][:, :, side].any(axis=1).mean()) for side in (0, -1)]
    if max(cut) > 0.5 > 3 * min(cut):
        centre, width = (0.0 if cut[0] > cut[1] else body.shape[2] - 1.0), 2 * width
    bone = ((hu[part] > 180) & body[part]).sum(axis=(0, 1)).astype(np.float64)
    if bone.sum() * float(np.prod(spacing)) < 2000:
        return centre
    profile = ndimage.gaussian_filter1d(bone, 12 / spacing[2], mode="constant")
    # Shoulders are heavy too, but far from the middle.
    profile *= np.exp(-0.5 * ((np.arange(bone.size) - centre) / (0.45 * width)) ** 2)
    return float(np.argmax(profile))


def _sides(hu: np.ndarray, lung: Mask, middle: float, spacing: Triple) -> tuple[Mask, Mask]:
    """Each component to its side of the midline; one that lies on both is parted."""
    left, right = np.zeros_like(lung), np.zeros_like(lung)
    labels, count = ndimage.label(lung)
    on_left = np.zeros_like(lung)
    on_left[:, :, int(np.ceil(middle)) :] = True
    share = shares(labels, count, on_left)
    volume = sizes(labels, count)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == label
        both = 0.12 < share[label] < 0.88 and volume[label] > 0.15 * lung.sum()
        halves = _parted(hu[box], part, middle - box[2].start, spacing) if both else None
        if halves is None:
            (left if share[label] >= 0.5 else right)[box] |= part
        else:
            left[box] |= halves[0]
            right[box] |= halves[1]
    return left, right


def _parted(hu: np.ndarray, part: Mask, middle: float, spacing: Triple) -> tuple[Mask, Mask] | None:
    """Part two lungs that touch: shrink until they come apart, then flood back, last over what is dense (the pleurae).

    None where shrinking never yields a large piece on each side: a single lung that reaches over the midline.
    """
    inside = depth(part, spacing)
    for radius in np.arange(0.8, 9.0, 0.8) * max(2.0, min(spacing)):
        labels, count = ndimage.label(inside > radius)
        if count < 2:
            if count == 0:
                break
            continue
        index = np.arange(1, count + 1)
        volume = sizes(labels, count)[1:]
        x = np.array([c[2] for c in ndimage.center_of_mass(labels > 0, labels, index)])
        large = volume > 0.12 * volume.sum()
        if not ((large & (x > middle)).any() and (large & (x < middle)).any()):
            continue
        side = np.where(x > middle, 1, 2)
        side[volume < 0.01 * volume.sum()] = 0
        markers = np.append(0, side)[labels].astype(np.int16)
        markers[~part] = 3
        cost = np.clip((hu + 1000) / 3, 0, 250).astype(np.uint8)
        cost[~part] = 255
        flooded = ndimage.watershed_ift(cost, markers)
        return part & (flooded == 1), part & (flooded == 2)
    return None


def _completed(side: Mask, other: Mask, airways: Mask, spacing: Triple) -> Mask:
    """Fill vessels and small dense spots; stay off the airways and the other lung."""
    if not side.any():
        return side
    filled = close(side, max(VESSEL, 1.05 * max(spacing)), spacing)
    filled = reconstruct(side, filled & ~airways)
    # Only what an axial slice encloses: a nodule or a lobe's bronchus is in the lung, the hilum is part of the mediastinum.
    return fill_slices(filled) & ~other


def _drawn(coarse: np.ndarray, hu: Values, blocks: Blocks) -> tuple[Mask, Mask]:
    """The border on the full grid: within one block of the coarse border the voxel's own value decides."""
    left, right, airways = coarse
    if max(blocks.factor) == 1:
        return left, right
    step = 1.01 * max(blocks.coarse)
    forbidden = blocks.spread(airways)
    drawn = []
    for side, other in ((left, right), (right, left)):
        inner = blocks.spread(erode(side, step, blocks.coarse) & side)
        outer = blocks.spread(dilate(side, step, blocks.coarse) & ~other)
        core = blocks.spread(side)
        drawn.append(_border(inner, outer, core, forbidden, hu, blocks))
    return drawn[0], drawn[1] & ~drawn[0]


def _border(inner: Mask, outer: Mask, core: Mask, forbidden: Mask, hu: Values, blocks: Blocks) -> Mask:
    limit = 80 / float(np.prod(blocks.spacing[1:]))
    for k in range(hu.shape[0]):
        part = inner[k] | (outer[k] & (hu[k] < AERATED) & ~forbidden[k])
        labels, count = ndimage.label(~part)
        if count > 1:  # small vessels near the pleura
            small = (sizes(labels, count) <= limit) & (shares(labels, count, core[k]) > 0.5)
            small[0] = False
            part |= small[labels]
        inner[k] = part
    return inner
