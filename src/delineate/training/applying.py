"""A forest on an image: structures on the image's own grid, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation, Structure, label_dtype
from delineate.training.features import Features
from delineate.training.forest import Forest
from delineate.training.working import Array, resampled, working
from delineate.volume import Volume

_SMOOTH = 0.7  # working voxels
_SMALLEST = 0.1  # of the largest part
_PLANES = 8
_DOUBT = 0.02  # probabilities nearer to 0 or 1 are none

Report = Callable[[float, str], None]


def segment(
    forest: Forest,
    image: Volume,
    structures: tuple[Structure, ...] = (),
    report: Report = lambda fraction, message: None,
    log: Callable[[str], None] = lambda text: None,
) -> Segmentation:
    """Delineate what the forest has learned.

    Parameters
    ----------
    image : in any orientation.
    structures : names, labels and colours of the result, of layer 0; by default the forest's names with labels 1, 2, …

    Returns
    -------
    Segmentation
        On the image's grid. Structures do not overlap.

    Raises
    ------
    ModelError
        Kind ``input``: an image of another kind than the forest has learned from.
    """
    wanted = structures or tuple(Structure(grown.name, label) for label, grown in enumerate(forest.structures, start=1))
    chances, grid = _chances(forest, image, lambda fraction: report(0.8 * fraction, "looking at the voxels"), log)
    best = _cleaned(forest, chances)
    for label, chance in enumerate(chances, start=1):
        # The border runs through the probabilities; a voxel around what was kept is enough of them.
        chance[~ndimage.binary_dilation(best == label, iterations=1)] = 0
        if not (best == label).any():
            log(f"{forest.structures[label - 1].name} was not found in the image")
    axes = reorientation(image.geometry, "LPS")
    numbers = {structure.name: structure.label for structure in wanted}
    labels = _on_grid(chances, grid, axes.grid(image.geometry), [numbers.get(grown.name, 0) for grown in forest.structures])
    report(1.0, "done")
    return Segmentation(image.geometry, (np.ascontiguousarray(axes.inverse().apply(labels)),), wanted)


def uncertainty(forest: Forest, image: Volume) -> float:
    """How unsure the forest is of an image, 0 to 1: entropy of its voxels against how much of the structures it finds.

    An image without the structures counts by what half of them would measure, so that emptiness is not taken for doubt.
    """
    chances, grid = _chances(forest, image, lambda fraction: None, lambda text: None)
    voxel = float(np.prod(grid.spacing)) / 1000
    shares = []
    for grown, chance in zip(forest.structures, chances, strict=True):
        p = chance[(chance > 255 * _DOUBT) & (chance < 255 * (1 - _DOUBT))].astype(np.float32) / 255
        entropy = float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum()) * voxel
        found = float(chance[chance > 127].astype(np.float64).sum()) / 255 * voxel
        size = max(found, grown.volume / 2, voxel)
        shares.append(entropy / (entropy + size))
    return float(np.mean(shares))


def _chances(
    forest: Forest, image: Volume, told: Callable[[float], None], log: Callable[[str], None]
) -> tuple[npt.NDArray[np.uint8], Geometry]:
    """Probabilities, 0 to 255, shape (structures, z, y, x), smoothed, on the working grid."""
    looked = working(image, forest.spacing, forest.scale, log)
    shape = looked.values.shape
    chances = np.empty((len(forest.structures), *shape), dtype=np.uint8)
    for block in Features(looked).blocks():
        found = forest.probabilities(block.rows).reshape(len(chances), -1, *shape[1:])
        chances[:, block.planes] = np.rint(255 * found)
        told(block.planes.stop / shape[0])
    for chance in chances:
        chance[:] = np.rint(ndimage.gaussian_filter(chance.astype(np.float32), _SMOOTH, mode="nearest"))
    return chances, looked.geometry


def _cleaned(forest: Forest, chances: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """For each voxel 1 + the likeliest structure, 0 for none; of each structure as many parts as it was ever labelled with."""
    best = np.zeros(chances.shape[1:], dtype=np.uint8)
    highest = np.full(best.shape, 127, dtype=np.uint8)
    for label, chance in enumerate(chances, start=1):
        best[chance > highest] = label
        np.maximum(highest, chance, out=highest)
    for label, grown in enumerate(forest.structures, start=1):
        parts, count = ndimage.label(best == label)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[0] = 0
        order = np.argsort(sizes)[::-1][: grown.parts]
        keep = np.zeros(count + 1, dtype=bool)
        keep[order[sizes[order] >= _SMALLEST * sizes.max()]] = True
        best[(best == label) & ~keep[parts]] = 0
    return best


def _on_grid(chances: npt.NDArray[np.uint8], grid: Geometry, target: Geometry, labels: list[int]) -> npt.NDArray[np.unsignedinteger]:
    """The likeliest structure at each voxel of another LPS grid, some planes at a time."""
    result = np.zeros(target.shape, dtype=label_dtype(max(labels)))
    for first in range(0, target.shape[0], _PLANES):
        planes = slice(first, min(first + _PLANES, target.shape[0]))
        highest: Array = np.full((planes.stop - planes.start, *target.shape[1:]), 127, dtype=np.float32)
        for label, chance in zip(labels, chances, strict=True):
            if not label or not chance.any():
                continue
            here = resampled(Volume(chance, grid), target, planes)
            result[planes][here > highest] = label
            np.maximum(highest, here, out=highest)
    return result
