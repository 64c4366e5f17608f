"""The header of NIfTI-1 and NIfTI-2: bytes ↔ grid, type of the voxels and rescaling.

Source: nifti1.h (NIfTI-1.1) and nifti2.h of the NIfTI data format working group. NIfTI's world is
RAS; it becomes LPS here and nowhere else.

Where the voxels are, in this order: the sform where its code is positive, else the qform where its
code is positive, else spacing alone. In the last case the file says nothing of the patient, and the
index axes are taken for L, P and S with the first voxel at the origin, as ITK does. Where sform and
qform contradict each other the sform holds, as in nibabel (ITK then prefers the qform unless the
sform's code is 1). Units of metres and micrometres are converted to millimetres.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, NamedTuple, Sequence, Tuple

import numpy as np

from delineate.errors import ImageError
from delineate.geometry import Geometry

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNITS_MM = {1: 1e3, 3: 1e-3}  # metres, micrometres; 2 and unknown are millimetres
_SINGLE_FILE = b"n+"

# name: (offset, format) in NIfTI-1, then in NIfTI-2
_FIELDS = {
    "sizeof_hdr": ((0, "i4"), (0, "i4")),
    "dim": ((40, "8i2"), (16, "8i8")),
    "datatype": ((70, "i2"), (12, "i2")),
    "bitpix": ((72, "i2"), (14, "i2")),
    "pixdim": ((76, "8f4"), (104, "8f8")),
    "vox_offset": ((108, "f4"), (168, "i8")),
    "scl_slope": ((112, "f4"), (176, "f8")),
    "scl_inter": ((116, "f4"), (184, "f8")),
    "xyzt_units": ((123, "u1"), (500, "i4")),
    "descrip": ((148, "S80"), (240, "S80")),
    "qform_code": ((252, "i2"), (344, "i4")),
    "sform_code": ((254, "i2"), (348, "i4")),
    "quatern": ((256, "3f4"), (352, "3f8")),
    "qoffset": ((268, "3f4"), (376, "3f8")),
    "srow": ((280, "(3,4)f4"), (400, "(3,4)f8")),
    "magic": ((344, "V4"), (4, "V8")),
}
HEADER_SIZES = (348, 540)
_MAGICS = (b"n+1\0", b"n+2\0\r\n\x1a\n")
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour", 1536: "128-bit", 1: "single-bit"}


class Header(NamedTuple):
    """What the header says, checked: `dtype` in the file's byte order, `offset` of the first voxel."""

    geometry: Geometry
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float


@lru_cache(maxsize=4)  # making one costs more than all the rest of a header
def _header_dtype(version: int, order: str) -> np.dtype:
    places = {name: places[version] for name, places in _FIELDS.items()}
    formats = [form for _, form in places.values()]
    offsets = [offset for offset, _ in places.values()]
    fields = {"names": list(places), "formats": formats, "offsets": offsets, "itemsize": HEADER_SIZES[version]}
    return np.dtype(fields).newbyteorder(order)  # type: ignore[call-overload,no-any-return]


def header_size(first: bytes, name: str) -> Tuple[int, str]:
    """Size of the whole header and byte order (``<`` or ``>``) by its first four bytes; `ImageError` where it is none."""
    for size in HEADER_SIZES:
        for order in "<>":
            if int(np.frombuffer(first, order + "i4", 1)[0]) == size:
                return size, order
    raise ImageError("%s is not a NIfTI file" % name)


def decode(raw: bytes, order: str, name: str) -> Header:
    """What a whole header says; `ImageError`, or `GeometryError` for a grid that makes no sense, with `name` for the message."""
    fields = np.frombuffer(raw, _header_dtype(HEADER_SIZES.index(len(raw)), order))[0]
    magic = bytes(fields["magic"])
    if magic[:2] != _SINGLE_FILE:
        raise ImageError("%s is half of a .hdr/.img pair" % name, "Convert it to a single .nii.gz file.")
    code = int(fields["datatype"])
    if code not in DTYPES:
        kind = _REFUSED.get(code, "unknown (type %d)" % code)
        raise ImageError("%s holds %s values" % (name, kind), "Send an image of one number per voxel.")
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        slope, intercept = 1.0, 0.0  # the format's way to say that nothing is rescaled
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and offset < 1 << 40):
        raise ImageError("%s is damaged: its voxels begin nowhere" % name)
    geometry = _decode_geometry(fields, _decode_size([int(n) for n in fields["dim"]], name))
    return Header(geometry, np.dtype(order + DTYPES[code]), max(int(offset), len(raw)), slope, intercept)


def _decode_size(dim: Sequence[int], name: str) -> Tuple[int, int, int]:
    count = dim[0]
    if not 1 <= count <= 7:
        raise ImageError("%s is damaged: it declares %d dimensions" % (name, count))
    size = [*dim[1 : count + 1], 1, 1][: max(count, 3)]
    if min(size) < 1:
        raise ImageError("%s has no voxels: its size is %s" % (name, " x ".join(str(n) for n in size)))
    if any(n > 1 for n in size[3:]):
        what = "%d time points" % size[3] if size[3] > 1 else "several values per voxel"
        raise ImageError("%s is a %d-dimensional image with %s" % (name, count, what), "Send one three-dimensional image of it.")
    return (size[0], size[1], size[2])


def _decode_geometry(fields: np.void, size: Tuple[int, int, int]) -> Geometry:
    spacing = np.abs(fields["pixdim"][1:4].astype(np.float64))
    spacing[~np.isfinite(spacing) | (spacing == 0)] = 1.0
    affine = np.eye(4)
    if fields["sform_code"] > 0:
        affine[:3] = fields["srow"]
        affine = _TO_LPS @ affine
    elif fields["qform_code"] > 0:
        rotation = _rotation(fields["quatern"].astype(np.float64))
        rotation[:, 2] *= -1.0 if fields["pixdim"][0] < 0 else 1.0
        affine[:3, :3] = rotation * spacing
        affine[:3, 3] = fields["qoffset"]
        affine = _TO_LPS @ affine
    else:
        affine[:3, :3] = np.diag(spacing)
    affine[:3] *= _UNITS_MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    return Geometry.from_affine(size, affine)


def encode(header: Header, description: str = "") -> bytes:
    """The little-endian header, with four bytes that say that no extensions follow; `offset` is not used."""
    geometry = header.geometry
    version = 0 if max(geometry.size) <= np.iinfo(np.int16).max else 1
    size = HEADER_SIZES[version]
    affine = _TO_LPS @ geometry.affine  # its own inverse
    rotation = _TO_LPS[:3, :3] @ geometry.matrix
    handedness = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= handedness
    values: Dict[str, object] = {
        "sizeof_hdr": size,
        "dim": [3, *geometry.size, 1, 1, 1, 1],
        "datatype": next(code for code, form in DTYPES.items() if form == header.dtype.str[1:]),
        "bitpix": header.dtype.itemsize * 8,
        "pixdim": [handedness, *geometry.spacing, 1, 1, 1, 1],
        "vox_offset": size + 4,
        "scl_slope": header.slope,
        "scl_inter": header.intercept,
        "xyzt_units": 2,
        "descrip": description.encode("ascii", "replace")[:79],
        "qform_code": 1,
        "sform_code": 1,
        "quatern": _quaternion(rotation),
        "qoffset": affine[:3, 3],
        "srow": affine[:3],
        "magic": np.void(_MAGICS[version]),
    }
    fields = np.zeros((), _header_dtype(version, "<"))
    for name, value in values.items():
        fields[name] = value
    return fields.tobytes() + bytes(4)  # no extensions


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation of a unit quaternion of which b, c, d are given and a is not negative (nifti1.h, method 2)."""
    b, c, d = quaternion
    square = b * b + c * c + d * d
    if square > 1:
        b, c, d = quaternion / np.sqrt(square)
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """b, c, d of the unit quaternion with a not negative of a proper rotation, by its largest component (Shepperd 1978)."""
    trace = np.trace(matrix)
    squares = np.array([1 + trace, *(1 + 2 * matrix[i, i] - trace for i in range(3))])
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    table = np.diag(squares)
    table[0, 1:] = table[1:, 0] = skew
    table[1:, 1:] += np.where(np.eye(3, dtype=bool), 0.0, matrix + matrix.T)
    row = table[int(np.argmax(squares))]
    quaternion: np.ndarray = row / np.linalg.norm(row)
    return (-quaternion if quaternion[0] < 0 else quaternion)[1:]
