"""What lies against the skin and is no body: the couch's cover, a sheet or a board behind a thin slit of air or foam.

Such layers are thinner than skin with the fat under it, and long. Nothing here knows on which side the couch is.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from delineate.models.sampling import Mask, Triple, Values

LIGHT = -250
"""HU below which a voxel at the skin holds more air or foam than tissue: half way between fat (-100) and a mattress's cover."""

DIM = -200
"""HU below which a line within the body can be such a slit: a slit that is narrower than a voxel fills up with its sides."""

SHEET = 3.0
"""Layers up to twice this, mm, can be cover or board; a wall of chest or abdomen is thicker."""

SLIT = 4.0
"""The gap before such a layer is up to twice this, mm; lungs and bowel are wider."""

LONG = 40.0
"""Slits shorter than this, mm, are skin folds."""


def without_layers(body: Mask, hu: Values, spacing: Triple) -> Mask:
    """The body without thin layers that a slit parts from the skin (shape and mm spacing z, y, x)."""
    result: Mask = body.copy()
    for k in range(len(body)):
        if body[k].any():
            _take_layers(result[k], hu[k], spacing[1:])
            _take_light_border(result[k], hu[k])
    return result


def _take_light_border(body: Mask, hu: Values) -> None:
    """Of light material at the border, leave the one voxel that skin shares with air."""
    light = body & (hu < LIGHT)
    open_to_air = ndimage.binary_dilation(~body, iterations=2) & light & (hu > -400)
    body &= ~(open_to_air & ~ndimage.binary_dilation(body & ~light))


def _take_layers(body: Mask, hu: Values, spacing: tuple[float, ...]) -> None:
    before = body.copy()
    light = body & (hu < DIM)
    labels, _ = ndimage.label(light, np.ones((3, 3)))
    margin = [int((2 * SHEET + SLIT) / s) + 3 for s in spacing]
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if max((b.stop - b.start) * s for b, s in zip(box, spacing, strict=True)) < LONG:
            continue
        grown = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True))
        part, slit = body[grown], labels[grown] == label
        if part.all() or float(ndimage.distance_transform_edt(slit, spacing).max()) > SLIT:
            continue
        part &= ~_layer(part, slit, light[grown], spacing)
    if (before != body).any():
        _take_remnants(body, before, spacing)


def _take_remnants(body: Mask, before: Mask, spacing: tuple[float, ...]) -> None:
    """Ends of a layer that hung on the body through the layer only."""
    labels, count = ndimage.label(body)
    index = np.arange(1, count + 1)
    thickness = ndimage.maximum(ndimage.distance_transform_edt(body, spacing), labels, index)
    cut = ndimage.maximum(ndimage.binary_dilation(before & ~body, iterations=2), labels, index)
    loose = np.append(False, (np.asarray(thickness) <= SHEET) & (np.asarray(cut) > 0))
    body &= ~loose[labels]


def _layer(body: Mask, slit: Mask, light: Mask, spacing: tuple[float, ...]) -> Mask:
    """The thin, long parts between a slit and the outside, with the slit itself; nothing where there are none."""
    solid = body & ~light
    core = ndimage.distance_transform_edt(solid, spacing) > SHEET
    thick = ndimage.distance_transform_edt(~core, spacing) <= SHEET + max(spacing) if core.any() else core
    labels, count = ndimage.label(solid & ~thick)
    beside, outer = ndimage.binary_dilation(slit, iterations=2), ndimage.binary_dilation(~body, iterations=2)
    keep = np.zeros(count + 1, dtype=bool)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels == label
        length = max((b.stop - b.start) * s for b, s in zip(box, spacing, strict=True))
        keep[label] = length >= LONG / 2 and (part & beside).any() and (part & outer).any()
    layer: Mask = keep[labels]
    if not layer.any():
        return layer
    skin = ndimage.binary_dilation(solid & ~layer)
    layer |= slit & ~skin
    return layer
