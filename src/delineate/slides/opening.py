"""Opens a slide of any kind, by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from delineate.errors import ImageError
from delineate.slides.flat import FlatSlide
from delineate.slides.scanned import open_scanned
from delineate.slides.slide import ADVICE, Slide
from delineate.slides.tiff import TiffSlide

TIFF_STARTS: Final = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
PNG_START: Final = b"\x89PNG\r\n\x1a\n"
JPEG_START: Final = b"\xff\xd8\xff"


def open_slide(path: Path) -> Slide:
    """Open a slide.

    OpenSlide reads what it knows (formats of scanners, tiled TIFF with JPEG), tifffile other TIFF, Pillow PNG and JPEG.

    Raises
    ------
    ImageError
        It is none, damaged, or says that it has more pixels than any slide.
    MissingPartError
        What reads it is not installed (extra ``slides``).
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ImageError(f"the slide cannot be read: {error.strerror}", "Check that it is still there.") from error
    is_tiff = start.startswith(TIFF_STARTS)
    if not is_tiff and start.startswith(PNG_START):
        return FlatSlide(path)
    scanned = open_scanned(path)  # a slide of MIRAX begins like a JPEG image
    if scanned is not None:
        return scanned
    if is_tiff:
        return TiffSlide(path)
    if start.startswith(JPEG_START):
        return FlatSlide(path)
    raise ImageError("the file is no slide", ADVICE)
