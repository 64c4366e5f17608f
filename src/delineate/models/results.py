"""From masks to the declared structures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delineate.geometry import Geometry
from delineate.models.sampling import Mask
from delineate.segmentation import Segmentation, Structure


def labelled(geometry: Geometry, structures: Sequence[Structure], masks: Sequence[Mask]) -> Segmentation:
    """One label map of structures that do not overlap: a mask, shape (z, y, x), for each."""
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    for structure, mask in zip(structures, masks, strict=True):
        labels[mask] = structure.label
    return Segmentation(geometry, (labels,), tuple(structures))
