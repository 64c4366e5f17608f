"""NIfTI files as volumes and label maps; the format itself is in `delineate.nifti_codec`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from delineate import ahead, nifti_codec, sparse
from delineate.errors import ImageError
from delineate.geometry import Geometry
from delineate.nifti_codec import to_labels
from delineate.volume import Volume

Source = str | os.PathLike[str] | BinaryIO

__all__ = ["read", "read_geometry", "read_labels", "to_labels", "write", "write_labels"]


def read(source: Source, empty: Callable[..., np.ndarray] = ahead.empty) -> Volume:
    """Read one image.

    Parameters
    ----------
    source : path, or binary file read from where it stands (how far it is read is not defined)
    empty : makes the array of a shape and type; may raise `MemoryError`

    Returns
    -------
    Volume
        Voxels (z, y, x) in the file's own type, in this machine's byte order; slope and intercept kept apart.

    Raises
    ------
    ImageError
        As `nifti_codec.read`, and a file that cannot be opened or holds not one number.
    GeometryError
        A sheared or singular grid.
    """
    with _opened(source) as (file, name, size):
        volume = Volume(*nifti_codec.read(file, name, size, empty))
    if volume.voxels.dtype.kind == "f" and not any(np.isfinite(plane).any() for plane in volume.voxels):
        raise ImageError(f"{name} holds no number, NaN only", "Export the image again.")
    return volume


def read_geometry(source: Source) -> Geometry:
    """The grid of an image, from the first bytes of the file; errors as in `read`."""
    with _opened(source) as (file, name, _):
        return nifti_codec.read_geometry(file, name)


def read_labels(source: Source) -> tuple[np.ndarray, Geometry]:
    """Read a label map: (labels of the smallest unsigned type, shape (z, y, x); grid).

    Raises `ImageError` for negative values and for values farther than 1e-3 from whole numbers, else as `read`.
    """
    with _opened(source) as (file, name, size):
        return nifti_codec.read_labels(file, name, size)


def write(target: Source, volume: Volume, *, description: str = "", compress: bool | None = None) -> None:
    """Write one image as NIfTI-1, or NIfTI-2 where it is longer than 32767 voxels along an axis.

    Parameters
    ----------
    target : path, or binary file written from where it stands
    volume : Volume
        Its voxels may be a view in any order of memory; they are never copied as a whole.
    description : up to 79 ASCII characters for the header
    compress : gzip or not; by default all but a path that ends in ``.nii``
    """
    blocks = nifti_codec.blocks(volume, description)
    if not isinstance(target, str | os.PathLike):
        _write(blocks, target, volume, compress is not False)
        return
    path = Path(target)
    try:
        with path.open("wb") as file:
            _write(blocks, file, volume, not path.name.lower().endswith(".nii") if compress is None else compress)
    except BaseException:
        # A file that looks whole and is not is worse than none.
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _write(blocks: Iterator[bytes | memoryview], file: BinaryIO, volume: Volume, compress: bool) -> None:
    if compress and volume.voxels.dtype.kind in "ub":  # labels: mostly nothing
        sparse.write(blocks, file)
    else:
        nifti_codec.write(blocks, file, compress)


def write_labels(target: Source, labels: np.ndarray, geometry: Geometry, *, compress: bool | None = None) -> None:
    """Write a label map, shape (z, y, x), of whole numbers of any type, in the smallest unsigned type."""
    write(target, Volume(to_labels(labels), geometry), compress=compress)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[tuple[BinaryIO, str, int | None]]:
    """The file, its name for messages, its size."""
    if not isinstance(source, str | os.PathLike):
        yield source, "the image", _size(source)
        return
    path = Path(source)
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise ImageError(f"{path.name} cannot be opened: {error.strerror}", "Check the path.") from error
    with file:
        yield file, path.name, os.fstat(file.fileno()).st_size


def _size(file: BinaryIO) -> int | None:
    """Bytes of a file on disk or in memory; None for a pipe or an archive entry, whose end is not known without reading."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer().nbytes
    try:
        return os.fstat(file.fileno()).st_size or None
    except (OSError, AttributeError):
        return None
