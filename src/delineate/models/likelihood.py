"""How likely a value is inside and outside, learnt from voxels that a person marked: by histograms or by Gaussian mixtures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.models.cut import Field

Density = Callable[[Field], npt.NDArray[np.float64]]

BINS = 64
_BLUR = 1.5  # bins: few scribbles leave gaps
_FLOOR = 0.02  # of an even spread: nothing is impossible
_ELSEWHERE = 1.0  # the same outside, which is all that nobody marked too: what is like neither is no part of it
_BEYOND = 0.1  # of the range of usual values
_SURE = 3.0  # a logarithm of odds that counts as certain
_ROUNDS = 25
_MOST = 50_000  # values that a mixture is fitted to


def cost_of(values: Field, inside: Field, outside: Field, density: Callable[[Field, float, float, float], Density]) -> Field:
    """The cost of being inside for each value, -1 to 1, from values known to be inside and outside; `density` learns from them."""
    low, high = (float(v) for v in np.percentile(values[tuple(slice(None, None, max(1, n // 64)) for n in values.shape)], (0.5, 99.5)))
    high = max(high, low + 1e-6)
    grid = np.linspace(low, high, 1024, dtype=np.float32)
    samples = ((inside, _FLOOR), (outside, _ELSEWHERE))
    likely, unlikely = (density(np.clip(sample, low, high), low, high, floor)(grid) for sample, floor in samples)
    table = np.clip(np.log(unlikely / likely) / _SURE, -1, 1).astype(np.float32)
    index = np.clip((values - np.float32(low)) * np.float32(1023 / (high - low)), 0, 1023).astype(np.int16)
    cost: Field = table[index]
    # What lies far beyond is not like the lowest or highest, unless it was marked.
    margin = _BEYOND * (high - low)
    cost[(values > max(high, float(inside.max())) + margin) | (values < min(low, float(inside.min())) - margin)] = 1
    return cost


def histogram(sample: Field, low: float, high: float, floor: float = _FLOOR) -> Density:
    """A smoothed histogram from `low` to `high`, and `floor` of an even spread."""
    counts, edges = np.histogram(sample, BINS, (low, high))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), _BLUR, mode="nearest")
    smooth = smooth / max(smooth.sum(), 1e-12) + floor / BINS
    centres = (edges[1:] + edges[:-1]) / 2
    return lambda values: np.interp(values, centres, smooth)


def mixture(sample: Field, low: float, high: float, floor: float = _FLOOR, parts: int = 4) -> Density:
    """A mixture of `parts` Gaussians, fitted by expectation and maximisation from evenly spread quantiles; `floor` as above."""
    data = sample[:: max(1, sample.size // _MOST)].astype(np.float64)
    extent = high - low
    means = np.quantile(data, (np.arange(parts) + 0.5) / parts)
    widths = np.full(parts, max(float(data.std()), extent / BINS))
    shares = np.full(parts, 1 / parts)
    for _ in range(_ROUNDS):
        weights = _gaussians(data, means, widths) * shares
        weights /= weights.sum(axis=1, keepdims=True) + 1e-300
        total = weights.sum(axis=0) + 1e-9
        means = (weights * data[:, None]).sum(axis=0) / total
        widths = np.maximum(np.sqrt((weights * np.square(data[:, None] - means)).sum(axis=0) / total), extent / BINS / 2)
        shares = total / total.sum()
    return lambda values: _gaussians(values, means, widths) @ shares + floor / extent


def _gaussians(values: npt.NDArray[np.floating], means: np.ndarray, widths: np.ndarray) -> npt.NDArray[np.float64]:
    scaled = (values[:, None] - means) / widths
    density: npt.NDArray[np.float64] = np.exp(-0.5 * np.square(scaled)) / (widths * np.sqrt(2 * np.pi))
    return density
