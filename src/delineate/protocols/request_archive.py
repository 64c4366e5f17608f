"""A request archive as its receiver has it: which entries are images, and what is said of each; and files made into one."""

from __future__ import annotations

import math
import os
import posixpath
import re
from dataclasses import replace
from typing import Any, Callable, Container, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from delineate import nifti, nifti_codec
from delineate.errors import ArchiveError
from delineate.geometry import Geometry
from delineate.nifti_codec import Image
from delineate.protocols.archive_entries import BLOCK, is_junk, name_key, quoted
from delineate.protocols.archive_reader import ArchiveReader
from delineate.protocols.request_series import WHOLE, holds_dicom, series_folders
from delineate.protocols.task_archive import SHARED_META_NAME, ImageMeta, RequestWriter, json_object
from delineate.volume import Volume

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

_NUMBERED = re.compile(r"tmp_(\d{4,9})", re.IGNORECASE)
_META_ADVICE = 'Write {"scaling_factor": [2, 2, 1], "spacing": [1.0, 1.0, 3.0]}, vectors x, y, z.'


class FileRequestWriter(RequestWriter):
    """Writes a request archive of images in memory and of NIfTI files."""

    def __enter__(self) -> FileRequestWriter:
        return self

    def add_image(self, image: Union[Image, Volume, str, os.PathLike[str]], meta: Optional[ImageMeta] = None) -> str:
        """Add the next image; its name in the archive.

        Parameters
        ----------
        image : Volume, or path of a NIfTI file: ``.nii.gz`` goes in byte for byte, ``.nii`` is gzipped on the way
        meta : what is said of it; by default what the volume or the file's header tells

        Raises
        ------
        ImageError, GeometryError
            A file that is no NIfTI image; the archive is discarded.
        """
        if not isinstance(image, (str, os.PathLike)):
            return super().add_image(image, meta or meta_of(image))
        name, path = self.next_name, os.fspath(image)
        meta = meta or _meta_of_grid(nifti.read_geometry(path))
        with open(path, "rb") as source:
            if source.read(2) == nifti_codec.GZIP_MAGIC:
                self.add_file(name, path)
            else:
                source.seek(0)
                size = os.fstat(source.fileno()).st_size
                with self.entry(name, size + (size >> 6) + BLOCK) as file:
                    nifti_codec.write(iter(lambda: source.read(BLOCK), b""), file)
        self.add_meta(meta)
        return name


def request_images(source: Union[ArchiveReader, Iterable[str]], dicom: Optional[ArchiveReader] = None) -> List[str]:
    """Which entries of a request archive are images, in the order the model gets them.

    ``tmp_0000.*``, ``tmp_0001.*``, … first; others after them, in natural order of their names. Folders do not matter.
    Exported contours are no images: they have a ``.json`` twin with a ``multiplier`` in it. From names alone a twin is
    taken for such a one where there are ``tmp_000N`` images; give the reader where that matters. Where a reader is given, as
    the one or the other argument, DICOM is found: folders ``tmp_000N/``, or `WHOLE` for an archive that has no other image and
    is a series itself.

    Raises
    ------
    ArchiveError
        No image, one number twice, or a number missing: the order of the images would be a guess.
    """
    reader = source if isinstance(source, ArchiveReader) else None
    dicom = dicom or reader
    names = [name for name in (reader.names() if reader else source) if not is_junk(name)]  # type: ignore[union-attr]
    if not names:
        raise ArchiveError("the archive is empty: it holds no file")
    numbered: Dict[int, str] = series_folders(names, dicom) if dicom is not None else {}
    inside = tuple(folder + "/" for folder in numbered.values())
    others = []
    for name in names:
        stem = None if name.startswith(inside) else _image_stem(name)
        match = None if stem is None else _NUMBERED.fullmatch(posixpath.basename(stem))
        if match:
            other = numbered.setdefault(int(match.group(1)), name)
            if other != name:
                raise ArchiveError("%s and %s are the same image of the request" % (quoted(other), quoted(name)), "Send one of them.")
        elif stem is not None:
            others.append(name)
    missing = next((n for n in range(len(numbered)) if n not in numbered), None)
    if missing is not None:
        raise ArchiveError("image tmp_%04d is missing: the archive has %s" % (missing, quoted(numbered[max(numbered)])))
    contours = _contours(others, names, reader, bool(numbered))
    found = [numbered[n] for n in sorted(numbered)] + sorted((name for name in others if name not in contours), key=_natural)
    if not found and dicom is not None and holds_dicom(names, dicom):
        return [WHOLE]
    if not found:
        raise ArchiveError("the archive has no image in it")
    return found


def image_meta(files: Container[str], read: Callable[[str], bytes], image: str) -> ImageMeta:
    """What stands beside the image `image`: its own ``.meta.json``, else ``meta.json`` in its folder, else the defaults.

    Parameters
    ----------
    files : names in the archive, or in the folder it was extracted to
    read : the content of one of them

    Raises
    ------
    ArchiveError
        As `read_image_meta`.
    """
    for name in ("%s.meta.json" % (_image_stem(image) or image), posixpath.join(posixpath.dirname(image), SHARED_META_NAME)):
        if name in files:
            return read_image_meta(read(name), name)
    return ImageMeta()


def meta_of(image: Union[Image, Volume]) -> ImageMeta:
    """All that is known of an image in memory."""
    known = {name: getattr(image, name) for name in ("slope", "intercept", "units", "modality") if hasattr(image, name)}
    return replace(_meta_of_grid(image.geometry), **known)


def _meta_of_grid(grid: Geometry) -> ImageMeta:
    return ImageMeta((1, 1, 1), grid.spacing, grid.origin, grid.direction, true_origin=grid.origin, true_direction=grid.direction)


def read_image_meta(data: Union[bytes, str], name: str = SHARED_META_NAME) -> ImageMeta:
    """Read such a file of any age; keys that are missing or null get their defaults, others are ignored.

    Raises
    ------
    ArchiveError
        Not JSON, or a value that makes no sense; the message names the file `name` and the key.
    """
    fields = json_object(data, name, _META_ADVICE)
    spacing = _numbers(fields, "spacing", name)
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise _no_sense(name, "spacing", fields["spacing"])
    slope, intercept = _number(fields, "rescale_slope", 1.0, name), _number(fields, "rescale_intercept", 0.0, name)
    if slope == 0:
        raise _no_sense(name, "rescale_slope", 0)
    return ImageMeta(
        _scaling_factor(fields, name),
        None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        _numbers(fields, "origin", name),
        _numbers(fields, "direction", name),
        slope,
        intercept,
        _text(fields, "units", name),
        _text(fields, "modality", name),
        _numbers(fields, "true_origin", name),
        _numbers(fields, "true_direction", name),
    )


def _image_stem(name: str) -> Optional[str]:
    """An image's name without its suffix, None for what is no image by its name."""
    lower = name.lower()
    return next((name[: -len(suffix)] for suffix in IMAGE_SUFFIXES if lower.endswith(suffix)), None)


def _contours(images: Sequence[str], names: Sequence[str], reader: Optional[ArchiveReader], by_name: bool) -> List[str]:
    twins = {name_key(name): name for name in names}
    found = []
    for image in images:
        twin = twins.get(name_key("%s.json" % _image_stem(image)))
        if twin is not None and (by_name if reader is None else _has_multiplier(reader, twin)):
            found.append(image)
    return found


def _has_multiplier(reader: ArchiveReader, name: str) -> bool:
    try:
        return "multiplier" in json_object(reader.read(name), name, _META_ADVICE)
    except ArchiveError:
        return False  # a stranger's file, which is no reason to leave the image out


def _natural(name: str) -> List[Tuple[int, int, str]]:
    parts = re.split(r"(\d{1,18})", name.casefold())
    return [(0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)]


def _float(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(fields: Mapping[str, Any], key: str, default: float, name: str) -> float:
    if fields.get(key) is None:
        return default
    number = _float(fields[key])
    if number is None:
        raise _no_sense(name, key, fields[key])
    return number


def _numbers(fields: Mapping[str, Any], key: str, name: str) -> Optional[Tuple[float, ...]]:
    """A list of finite numbers of any length, nested or not: what a sender means by a direction is its own affair."""
    value = fields.get(key)
    if value is None:
        return None
    items: List[Any] = value if isinstance(value, list) else [None]
    if items and all(isinstance(item, list) for item in items):
        items = [number for item in items for number in item]
    numbers = [_float(item) for item in items]
    if not numbers or len(numbers) > 64 or any(number is None for number in numbers):
        raise _no_sense(name, key, value)
    return tuple(number for number in numbers if number is not None)


def _scaling_factor(fields: Mapping[str, Any], name: str) -> Tuple[int, int, int]:
    numbers = _numbers(fields, "scaling_factor", name)
    if numbers is None:
        return (1, 1, 1)
    whole = [int(np.rint(number)) for number in numbers]
    if len(whole) != 3 or any(w != n or not 1 <= w <= 64 for w, n in zip(whole, numbers)):
        raise _no_sense(name, "scaling_factor", fields["scaling_factor"])
    return (whole[0], whole[1], whole[2])


def _text(fields: Mapping[str, Any], key: str, name: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str):
        raise _no_sense(name, key, value)
    return value


def _no_sense(name: str, key: str, value: Any) -> ArchiveError:
    shown = repr(value)
    return ArchiveError("%s in %s makes no sense: %s" % (key, quoted(name), shown if len(shown) <= 80 else shown[:80] + "…"), _META_ADVICE)
