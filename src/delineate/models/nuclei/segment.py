"""Nuclei in an image of haematoxylin and eosin: where the blue dye is dense, parted at their waists.

Density of the dye by colour deconvolution (A. C. Ruifrok, D. A. Johnston, Anal Quant Cytol Histol 23, 2001) with the colours of
`skimage.color`; touching nuclei are parted by a watershed of the distance from the border (`skimage.segmentation.watershed`).

Every step looks no farther than some pixels, so what is found does not depend on where an image is cut into tiles, as long as their
margin is `MARGIN`. That is why holes are filled and places counted as too thick by size, and no step asks for the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import hed_from_rgb
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from delineate.slides.outlines import Polygons
from delineate.slides.slide import Pixels
from delineate.slides.tracing import trace

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

WANTED_MPP: Final = 0.5  # µm of a pixel at which is looked for nuclei
COARSEST_MPP: Final = 1.6  # beyond, a nucleus is some five pixels
MARGIN: Final = 40.0  # µm around a tile; five nuclei

_SMOOTH: Final = 0.75  # µm
_HOLE: Final = 6.0  # µm²; pale middles of nuclei
_ROUND: Final = 0.9  # µm by which the distance is smoothed before its summits count
_APART: Final = 2.6  # µm; summits nearer to each other are one nucleus
_CROSS: Final = ndimage.generate_binary_structure(2, 1)
_FAINTEST, _DENSEST = 0.025, 0.12  # density of the dye between which the threshold lies; eosin alone stays below the former
_TISSUE: Final = 0.008  # density of any dye; glass is below


def _weights() -> npt.NDArray[np.float32]:
    """Density of haematoxylin as a sum of three tables, by value of red, green and blue; as `skimage.color.rgb2hed`."""
    values = np.maximum(np.arange(256) / 255, 1e-6)
    tables: npt.NDArray[np.float32] = (hed_from_rgb[:, :1] * (np.log(values) / np.log(1e-6))).astype(np.float32)
    return tables


_TABLES: Final = _weights()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How nuclei look. mpp : µm of a pixel; threshold : least density; least, most : area, µm²."""

    mpp: float
    threshold: float
    least: float
    most: float

    def pixels(self, micrometres: float, at_least: int = 1) -> int:
        """A length in whole pixels."""
        return max(at_least, round(micrometres / self.mpp))


def density(pixels: Pixels) -> Field:
    """Density of haematoxylin, 0 for none; shape (y, x)."""
    total: Field = _TABLES[0][pixels[..., 0]]
    total += _TABLES[1][pixels[..., 1]]
    total += _TABLES[2][pixels[..., 2]]
    return np.maximum(total, 0, out=total)


def threshold_for(samples: list[Pixels], mpp: float) -> float:
    """The density that parts nuclei from what is around them, after samples of a slide."""
    tissue = []
    for pixels in samples:
        dense = ndimage.gaussian_filter(density(pixels), _SMOOTH / mpp, truncate=3)
        tissue.append(dense[-np.log(np.maximum(pixels.min(axis=2), 1) / 255) / -np.log(1e-6) > _TISSUE])
    values = np.concatenate(tissue) if tissue else np.zeros(0, np.float32)
    if values.size < 256 or values.max() <= _FAINTEST:
        return _FAINTEST
    found = threshold_otsu(values[:: max(1, values.size // 1_000_000)])  # type: ignore[no-untyped-call]
    return float(np.clip(found, _FAINTEST, _DENSEST))


def find(pixels: Pixels, inside: Mask, settings: Settings) -> Labels:
    """Nuclei with a number each, in no order. inside : what is of the slide."""
    smooth = ndimage.gaussian_filter(density(pixels), _SMOOTH / settings.mpp, truncate=3)
    mask = (smooth > settings.threshold) & inside
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    mask = _filled(mask, settings.pixels(_HOLE / settings.mpp))
    mask = ndimage.binary_opening(mask, _CROSS, iterations=settings.pixels(0.5))
    # Thicker than any nucleus: folds, ink. A clamp keeps the distance from reaching far.
    thickest = np.float32(np.sqrt(settings.most / np.pi) / settings.mpp)
    distance = np.minimum(ndimage.distance_transform_edt(mask).astype(np.float32), thickest)
    summits = ndimage.gaussian_filter(distance, _ROUND / settings.mpp, truncate=3)
    apart = 2 * settings.pixels(_APART) + 1
    seeds = mask & (summits == ndimage.maximum_filter(summits, size=apart))
    markers, _ = ndimage.label(seeds, np.ones((3, 3), bool))
    labels: Labels = watershed(-summits, markers, mask=mask).astype(np.int32)  # type: ignore[no-untyped-call]
    too_thick = np.unique(labels[distance >= thickest])
    if len(too_thick) > 1 or (len(too_thick) and too_thick[0] > 0):
        table = np.arange(labels.max() + 1, dtype=np.int32)
        table[too_thick] = 0
        labels = table[labels]
    return labels


def outlines(
    labels: Labels, settings: Settings, place: tuple[int, int], core: Mask, factor: float
) -> tuple[Polygons, npt.NDArray[np.int64]]:
    """Polygons of the nuclei whose middle is in the core, and those middles, y, x.

    Parameters
    ----------
    place : of the first pixel on the slide, x, y in pixels of the scale; core : what this tile answers for; factor : pixels of level 0
    along one of the scale
    """
    y, x = np.nonzero(labels)
    flat = labels[y, x]
    areas = np.bincount(flat)
    middles = np.stack([np.bincount(flat, axis).astype(np.int64) // np.maximum(areas, 1) for axis in (y, x)], axis=1)
    area = areas * settings.mpp**2
    wanted = (areas > 0) & (area >= settings.least) & (area <= settings.most)
    wanted[wanted] = core[tuple(middles[wanted].T)]
    which = np.flatnonzero(wanted)
    labels = labels.copy()
    labels[[0, -1], :] = 0
    labels[:, [0, -1]] = 0
    return trace(labels, which, place[0], place[1], factor), middles[which] + (place[1], place[0])


def _filled(mask: Mask, largest: int) -> Mask:
    """The mask with its holes of at most `largest` pixels filled."""
    holes, count = ndimage.label(~mask)
    if not count:
        return mask
    sizes = np.bincount(holes.ravel())
    sizes[0] = largest + 1
    filled: Mask = mask | (sizes[holes] <= largest)
    return filled
