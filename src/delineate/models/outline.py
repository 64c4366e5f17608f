"""The body in an MR.

Signal has no units, its level changes over the image with the coils, and air is noise, not zero. What stands out of the
noise and is thick is body; what it encloses (lungs, gas, cortical bone) is body too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from delineate.errors import ModelError
from delineate.models.morphology import close, depth, dilate, fill_slices, reconstruct, sizes
from delineate.models.sampling import Blocks, Mask, Triple

COARSE = 3.0
"""Size of the blocks on which the body is looked for, mm."""

DARK_TISSUE = 0.17
"""Share of the brightest signal below which the noise of air ends."""

ADVICE = "Send a magnetic resonance image with its real values."


def find_outline(signal: np.ndarray, spacing: Triple, log: Callable[[str], None]) -> Mask:
    """The body on the grid of `signal` (any units, shape and mm spacing z, y, x).

    Raises
    ------
    ModelError
        Kind ``input``: nothing finite, or one value only.
    """
    finite = np.nan_to_num(signal, nan=0.0, posinf=0.0, neginf=0.0) if signal.dtype.kind == "f" else signal
    if signal.dtype.kind == "f" and not np.isfinite(signal).any():
        raise ModelError("the image holds no finite value", ADVICE, kind="input")
    if float(finite.max()) == float(finite.min()):
        raise ModelError(f"every voxel of the image has the same value, {float(finite.max()):g}", ADVICE, kind="input")
    blocks = Blocks.of(finite.shape, spacing, COARSE)
    coarse = blocks.mean(np.abs(finite)) if float(finite.min()) < 0 else blocks.mean(finite)
    level = threshold(coarse)
    if level == 0.0:
        log("no air was recognised in the image: all of it that has signal is taken as body")
    body = _outline_on_blocks(coarse, level, blocks.coarse)
    return _drawn(body, finite, level, blocks)


def threshold(signal: np.ndarray) -> float:
    """The level between noise and tissue; 0 where the image shows no background.

    The background is the lowest mode of the histogram: its upper edge is where the counts have fallen to a small share of
    it (the triangle method of Zack et al., J Histochem Cytochem 1977), at least what noise needs to stay below.
    """
    top = float(np.percentile(signal, 99))
    if top <= 0:
        return 0.0
    counts, edges = np.histogram(signal, bins=200, range=(0.0, top))
    if np.count_nonzero(signal <= edges[1]) == signal.size:
        return 0.0
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 1.5)
    mode = int(np.argmax(smooth[:60]))
    # No low mode: the image shows tissue only. An empty (masked) background is one value at zero.
    low = np.count_nonzero(signal <= edges[min(mode + 12, 200)]) / signal.size
    if mode > 30 or low < 0.02:
        return 0.0
    line = smooth[mode] + (smooth[-1] - smooth[mode]) * (np.arange(200) - mode) / (199 - mode)
    knee = mode + int(np.argmax((line - smooth)[mode:120]))
    level = float(edges[knee + 1])
    # Air is far below tissue; a mode nearer to it is dark muscle in an image without air.
    return level if level < DARK_TISSUE * top else 0.0


def _outline_on_blocks(signal: np.ndarray, level: float, spacing: Triple) -> Mask:
    if level == 0.0:
        return signal > 0 if (signal == 0).any() else np.ones(signal.shape, dtype=bool)
    # Noise averages out over a few blocks, tissue does not.
    smooth = ndimage.gaussian_filter(signal, [min(1.0, 2.0 / s) if n > 1 else 0.0 for s, n in zip(spacing, signal.shape, strict=True)])
    bright = smooth > level
    inside = depth(bright, spacing, planar=True)
    thick = inside > min(4.0, float(inside.max()) / 3)
    labels, count = ndimage.label(thick)
    if count == 0:
        return np.zeros_like(bright)
    volume = sizes(labels, count)
    volume[0] = 0
    # Ghosts and coil markers are small or dim beside the body.
    keep = (volume >= 0.02 * volume.max())[labels]
    keep &= labels > 0
    body = reconstruct(keep, bright & dilate(keep, 6.0, spacing))
    body = close(body, 10.0, spacing)
    return _filled(body)


def _filled(body: Mask) -> Mask:
    """Fill what is enclosed in any slice of any plane: lungs, gas and bone give no signal."""
    result = body.copy()
    for axis in range(3):
        if body.shape[axis] > 1 and min(n for a, n in enumerate(body.shape) if a != axis) > 4:
            result |= fill_slices(body, axis)
    return fill_slices(result)


def _drawn(coarse: Mask, signal: np.ndarray, level: float, blocks: Blocks) -> Mask:
    """The border on the full grid, where a light in-plane smoothing stands above the level."""
    if coarse.all() or level == 0.0:
        return blocks.spread(coarse)
    step = 1.01 * max(blocks.coarse)
    result = blocks.spread(depth(coarse, blocks.coarse) > step)
    outer = blocks.spread(dilate(coarse, 0.5 * step, blocks.coarse))
    core = blocks.spread(coarse)
    for k in range(signal.shape[0]):
        smooth = ndimage.gaussian_filter(np.abs(signal[k]).astype(np.float32), [0.8 / s for s in blocks.spacing[1:]])
        part = result[k] | (outer[k] & (smooth > level))
        labels, count = ndimage.label(~part)
        if count > 1:
            inside = np.bincount(labels.ravel(), weights=(~core[k]).ravel(), minlength=count + 1) == 0
            inside[0] = False
            part |= inside[labels]
        result[k] = part
    return result
