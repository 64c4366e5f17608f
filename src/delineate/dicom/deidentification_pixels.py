"""What pixels tell beside the image: names written into them, bits that are none of theirs, bytes behind them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from delineate.dicom.deidentification_remarks import without_remarks
from delineate.dicom.header import BIG_ENDIAN, NATIVE

TOLD: Final = ("SOPClassUID", "ImageType", "Modality", "BurnedInAnnotation")
_SHOWN: Final = frozenset(("ES", "GM", "IVUS", "OP", "SC", "SM", "US", "XC"))
"""Kinds of image on which devices write the patient's name."""
_CAPTURES: Final = ("1.2.840.10008.5.1.4.1.1.7.", "1.2.840.10008.5.1.4.1.1.77.1.")  # secondary captures; photographs, videos
_RT: Final = "1.2.840.10008.5.1.4.1.1.481."
_OVERLAY_BIT: Final = 0x0102  # of a group: which bit of the pixels holds the overlay
_RLE: Final = "1.2.840.10008.1.2.5"
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def why_not(data: Any, *, burned_in: bool) -> str:
    """Why a data set cannot be de-identified, in words that name nobody; empty where it can.

    burned_in : images on which a name may be written are let through
    """
    is_rt = str(data.get("SOPClassUID", "")).startswith(_RT)
    if not any(name in data for name in _PIXELS):
        return "" if is_rt else "it is neither an image nor an RT object"
    return "" if is_rt or burned_in else why_written(data)


def why_written(data: Any) -> str:
    """Why a name may be written on the pixels of an image, by `TOLD`; empty where nothing says so."""
    said = str(data.get("BurnedInAnnotation", "")).strip().upper()
    if said == "YES":
        return "BurnedInAnnotation says that a name may be written on its pixels"
    is_shown = str(data.get("Modality", "")).strip() in _SHOWN or f"{data.get('SOPClassUID', '')}.".startswith(_CAPTURES)
    if said != "NO" and is_shown:
        return "it is of a kind on whose pixels names are written, and BurnedInAnnotation does not say NO"
    if "SCREEN SAVE" in str(data.get("ImageType", "")).upper():
        return "it is a capture of a screen, on which a name may be written"
    return ""


def pixels_alone(data: Any, clean: Any, syntax: str) -> str:
    """Leave in `clean` of uncompressed pixels nothing but their stored bits; why that cannot be, empty where it is done.

    Bits beside the stored ones once held overlays, which are graphics and text; behind the last frame may stand anything.
    """
    if "PixelData" not in data:
        return ""
    if syntax not in NATIVE:
        return _compressed_alone(data, clean, syntax)
    try:
        allocated, stored, high = (int(data.get(name, 0)) for name in ("BitsAllocated", "BitsStored", "HighBit"))
        count = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1) * int(data.get("NumberOfFrames") or 1)
    except (AttributeError, TypeError, ValueError):
        return "what it says of its pixels makes no sense"
    if data.get("PhotometricInterpretation") == "YBR_FULL_422":
        count = count * 2 // 3
    content = data.PixelData[: (count * allocated + 7) // 8]
    if allocated in (8, 16, 32) and 0 < stored < allocated and stored - 1 <= high < allocated:
        order = ">" if syntax == BIG_ENDIAN else "<"
        content = _stored_bits(np.frombuffer(content, f"{order}u{allocated // 8}"), stored, high, bool(data.get("PixelRepresentation")))
    clean.PixelData = content + b"\0" * (len(content) % 2)
    clean["PixelData"].VR = data["PixelData"].VR
    return ""


def _compressed_alone(data: Any, clean: Any, syntax: str) -> str:
    tags = [tag for tag in list(data.keys()) if 0x6000 <= tag >> 16 < 0x6100 and tag & 0xFFFF == _OVERLAY_BIT]
    if any(data[tag].value for tag in tags):
        return "its compressed pixels hold an overlay"
    try:
        content = without_remarks(data.PixelData, is_rle=syntax == _RLE)
    except ValueError:
        return "its compressed pixels are damaged, or of a form that may hold remarks"
    clean.PixelData = content
    clean["PixelData"].VR, clean["PixelData"].is_undefined_length = "OB", True
    return ""


def _stored_bits(values: np.ndarray, stored: int, high: int, is_signed: bool) -> bytes:
    """The same stored values, the bits beside them zero; above signed ones the sign, as most writers have it."""
    width = values.dtype.itemsize * 8
    low = high + 1 - stored
    mask = ((1 << stored) - 1) << low
    kept = values & values.dtype.type(mask)
    if is_signed and high < width - 1:
        beyond = ((1 << (width - 1 - high)) - 1) << (high + 1)
        kept = np.where(values >> values.dtype.type(high) & values.dtype.type(1), kept | values.dtype.type(beyond), kept)
    content: bytes = kept.astype(values.dtype, copy=False).tobytes()
    return content
