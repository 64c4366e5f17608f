"""What is in a task archive: images and what is known of them on the way there, label maps and their names on the way back.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from dataclasses import dataclass
from typing import Any, Callable, Container, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from delineate import gzip_codec, nifti
from delineate.errors import ArchiveError
from delineate.geometry import Geometry
from delineate.protocols.archive_entries import BLOCK, is_junk, name_key, quoted
from delineate.protocols.archive_reader import ArchiveReader, PathLike
from delineate.protocols.archive_writer import StoredZipWriter
from delineate.volume import Volume

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
SHARED_META_NAME = "meta.json"

_NUMBERED = re.compile(r"tmp_(\d{4,9})", re.IGNORECASE)
_META_ADVICE = 'Write {"scaling_factor": [2, 2, 1], "spacing": [1.0, 1.0, 3.0]}, vectors x, y, z.'


@dataclass(frozen=True)
class ImageMeta:
    """What a request archive says of one image beside the image itself. Vectors are x, y, z.

    Parameters
    ----------
    scaling_factor : voxels of the sender's contour grid per voxel of the image; whole numbers of at least 1.
    spacing : mm, None where nothing is said.
    origin, direction : as the sender's own software means them: kept, never relied on.
    slope, intercept : make stored values real, where the image's header does not say it.
    units, modality : of the real values (``HU``); DICOM's (``CT``); empty where unknown.
    true_origin, true_direction : LPS mm and cosines as `Geometry` has them, from our own clients.
    """

    scaling_factor: Tuple[int, int, int] = (1, 1, 1)
    spacing: Optional[Tuple[float, float, float]] = None
    origin: Optional[Tuple[float, ...]] = None
    direction: Optional[Tuple[float, ...]] = None
    slope: float = 1.0
    intercept: float = 0.0
    units: str = ""
    modality: str = ""
    true_origin: Optional[Tuple[float, ...]] = None
    true_direction: Optional[Tuple[float, ...]] = None

    @classmethod
    def of(cls, volume: Volume) -> ImageMeta:
        """All that is known of an image in memory."""
        own = cls.of_geometry(volume.geometry).__dict__
        return cls(**{**own, "slope": volume.slope, "intercept": volume.intercept, "units": volume.units, "modality": volume.modality})

    @classmethod
    def of_geometry(cls, geometry: Geometry) -> ImageMeta:
        """Of an image of which the grid alone is known."""
        origin, direction = geometry.origin, geometry.direction
        return cls((1, 1, 1), geometry.spacing, origin, direction, true_origin=origin, true_direction=direction)

    def to_json(self) -> bytes:
        """The file ``tmp_000N.meta.json``; what says nothing is left out."""
        fields: Dict[str, Any] = {"scaling_factor": self.scaling_factor}
        for name in ("spacing", "origin", "direction"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        if (self.slope, self.intercept) != (1.0, 0.0):
            fields.update(rescale_slope=self.slope, rescale_intercept=self.intercept)
        for name in ("units", "modality", "true_origin", "true_direction"):
            if getattr(self, name):
                fields[name] = getattr(self, name)
        return json.dumps(fields).encode("ascii")

    @classmethod
    def from_json(cls, data: Union[bytes, str], name: str = SHARED_META_NAME) -> ImageMeta:
        """Read such a file of any age; keys that are missing or null get their defaults, others are ignored.

        Raises
        ------
        ArchiveError
            Not JSON, or a value that makes no sense; the message names the file `name` and the key.
        """
        fields = json_object(data, name)
        spacing = _numbers(fields, "spacing", name)
        if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
            raise _no_sense(name, "spacing", fields["spacing"])
        slope, intercept = _number(fields, "rescale_slope", 1.0, name), _number(fields, "rescale_intercept", 0.0, name)
        if slope == 0:
            raise _no_sense(name, "rescale_slope", 0)
        return cls(
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


def request_images(source: Union[ArchiveReader, Iterable[str]]) -> List[str]:
    """Which entries of a request archive are images, in the order the model gets them.

    ``tmp_0000.*``, ``tmp_0001.*``, … first; others after them, in natural order of their names. Folders do not matter.
    Exported contours are no images: they have a ``.json`` twin with a ``multiplier`` in it. From names alone a twin is
    taken for such a one where there are ``tmp_000N`` images; give the reader where that matters.

    Raises
    ------
    ArchiveError
        No image, one number twice, or a number missing: the order of the images would be a guess.
    """
    reader = source if isinstance(source, ArchiveReader) else None
    names = [name for name in (reader.names() if reader else source) if not is_junk(name)]  # type: ignore[union-attr]
    if not names:
        raise ArchiveError("the archive is empty: it holds no file")
    numbered: Dict[int, str] = {}
    others = []
    for name in names:
        stem = _image_stem(name)
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
        As `ImageMeta.from_json`.
    """
    for name in ("%s.meta.json" % (_image_stem(image) or image), posixpath.join(posixpath.dirname(image), SHARED_META_NAME)):
        if name in files:
            return ImageMeta.from_json(read(name), name)
    return ImageMeta()


class RequestWriter(StoredZipWriter):
    """Writes a request archive that models of either age understand: ``tmp_000N.nii.gz``, ``meta.json``, ``tmp_000N.meta.json``."""

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        self._count = 0

    def __enter__(self) -> RequestWriter:
        return self

    def add_image(self, image: Union[Volume, PathLike], meta: Optional[ImageMeta] = None) -> str:
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
        name = "tmp_%04d.nii.gz" % self._count
        if isinstance(image, Volume):
            meta = meta or ImageMeta.of(image)
            with self.entry(name, image.voxels.nbytes + (image.voxels.nbytes >> 6) + BLOCK) as file:
                nifti.write(file, image)
        else:
            meta = meta or ImageMeta.of_geometry(nifti.read_geometry(image))
            self._add_nifti(name, os.fspath(image))
        if not self._count:
            shared = {"scaling_factor": meta.scaling_factor, "spacing": meta.spacing or (1.0, 1.0, 1.0)}
            self.add_bytes(SHARED_META_NAME, json.dumps(shared).encode("ascii"))
        self.add_bytes("tmp_%04d.meta.json" % self._count, meta.to_json())
        self._count += 1
        return name

    def _add_nifti(self, name: str, path: str) -> None:
        with open(path, "rb") as source:
            if source.read(2) == gzip_codec.MAGIC:
                self.add_file(name, path)
                return
            source.seek(0)
            size = os.fstat(source.fileno()).st_size
            with self.entry(name, size + (size >> 6) + BLOCK) as file:
                gzip_codec.compress(iter(lambda: source.read(BLOCK), b""), file)


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
        return "multiplier" in json_object(reader.read(name), name)
    except ArchiveError:
        return False  # a stranger's file, which is no reason to leave the image out


def _natural(name: str) -> List[Tuple[int, int, str]]:
    parts = re.split(r"(\d{1,18})", name.casefold())
    return [(0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)]


# ---- JSON of strangers


def json_object(data: Union[bytes, str], name: str, advice: str = _META_ADVICE) -> Mapping[str, Any]:
    """The JSON object in a file `name`; `ArchiveError` where it is none."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise ArchiveError("%s is not JSON" % quoted(name), advice) from None
    if not isinstance(fields, dict):
        raise ArchiveError("%s is not a JSON object" % quoted(name), advice)
    return fields


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
