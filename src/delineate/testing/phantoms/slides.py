"""Slides made by formula: nuclei in blue on a rose ground, at known places; and pyramids of them as tiled TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from delineate.slides.slide import Pixels

_LIGHT: Final = 245.0
_HAEMATOXYLIN: Final = np.array((0.65, 0.70, 0.29))  # how much red, green and blue each dye takes away
_EOSIN: Final = np.array((0.07, 0.99, 0.11))
_TILE: Final = 256


@dataclass(frozen=True)
class Nucleus:
    """An ellipse: its middle, its half axes, pixels; and how it is turned, radians."""

    x: float
    y: float
    long: float
    short: float
    angle: float


def stained_tissue(
    width: int, height: int, *, mpp: float = 0.25, seed: int = 1, per_mm2: float = 2500.0
) -> tuple[Pixels, list[Nucleus]]:  # fmt: skip
    """An image of tissue, and its nuclei: at most touching, never one in another.

    Parameters
    ----------
    mpp : micrometres of a pixel; per_mm2 : how many nuclei there are at most
    """
    random = np.random.default_rng(seed)
    nuclei = _placed(random, width, height, mpp, per_mm2)
    blue = np.zeros((height, width), np.float32)
    for nucleus in nuclei:
        _draw(blue, nucleus, random.uniform(0.8, 1.3))
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(mpp)
    rose = 0.25 + 0.06 * np.sin(x / 9 + 2 * np.sin(y / 23)) + random.normal(0, 0.02, blue.shape)
    blue += np.abs(random.normal(0, 0.02, blue.shape))
    taken = blue[..., None] * _HAEMATOXYLIN + rose[..., None] * _EOSIN
    return np.clip(_LIGHT * np.exp(-taken), 0, 255).astype(np.uint8), nuclei


def _placed(random: np.random.Generator, width: int, height: int, mpp: float, per_mm2: float) -> list[Nucleus]:
    wanted = int(width * height * mpp**2 * 1e-6 * per_mm2)
    cell = 8.0 / mpp
    by_cell: dict[tuple[int, int], list[Nucleus]] = {}
    nuclei: list[Nucleus] = []
    for _ in range(wanted * 3):
        if len(nuclei) >= wanted:
            break
        long = random.uniform(3.0, 4.6) / mpp
        one = Nucleus(random.uniform(0, width), random.uniform(0, height), long, long * random.uniform(0.65, 1.0), random.uniform(0, np.pi))
        at = int(one.x / cell), int(one.y / cell)
        near = [other for i in range(-2, 3) for j in range(-2, 3) for other in by_cell.get((at[0] + i, at[1] + j), ())]
        if all(np.hypot(one.x - other.x, one.y - other.y) > 0.95 * (one.long + other.long) for other in near):
            nuclei.append(one)
            by_cell.setdefault(at, []).append(one)
    return nuclei


def _draw(blue: npt.NDArray[np.float32], nucleus: Nucleus, dense: float) -> None:
    reach = int(nucleus.long) + 2
    x0, y0 = max(0, int(nucleus.x) - reach), max(0, int(nucleus.y) - reach)
    part = blue[y0 : int(nucleus.y) + reach + 1, x0 : int(nucleus.x) + reach + 1]
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    u, v = x + 0.5 + x0 - nucleus.x, y + 0.5 + y0 - nucleus.y
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    radius = np.hypot((u * cos + v * sin) / nucleus.long, (v * cos - u * sin) / nucleus.short)
    np.maximum(part, dense * np.clip((1 - radius) * nucleus.short / 2 + 0.5, 0, 1), out=part)


def write_pyramid(
    path: Path, pixels: Pixels, *, mpp: float | None = 0.25, levels: int = 3, repeat: int = 1, compression: str | None = "zlib"
) -> None:  # fmt: skip
    """Write a tiled TIFF, each level half as large as the one before.

    Parameters
    ----------
    pixels : level 0; with `repeat` so many times beside and below each other, which fills no memory
    compression : as tifffile names it, None for none
    """
    import tifffile

    resolution = (1e4 / mpp, 1e4 / mpp) if mpp else None
    with tifffile.TiffWriter(path, bigtiff=pixels.nbytes * repeat**2 > 1 << 31) as writer:
        for level in range(levels):
            shape = (pixels.shape[0] * repeat, pixels.shape[1] * repeat, 3)
            writer.write(
                _tiles(pixels, shape), shape=shape, dtype=np.uint8, tile=(_TILE, _TILE), photometric="rgb", compression=compression,
                resolution=None if resolution is None else tuple(r / 2**level for r in resolution), resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0, metadata=None,
            )  # fmt: skip
            even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2].astype(np.uint16)
            pixels = ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4).astype(np.uint8)


def _tiles(pixels: Pixels, shape: tuple[int, ...]) -> Iterator[Pixels]:
    height, width = pixels.shape[:2]
    for top in range(0, shape[0], _TILE):
        rows = pixels[np.arange(top, min(top + _TILE, shape[0])) % height]
        for left in range(0, shape[1], _TILE):
            tile = rows[:, np.arange(left, min(left + _TILE, shape[1])) % width]
            yield np.pad(tile, ((0, _TILE - tile.shape[0]), (0, _TILE - tile.shape[1]), (0, 0)), mode="edge")
