"""A PNG or JPEG image as a slide of one level: decoded whole, so it must be small."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from delineate.errors import ImageError, MissingPartError
from delineate.slides.slide import ADVICE, MOST_AT_ONCE, Level, Pixels, on_white, require_size, require_window

_MODES = {"1": "L", "P": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB", "PA": "RGBA"}
_KNOWN = ("L", "LA", "RGB", "RGBA")


class FlatSlide:
    """See `delineate.slides.slide.Slide`. `mpp` is never known: what such files say of it is meant for paper.

    Raises
    ------
    ImageError, MissingPartError
        As `open_slide`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._decoded: Pixels | None = None
        self.mpp: float | None = None
        with _opened(path) as image:
            width, height = image.size
        require_size(width, height)
        if width * height > MOST_AT_ONCE:
            raise ImageError(f"the image has {width} x {height} pixels, too many for one that is not tiled", "Send a tiled TIFF.")
        self.levels = (Level(width, height, 1.0),)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """A window; see `Slide`."""
        require_window(self.levels, level, x, y, width, height)
        with self._lock:
            if self._decoded is None:
                self._decoded = self._decode()
        return np.ascontiguousarray(self._decoded[y : y + height, x : x + width])

    def close(self) -> None:
        """Forget the pixels."""
        self._decoded = None

    def _decode(self) -> Pixels:
        with _opened(self._path) as image:
            try:
                mode = _MODES.get(image.mode, image.mode)
                if mode not in _KNOWN:
                    raise ImageError(f"pixels of the kind {image.mode} are not those of a slide", "Send 8 bits a channel.")
                pixels = np.asarray(image if mode == image.mode else image.convert(mode))
            except (OSError, SyntaxError, ValueError, EOFError) as error:
                raise ImageError("the image is cut off or damaged", ADVICE) from error
        return on_white(pixels)


def _opened(path: Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingPartError("Pillow, which reads PNG and JPEG images,", "slides") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower, and holds before decoding
            return Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise ImageError("the image says it has more pixels than fit into memory", "Send a tiled TIFF.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageError("the file is no PNG or JPEG image, or is damaged", ADVICE) from error
