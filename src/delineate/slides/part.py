"""Which part of a slide is meant, and in what tiles it is read: as clients say it, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from delineate.errors import InputError
from delineate.slides.slide import LONGEST_SIDE, Slide, size_of

USUAL_SIZE: Final = (2048, 2048)
USUAL_TILE: Final = (1024, 1024)
USUAL_AREA: Final = 80.0  # pixels of level 0
TILES: Final = (64, 16384)  # the shortest and the longest side that make sense
MOST_WINDOWS: Final = 100_000
FORMS: Final = ("dsa", "asap", "json")
DOCUMENT: Final = "wsi"
"""Parameter that is set where the answer is a document of outlines, for who asked by the routes for slides."""

_WHOLE: Final = "Leave out location and size, or send zeros, for the whole slide."


class Window(NamedTuple):
    """A rectangle in pixels of level 0."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class PartRequest:
    """What a request says.

    level : the finest that is to be read; windows : empty for the whole slide, a width or height of 0 reaches to the edge;
    tile : width and height in which it is read, which does not change what is found; least_area : pixels of level 0 below which
    an outline is left out; form : one of `FORMS`, empty where none is named.
    """

    level: int = 0
    windows: tuple[Window, ...] = ()
    tile: tuple[int, int] = USUAL_TILE
    least_area: float = USUAL_AREA
    form: str = ""

    def on(self, slide: Slide, key: str = "") -> SlidePart:
        """The same on a slide whose content `key` stands for: windows cut at its edges.

        Raises
        ------
        InputError
            A level that the slide has not, or a window outside.
        """
        if self.level >= len(slide.levels):
            raise InputError(f"the slide has no level {self.level}", f"It has {len(slide.levels)}, counted from 0.")
        width, height = size_of(slide)
        windows = [_cut(window, width, height) for window in self.windows] or [Window(0, 0, width, height)]
        return SlidePart(slide=slide, level=self.level, windows=tuple(windows), tile=self.tile, least_area=self.least_area, key=key)


@dataclass(frozen=True, kw_only=True, eq=False)
class SlidePart:
    """A part of an open slide; members as in `PartRequest`, every window inside. key : stands for its content, empty for nothing known."""

    slide: Slide
    level: int
    windows: tuple[Window, ...]
    tile: tuple[int, int]
    least_area: float
    key: str = ""

    @property
    def bounds(self) -> Window:
        """The rectangle around all windows."""
        x, y = min(w.x for w in self.windows), min(w.y for w in self.windows)
        right, bottom = max(w.x + w.width for w in self.windows), max(w.y + w.height for w in self.windows)
        return Window(x, y, right - x, bottom - y)


def read_part(params: Mapping[str, Any]) -> PartRequest:
    """Read ``level``, ``location``, ``size``, ``tile_size``, ``min_poly_area``, ``wsi_tiles`` and ``output``, each optional.

    Places and sizes are in pixels of level 0, as viewers have them. Nothing above 0 in `location` and `size` is the whole slide.

    Raises
    ------
    InputError
        A value that makes no sense on any slide.
    """
    tile = _pair(params, "tile_size", USUAL_TILE)
    if min(tile) < TILES[0] or max(tile) > TILES[1]:
        raise InputError(f"tile_size is {tile[0]} x {tile[1]}", f"Use {TILES[0]} to {TILES[1]} pixels a side.")
    level = _whole(params.get("level") or 0, "level")
    if level < 0:
        raise InputError("the level is below 0", "Levels count from 0, the finest.")
    area = params.get("min_poly_area")
    area = USUAL_AREA if area is None else area
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not 0 <= area <= LONGEST_SIDE**2:
        raise InputError("min_poly_area is not a number of pixels", "Send a number from 0 on.")
    form = params.get("output") or ""
    if form not in ("", *FORMS):
        raise InputError("this output is not known", f"Use one of {', '.join(FORMS)}.")
    return PartRequest(level=level, windows=_windows(params), tile=tile, least_area=float(area), form=form)


def _windows(params: Mapping[str, Any]) -> tuple[Window, ...]:
    tiles = params.get("wsi_tiles")
    if tiles:
        if not isinstance(tiles, list) or len(tiles) > MOST_WINDOWS or not all(isinstance(tile, Mapping) for tile in tiles):
            raise InputError("wsi_tiles is no list of tiles", 'Send objects like {"location": [0, 0], "size": [1024, 1024]}.')
        return tuple(_window(tile) for tile in tiles)
    if "location" not in params and "size" not in params:
        return ()
    x, y = _pair(params, "location", (0, 0))
    width, height = _pair(params, "size", (0, 0))
    return () if max(x, y, width, height) <= 0 else (_window(params),)


def _window(params: Mapping[str, Any]) -> Window:
    x, y = _pair(params, "location", (0, 0))
    width, height = _pair(params, "size", (0, 0))
    if min(x, y) < 0:
        raise InputError(f"the region begins at {x}, {y}, outside of the slide", _WHOLE)
    if min(width, height) < 0:
        raise InputError(f"the region's size is {width} x {height}", _WHOLE)
    return Window(x, y, width, height)


def _cut(window: Window, width: int, height: int) -> Window:
    if window.x >= width or window.y >= height:
        raise InputError(f"the region begins at {window.x}, {window.y}, outside of the slide of {width} x {height} pixels", _WHOLE)
    right = min(width, window.x + window.width) if window.width else width
    bottom = min(height, window.y + window.height) if window.height else height
    return Window(window.x, window.y, right - window.x, bottom - window.y)


def _pair(params: Mapping[str, Any], name: str, usual: tuple[int, int]) -> tuple[int, int]:
    value = params.get(name)
    if value is None:
        return usual
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InputError(f"{name} is not two whole numbers", f"Send it like {list(usual)}.")
    return _whole(value[0], name), _whole(value[1], name)


def _whole(value: Any, name: str) -> int:
    """A whole number, also one that came as 3.0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1 << 40 or value != int(value):
        raise InputError(f"{name} holds something else than whole numbers of pixels", f"Send {name} as whole numbers.")
    return int(value)
