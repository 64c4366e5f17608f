"""One structure from scribbles inside and outside: how likely each voxel is, and a minimal cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import ModelError, SettingsError
from delineate.models.cut import Field
from delineate.models.cut_window import CutProblem, Window, around, cut_window, shell
from delineate.models.likelihood import cost_of, histogram, mixture
from delineate.models.morphology import reconstruct
from delineate.models.region.model import MOST_REACH, MOST_SMOOTHNESS, number
from delineate.models.sampling import Mask, Triple
from delineate.prompt import Box
from delineate.runners.base import Job
from delineate.segmentation import Segmentation

OUTSIDE: Final = 2
INSIDE: Final = 3
"""What clients of MONAI Label draw with."""

USUAL: Final = "region"
NODES: Final = 150_000
_BORDER: Final = 0.5  # strength of a border at smoothness 1
_ALONG: Final = 30.0  # mm that a change of values by the contrast adds to a way
_CONTRAST: Final = 0.05  # of the range of values
_METHODS: Final = {"histogram": histogram, "mixture": mixture}


class Scribbles:
    """``parameters.method`` is ``histogram`` or ``mixture``. See `delineate.models.cut_window` for the cut."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        method = parameters.get("method", "histogram")
        if method not in _METHODS:
            raise SettingsError(f"the method {method!r} is not known", f"Use one of {', '.join(_METHODS)}.")
        self._density = _METHODS[method]

    def segment(self, job: Job) -> Segmentation:
        """Delineate what was scribbled on, within the roi or `margin` mm around the scribbles.

        Raises
        ------
        ModelError
            Kind ``input``: no scribbles inside, none outside and no roi, or a parameter that makes no sense.
        """
        image, drawn = job.images[0], job.label
        smoothness, margin = number(job, "smoothness", MOST_SMOOTHNESS), number(job, "margin", MOST_REACH)
        if drawn is None or not (drawn == INSIDE).any():
            raise ModelError(
                "there are no scribbles inside of the structure", f"Send them as label: {INSIDE} inside, {OUTSIDE} outside.", "input"
            )
        sx, sy, sz = image.geometry.spacing
        spacing = (sz, sy, sx)
        window, forced = _forced(drawn, job.boxes, margin, spacing)
        if not (forced > 0).any():
            raise ModelError("no scribbles inside of the structure lie in the roi", "Draw a larger roi.", "input")
        values = np.nan_to_num(image.voxels[window].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        mask = self._cut(values, forced, drawn[window], spacing, _BORDER * smoothness)
        labels = np.zeros(image.geometry.shape, dtype=np.uint8)
        labels[window][reconstruct(forced > 0, mask)] = 1  # what only looks alike, elsewhere, was not meant
        return Segmentation.from_labels(labels, image.geometry, {1: _name(job)})

    def _cut(self, values: Field, forced: np.ndarray, drawn: np.ndarray, spacing: Triple, strength: float) -> Mask:
        inside, outside = values[drawn == INSIDE], values[forced < 0]
        if not outside.size:
            raise ModelError("nothing is known to be outside of the structure", f"Scribble {OUTSIDE} outside, or draw a roi.", "input")
        cost = cost_of(values, inside, outside, self._density)
        low, high = np.percentile(values[tuple(slice(None, None, max(1, n // 48)) for n in values.shape)], (1, 99))
        contrast = max(_CONTRAST * float(high - low), 1e-6)
        return cut_window(CutProblem(values, cost, forced, spacing, contrast, strength, _ALONG), NODES, rounds=60)


def _forced(drawn: np.ndarray, boxes: tuple[Box, ...], margin: float, spacing: Triple) -> tuple[Window, np.ndarray]:
    """The window to look at, and what is known of its voxels: 1 inside, -1 outside, 0 open. Beyond a roi all is outside."""
    if boxes:
        z, y, x = (slice(boxes[0].first[axis], boxes[0].last[axis] + 1) for axis in (2, 1, 0))
        window: Window = (z, y, x)
    else:
        window = around(np.argwhere(drawn > 0), margin, spacing, drawn.shape)
    part = drawn[window]
    forced = np.where(part == INSIDE, 1, np.where(part == OUTSIDE, -1, 0)).astype(np.int8)
    if boxes or not (forced < 0).any():
        forced[shell(part.shape, drawn.shape, window) & (forced == 0)] = -1
    return window, forced


def _name(job: Job) -> str:
    name = job.prompts.get("label")
    return name if isinstance(name, str) and name.strip() else USUAL
