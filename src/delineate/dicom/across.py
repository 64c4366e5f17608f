"""A grid as the slices that contours or frames lie on, and label maps from these back onto the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from delineate.dicom.contours import planes_over
from delineate.geometry import Geometry
from delineate.orientation import AxisMap
from delineate.segmentation import Segmentation, Structure

_PARALLEL: Final = 0.9995  # cosine between a normal and an axis of a grid: 1.8 degrees; contours off it are named one by one


class Across:
    """A grid, looked at along that of its axes which is nearest to a normal; a normal of zeros is that of its slices.

    planes : its slices across that axis; is_parallel : whether the normal is along the axis
    """

    def __init__(self, geometry: Geometry, normal: np.ndarray) -> None:
        along = np.abs(geometry.matrix.T @ normal)
        axis = int(along.argmax()) if normal.any() else 2
        self.is_parallel = not normal.any() or bool(along[axis] >= _PARALLEL)
        order = (*(other for other in range(3) if other != axis), axis)
        self._axes = AxisMap((order[0], order[1], order[2]), (False, False, False))
        self._geometry, self._turned = geometry, self._axes.grid(geometry)
        self.planes, self._is_backwards = planes_over(self._turned)

    def back(self, layers: Sequence[np.ndarray], structures: Sequence[Structure]) -> Segmentation:
        """Label maps on the planes, on the grid."""
        ordered = tuple(layer[::-1] for layer in layers) if self._is_backwards else tuple(layers)
        found = Segmentation(self._turned, ordered, tuple(structures)).mapped(self._axes.inverse())
        return Segmentation(self._geometry, tuple(np.ascontiguousarray(layer) for layer in found.layers), found.structures)
