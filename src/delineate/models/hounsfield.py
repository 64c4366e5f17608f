"""From whatever a CT's values are to Hounsfield units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from delineate.errors import ModelError
from delineate.models.sampling import Values
from delineate.volume import Volume

LOWEST, HIGHEST = -1024, 3071
"""The range of a 12-bit CT, HU; padding lies below, metal above."""

OTHERS = ("MR", "PT", "NM", "US")
"""DICOM modalities whose values are no Hounsfield units."""

ADVICE = "Send a CT in Hounsfield units (with its rescale slope and intercept)."


def hounsfield(volume: Volume, log: Callable[[str], None]) -> Values:
    """The image in Hounsfield units, int16, shape (z, y, x), within `LOWEST` to `HIGHEST`.

    Padding values (-2000, -3024, NaN, infinities) become `LOWEST`. Values stored with an offset of 1024 whose
    intercept was lost are recognised: soft tissue then stands near 1024 and nothing is below zero.

    Raises
    ------
    ModelError
        Kind ``input``: no finite value, one value only, or values that are no CT's.
    """
    if volume.modality in OTHERS:
        raise ModelError(f"the image is of modality {volume.modality}, not CT", ADVICE, kind="input")
    values = volume.values()
    sample = values[tuple(slice(None, None, max(1, n // 96)) for n in values.shape)].astype(np.float32, copy=False).ravel()
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise ModelError("the image holds no finite value", ADVICE, kind="input")
    if float(np.ptp(sample)) == 0 and float(np.nanmax(values)) == float(np.nanmin(values)):
        raise ModelError(f"every voxel of the image has the same value, {float(sample[0]):g}", ADVICE, kind="input")
    offset = _offset(sample)
    if offset:
        log(f"values look unsigned (soft tissue near 1024): {offset:+d} added to get Hounsfield units")
    return _clipped(values, offset)


def _offset(sample: np.ndarray) -> int:
    """What to add to get Hounsfield units; raises where no offset makes a CT of it."""
    # Padding is no tissue: -2000 and below, or one value that stands far below everything else.
    tissue = sample[sample > -1100]
    if tissue.size < 0.001 * sample.size:
        raise ModelError("all values of the image are below those of air", ADVICE, kind="input")
    low, high = np.percentile(tissue, (0.5, 99.5))
    soft, beyond = _share(tissue, 900, 1140), _share(tissue, 1250, np.inf)
    # Air near 0, soft tissue in a narrow peak near 1024, next to nothing between lung and fat, little bone.
    if low >= -60 and soft > 0.03 and soft > 3 * _share(tissue, 450, 690) and beyond < soft:
        return -1024
    if low > -160 and high - low < 60:
        raise ModelError(f"the image's values span {low:g} to {high:g} only: this is no CT", ADVICE, kind="input")
    floor = float(tissue.min())
    if floor >= -160 and (_share(tissue, floor, floor + 0.08 * (high - floor)) > 0.15 or _share(tissue, 300, np.inf) > 0.25):
        # A CT without any air is the inside of a body, all near zero; a magnitude image crowds at its floor and reaches far.
        raise ModelError(f"the image's values ({floor:g} to {float(tissue.max()):g}, no air) are no CT's", ADVICE, kind="input")
    return 0


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(np.count_nonzero((values >= low) & (values <= high)) / values.size)


def _clipped(values: np.ndarray, offset: int) -> Values:
    result = np.empty(values.shape, dtype=np.int16)
    # Slice by slice, so that the wider copies stay small.
    for k, part in enumerate(values):
        wide = np.nan_to_num(np.rint(part), nan=LOWEST, posinf=HIGHEST, neginf=LOWEST) if part.dtype.kind == "f" else part.astype(np.int64)
        result[k] = np.clip(wide + offset, LOWEST, HIGHEST)
    return result
