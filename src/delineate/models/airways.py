"""Trachea and main bronchi in a CT.

The trachea is a chain of round, dark spots near the midline; the bronchi grow out of its lower end at the highest
threshold that does not leak into the lungs (the "explosion" criterion of Mori et al., IEEE Trans Med Imaging 2000).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from delineate.models.morphology import depth, sizes
from delineate.models.sampling import Mask, Triple

LUMEN = -780
"""HU below which a voxel can be lumen, also where 4 mm voxels mix it with its wall."""

DARKEST = -920
"""The middle of a trachea is at least this dark, HU."""

AREA = (40.0, 1100.0)
"""Cross-section of a trachea or of both main bronchi at the carina, mm²."""

REACH = 62.0
"""How far from the carina main bronchi go before they are inside a lung, mm."""

_PLANE = ndimage.generate_binary_structure(3, 1)
_PLANE[[0, 2]] = False


def find_airways(hu: np.ndarray, body: Mask, lung_air: Mask, spacing: Triple) -> tuple[Mask, float | None]:
    """Trachea and main bronchi (lumen) and the x index of the trachea, None where none is in the image.

    hu, body, lung_air : on one grid; `lung_air` is what may be lung or airway.
    """
    none = np.zeros_like(body)
    trachea = _trachea(hu, body, lung_air, spacing)
    if trachea is None:
        return none, None
    z, _, x = (np.flatnonzero(trachea.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    lower = trachea[: z[0] + max(1, int(12 / spacing[0]))]
    middle = float(np.argwhere(lower)[:, 2].mean())
    return _grown(hu, trachea, lung_air, spacing), middle if x.size else None


def _trachea(hu: np.ndarray, body: Mask, lung_air: Mask, spacing: Triple) -> Mask | None:
    """The longest chain of trachea-like spots, None where none is long enough."""
    spots = _spots(hu, body, spacing)
    labels, count = ndimage.label(spots)
    if count == 0 or not lung_air.any():
        return None
    lung_z = np.flatnonzero(lung_air.any(axis=(1, 2)))
    lowest = float(np.average(np.arange(hu.shape[0]), weights=lung_air.sum(axis=(1, 2)))) - 20 / spacing[0]
    centre = float(np.argwhere(body)[:, 2].mean())
    length_needed = min(24.0, 0.4 * hu.shape[0] * spacing[0])
    best, best_length = 0, 0.0
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        length = (box[0].stop - box[0].start) * spacing[0]
        x = (box[2].start + box[2].stop) / 2
        if length < length_needed or box[0].stop <= max(lowest, lung_z[0]) or abs(x - centre) * spacing[2] > 55:
            continue
        # Straight down the midline counts more than long: branches in the lungs wander to the side.
        score = length - 0.4 * abs(x - centre) * spacing[2]
        if score > best_length:
            best, best_length = label, score
    return labels == best if best else None


def _spots(hu: np.ndarray, body: Mask, spacing: Triple) -> Mask:
    """Round dark spots in axial slices, of a trachea's size."""
    labels, count = ndimage.label((hu < LUMEN) & body, _PLANE)
    if count == 0:
        return np.zeros_like(body)
    index = np.arange(1, count + 1)
    area = sizes(labels, count)[1:] * spacing[1] * spacing[2]
    darkest = ndimage.minimum(hu, labels, index)
    keep = np.zeros(count + 1, dtype=bool)
    candidates = (area >= AREA[0]) & (area <= AREA[1]) & (darkest < DARKEST)
    boxes = ndimage.find_objects(labels)
    for i in np.flatnonzero(candidates):
        height = (boxes[i][1].stop - boxes[i][1].start) * spacing[1]
        width = (boxes[i][2].stop - boxes[i][2].start) * spacing[2]
        at_edge = any(b.start == 0 or b.stop == n for b, n in zip(boxes[i][1:], hu.shape[1:], strict=True))
        keep[i + 1] = not at_edge and max(height, width) < 2.6 * min(height, width) and area[i] > 0.45 * height * width
    result: Mask = keep[labels]
    return result


def _grown(hu: np.ndarray, trachea: Mask, lung_air: Mask, spacing: Triple) -> Mask:
    """The trachea and what grows out of it near the carina without leaking."""
    bottom = int(np.flatnonzero(trachea.any(axis=(1, 2)))[0])
    seed_slice = np.argwhere(trachea[bottom])
    carina = np.array([bottom, *seed_slice.mean(axis=0)])
    margin = [int(REACH / s) + 1 for s in spacing]
    low = np.maximum(0, carina.astype(int) - margin)
    box = tuple(slice(int(a), int(c) + m + 1) for a, c, m in zip(low, carina, margin, strict=True))
    where = np.indices(hu[box].shape).transpose(1, 2, 3, 0) + low
    near = (((where - carina) * np.array(spacing)) ** 2).sum(axis=-1) < REACH**2
    part, seed = hu[box], trachea[box] & near
    voxel = float(np.prod(spacing)) / 1000
    best, volume = seed, float(np.count_nonzero(seed)) * voxel
    start = volume
    for threshold in range(-980, -719, 20):
        labels, _ = ndimage.label(((part < threshold) & near & lung_air[box]) | seed)
        grown = np.isin(labels, np.unique(labels[seed]))
        found = float(np.count_nonzero(grown)) * voxel
        if found > start + 32 or found > 1.7 * volume + 2:
            break
        best, volume = grown, found
    result: Mask = trachea.copy()
    result[box] |= best
    return result


def walled(airways: Mask, spacing: Triple) -> Mask:
    """Airways with their walls and the voxels that mix both."""
    return depth(~airways, spacing) <= max(2.2, 1.05 * max(spacing)) if airways.any() else airways
