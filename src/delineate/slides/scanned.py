"""Slides as scanners write them, through OpenSlide (openslide.org), which also reads plain tiled TIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import ImageError
from delineate.slides.slide import (
    ADVICE,
    MOST_AT_ONCE,
    Level,
    Pixels,
    on_white,
    plausible,
    require_size,
    require_window,
)  # fmt: skip

_CACHE: Final = 64 << 20  # bytes of decoded tiles that OpenSlide keeps


class ScannedSlide:
    """See `delineate.slides.slide.Slide`. opened : an `openslide.OpenSlide` of the file `path`."""

    def __init__(self, opened: Any, path: Path) -> None:
        self._slide = opened
        self._path = str(path)  # OpenSlide names it in what it says, and a client is not to know it
        require_size(*opened.dimensions)
        for name in ("width", "height"):
            if int(opened.properties.get(f"openslide.level[0].tile-{name}", 0)) ** 2 > MOST_AT_ONCE:
                raise ImageError("the slide's tiles are too large", ADVICE)
        self.levels = tuple(
            Level(width, height, float(downsample))
            for (width, height), downsample in zip(opened.level_dimensions, opened.level_downsamples, strict=True)
        )
        self.mpp = _mpp(opened.properties)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """A window; see `Slide`."""
        from openslide import OpenSlideError

        require_window(self.levels, level, x, y, width, height)
        scale = self.levels[level].downsample
        try:
            # The place counts in pixels of level 0, the size in those of the level.
            image = self._slide.read_region((round(x * scale), round(y * scale)), level, (width, height))
        except OpenSlideError as error:
            said = str(error).replace(self._path, "the file")
            raise ImageError(f"the slide is damaged: {said}", "Export or send it again.") from error
        return on_white(np.asarray(image))

    def close(self) -> None:
        """Let the file go."""
        self._slide.close()


def open_scanned(path: Path) -> ScannedSlide | None:
    """Open a slide; None where OpenSlide is not installed or does not know the format. Raises `ImageError` for a damaged one."""
    try:
        import openslide
    except (ImportError, OSError):  # the latter where the library itself is missing
        return None
    try:
        if openslide.OpenSlide.detect_format(path) is None:
            return None
        opened = openslide.OpenSlide(path)
        opened.set_cache(openslide.OpenSlideCache(_CACHE))
    except (openslide.OpenSlideError, OSError) as error:
        raise ImageError(f"the slide cannot be read: {error}".replace(str(path), "the file"), ADVICE) from error
    try:
        return ScannedSlide(opened, path)
    except BaseException:
        opened.close()
        raise


def _mpp(properties: Any) -> float | None:
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    return plausible((x * y) ** 0.5) if x > 0 and y > 0 else None
