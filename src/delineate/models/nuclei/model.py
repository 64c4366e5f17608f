"""Nuclei on a slide, tile by tile."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import MissingPartError, ModelError
from delineate.runners.base import Findings, Job
from delineate.slides.outlines import Outlines, Polygons
from delineate.slides.part import SlidePart
from delineate.slides.slide import PLAUSIBLE, Pixels, Slide
from delineate.slides.tiles import Scale, Tile, over_tiles, read_scaled, scale_for, tiles_of

try:
    from delineate.models.nuclei import segment
except ImportError as error:
    raise MissingPartError(f"{(error.name or 'scikit-image').partition('.')[0]}, which finds nuclei,", "slides") from error

USUAL_MPP: Final = 0.25  # µm of a pixel where the file does not say: an objective of 40 x
MOST_FOUND: Final = 1_000_000
_REMEMBERED: Final = 256  # slides
_SAMPLES, _SAMPLE = 6, 256  # along a side of the slide; pixels of each


class Nuclei:
    """See `delineate.models.nuclei.segment` for the method."""

    label: Final = "Nuclei"

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        self._thresholds: OrderedDict[tuple[str, Scale], float] = OrderedDict()

    def segment(self, job: Job) -> Findings:
        """Outline every nucleus whose middle is in the part of the slide that is asked for.

        Raises
        ------
        ModelError
            Kind ``input``: no slide, one whose pixels are too coarse, more nuclei than can be answered, a parameter that makes no sense.
        """
        part = job.slide
        if part is None:
            raise ModelError("the model works on slides", "Send a slide, or a part of one as PNG, JPEG or TIFF.", "input")
        scale = _scale(job, part)
        slide = part.slide
        threshold = _number(job, "threshold", 2.0) or self._threshold(part, scale)
        settings = segment.Settings(
            mpp=scale.mpp, threshold=threshold, least=_number(job, "min_area", 1e4), most=max(1.0, _number(job, "max_area", 1e4))
        )
        job.log(f"pixels of {scale.mpp:.3f} µm, level {scale.level}, density above {threshold:.4f}")
        tiles = tiles_of(part, scale)
        found, middles, count = [], [], 0
        for polygons, places in over_tiles(tiles, partial(_in_tile, slide, scale, settings), _threads(job), job.report):
            kept = np.flatnonzero(polygons.areas >= part.least_area)
            found.append(polygons.take(kept))
            middles.append(places[kept])
            count += len(kept)
            if count > MOST_FOUND:
                raise ModelError(f"there are more than {MOST_FOUND:,} nuclei", "Ask for a smaller part of the slide.", "input")
        groups = {self.label: _in_order(Polygons.joined(found), np.concatenate(middles) if middles else np.zeros((0, 2)))}
        outlines = Outlines(within=part.bounds, groups=groups, colours={self.label: (255, 0, 0)})
        return Findings(values={"count": len(groups[self.label]), "mpp": round(scale.mpp, 4)}, outlines=outlines)

    def _threshold(self, part: SlidePart, scale: Scale) -> float:
        """What parts nuclei from the rest on this slide; remembered, because looking all over it takes longer than a small part."""
        found = self._thresholds.pop((part.key, scale), None) if part.key else None
        if found is None:
            found = segment.threshold_for(_samples(part.slide, scale), scale.mpp)
        if part.key:
            self._thresholds[part.key, scale] = found
            if len(self._thresholds) > _REMEMBERED:
                self._thresholds.popitem(last=False)
        return found


def _scale(job: Job, part: SlidePart) -> Scale:
    mpp = _number(job, "mpp", PLAUSIBLE[1]) or part.slide.mpp
    if mpp is None:
        mpp = USUAL_MPP
        job.log(f"the slide does not say how large its pixels are: taken as {mpp} µm")
    scale = scale_for(part.slide, part.level, mpp, segment.WANTED_MPP)
    if scale.mpp > segment.COARSEST_MPP:
        raise ModelError(
            f"a pixel is {scale.mpp:.2f} µm: nuclei cannot be told apart",
            "Ask for a finer level, or say the size of a pixel: mpp.",
            "input",
        )
    return scale


def _in_tile(slide: Slide, scale: Scale, settings: segment.Settings, tile: Tile) -> tuple[Polygons, np.ndarray]:
    margin = settings.pixels(segment.MARGIN)
    left, top, right, bottom = tile.left - margin, tile.top - margin, tile.right + margin, tile.bottom + margin
    x, y = np.arange(left, right), np.arange(top, bottom)
    pixels = read_scaled(slide, scale, left, top, right, bottom)
    inside = ((y >= 0) & (y < scale.height))[:, None] & ((x >= 0) & (x < scale.width))[None]
    window, at_x, at_y = tile.window, (x + 0.5) * scale.factor, (y + 0.5) * scale.factor
    in_x = (x >= tile.left) & (x < tile.right) & (at_x >= window.x) & (at_x < window.x + window.width)
    in_y = (y >= tile.top) & (y < tile.bottom) & (at_y >= window.y) & (at_y < window.y + window.height)
    labels = segment.find(pixels, inside, settings)
    return segment.outlines(labels, settings, (left, top), in_y[:, None] & in_x[None], scale.factor)


def _samples(slide: Slide, scale: Scale) -> list[Pixels]:
    """Parts all over the slide, the same whatever is asked of it."""
    found = []
    for y in _places(scale.height):
        for x in _places(scale.width):
            found.append(read_scaled(slide, scale, x, y, min(scale.width, x + _SAMPLE), min(scale.height, y + _SAMPLE)))
    return found


def _places(length: int) -> list[int]:
    count = min(_SAMPLES, -(-length // _SAMPLE))
    return [int((length - _SAMPLE) * (i + 0.5) / count) if length > count * _SAMPLE else i * _SAMPLE for i in range(count)]


def _in_order(polygons: Polygons, middles: np.ndarray) -> Polygons:
    """From top to bottom and from left to right, whatever the tiles were; each once, though windows may overlap."""
    if not len(polygons):
        return polygons
    order = np.lexsort((middles[:, 1], middles[:, 0]))
    ordered = middles[order]
    is_new = np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))
    return polygons.take(order[is_new])


def _threads(job: Job) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(_number(job, "max_workers", 1e4)) or cores))


def _number(job: Job, name: str, most: float) -> float:
    """A number of the request from 0 on. Raises `ModelError` of kind ``input``."""
    value = job.prompts.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ModelError(f"{name} is not a number from 0 to {most:g}", f"Leave {name} out for the usual one.", "input")
    return float(value)
