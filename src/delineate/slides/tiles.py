"""A part of a slide at one scale, tile by tile, each with a margin; the same pixels whatever the tiles."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np

from delineate.slides.part import SlidePart, Window
from delineate.slides.slide import Pixels, Slide

MOST_STEPS: Final = 16
_SMALLEST, _LARGEST = 128, 2048  # pixels along a tile: smaller ones are margin mostly, larger ones cost memory and gain nothing
_LEAST: Final = 64  # pixels that shall be left of a side

Result = TypeVar("Result")


@dataclass(frozen=True)
class Scale:
    """How a slide is looked at: blocks of `steps` x `steps` pixels of a level are one pixel.

    factor : pixels of level 0 along one pixel; mpp : micrometres along one; width, height : whole blocks there are.
    """

    level: int
    steps: int
    factor: float
    mpp: float
    width: int
    height: int


class Tile(NamedTuple):
    """What one tile answers for: pixels `left` to `right` and `top` to `bottom` of the scale, those in `window` only."""

    left: int
    top: int
    right: int
    bottom: int
    window: Window


def scale_for(slide: Slide, finest: int, mpp: float, wanted: float) -> Scale:
    """The coarsest way to look at a slide that is not coarser than `wanted` by more than a quarter, or the level `finest`.

    Parameters
    ----------
    mpp : micrometres of a pixel of level 0; wanted : of a pixel of the scale
    """
    limit = wanted * 1.25
    best = finest
    for index in range(finest, len(slide.levels)):
        if slide.levels[index].downsample * mpp <= limit:
            best = index
    level = slide.levels[best]
    steps = max(1, min(MOST_STEPS, int(limit / (level.downsample * mpp)), min(level.width, level.height) // _LEAST))
    factor = level.downsample * steps
    return Scale(best, steps, factor, factor * mpp, level.width // steps, level.height // steps)


def tiles_of(part: SlidePart, scale: Scale) -> list[Tile]:
    """All tiles of a part."""
    wide, high = (max(_SMALLEST, min(_LARGEST, int(side / scale.steps))) for side in part.tile)
    tiles = []
    for window in part.windows:
        left, top = int(window.x / scale.factor), int(window.y / scale.factor)
        right = min(scale.width, -int(-(window.x + window.width) // scale.factor))
        bottom = min(scale.height, -int(-(window.y + window.height) // scale.factor))
        tiles += [
            Tile(x, y, min(right, x + wide), min(bottom, y + high), window)
            for y in range(top, bottom, high)
            for x in range(left, right, wide)
        ]
    return tiles


def read_scaled(slide: Slide, scale: Scale, left: int, top: int, right: int, bottom: int) -> Pixels:
    """Pixels of a scale, shape (bottom - top, right - left, 3); beyond the slide white."""
    x0, y0, x1, y1 = max(0, left), max(0, top), min(scale.width, right), min(scale.height, bottom)
    result = np.full((bottom - top, right - left, 3), 255, np.uint8)
    if x0 < x1 and y0 < y1:
        n = scale.steps
        read = slide.read(scale.level, x0 * n, y0 * n, (x1 - x0) * n, (y1 - y0) * n)
        result[y0 - top : y1 - top, x0 - left : x1 - left] = read if n == 1 else _mean(read, n)
    return result


def _mean(pixels: Pixels, steps: int) -> Pixels:
    total = np.zeros((pixels.shape[0] // steps, pixels.shape[1] // steps, 3), np.uint16)
    for y in range(steps):
        for x in range(steps):
            total += pixels[y::steps, x::steps]
    return ((total + steps * steps // 2) // (steps * steps)).astype(np.uint8)


def over_tiles(
    tiles: Sequence[Tile], work: Callable[[Tile], Result], threads: int, report: Callable[[float, str], None]
) -> Iterator[Result]:
    """The results of `work` in the order of the tiles; `report` is called by the caller's own thread and may raise.

    No more than two tiles for each thread are under way, so memory does not grow with the slide.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max(1, threads), "tile") as pool:
        try:
            for done, tile in enumerate(tiles):
                waiting.append(pool.submit(work, tile))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
                    report((done + 1 - len(waiting)) / len(tiles), f"tile {done + 1 - len(waiting)} of {len(tiles)}")
            while waiting:
                yield waiting.popleft().result()
                report((len(tiles) - len(waiting)) / len(tiles), f"tile {len(tiles) - len(waiting)} of {len(tiles)}")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
