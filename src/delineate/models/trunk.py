"""The body in a CT: what is left when air, couch, clothes and positioning aids are taken away.

Couches, sheets and clothes are thin; bodies are thick. So tissue is opened with a disc, the thick parts are kept and grown
back, and the air that they enclose is filled in each axial slice. Nothing here knows where the couch is: patients lie on
their back, belly or side.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from delineate.models.couch import without_layers
from delineate.models.morphology import bounds, close, contact, depth, dilate, fill_slices, reconstruct, shares, sizes
from delineate.models.sampling import Blocks, Mask, Triple, Values

COARSE = 3.0
"""Size of the blocks on which the body is looked for, mm."""

TISSUE = -400
"""HU above which a voxel is tissue: between air (-1000) and fat (-100), clear of wool and foam."""

THIN = 5.0
"""Sheets and boards up to twice this, mm, are no body."""

LIMB = 12.0
"""The thinnest part, as a radius in mm, that counts as a piece of a body of its own."""

PASSAGE = 6.0
"""Openings up to twice this, mm, do not make the air behind them outside air: nostrils, glottis."""

LUNG_TEXTURE = (-960, -450)
"""Median HU of aerated lung; room air and bowel gas lie below."""

FOAM = -905
"""Cushions and mattresses are less dense than this, HU; lungs in deep inspiration too, most others are not."""


def find_body(hu: Values, spacing: Triple) -> Mask:
    """The body on the grid of `hu` (shape and mm spacing z, y, x)."""
    blocks = Blocks.of(hu.shape, spacing, COARSE)
    return without_layers(refine(body_on_blocks(blocks.mean(hu), blocks.coarse), hu, blocks), hu, spacing)


def body_on_blocks(hu: np.ndarray, spacing: Triple) -> Mask:
    """The body on coarse blocks."""
    tissue = hu > TISSUE
    thick = _thick_parts(tissue, spacing)
    if not thick.any():
        return thick
    # A little further than what was cut off, through tissue only: rounds corners off again, leaves a couch that touches behind.
    solid = reconstruct(thick, tissue & dilate(thick, 0.6 * THIN, spacing))
    solid |= _protruding(tissue, solid, spacing)
    air = _enclosed_air(hu, tissue, solid, spacing)
    wall = tissue & dilate(air & dilate(solid, 2 * COARSE, spacing), LIMB, spacing) & ~solid
    body = solid | air | (wall & close(solid | air, LIMB, spacing))
    return _filled(body, tissue, solid)


def _filled(body: Mask, tissue: Mask, solid: Mask) -> Mask:
    """Close what is left open in a slice: vessels and nodules in the lungs, small pockets; not gaps between limbs and trunk."""
    filled = fill_slices(body)
    labels, count = ndimage.label(filled & ~body)
    if count == 0:
        return body
    inner = (sizes(labels, count) <= max(8, 0.002 * np.count_nonzero(solid))) | (shares(labels, count, tissue) > 0.7)
    inner[0] = False
    result: Mask = body | inner[labels]
    return result


def _thick_parts(tissue: Mask, spacing: Triple) -> Mask:
    """Opening by a disc in each axial slice, and only parts as thick as a limb."""
    inside = depth(tissue, spacing, planar=True)
    thickest = min(float(inside.max()), 1000.0)
    radius = min(max(THIN, 1.05 * max(spacing[1:])), thickest / 3)
    labels, count = ndimage.label(inside > radius)
    if count == 0:
        return np.zeros_like(tissue)
    index = np.arange(1, count + 1)
    thickness = np.append(0, ndimage.maximum(inside, labels, index))
    volume = sizes(labels, count)
    volume[0] = 0
    keep = (thickness >= min(LIMB, 0.4 * thickest)) & (volume >= 0.002 * volume.max())
    keep[0] = False
    for label in np.flatnonzero(keep):
        if label != np.argmax(volume) and _is_board(labels == label, spacing):
            keep[label] = False
    return reconstruct(keep[labels], tissue & dilate(keep[labels], radius, spacing))


def _is_board(part: Mask, spacing: Triple) -> bool:
    """Whether a part is a prism, wide and flat, that runs through all slices: the couch's top or a wooden insert."""
    box = bounds(part)
    if box is None or part.shape[0] < 4 or box[0].stop - box[0].start < 0.9 * part.shape[0]:
        return False
    flat = (box[1].stop - box[1].start) * spacing[1] * 3 < (box[2].stop - box[2].start) * spacing[2]
    both = np.count_nonzero(part[1:] & part[:-1])
    either = np.count_nonzero(part[1:] | part[:-1])
    return bool(flat and both > 0.93 * either)


def _protruding(tissue: Mask, solid: Mask, spacing: Triple) -> Mask:
    """Fingers, ears and the like: thin, at the body, and not running through the image as couches and sheets do."""
    length = tissue.shape[0] * spacing[0]
    labels, count = ndimage.label(tissue & ~solid)
    result = np.zeros_like(tissue)
    if count == 0 or length < 60:
        return result
    touching = contact(labels, count, solid) > 0.08
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or not touching[label]:
            continue
        extents = [(b.stop - b.start) * s for b, s in zip(box, spacing, strict=True)]
        ends = box[0].start == 0 or box[0].stop == tissue.shape[0]
        if not ends and extents[0] < min(200.0, 0.4 * length) and max(extents[1:]) < 120:
            result[box] |= labels[box] == label
    return result


def _enclosed_air(hu: np.ndarray, tissue: Mask, solid: Mask, spacing: Triple) -> Mask:
    """Lungs, airways and gas: air that the body encloses in axial slices, also where the image ends before its wall does."""
    air = ~tissue
    outside, border_lung = _open_air(hu, air, solid, spacing)
    candidates = ((fill_slices(tissue) & air) | border_lung) & ~outside
    # Partial volume between two tissues is enclosed by definition; so are the couch's foam and the gap under the back.
    labels, count = ndimage.label(candidates)
    if count == 0:
        return candidates
    medians = np.append(0.0, ndimage.median(hu, labels, np.arange(1, count + 1)))
    touching = contact(labels, count, solid)
    textured = (medians > LUNG_TEXTURE[0]) & (medians < TISSUE)
    keep = np.where(textured, touching > 0.5, touching > 0.85)
    keep[0] = False
    result: Mask = keep[labels]
    return result


def _open_air(hu: np.ndarray, air: Mask, solid: Mask, spacing: Triple) -> tuple[Mask, Mask]:
    """Air that is open to the room, and lungs that are open only because the image is cut off beside them."""
    wide = depth(air, spacing) > PASSAGE if not air.all() else air
    border = np.zeros(air.shape, dtype=bool)
    border[:, [0, -1], :] = True
    border[:, :, [0, -1]] = True
    labels, count = ndimage.label(wide)
    at_border = shares(labels, count, border) > 0
    at_border[0] = False
    lungs = np.zeros(count + 1, dtype=bool)
    for label in np.flatnonzero(at_border):
        region = labels == label
        lungs[label] = _is_cut_lung(hu, region, dilate(region, PASSAGE, spacing) & air, solid)
    outside = dilate((at_border & ~lungs)[labels], 1.2 * PASSAGE, spacing) & air
    # What reaches the border through a narrow part only is no room air either.
    rim = dilate(outside, PASSAGE, spacing) & ~dilate(lungs[labels], 1.2 * PASSAGE, spacing) & ~wide
    rest, number = ndimage.label(air & ~outside & ~rim)
    reaching = (shares(rest, number, border) > 0) & (shares(rest, number, wide) > 0)
    reaching[0] = False
    for label in np.flatnonzero(reaching):
        region = rest == label
        reaching[label] = _is_cut_lung(hu, region & wide, region, solid)
    return outside, reaching[rest] & ~outside


def _is_cut_lung(hu: np.ndarray, middle: Mask, region: Mask, solid: Mask) -> bool:
    """Whether air that reaches the image's edge is lung: mostly walled by the body, or so dense that it is no foam."""
    density = float(np.median(hu[middle]))
    if not LUNG_TEXTURE[0] < density < TISSUE:
        return False
    pad = ((0, 0), (1, 1), (1, 1))
    walled = float(contact(np.pad(region, pad).astype(np.int8), 1, np.pad(solid, pad))[1])
    return walled > 0.75 or (walled > 0.35 and density > FOAM)


def refine(coarse: Mask, hu: Values, blocks: Blocks) -> Mask:
    """Draw the border of a coarse body on the full grid: tissue decides within one block of the coarse border."""
    if max(blocks.factor) == 1:
        return coarse
    step = max(blocks.coarse)
    inner = blocks.spread(depth(coarse, blocks.coarse) > 1.01 * step if not coarse.all() else coarse)
    outer = blocks.spread(dilate(coarse, 1.01 * step, blocks.coarse))
    result = inner
    for k in range(hu.shape[0]):
        drawn = inner[k] | (outer[k] & (hu[k] > TISSUE))
        labels, count = ndimage.label(drawn)
        if count > 1:  # specks of clothing in the band
            held = np.bincount(labels.ravel(), weights=inner[k].ravel(), minlength=count + 1) > 0
            big = sizes(labels, count) * float(np.prod(blocks.spacing[1:])) > 60
            held |= big
            held[0] = False
            drawn = held[labels]
        result[k] = drawn
    return _small_holes(result, blocks)


def _small_holes(mask: Mask, blocks: Blocks) -> Mask:
    """Fill pockets in the band under the skin; larger openings were judged on the blocks."""
    limit = 100 / float(np.prod(blocks.spacing[1:]))
    for part in mask:
        labels, count = ndimage.label(~part)
        if count > 1:
            small = sizes(labels, count) <= limit
            small[0] = False
            for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
                small[edge] = False
            part |= small[labels]
    return mask
