"""Outlines as an image in which every one has a number of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from delineate.errors import InputError, MissingPartError
from delineate.slides.outlines import Outlines
from delineate.slides.slide import MOST_AT_ONCE

SUFFIXES: Final = (".png", ".tif", ".tiff")


def mask_of(outlines: Outlines) -> npt.NDArray[np.uint16 | np.uint32]:
    """Numbers from 1 on in the order of the outlines, 0 outside; shape (height, width) of what was searched, a pixel one of level 0.

    Raises
    ------
    InputError
        Too many pixels for one image.
    """
    x, y, width, height = outlines.within
    if width * height > MOST_AT_ONCE:
        raise InputError(f"a mask of {width} x {height} pixels is too large", "Ask for outlines: output json, dsa or asap.")
    from PIL import Image, ImageDraw

    image = Image.new("I", (width, height))
    draw = ImageDraw.Draw(image)
    number = 0
    for group in outlines.groups.values():
        for polygon in group:
            number += 1
            # Corners lie between pixels; Pillow's lie in their middles and belong to what is filled.
            draw.polygon([tuple(point) for point in (polygon / 2 - (x + 0.5, y + 0.5)).tolist()], fill=number)
    return np.asarray(image).astype(np.uint16 if number < 1 << 16 else np.uint32)


def write_mask(path: Path, mask: npt.NDArray[np.uint16 | np.uint32]) -> None:
    """Write a mask without loss: PNG of 16 bits, or deflated TIFF.

    Raises
    ------
    InputError
        More numbers than a PNG can hold.
    MissingPartError
        tifffile is not installed.
    """
    if path.suffix.lower() == ".png":
        from PIL import Image

        if mask.dtype != np.uint16:
            raise InputError("a PNG holds no more than 65,535 numbers", "Ask for a .tiff, or a smaller part.")
        Image.fromarray(mask).save(path)
        return
    try:
        import tifffile
    except ImportError:
        raise MissingPartError("tifffile, which writes TIFF,", "slides") from None
    tifffile.imwrite(path, mask, compression="zlib", tile=(256, 256))
