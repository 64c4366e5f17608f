"""NIfTI-1 and NIfTI-2 files, ``.nii`` and ``.nii.gz``: read into memory of the right size, written as a stream.

What the header means, and which of its grids holds, is in `delineate.nifti_header`.

Runs on Python 3.7 and newer with numpy alone; ISA-L is used where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import BinaryIO, Iterator, Optional, Tuple, Union

import numpy as np

from delineate import gzip_codec, nifti_header
from delineate.errors import ImageError
from delineate.geometry import Geometry
from delineate.nifti_header import Header
from delineate.segmentation import label_dtype
from delineate.volume import Volume

Source = Union[str, "os.PathLike[str]", BinaryIO]

LABEL_TOLERANCE = 1e-3
BLOCK = 1 << 22  # bytes handed to the compressor at once


def read(source: Source) -> Volume:
    """Read one image.

    Parameters
    ----------
    source : path, or binary file read from where it stands (how far it is read is not defined)

    Returns
    -------
    Volume
        Voxels (z, y, x) in the file's own type, in this machine's byte order; slope and intercept kept apart.

    Raises
    ------
    ImageError
        Not NIfTI, cut off, damaged, four-dimensional, complex, colour, without voxels, without one number.
    GeometryError
        A sheared or singular grid.
    """
    with _opened(source) as stream:
        header = _read_header(stream)
        voxels = _read_voxels(stream, header)
    if voxels.dtype.kind == "f" and not any(np.isfinite(plane).any() for plane in voxels):
        raise ImageError("%s holds no number, NaN only" % stream.name, "Export the image again.")
    return Volume(voxels, header.geometry, header.slope, header.intercept)


def read_geometry(source: Source) -> Geometry:
    """The grid of an image, from the first bytes of the file; errors as in `read`."""
    with _opened(source) as stream:
        return _read_header(stream).geometry


def read_labels(source: Source) -> Tuple[np.ndarray, Geometry]:
    """Read a label map: (labels of the smallest unsigned type, shape (z, y, x); grid).

    Raises `ImageError` for negative values and for values farther than 1e-3 from whole numbers, else as `read`.
    """
    volume = read(source)
    values = volume.voxels
    if volume.is_rescaled:
        values = values * np.float64(volume.slope) + volume.intercept
    return to_labels(values), volume.geometry


def to_labels(values: np.ndarray) -> np.ndarray:
    """Values of any type, shape (z, y, x), as labels of the smallest unsigned type; a view or the array itself where it can be."""
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    if values.dtype == np.uint8:
        return values
    lowest, highest = values.min(), values.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise _no_labels("values that are not finite")
    if lowest < -LABEL_TOLERANCE:
        raise _no_labels("negative values (%g)" % lowest)
    dtype = label_dtype(int(np.rint(highest)))
    if values.dtype.kind in "ui":
        return values.astype(dtype, copy=False)
    labels = np.empty(values.shape, dtype)
    for plane, target in zip(values, labels):
        whole = np.rint(plane)
        if np.abs(plane - whole).max() > LABEL_TOLERANCE:
            raise _no_labels("values between whole numbers")
        target[...] = whole
    return labels


def write(target: Source, volume: Volume, *, description: str = "", compress: Optional[bool] = None) -> None:
    """Write one image as NIfTI-1, or NIfTI-2 where it is longer than 32767 voxels along an axis.

    Parameters
    ----------
    target : path, or binary file written from where it stands
    volume : Volume
        Its voxels may be a view in any order of memory; they are never copied as a whole.
    description : up to 79 ASCII characters for the header
    compress : gzip or not; by default all but a path that ends in ``.nii``
    """
    voxels = _writable(volume.voxels)
    head = nifti_header.encode(Header(volume.geometry, voxels.dtype, 0, volume.slope, volume.intercept), description)
    if hasattr(target, "write"):
        _write_stream(target, head, voxels, compress is not False)  # type: ignore[arg-type]
        return
    path = os.fspath(target)
    packed = not path.lower().endswith(".nii") if compress is None else compress
    try:
        with open(path, "wb") as file:
            _write_stream(file, head, voxels, packed)
    except BaseException:
        # A file that looks whole and is not is worse than none.
        with contextlib.suppress(OSError):
            os.remove(path)
        raise


def write_labels(target: Source, labels: np.ndarray, geometry: Geometry, *, compress: Optional[bool] = None) -> None:
    """Write a label map, shape (z, y, x), of whole numbers of any type, in the smallest unsigned type."""
    write(target, Volume(to_labels(labels), geometry), compress=compress)


# ---- reading


class _Stream:
    """The bytes of a NIfTI file, unpacked. `limit` is how many there can be at most, None where nobody knows."""

    def __init__(self, name: str, file: BinaryIO, size: Optional[int]) -> None:
        self.name = name
        self._file = file
        self._gzip: Optional[gzip_codec.GzipReader] = None
        self.limit = size
        self.position = 0
        if file.peek(2)[:2] == gzip_codec.MAGIC:  # type: ignore[attr-defined]
            self._gzip = gzip_codec.GzipReader(file)
            self.limit = None if size is None else size * gzip_codec.HIGHEST_RATIO

    def fill(self, view: memoryview) -> int:
        """Fill `view` as far as the file goes; how far."""
        try:
            count: int = self._gzip.readinto(view) if self._gzip else self._file.readinto(view)  # type: ignore[attr-defined]
        except gzip_codec.ERRORS as error:
            raise self._damaged(error) from error
        self.position += count
        return count

    def readinto(self, view: memoryview) -> None:
        """Fill all of `view`."""
        if self.fill(view) < len(view):
            raise ImageError("%s is cut off" % self.name, "Send or export the image again.")

    def skip_to(self, offset: int) -> None:
        """Read on until `position` is `offset`."""
        while self.position < offset:
            self.readinto(memoryview(bytearray(min(BLOCK, offset - self.position))))

    def finish(self) -> None:
        """Verify the checksum where there is one."""
        if self._gzip:
            try:
                self._gzip.finish()
            except gzip_codec.ERRORS as error:
                raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> ImageError:
        what = "cut off" if isinstance(error, EOFError) else "damaged (%s)" % error
        return ImageError("%s is %s" % (self.name, what), "Send or export the image again.")


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[_Stream]:
    if hasattr(source, "read"):
        file = io.BufferedReader(source, BLOCK)  # type: ignore[type-var]
        try:
            yield _Stream("the image", file, _size(source))  # type: ignore[arg-type]
        finally:
            file.detach()  # the file is the caller's to close
        return
    path = os.fspath(source)
    name = os.path.basename(path)
    try:
        opened = open(path, "rb", buffering=1 << 16)  # noqa: SIM115
    except OSError as error:
        raise ImageError("%s cannot be opened: %s" % (name, error.strerror), "Check the path.") from error
    with opened:
        yield _Stream(name, opened, os.fstat(opened.fileno()).st_size)


def _size(file: BinaryIO) -> Optional[int]:
    """Bytes of a file on disk or in memory; None for a pipe or an archive entry, whose end is not known without reading."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer().nbytes
    try:
        return os.fstat(file.fileno()).st_size or None
    except (OSError, AttributeError):
        return None


def _read_header(stream: _Stream) -> Header:
    raw = bytearray(nifti_header.HEADER_SIZES[0])
    if stream.fill(memoryview(raw)) < len(raw):
        raise ImageError("%s is too short for a NIfTI file" % stream.name)
    size, order = nifti_header.header_size(bytes(raw), stream.name)
    rest = bytearray(size - len(raw))
    stream.readinto(memoryview(rest))
    return nifti_header.decode(bytes(raw + rest), order, stream.name)


def _read_voxels(stream: _Stream, header: Header) -> np.ndarray:
    count = int(np.prod([int(n) for n in header.geometry.size], dtype=object)) * header.dtype.itemsize
    if stream.limit is not None and header.offset + count > stream.limit:
        size = " x ".join(str(n) for n in header.geometry.size)
        raise ImageError("%s is cut off: too small for the %s voxels it declares" % (stream.name, size), "Send or export the image again.")
    try:
        voxels = np.empty(header.geometry.shape, header.dtype)
    except (MemoryError, ValueError) as error:
        raise ImageError("%s declares more voxels than fit into memory" % stream.name) from error
    stream.skip_to(header.offset)
    stream.readinto(voxels.reshape(-1).view(np.uint8).data)
    stream.finish()
    return voxels if header.dtype.isnative else voxels.byteswap(True).view(header.dtype.newbyteorder("="))


def _no_labels(what: str) -> ImageError:
    return ImageError("the label map holds %s" % what, "Write whole numbers: 0 for background, 1 and up for structures.")


# ---- writing


def _writable(voxels: np.ndarray) -> np.ndarray:
    """The voxels in a type that NIfTI has; the same array but for bool (a view) and float16."""
    if voxels.dtype == np.bool_:
        return voxels.view(np.uint8)
    if voxels.dtype == np.float16:
        return voxels.astype(np.float32)
    if voxels.dtype.str[1:] not in nifti_header.DTYPES.values():
        raise ImageError("NIfTI cannot hold values of type %s" % voxels.dtype, "Convert them to a common integer or float type.")
    return voxels


def _write_stream(file: BinaryIO, head: bytes, voxels: np.ndarray, packed: bool) -> None:
    if packed:
        gzip_codec.compress(_blocks(head, voxels), file)
    else:
        for block in _blocks(head, voxels):
            file.write(block)


def _blocks(head: bytes, voxels: np.ndarray) -> Iterator[Union[bytes, memoryview]]:
    """The file's bytes, little-endian, a few planes at a time, so that a view is never copied as a whole."""
    yield head
    planes = max(1, BLOCK // max(1, voxels[0].nbytes))
    little = voxels.dtype.newbyteorder("<")
    for first in range(0, len(voxels), planes):
        slab = np.ascontiguousarray(voxels[first : first + planes], dtype=little)
        yield slab.reshape(-1).view(np.uint8).data
