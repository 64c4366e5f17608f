"""Into the orientation, spacing and units that a model declares, and back onto the grid of what was sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from delineate.geometry import Geometry
from delineate.model import AS_SENT, Model, ModelInput
from delineate.orientation import reorientation
from delineate.resampling import labels_to_grid, to_model_grid
from delineate.segmentation import Segmentation
from delineate.volume import Volume
from delineate.worker.check import ExpectedGrid, LabelMap

Factor = tuple[int, int, int]


def to_model(volumes: tuple[Volume, ...], model: Model) -> tuple[Volume, ...]:
    """The images as the model declares them; voxels C-contiguous, shape (z, y, x)."""
    return tuple(converted(volume, model, model.inputs[min(index, len(model.inputs) - 1)]) for index, volume in enumerate(volumes))


def expected_grid(image: Geometry, seen: Geometry, factor: Factor, model: Model) -> ExpectedGrid:
    """The grids a result may be on: `image` as sent, `seen` as converted, `factor` (x, y, z) of the sender's contour grid."""
    if model.orientation == AS_SENT:
        return ExpectedGrid(image=seen, factor=factor)
    order = reorientation(image, model.orientation).order
    return ExpectedGrid(image=seen, factor=(factor[order[0]], factor[order[1]], factor[order[2]]), exact=True)


def from_model(layer: LabelMap, image: Geometry, factor: Factor, expected: ExpectedGrid, model: Model) -> tuple[np.ndarray, Geometry]:
    """Labels of one layer on the contour grid of `image`, with that grid.

    A result on the image's grid becomes one on the contour grid by exact block replication, or, where the model declares it,
    by interpolation of each structure, from the model's own grid at once.
    """
    contours = image.refined(factor) if factor != (1, 1, 1) else image
    labels, is_fine = layer.labels, layer.fine
    is_smooth = model.contours == "smooth" and not is_fine and contours is not image
    if model.orientation != AS_SENT or is_smooth:
        found = image if model.orientation == AS_SENT else expected.contours if is_fine else expected.image
        is_fine = is_fine or is_smooth
        segmentation = Segmentation.from_labels(labels, found, dict(layer.names))
        labels = labels_to_grid(segmentation, contours if is_fine else image).layers[0]
    if not is_fine and contours is not image:
        labels = Segmentation.from_labels(labels, image, {}).refined(factor).layers[0]
    return np.ascontiguousarray(labels), contours


def converted(volume: Volume, model: Model, wanted: ModelInput) -> Volume:
    """One image as the model declares the input `wanted`; voxels C-contiguous."""
    if wanted.units != "stored":
        units = wanted.units if wanted.units == "HU" else volume.units
        volume = replace(volume, voxels=volume.values(), slope=1.0, intercept=0.0, units=units)
    if model.orientation != AS_SENT:
        volume = to_model_grid(volume, model.orientation, model.spacing)
    return volume if volume.voxels.flags.c_contiguous else replace(volume, voxels=np.ascontiguousarray(volume.voxels))
