"""Label maps and masks as NRRD, raw or gzipped, without a library and without a copy.

Source: teem.sourceforge.net/nrrd/format.html. Read back by SimpleITK, 3D Slicer and OHIF.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from delineate import nifti_codec, sparse
from delineate.geometry import Geometry

_TYPES: Final = {
    "uint8": "unsigned char", "int8": "signed char", "uint16": "unsigned short", "int16": "short", "uint32": "unsigned int",
    "int32": "int", "float32": "float", "float64": "double",
}  # fmt: skip


def write(file: BinaryIO, voxels: np.ndarray, geometry: Geometry, *, compress: bool) -> None:
    """Write an array of shape (z, y, x) on its grid, in little-endian order."""
    steps = (geometry.matrix * np.array(geometry.spacing)).T
    fields = {
        "type": _TYPES[voxels.dtype.name],
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in geometry.size),
        "space directions": " ".join(_vector(step) for step in steps),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip" if compress else "raw",
        "space origin": _vector(geometry.origin),
    }
    header = "NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "\n"
    file.write(header.encode("ascii"))
    if compress and voxels.dtype.kind == "u":
        sparse.write(_planes(voxels), file)
    else:
        nifti_codec.write(_planes(voxels), file, compress)


def _planes(voxels: np.ndarray) -> Iterator[memoryview]:
    order = voxels.dtype.newbyteorder("<")
    for plane in voxels:
        yield np.ascontiguousarray(plane, dtype=order).reshape(-1).view(np.uint8).data


def _vector(values: object) -> str:
    numbers = np.asarray(values, dtype=np.float64).ravel() + 0.0  # no minus before a zero
    return "(" + ",".join(f"{value:.17g}" for value in numbers) + ")"
