"""Whether an uploaded file is what its name says: by its header and its length, without reading all of it."""

from __future__ import annotations

import gzip
import json
import struct
import xml.parsers.expat
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from delineate import nifti
from delineate.datastore.grids import grid_of
from delineate.datastore.names import MIRAX, SLIDE_EXTENSIONS
from delineate.datastore.pictures import require_picture
from delineate.errors import ImageError, InputError
from delineate.geometry import Geometry
from delineate.nifti_codec import INFLATE_ERRORS, Inflater
from delineate.store.writer import BlobWriter

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", *SLIDE_EXTENSIONS})
"""Extensions of what has no grid: flat images and slides."""

_BLOCK: Final = 1 << 20
_LONGEST_TEXT: Final = 256 << 20  # bytes of outlines
_NO_LABEL: Final = 1 << 24  # what 1 is with its bytes turned round; as a floating point number it is more
_GZIP: Final = b"\x1f\x8b"
_HIGHEST_RATIO: Final = 1032  # bytes that deflate can yield for one


def require_image(path: Path, extension: str) -> Geometry | None:
    """Look at an uploaded image: its grid, or None where its format has none.

    Raises `ImageError` or `GeometryError` with the reason why it is not readable.
    """
    return _looked_at(path, extension)


def require_label(path: Path, extension: str) -> Geometry | None:
    """Look at an uploaded label; as `require_image`, and outlines must be whole XML or JSON."""
    if extension == ".dcm":
        if not is_dicom(path):
            raise ImageError("the label is not a DICOM file", "Send a DICOM segmentation, or a NIfTI or NRRD file.")
    elif extension in (".xml", ".json"):
        _require_text(path, extension)
    else:
        return _looked_at(path, extension)
    return None


def _looked_at(path: Path, extension: str) -> Geometry | None:
    if extension in PICTURES:
        require_picture(path, extension)
        return None
    if extension == MIRAX:
        raise ImageError("a MIRAX slide is more than one file", "Put it into the server's folder with the folder of its name beside it.")
    try:
        grid = grid_of(path, extension)
        if extension in (".nii", ".nii.gz"):
            _require_whole(path)
    except ImageError as error:  # the file's name here is nobody's
        raise ImageError(error.message.replace(path.name, "the file"), error.advice) from error
    return grid


def _require_whole(path: Path) -> None:
    """Refuse a NIfTI file that is cut off. A gzip file says at its end how long it is unpacked; else it is unpacked."""
    packed = path.stat().st_size
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
        file.seek(0)
        source: BinaryIO = gzip.GzipFile(fileobj=file) if is_packed else file  # type: ignore[assignment]
        try:
            needed = _needed(source.read(352))
            found = packed
            if is_packed and needed <= packed * _HIGHEST_RATIO:
                found = _unpacked_size(file, needed)
        except (*INFLATE_ERRORS, OSError, struct.error) as error:
            raise ImageError("the file is cut off or damaged", "Export or send the image again.") from error
    if found < needed:
        raise ImageError("the file is cut off: it ends before its last voxel", "Export or send the image again.")


def _needed(head: bytes) -> int:
    """Bytes of a NIfTI file up to its last voxel."""
    order = "<" if struct.unpack("<i", head[:4])[0] in (348, 540) else ">"
    if struct.unpack(order + "i", head[:4])[0] == 348:
        dim = struct.unpack(order + "8h", head[40:56])
        (bits,) = struct.unpack(order + "h", head[72:74])
        (offset,) = struct.unpack(order + "f", head[108:112])
    else:
        dim = struct.unpack(order + "8q", head[16:80])
        (bits,) = struct.unpack(order + "h", head[14:16])
        (offset,) = struct.unpack(order + "q", head[168:176])
    voxels = 1
    for length in dim[1 : dim[0] + 1]:
        voxels *= int(length)
    return int(offset) + voxels * int(bits // 8)


def _unpacked_size(file: BinaryIO, needed: int) -> int:
    file.seek(-4, 2)
    told = int(struct.unpack("<I", file.read(4))[0])
    if told == needed & 0xFFFFFFFF:
        return needed
    file.seek(0)  # several members, something behind the voxels or behind the file, as some senders leave it, or cut off
    source, block, count = Inflater(file), memoryview(bytearray(_BLOCK)), 0
    while count < needed and (length := source.readinto(block)):
        count += length
    return count


def _require_text(path: Path, extension: str) -> None:
    if path.stat().st_size > _LONGEST_TEXT:
        raise InputError("the outlines are too large", "Send a mask instead.")
    try:
        if extension == ".json":
            json.loads(path.read_bytes())
        else:
            with path.open("rb") as file:
                parser = xml.parsers.expat.ParserCreate()
                parser.EntityDeclHandler = _no_entities
                parser.ParseFile(file)
    except (ValueError, RecursionError, xml.parsers.expat.ExpatError) as error:
        raise InputError(f"the label is no whole {extension[1:].upper()} file", "Export the label again.") from error


def _no_entities(*_: object) -> None:
    raise ValueError("entities are not used in outlines")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its preamble (PS3.10, 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def write_raw(raw: Path, grid: Geometry, target: BlobWriter) -> None:
    """Write a bare array of whole numbers, x fastest, as NIfTI (.nii.gz) on `grid`.

    Raises `InputError` where its length is not that of 1, 2 or 4 bytes for each voxel, or its values are no labels.
    """
    count = int(np.prod(grid.shape, dtype=np.int64))
    size = raw.stat().st_size
    kind = {1: "u1", 2: "<u2", 4: "<u4"}.get(size // count)
    if kind is None or size % count:
        raise InputError(
            f"the raw label has {size} bytes, the image {count} voxels ({grid})", "Send 1, 2 or 4 bytes for each voxel, x fastest."
        )
    labels = np.memmap(raw, dtype=kind, mode="r", shape=grid.shape)
    if kind == "<u4" and int(labels.max()) >= _NO_LABEL:
        raise InputError(f"the raw label holds values up to {labels.max()}", "Send whole numbers, little-endian, not floating point ones.")
    nifti.write_labels(_Sink(target), labels, grid)  # type: ignore[arg-type]


class _Sink:
    """As much of a file as the codec writes to."""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer

    def write(self, data: bytes | memoryview) -> int:
        return self._writer.write(data)
