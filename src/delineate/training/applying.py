"""A forest on an image: structures on the image's own grid, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation, Structure
from delineate.training.features import Features
from delineate.training.forest import Forest
from delineate.training.shaping import filled, settled
from delineate.training.working import Array, Working, fingerprint, resampled, working
from delineate.volume import Volume

_SMOOTH = 0.7  # working voxels
_SMALLEST = 0.1  # of the largest part
_PLANES = 8
_DOUBT = 0.02  # probabilities nearer to 0 or 1 are none

Report = Callable[[float, str], None]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Opinion:
    """What the forest takes the voxels of an image for: chances, 0 to 255, shape (structures, z, y, x); `own`: it has learned from it."""

    image: Working
    chances: npt.NDArray[np.uint8]
    own: bool


def segment(
    forest: Forest,
    image: Volume,
    report: Report = lambda fraction, message: None,
    log: Callable[[str], None] = lambda text: None,
) -> Segmentation:
    """Delineate what the forest has learned.

    Parameters
    ----------
    image : in any orientation.

    Returns
    -------
    Segmentation
        On the image's grid, of the forest's structures with labels 1, 2, … They do not overlap.

    Raises
    ------
    ModelError
        Kind ``input``: an image of another kind than the forest has learned from.
    """
    opinion = _look(forest, image, lambda fraction: report(0.7 * fraction, "looking at the voxels"), log)
    best = _settled(forest, opinion)
    for label, chance in enumerate(opinion.chances, start=1):
        _draw(chance, best == label, opinion.own)
        if not (best == label).any():
            log(f"{forest.structures[label - 1].name} was not found in the image")
    axes = reorientation(image.geometry, "LPS")
    labels = _on_grid(opinion.chances, opinion.image.geometry, axes.grid(image.geometry))
    report(1.0, "done")
    structures = tuple(Structure(grown.name, label) for label, grown in enumerate(forest.structures, start=1))
    return Segmentation(image.geometry, (np.ascontiguousarray(axes.inverse().apply(labels)),), structures)


def uncertainty(forest: Forest, image: Volume) -> float:
    """How unsure the forest is of an image, 0 to 1: entropy of its voxels against how much of the structures it finds.

    A voxel that ends up as what the forest did not take it for counts whole: it was sure, and wrong by its neighbours.
    An image without the structures counts by what half of them would measure, so that emptiness is not taken for doubt.
    """
    opinion = _look(forest, image, lambda fraction: None, lambda text: None)
    before = opinion.chances.copy()
    best = _settled(forest, opinion)
    voxel = opinion.image.spacing**3 / 1000
    shares = []
    for label, (grown, chance) in enumerate(zip(forest.structures, before, strict=True), start=1):
        found = best == label
        p = chance[(chance > 255 * _DOUBT) & (chance < 255 * (1 - _DOUBT))].astype(np.float32) / 255
        entropy = float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())
        overruled = np.count_nonzero(found != (chance > 127))
        doubt = (entropy + overruled) * voxel
        size = max(float(np.count_nonzero(found)) * voxel, grown.volume / 2, voxel)
        shares.append(doubt / (doubt + size))
    return float(np.mean(shares))


def _look(forest: Forest, image: Volume, told: Callable[[float], None], log: Callable[[str], None]) -> _Opinion:
    own = fingerprint(image).hex() in forest.marks
    looked = working(image, forest.spacing, forest.scale, log)
    shape = looked.values.shape
    chances = np.empty((len(forest.structures), *shape), dtype=np.uint8)
    for block in Features(looked).blocks():
        found = forest.probabilities(block.rows, own=own).reshape(len(chances), -1, *shape[1:])
        chances[:, block.planes] = np.rint(255 * found)
        told(block.planes.stop / shape[0])
    return _Opinion(looked, chances, own)


def _settled(forest: Forest, opinion: _Opinion) -> npt.NDArray[np.uint8]:
    """For each voxel 1 + its structure, 0 for none: of each as many parts as it was ever labelled with, and as smooth as its labels.

    The chances are smoothed in place: in an image that was learned from a little, in another by its edges.
    """
    for grown, chance in zip(forest.structures, opinion.chances, strict=True):
        if opinion.own:
            chance[:] = np.rint(ndimage.gaussian_filter(chance.astype(np.float32), _SMOOTH, mode="nearest"))
        else:
            chance[:] = settled(chance, opinion.image.values, grown.contrast)
    best = np.zeros(opinion.chances.shape[1:], dtype=np.uint8)
    highest = np.full(best.shape, 127, dtype=np.uint8)
    for label, chance in enumerate(opinion.chances, start=1):
        best[chance > highest] = label
        np.maximum(highest, chance, out=highest)
    for label, grown in enumerate(forest.structures, start=1):
        chance = opinion.chances[label - 1]
        kept = _likeliest(best == label, chance if opinion.own else (chance & 127) * 2, grown.parts)
        best[(best == label) & ~kept] = 0
        if not opinion.own:
            best[filled(kept, grown.closing) & (best == 0)] = label
    return best


def _likeliest(mask: Mask, chance: npt.NDArray[np.uint8], most: int) -> Mask:
    """At most so many connected parts, none with much less for it than the first.

    What a part has for it are its voxels' chances, above one half for it, below against it: a small part that the forest is sure of
    goes before a large one that only its rim speaks for.
    """
    parts, count = ndimage.label(mask)
    for_it = np.bincount(parts.ravel(), weights=chance.ravel().astype(np.float32) - 127, minlength=count + 1)
    for_it[0] = 0
    order = np.argsort(for_it)[::-1][:most]
    keep = np.zeros(count + 1, dtype=bool)
    keep[order[for_it[order] >= _SMALLEST * max(for_it.max(), 0)]] = True
    keep[0] = False
    result: Mask = keep[parts]
    return result


def _draw(chance: npt.NDArray[np.uint8], kept: Mask, own: bool) -> None:
    """Make of a chance what the border is drawn through, in place."""
    if own:  # the border runs through the probabilities; a voxel around what was kept is enough of them
        chance[~ndimage.binary_dilation(kept)] = 0
    else:
        chance[:] = np.rint(ndimage.gaussian_filter(kept.astype(np.float32) * 255, _SMOOTH, mode="nearest"))


def _on_grid(chances: npt.NDArray[np.uint8], grid: Geometry, target: Geometry) -> npt.NDArray[np.uint8]:
    """The likeliest structure at each voxel of another LPS grid, some planes at a time."""
    result = np.zeros(target.shape, dtype=np.uint8)
    for first in range(0, target.shape[0], _PLANES):
        planes = slice(first, min(first + _PLANES, target.shape[0]))
        highest: Array = np.full((planes.stop - planes.start, *target.shape[1:]), 127, dtype=np.float32)
        for label, chance in enumerate(chances, start=1):
            if not chance.any():
                continue
            here = resampled(Volume(chance, grid), target, planes)
            result[planes][here > highest] = label
            np.maximum(highest, here, out=highest)
    return result
