"""From images, as files or volumes, to the archive of a task."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

from delineate import nifti
from delineate.errors import ImageError, InputError
from delineate.files import read_volume
from delineate.geometry import Geometry
from delineate.protocols.archive import FileRequestWriter
from delineate.volume import Volume

Image: TypeAlias = "str | Path | Volume"
Images: TypeAlias = "Image | Sequence[Image]"

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def listed(images: Images) -> list[Path | Volume]:
    """One image or several, as a list; `ImageError` for a file that is not there, so that it is told before anything is sent."""
    given = [images] if isinstance(images, str | Path | Volume) else list(images)
    if not given:
        raise InputError("no image was given", "Give at least one.")
    result: list[Path | Volume] = [image if isinstance(image, Volume) else Path(image) for image in given]
    for image in result:
        if isinstance(image, Path) and not image.is_file() and not image.is_dir():
            raise ImageError(f"there is no file {image.name}" if not image.exists() else f"{image.name} is neither file nor folder")
    return result


def loaded(images: Images) -> list[Path | Volume]:
    """As `listed`, and what does not go into an archive byte for byte is read, once."""
    return [image if isinstance(image, Volume) or is_nifti(image) else read_volume(image) for image in listed(images)]


def geometry_of(image: Path | Volume) -> Geometry:
    """The grid of an image; of a NIfTI file only the header is read."""
    if isinstance(image, Volume):
        return image.geometry
    return nifti.read_geometry(image) if is_nifti(image) else read_volume(image).geometry


def is_nifti(path: Path) -> bool:
    """Whether a file goes into the archive byte for byte."""
    return path.name.lower().endswith(NIFTI_SUFFIXES) and not path.is_dir()


@contextlib.contextmanager
def packed(images: Sequence[Path | Volume]) -> Iterator[Path]:
    """An archive with the images in their order, deleted afterwards. NIfTI files go in byte for byte, others are converted."""
    with tempfile.TemporaryDirectory(prefix="delineate-") as folder:
        path = Path(folder) / "input.zip"
        with contextlib.closing(FileRequestWriter(path)) as writer:
            for image in images:
                writer.add_image(image if isinstance(image, Volume) or is_nifti(image) else read_volume(image))
        yield path


@contextlib.contextmanager
def result_file() -> Iterator[tuple[Path, BinaryIO]]:
    """A place for a result archive, deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="delineate-") as folder:
        path = Path(folder) / "result"
        with path.open("w+b") as file:
            yield path, file


@contextlib.contextmanager
def published(target: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole; without success nothing is left, and what stood there stays."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb+") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
