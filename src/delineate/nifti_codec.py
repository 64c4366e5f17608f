"""NIfTI-1 and NIfTI-2 as streams, packed with gzip or not: bytes ↔ voxels on a grid.

Source: nifti1.h and nifti2.h of the NIfTI data format working group. NIfTI's world is RAS; it becomes LPS here alone.
The sform holds where its code is positive, else the qform where its code is, else spacing: then the file says nothing of
the patient, and the index axes are taken for L, P and S with the first voxel at the origin, as ITK does. Where sform and
qform contradict each other nibabel takes the sform too, ITK the qform unless the sform's code is 1.

Gzip is one member of level 1 without name and time, by ISA-L (`isal`) where it is installed, else by zlib: same bytes
in, same bytes out. One thread compresses: two are faster, but ISA-L then now and then chose other matches.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from delineate.errors import ImageError
from delineate.geometry import Geometry

if TYPE_CHECKING:
    from delineate.volume import Volume

try:
    from isal import isal_zlib as fast_zlib
except ImportError:
    fast_zlib = zlib  # type: ignore[misc]
_deflate: Any = fast_zlib
crc32: Callable[..., int] = _deflate.crc32  # the same numbers whichever it is

GZIP_MAGIC = b"\x1f\x8b"
INFLATE_ERRORS = (EOFError, zlib.error, _deflate.error)  # what a stream that is cut off (the first) or damaged raises

_LEVEL = 1
_GZIP, _RAW = 31, -15  # 15 bits of window in a gzip wrapper, or in none
_HIGHEST_RATIO = 1032  # bytes that deflate can yield for one (RFC 1951: 258 bytes for two bits)
_INPUT = 1 << 18  # bytes read at once, and
_OUTPUT = 1 << 20  # bytes inflated at once: what fits the processor's cache
_LONGEST_TAIL = 64  # such blocks behind the voxels: more are not worth the time
_BLOCK = 1 << 22  # bytes handed to the compressor at once
_LABEL_TOLERANCE = 1e-3
_HIGHEST_LABEL = (1 << 32) - 1

_TO_LPS = np.array([[-1.0], [-1.0], [1.0], [1.0]])  # of rows; its own inverse; + 0.0: no negative zeros
_UNITS_MM = {1: 1e3, 3: 1e-3}  # metres, micrometres; 2 and unknown are millimetres

# name: (offset, format) in NIfTI-1, then in NIfTI-2
_FIELDS = {
    "sizeof_hdr": ((0, "i4"), (0, "i4")), "dim": ((40, "8i2"), (16, "8i8")), "datatype": ((70, "i2"), (12, "i2")),
    "bitpix": ((72, "i2"), (14, "i2")), "pixdim": ((76, "8f4"), (104, "8f8")), "vox_offset": ((108, "f4"), (168, "i8")),
    "scl_slope": ((112, "f4"), (176, "f8")), "scl_inter": ((116, "f4"), (184, "f8")), "xyzt_units": ((123, "u1"), (500, "i4")),
    "descrip": ((148, "S80"), (240, "S80")), "qform_code": ((252, "i2"), (344, "i4")), "sform_code": ((254, "i2"), (348, "i4")),
    "quatern": ((256, "3f4"), (352, "3f8")), "qoffset": ((268, "3f4"), (376, "3f8")), "srow": ((280, "(3,4)f4"), (400, "(3,4)f8")),
    "magic": ((344, "V4"), (4, "V8")),
}  # fmt: skip
_HEADER_SIZES = (348, 540)
_MAGICS = (b"n+1\0", b"n+2\0\r\n\x1a\n")
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour", 1536: "128-bit", 1: "single-bit"}


_Header = Tuple[Geometry, np.dtype, int, float, float]


class Image(NamedTuple):
    """Voxels, shape (z, y, x), on their grid; the real value is ``voxels * slope + intercept``."""

    voxels: np.ndarray
    geometry: Geometry
    slope: float = 1.0
    intercept: float = 0.0


def read(file: BinaryIO, name: str = "the image", size: Optional[int] = None, empty: Callable[..., np.ndarray] = np.empty) -> Image:
    """Read one image, ``.nii`` or ``.nii.gz``, from where `file` stands; how far it is read is not defined.

    The voxels are in the file's own type and this machine's byte order. `name`: of the file, for messages; `size`: bytes
    of it, where known: more voxels than it can hold are then refused before there is memory for them; `empty`: makes the array.

    Raises
    ------
    ImageError
        Not NIfTI, cut off, damaged, four-dimensional, complex, colour, without voxels.
    GeometryError
        A sheared or singular grid.
    """
    stream = _Stream(file, name, size)
    geometry, dtype, offset, slope, intercept = stream.header()
    return Image(stream.voxels(geometry, dtype, offset, empty), geometry, slope, intercept)


def read_geometry(file: BinaryIO, name: str = "the image") -> Geometry:
    """The grid of an image, from its first bytes; errors as in `read`."""
    return _Stream(file, name, None).header()[0]


def read_labels(file: BinaryIO, name: str = "the image", size: Optional[int] = None) -> Tuple[np.ndarray, Geometry]:
    """Read a label map: (labels as of `to_labels`, grid); errors as there and in `read`."""
    image = read(file, name, size)
    values = image.voxels
    if (image.slope, image.intercept) != (1.0, 0.0):
        values = values * np.float64(image.slope) + image.intercept
    return to_labels(values), image.geometry


def to_labels(values: np.ndarray) -> np.ndarray:
    """Values of any type, shape (z, y, x), as labels of the smallest unsigned type; a view or the array itself where it can be.

    Raises `ImageError` for negative values and for values farther than 1e-3 from whole numbers.
    """
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    if values.dtype == np.uint8:
        return values
    lowest, highest = values.min(), values.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise _no_labels("values that are not finite")
    if lowest < -_LABEL_TOLERANCE or highest > _HIGHEST_LABEL:
        raise _no_labels("negative values (%g)" % lowest if lowest < 0 else "values that are too large (%g)" % highest)
    dtype = np.min_scalar_type(int(np.rint(highest)))
    if values.dtype.kind in "ui":
        return values.astype(dtype, copy=False)
    labels = np.empty(values.shape, dtype)
    for plane, target in zip(values, labels):
        whole = np.rint(plane)
        if np.abs(plane - whole).max() > _LABEL_TOLERANCE:
            raise _no_labels("values between whole numbers")
        target[...] = whole
    return labels


def blocks(image: Union[Image, Volume], description: str = "") -> Iterator[Union[bytes, memoryview]]:
    """The bytes of an image, not packed: NIfTI-1, or NIfTI-2 where it is longer than 32767 voxels along an axis.

    Its voxels may be a view in any order of memory; they are never copied as a whole. `description`: up to 79 ASCII
    characters. `ImageError`, before the first block is asked for, where NIfTI does not have their type.
    """
    voxels = _writable(image.voxels)
    return _slabs(_encode(image, voxels.dtype, description), voxels)


def write(given: Iterable[Union[bytes, memoryview]], file: BinaryIO, packed: bool = True) -> None:
    """Write blocks of bytes, one after the other, to `file`: as one gzip member, or as they are."""
    stream = _deflate.compressobj(_LEVEL, _deflate.DEFLATED, _GZIP) if packed else None
    for block in given:
        file.write(stream.compress(block) if stream else block)
    if stream:
        file.write(stream.flush())


class Inflater:
    """Unpacks gzip of one or more members, or raw deflate, from where `file` stands; what follows is ignored.

    Not built on `gzip.GzipFile`: that takes twice the time to fill an array, and loses what it has read when it meets
    something behind the last member. Raises `INFLATE_ERRORS`.

    first : bytes that were read from the file already; raw : no gzip wrapper, one stream.
    """

    def __init__(self, file: BinaryIO, first: bytes = b"", raw: bool = False) -> None:
        self._file = file
        self._raw = raw
        self._member = _deflate.decompressobj(_RAW if raw else _GZIP)
        self._pending = first
        self._ended = False

    def readinto(self, view: memoryview) -> int:
        """Fill `view`: how many bytes there were, less than its length at the end of the stream only."""
        filled = 0
        while filled < len(view):
            block = self._inflate(len(view) - filled)
            if not block:
                break
            view[filled : filled + len(block)] = block
            filled += len(block)
        return filled

    def _inflate(self, limit: int) -> bytes:
        """Up to `limit` bytes, none at the end of the stream only."""
        while not self._ended:
            data = self._pending or self._file.read(_INPUT)
            block: bytes = self._member.decompress(data, min(limit, _OUTPUT))
            self._pending = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if self._member.eof:
                self._next_member()
            if block:
                return block
            if not data and not self._ended:
                raise EOFError("the stream ends before its end mark")
        return b""

    def _next_member(self) -> None:
        # Tapes and block devices pad with zeros, between members as well.
        while not self._raw and len(self._pending) < len(GZIP_MAGIC):
            more = self._file.read(_INPUT)
            self._pending = (self._pending + more).lstrip(b"\0")
            if not more:
                break
        self._pending = self._pending.lstrip(b"\0")
        self._ended = self._raw or self._pending[: len(GZIP_MAGIC)] != GZIP_MAGIC
        self._member = _deflate.decompressobj(_GZIP)


class _Stream:
    """The bytes of one NIfTI file, unpacked. `size`: of the file as it is, None where nobody knows."""

    def __init__(self, file: BinaryIO, name: str, size: Optional[int]) -> None:
        self._name = name
        self._most = size
        self._position = 0
        self._readinto: Callable[[memoryview], int] = file.readinto  # type: ignore[attr-defined]
        self._first = self._take(_HEADER_SIZES[0], least=0)
        self._is_packed = self._first.startswith(GZIP_MAGIC)
        if self._is_packed:
            self._readinto = Inflater(file, self._first).readinto
            self._most = None if size is None else size * _HIGHEST_RATIO
            self._position = 0
            self._first = self._take(_HEADER_SIZES[0], least=0)

    def header(self) -> _Header:
        """Read the header: the grid, the voxels' type in the file's byte order, where they begin, slope and intercept."""
        if len(self._first) < _HEADER_SIZES[0]:
            raise ImageError("%s is too short for a NIfTI file" % self._name)
        for version, size in enumerate(_HEADER_SIZES):
            for order in "<>":
                if int(np.frombuffer(self._first, order + "i4", 1)[0]) == size:
                    raw = self._first + self._take(size - len(self._first))
                    return _decode(np.frombuffer(raw, _header_dtype(version, order))[0], size, order, self._name)
        raise ImageError("%s is not a NIfTI file" % self._name)

    def voxels(self, geometry: Geometry, dtype: np.dtype, offset: int, empty: Callable[..., np.ndarray]) -> np.ndarray:
        """Read the voxels, and verify the checksum where there is one."""
        size = geometry.size
        if self._most is not None and offset + size[0] * size[1] * size[2] * dtype.itemsize > self._most:
            raise self._damaged(EOFError("too small for the %d x %d x %d voxels it declares" % size))
        try:
            voxels = empty(geometry.shape, dtype)
        except (MemoryError, ValueError) as error:
            raise ImageError("%s declares more voxels than fit into memory" % self._name) from error
        while self._position < offset:
            self._take(min(_BLOCK, offset - self._position))
        self._fill(voxels.reshape(-1).view(np.uint8).data, voxels.nbytes)
        tail = memoryview(bytearray(_OUTPUT if self._is_packed else 0))
        for _ in range(_LONGEST_TAIL):  # the checksum is verified at the end
            if self._fill(tail, 0) < _OUTPUT:
                break
        return voxels if dtype.isnative else voxels.byteswap(True).view(dtype.newbyteorder("="))

    def _take(self, count: int, least: int = -1) -> bytes:
        data = bytearray(count)
        return bytes(data[: self._fill(memoryview(data), count if least < 0 else least)])

    def _fill(self, view: memoryview, least: int) -> int:
        """Fill `view` as far as the file goes; how far, which is `least` or more."""
        filled = 0
        try:
            while filled < len(view):
                count = self._readinto(view[filled:])
                if not count:
                    break
                filled += count
        except INFLATE_ERRORS as error:
            raise self._damaged(error) from error
        self._position += filled
        if filled < least:
            raise self._damaged(EOFError("it ends before its voxels"))
        return filled

    def _damaged(self, error: BaseException) -> ImageError:
        what = ("cut off: %s" if isinstance(error, EOFError) else "damaged: %s") % error
        return ImageError("%s is %s" % (self._name, what), "Send or export the image again.")


def _no_labels(what: str) -> ImageError:
    return ImageError("the label map holds %s" % what, "Write whole numbers: 0 for background, 1 and up for structures.")


@lru_cache(maxsize=4)  # making one costs more than all the rest of a header
def _header_dtype(version: int, order: str) -> np.dtype:
    places = [places[version] for places in _FIELDS.values()]
    formats, offsets = [form for _, form in places], [offset for offset, _ in places]
    fields = {"names": list(_FIELDS), "formats": formats, "offsets": offsets, "itemsize": _HEADER_SIZES[version]}
    return np.dtype(fields).newbyteorder(order)  # type: ignore[call-overload,no-any-return]


def _decode(fields: np.void, size: int, order: str, name: str) -> _Header:
    if bytes(fields["magic"])[:2] != b"n+":
        raise ImageError("%s is half of a .hdr/.img pair" % name, "Convert it to a single .nii.gz file.")
    code = int(fields["datatype"])
    if code not in _DTYPES:
        kind = _REFUSED.get(code, "unknown (type %d)" % code)
        raise ImageError("%s holds %s values" % (name, kind), "Send an image of one number per voxel.")
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        slope, intercept = 1.0, 0.0  # the format's way to say that nothing is rescaled
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and offset < 1 << 40):
        raise ImageError("%s is damaged: its voxels begin nowhere" % name)
    geometry = _decode_geometry(fields, _decode_size([int(n) for n in fields["dim"]], name))
    return geometry, np.dtype(order + _DTYPES[code]), max(int(offset), size), slope, intercept


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
        affine = _TO_LPS * affine + 0.0
    elif fields["qform_code"] > 0:
        rotation = _rotation(fields["quatern"].astype(np.float64))
        rotation[:, 2] *= -1.0 if fields["pixdim"][0] < 0 else 1.0
        affine[:3, :3] = rotation * spacing
        affine[:3, 3] = fields["qoffset"]
        affine = _TO_LPS * affine + 0.0
    else:
        affine[:3, :3] = np.diag(spacing)
    affine[:3] *= _UNITS_MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    return Geometry.from_affine(size, affine)


def _rotation(axis: np.ndarray) -> np.ndarray:
    """The rotation of a unit quaternion of which b, c, d are given and a is not negative (nifti1.h, method 2)."""
    rest = 1.0 - float(axis @ axis)
    if rest < 1e-7:  # noise of rounded numbers: half a turn, as for NIfTI's own library
        axis, rest = axis / np.linalg.norm(axis), 0.0
    real = np.sqrt(rest)
    rotation: np.ndarray = (2 * real**2 - 1) * np.eye(3) + 2 * np.outer(axis, axis) + 2 * real * np.cross(axis, np.eye(3)).T
    return rotation


def _writable(voxels: np.ndarray) -> np.ndarray:
    """The voxels in a type that NIfTI has; the same array but for bool (a view) and float16."""
    if voxels.dtype == np.bool_:
        return voxels.view(np.uint8)
    if voxels.dtype == np.float16:
        return voxels.astype(np.float32)
    if voxels.dtype.str[1:] not in _DTYPES.values():
        raise ImageError("NIfTI cannot hold values of type %s" % voxels.dtype, "Convert them to a common integer or float type.")
    return voxels


def _slabs(head: bytes, voxels: np.ndarray) -> Iterator[Union[bytes, memoryview]]:
    """The header, then little-endian voxels, a few planes at a time."""
    yield head
    planes = max(1, _BLOCK // max(1, voxels[0].nbytes))
    for first in range(0, len(voxels), planes):
        slab = np.ascontiguousarray(voxels[first : first + planes], dtype=voxels.dtype.newbyteorder("<"))
        yield slab.reshape(-1).view(np.uint8).data


def _encode(image: Union[Image, Volume], dtype: np.dtype, description: str) -> bytes:
    """The little-endian header, with four bytes that say that no extensions follow."""
    geometry = image.geometry
    version = 0 if max(geometry.size) <= np.iinfo(np.int16).max else 1
    size = _HEADER_SIZES[version]
    affine = _TO_LPS * geometry.affine + 0.0
    rotation = _TO_LPS[:3] * geometry.matrix + 0.0
    handedness = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= handedness
    code = next(code for code, form in _DTYPES.items() if form == dtype.str[1:])
    values: Dict[str, object] = {
        "sizeof_hdr": size, "dim": [3, *geometry.size, 1, 1, 1, 1], "datatype": code, "bitpix": dtype.itemsize * 8,
        "pixdim": [handedness, *geometry.spacing, 1, 1, 1, 1], "vox_offset": size + 4, "scl_slope": image.slope,
        "scl_inter": image.intercept, "xyzt_units": 2, "descrip": description.encode("ascii", "replace")[:79], "qform_code": 1,
        "sform_code": 1, "quatern": _quaternion(rotation), "qoffset": affine[:3, 3], "srow": affine[:3], "magic": np.void(_MAGICS[version]),
    }  # fmt: skip
    fields = np.zeros((), _header_dtype(version, "<"))
    for name, value in values.items():
        fields[name] = value
    return fields.tobytes() + bytes(4)


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """b, c, d of the unit quaternion with a not negative of a proper rotation, by its largest component (Shepperd 1978)."""
    trace = np.trace(matrix)
    table = np.diag([1 + trace, *(1 + 2 * matrix[i, i] - trace for i in range(3))])
    table[0, 1:] = table[1:, 0] = matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]
    table[1:, 1:] += np.where(np.eye(3, dtype=bool), 0.0, matrix + matrix.T)
    row = table[int(np.argmax(np.diag(table)))]
    quaternion: np.ndarray = row / np.linalg.norm(row)
    return (-quaternion if quaternion[0] < 0 else quaternion)[1:]
