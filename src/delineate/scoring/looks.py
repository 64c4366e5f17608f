"""What an image looks like, as a vector: near for images that look alike, whatever their size, orientation and modality.

Coarse on purpose: it is to tell a chest from a pelvis, a noisy scan from a clean one, a thick slice from a thin one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delineate.errors import ModelError
from delineate.orientation import reorientation
from delineate.protocols.reference import Place
from delineate.runners.work import Done, WorkJob
from delineate.volume import Volume

COARSE = "coarse-1"
"""How vectors are computed; another name for another way."""

_SIDE, _BLOCKS, _BINS = 32, 4, 16  # samples and blocks along each axis; of the histogram
_RANGE = (1, 99)  # percentiles that become 0 and 1
_USUAL = 256.0  # mm

Vector = npt.NDArray[np.float32]


def describe(image: Volume) -> Vector:
    """The vector of an image, shape (149,).

    Of 32 x 32 x 32 voxels spread over the image, in the patient's axes: means and standard deviations of 4 x 4 x 4 blocks between
    the 1st and 99th percentile, roots of a histogram, how much neighbouring voxels differ, extent in mm and range of the values.
    Each of these is weighted so that none outweighs the others.
    """
    axes = reorientation(image.geometry, "LPS")
    grid = axes.grid(image.geometry)
    voxels = axes.apply(image.voxels)
    places = [((np.arange(_SIDE) + 0.5) * n / _SIDE).astype(np.int64) for n in voxels.shape]
    samples = _values(image, voxels[np.ix_(*places)])
    beside = _values(image, voxels[np.ix_(places[0], places[1], np.maximum(places[2] - 1, 0))])
    low, high = np.percentile(samples, _RANGE)
    reach = max(float(high - low), 1e-6)
    scaled = np.clip((samples - low) / reach, 0, 1)
    edge = _SIDE // _BLOCKS
    blocks = scaled.reshape(_BLOCKS, edge, _BLOCKS, edge, _BLOCKS, edge).transpose(0, 2, 4, 1, 3, 5).reshape(_BLOCKS**3, -1)
    histogram = np.histogram(scaled, _BINS, (0, 1))[0] / scaled.size
    rough = min(float(np.abs(samples - beside).mean()) / reach, 1.0)
    extent = np.log2(np.array(grid.size) * grid.spacing / _USUAL)
    parts = [(blocks.mean(axis=1) - 0.5) / 8, blocks.std(axis=1) / 4, np.sqrt(histogram) / 2, [2 * rough], 0.15 * extent]
    return np.concatenate([*parts, [0.1 * np.log10(reach)]]).astype(np.float32)


def _values(image: Volume, voxels: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(voxels.astype(np.float64) * image.slope + image.intercept, posinf=0.0, neginf=0.0)


class Describe:
    """The work ``describe``: given ``{"source": NAME, "images": […]}``; see `each`. Answers a ``vector`` of each image."""

    time_limit = 3600.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Describe images."""
        if job.given["source"] != COARSE:
            raise ModelError("images are described in another way now", "Run server and workers of one version.", "input")
        return each(job, lambda image: {"vector": [round(float(value), 5) for value in describe(image)]}, {"source": COARSE})


def each(job: WorkJob, look: Callable[[Volume], Mapping[str, Any]], about: Mapping[str, Any]) -> Done:
    """Look at images: given as ``"images": [{"id", "version", "place": PLACE}, …]``.

    Answers what `about` holds, and ``"found": [{"id", "version", …}, …]`` with what `look` says of each; of one that cannot be read
    ``failure``.
    """
    images, found = job.given["images"], []
    for number, image in enumerate(images):
        job.report(number / max(1, len(images)), f"image {number + 1} of {len(images)}")
        try:
            said = look(job.read.image(Place.from_json(image["place"])))
        except ModelError as error:
            if error.kind != "input":
                raise
            job.log(f"image {number + 1} of {len(images)} was left out: {error.sentence()}")
            said = {"failure": error.sentence()}
        found.append({"id": image["id"], "version": image["version"], **said})
    return Done(values={**about, "found": found})
