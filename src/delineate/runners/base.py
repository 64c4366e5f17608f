"""The contract between a worker and whatever runs a model.

A runner is found by name in the entry-point group ``delineate.runners``; the entry point is a
callable ``create(model, folder) -> Runner``. One runner serves many tasks, one at a time, and
stays warm between them. It runs in a worker process of its own that may be killed at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from delineate.model import Model
from delineate.prompt import Box, Click
from delineate.segmentation import Segmentation
from delineate.slides.outlines import Outlines
from delineate.slides.part import SlidePart
from delineate.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task as a runner sees it.

    images : the inputs in order, in the orientation, spacing and units the model declares; C-contiguous. None for a model of slides.
    input_folder : the same as files: what was sent, byte for byte, for a model that takes it ``as-sent``, else
        ``tmp_0000.nii.gz`` … rewritten as declared. Read-only by convention.
    output_folder : empty; a runner that works on files writes its results here.
    prompts : parameters of the request as sent, over the defaults of the model's ``config``.
    clicks, boxes : from the prompts, on the grid of the first image (`delineate.prompt`).
    label : scribbles or a mask to go on from, unsigned integers on the grid of the first image; None where none came.
    report(fraction, message) : progress for the person who waits; cheap, may be called often.
    log(text) : kept with the task, shown when it fails. Never write patient data to it.
    deadline : ``time.monotonic()`` by which the task must be done.
    slide : what is asked of which slide, for a model whose input has the modality ``SM``.
    task : an opaque name to label containers and folders with (never the uid).
    """

    images: tuple[Volume, ...]
    input_folder: Path
    output_folder: Path
    prompts: Mapping[str, Any]
    report: Callable[[float, str], None]
    log: Callable[[str], None]
    deadline: float
    task: str
    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()
    label: np.ndarray | None = None
    slide: SlidePart | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What a model has to say in words and numbers: classes, boxes, measurements.

    values : plain values for JSON by name, finite, at most 16 MiB; segmentation : what it delineated as well, None for nothing;
    outlines : what it found on a slide.
    """

    values: Mapping[str, Any]
    segmentation: Segmentation | None = None
    outlines: Outlines | None = None


class Runner(Protocol):
    """Runs one model."""

    def segment(self, job: Job) -> Segmentation | Findings | None:
        """Delineate.

        Returns a segmentation on the grid of ``job.images[0]`` (or on its contour grid), or None when the results
        are files in ``job.output_folder``: pairs ``NAME.nii.gz`` and ``NAME.json`` (``{"1": "Heart"}``), the
        ``.json`` optional where the model declares its structures; and ``findings.json``. A model that has more to say,
        or something else, returns `Findings`.

        Raises
        ------
        ModelError
            The model failed; its `kind` and message go to the person. Any other exception counts as kind ``model``.
        """

    def close(self) -> None:
        """Free what it holds. Called when another model needs the memory and when the worker stops."""


RunnerFactory = Callable[[Model, "Path | None"], Runner]
"""``create(model, folder)``: `folder` holds the model's own files, None where it has none."""
