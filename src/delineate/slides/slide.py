"""What every slide offers, however it is stored: levels, and windows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from delineate.errors import ImageError, InputError

Pixels = npt.NDArray[np.uint8]
"""Shape (height, width, 3): red, green, blue."""

LONGEST_SIDE: Final = 1 << 20  # pixels; the largest scanners give 2 to the 18th
MOST_PIXELS: Final = 1 << 37  # of level 0
MOST_AT_ONCE: Final = 1 << 26  # pixels of one window, one tile, or one flat image: 200 MB
PLAUSIBLE: Final = (0.02, 20.0)  # µm of a pixel; what screens and printers write as resolution lies far beyond

ADVICE: Final = "Send a tiled TIFF, a slide as its scanner wrote it, or a PNG or JPEG image."


@dataclass(frozen=True)
class Level:
    """One resolution. width, height : pixels; downsample : pixels of level 0 along one of its own."""

    width: int
    height: int
    downsample: float


class Slide(Protocol):
    """An open slide. Windows may be read by several threads at once."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Its resolutions, the finest first."""

    @property
    def mpp(self) -> float | None:
        """Micrometres of a pixel of level 0; None where the file does not say."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """A window in pixels of `level`, all of it inside. Raises `ImageError` where the file is damaged there."""

    def close(self) -> None:
        """Let the file go."""


def size_of(slide: Slide) -> tuple[int, int]:
    """Width and height of level 0."""
    return slide.levels[0].width, slide.levels[0].height


def require_size(width: int, height: int) -> None:
    """Refuse a slide of no or of absurd dimensions: `ImageError`."""
    if width < 1 or height < 1:
        raise ImageError("the image has no pixels", ADVICE)
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise ImageError(f"the image says it has {width} x {height} pixels, more than any slide", ADVICE)


def require_window(levels: tuple[Level, ...], level: int, x: int, y: int, width: int, height: int) -> None:
    """Refuse a window that is not all inside, or too large to be read at once: `InputError`."""
    if not 0 <= level < len(levels):
        raise InputError(f"the slide has no level {level}", f"It has {len(levels)}, counted from 0.")
    of = levels[level]
    if min(x, y) < 0 or min(width, height) < 1 or x + width > of.width or y + height > of.height:
        raise InputError(f"the window {x}, {y}, {width} x {height} is not inside of {of.width} x {of.height} pixels")
    if width * height > MOST_AT_ONCE:
        raise InputError(f"the window of {width} x {height} pixels is too large", "Read it in tiles.")


def plausible(mpp: float | None) -> float | None:
    """Micrometres of a pixel, None for what cannot be those of a slide."""
    return mpp if mpp is not None and PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1] else None


def on_white(pixels: npt.NDArray[np.uint8]) -> Pixels:
    """Red, green, blue of an array with 1, 2, 3 or 4 channels; what is transparent becomes white, as glass is."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    colours = np.repeat(pixels[..., :1], 3, axis=2) if channels < 3 else pixels[..., :3]
    if channels in (2, 4):
        alpha = pixels[..., -1:]
        if alpha.min(initial=255) < 255:
            weight = alpha.astype(np.uint16)
            colours = ((colours * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(colours)
