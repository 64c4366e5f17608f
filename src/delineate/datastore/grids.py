"""The grid of an image or label from its header alone, without a library: NIfTI, NRRD, MetaImage.

NRRD: teem.sourceforge.net/nrrd/format.html. MetaImage: the ITK documentation of MetaIO. Both with their voxels in the
same file: a header that names another file would read any file of ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from delineate import nifti
from delineate.errors import ImageError
from delineate.geometry import Geometry

_HEADER: Final = 1 << 20  # bytes; the longest headers of segmentations are a tenth of it
_TO_LPS: Final = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip


def grid_of(path: Path, extension: str) -> Geometry | None:
    """The grid of a file; None for a kind that has none in millimetres (PNG, JPEG, TIFF and others).

    Raises
    ------
    ImageError
        The header is damaged, is that of another format, or not of one three-dimensional image.
    GeometryError
        A grid that makes no sense.
    """
    if extension in (".nii.gz", ".nii"):
        return nifti.read_geometry(path)
    if extension == ".nrrd":
        return _of_nrrd(path)
    if extension == ".mha":
        return _of_metaimage(path)
    return None


def _of_nrrd(path: Path) -> Geometry:
    fields = _nrrd_fields(path)
    try:
        sizes = [int(part) for part in fields["sizes"].split()]
        vectors = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
        spatial = [i for i, text in enumerate(vectors) if text != "none"] if vectors else list(range(len(sizes)))
        size = [sizes[i] for i in spatial]
        axes = [_vector(vectors[i]) for i in spatial] if vectors else np.diag(_spacings(fields, len(size)))
        is_spatial = bool(vectors) or "space origin" in fields
        origin = _vector(fields.get("space origin", "(0,0,0)")) if is_spatial else _first_centre(path, fields, len(size))
        sign = np.array(_TO_LPS.get(fields.get("space", "lps").strip().lower(), (1, 1, 1)), dtype=np.float64)
    except (KeyError, ValueError, IndexError):
        raise _damaged(path) from None
    if len(size) != 3 or len(origin) != 3:
        raise ImageError(f"{path.name} is not one three-dimensional image")
    affine = np.eye(4)
    affine[:3, :3] = np.array(axes, dtype=np.float64).T * sign[:, None]
    affine[:3, 3] = np.array(origin) * sign
    return Geometry.from_affine(size, affine)


def _nrrd_fields(path: Path) -> dict[str, str]:
    start = _start(path)
    end = re.search(rb"\n\r?\n", start)
    if not start.startswith(b"NRRD000") or end is None:
        raise _damaged(path)
    lines = start[: end.start()].decode("utf-8", "replace").splitlines()[1:]
    pairs = (line.partition(":") for line in lines if not line.startswith("#") and ":=" not in line)
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if "data file" in fields or "datafile" in fields:
        raise ImageError(f"{path.name} keeps its voxels in another file", "Export the image again, into one file.")
    return fields


def _spacings(fields: dict[str, str], count: int) -> list[float]:
    return [float(part) for part in fields["spacings"].split()] if "spacings" in fields else [1.0] * count


def _first_centre(path: Path, fields: dict[str, str], count: int) -> list[float]:
    """Where the first voxel's centre is of an image that says it axis by axis: voxels are cells there unless they are called nodes."""
    if "axis mins" not in fields and "axismins" not in fields:
        return [0.0] * count
    if "spacings" not in fields:
        raise ImageError(f"{path.name} says where its voxels are by axis mins alone", "Export the image again, with space directions.")
    mins = [float(part) for part in fields.get("axis mins", fields.get("axismins", "")).split()]
    kinds = fields.get("centers", fields.get("centerings", "")).split() or ["cell"] * count
    halves = [0.0 if kind == "node" else 0.5 for kind in kinds]
    return [low + half * step for low, half, step in zip(mins, halves, _spacings(fields, count), strict=True)]


def _of_metaimage(path: Path) -> Geometry:
    start = _start(path)
    end = re.search(rb"(?:\A|\n)[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)\r?\n", start)
    if end is None:
        raise _damaged(path)
    if end.group(1).strip().upper() != b"LOCAL" or start.count(b"ElementDataFile") != 1:
        raise ImageError(f"{path.name} keeps its voxels in another file", "Export the image again, into one file.")
    pairs = (re.split("[=:]", line, maxsplit=1) for line in start[: end.end()].decode("utf-8", "replace").splitlines())
    fields = {pair[0].strip().lower(): pair[1].strip() for pair in pairs if len(pair) == 2}
    try:
        size = [int(part) for part in fields["dimsize"].split()]
        spacing = _numbers(fields, ("elementspacing", "elementsize"), [1.0] * len(size))
        origin = _numbers(fields, ("offset", "position", "origin"), [0.0] * len(size))
        rows = _numbers(fields, ("transformmatrix", "rotation", "orientation"), list(np.eye(len(size)).ravel()))
    except (KeyError, ValueError):
        raise _damaged(path) from None
    if len(size) != 3 or (len(spacing), len(origin), len(rows)) != (3, 3, 9):
        raise ImageError(f"{path.name} is not one three-dimensional image")
    affine = np.eye(4)
    affine[:3, :3] = np.array(rows).reshape(3, 3).T * np.array(spacing)  # a row is an index axis
    affine[:3, 3] = origin
    return Geometry.from_affine(size, affine)


def _numbers(fields: dict[str, str], names: Sequence[str], default: list[float]) -> list[float]:
    for name in names:
        if name in fields:
            return [float(part) for part in fields[name].split()]
    return default


def _vector(text: str) -> list[float]:
    return [float(part) for part in text.strip("()").split(",")]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEADER)
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}", "Check the file and its permissions.") from error


def _damaged(path: Path) -> ImageError:
    return ImageError(f"{path.name} is cut off, damaged or of another format than its name says", "Export the image again.")
