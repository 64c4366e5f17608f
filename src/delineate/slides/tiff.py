"""TIFF through tifffile: tiles or strips, of which only those that a window touches are decoded.

Without compression or deflated; other ways of compression are OpenSlide's. Each tile is checked before it is unpacked: a few
kilobytes can claim to be gigabytes.
"""

from __future__ import annotations

import contextlib
import re
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import ImageError, MissingPartError
from delineate.slides.slide import ADVICE, MOST_AT_ONCE, Level, Pixels, on_white, plausible, require_size, require_window

_NONE, _DEFLATED = 1, (8, 32946)
_GREY, _COLOURS = (0, 1), 2  # white is zero, black is zero; red, green, blue
_CACHE: Final = 64 << 20  # bytes of decoded tiles
_MOST_LEVELS: Final = 32
_MICROMETRES: Final = {2: 25400.0, 3: 10000.0}  # of the units of resolution: inch, centimetre


class TiffSlide:
    """See `delineate.slides.slide.Slide`.

    Raises
    ------
    ImageError, MissingPartError
        As `open_slide`.
    """

    def __init__(self, path: Path) -> None:
        try:
            import tifffile
        except ImportError:
            raise MissingPartError("tifffile, which reads TIFF,", "slides") from None
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._cached = 0
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # the library fails in many ways over a hostile file
            raise ImageError("the file is no TIFF, or is damaged", ADVICE) from error
        try:
            self._pages = _pages(self._file)
            first = self._pages[0]
            self.levels = tuple(Level(p.imagewidth, p.imagelength, first.imagewidth / p.imagewidth) for p in self._pages)
            self.mpp = plausible(_mpp(first))
        except ImageError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise ImageError("the TIFF is damaged", ADVICE) from error

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """A window; see `Slide`."""
        require_window(self.levels, level, x, y, width, height)
        page = self._pages[level]
        wide, high = _tile_size(page)
        across = -(-page.imagewidth // wide)
        result = np.empty((height, width, 3), np.uint8)
        for row in range(y // high, (y + height - 1) // high + 1):
            for column in range(x // wide, (x + width - 1) // wide + 1):
                tile = self._tile(level, row * across + column)
                left, top = column * wide, row * high
                x0, x1 = max(x, left), min(x + width, left + tile.shape[1])
                y0, y1 = max(y, top), min(y + height, top + tile.shape[0])
                result[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return result

    def close(self) -> None:
        """Let the file go."""
        self._tiles.clear()
        self._file.close()

    def _tile(self, level: int, index: int) -> Pixels:
        key = (level, index)
        with self._lock:
            found = self._tiles.get(key)
            if found is not None:
                self._tiles.move_to_end(key)
                return found
            tile = self._decoded(self._pages[level], index)
            self._tiles[key] = tile
            self._cached += tile.nbytes
            while self._cached > _CACHE and len(self._tiles) > 1:
                self._cached -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def _decoded(self, page: Any, index: int) -> Pixels:
        try:
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            wide, high = _tile_size(page)
            needed = wide * high * page.samplesperpixel
            if count > 2 * needed + 4096:
                raise ImageError("a tile of the TIFF is longer than it can be", ADVICE)
            data = None
            if count:
                self._file.filehandle.seek(offset)
                data = self._file.filehandle.read(count)
                if page.compression in _DEFLATED:
                    _require_length(data, needed)
            tile, _, shape = page.decode(data, index)
            if tile is None:  # left out by whoever wrote it: empty
                return np.full((*shape[1:3], 3), 255, np.uint8)
            pixels = tile[0, : shape[1], : shape[2]]
            return on_white(255 - pixels if page.photometric == 0 else pixels)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError("a tile of the TIFF is damaged", "Export or send it again.") from error


def _pages(file: Any) -> list[Any]:
    """The pages of the levels, checked."""
    pages = [level.keyframe for level in file.series[0].levels[:_MOST_LEVELS]] if file.series else []
    if not pages:
        raise ImageError("the TIFF holds no image", ADVICE)
    first = pages[0]
    require_size(first.imagewidth, first.imagelength)
    return [page for page in pages if page is first or _is_level(page, first)] if _require_usable(first) else []


def _is_level(page: Any, first: Any) -> bool:
    """Whether a page is the first one, smaller, and can be read."""
    if not 0 < page.imagewidth < first.imagewidth or not 0 < page.imagelength < first.imagelength:
        return False
    ratio = (first.imagewidth / page.imagewidth) / (first.imagelength / page.imagelength)
    with contextlib.suppress(ImageError):
        return 0.8 < ratio < 1.25 and _require_usable(page)
    return False


def _require_usable(page: Any) -> bool:
    """True, or `ImageError` with the reason."""
    if page.dtype != np.uint8:
        raise ImageError("the TIFF has not 8 bits a channel", ADVICE)
    if page.compression != _NONE and page.compression not in _DEFLATED:
        name = getattr(page.compression, "name", page.compression)
        raise ImageError(f"a TIFF compressed with {name} is read only where it is tiled", "Save it as a tiled TIFF.")
    if page.photometric not in (*_GREY, _COLOURS) or page.samplesperpixel > 4 or page.planarconfig != 1 or page.imagedepth != 1:
        raise ImageError("the TIFF is not of grey values, nor of red, green and blue", ADVICE)
    wide, high = _tile_size(page)
    if wide < 1 or high < 1 or wide * high > MOST_AT_ONCE:
        raise ImageError("the TIFF's tiles are too large", "Save it as a tiled TIFF.")
    if len(page.dataoffsets) < -(-page.imagewidth // wide) * -(-page.imagelength // high):
        raise ImageError("the TIFF is damaged: it lacks tiles", ADVICE)
    return True


def _tile_size(page: Any) -> tuple[int, int]:
    """Width and height of a tile, or of a strip."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def _require_length(data: bytes, needed: int) -> None:
    """Refuse deflated data that is longer than a tile, unpacking no more than that."""
    unpacking = zlib.decompressobj()
    if len(unpacking.decompress(data, needed + 1)) > needed:
        raise ImageError("a tile of the TIFF unpacks to more than a tile", ADVICE)


def _mpp(page: Any) -> float | None:
    """Micrometres of a pixel, after the tags of resolution or what the scanner wrote into the description."""
    said = re.search(r"\bMPP\s*=\s*([0-9.]+)", str(page.description)[:65536])
    if said:
        with contextlib.suppress(ValueError):
            return float(said.group(1))
    unit = _MICROMETRES.get(int(getattr(page, "resolutionunit", 1)))
    try:
        parts, whole = page.tags["XResolution"].value
        return unit * whole / parts if unit and parts > 0 else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
