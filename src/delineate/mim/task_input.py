"""What is sent: images of the workstation and what is known of them, in a temporary request archive.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import unicodedata
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from delineate.errors import DelineateError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.nifti_codec import Image
from delineate.protocols.task_archive import ImageMeta, RequestWriter

Say = Callable[[str], None]
Factor = Tuple[int, int, int]

SPAN = 256.0  # mm between the points from which a grid is solved
MISPLACED = 0.1  # voxels by which the last voxel may be beside the grid that was solved
PROBE = "delineate probe"
SCRATCH, FORGOTTEN = "delineate-mim-", 3 * 86400.0  # seconds: longer than anybody waits for a result
RESCALE_INTERCEPT, RESCALE_SLOPE = 0x00281052, 0x00281053

_WRITE_NAMES = "Write contour_names letter by letter with commas between, or leave it empty for all."
_RESAMPLE = "Resample the image onto a regular grid in the workstation first."
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|tmp_.*)(\..*)?$", re.IGNORECASE)
_ORDINALS = ("first", "second", "third", "fourth")  # a number could be taken for that of img_one
_LONGEST = 200  # bytes of a file's name before its suffix


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A temporary folder, gone afterwards whatever happens; those that a killed workstation left are gone some days later."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(SCRATCH) and entry.is_dir(follow_symlinks=False) and time.time() - entry.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(entry.path, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=SCRATCH)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class ImageGrid(NamedTuple):
    """Where an image is, LPS mm, and how many voxels of its contours are in one of its own along x, y, z."""

    geometry: Geometry
    multiplier: Factor = (1, 1, 1)

    @property
    def contours(self) -> Geometry:
        """The grid of the image's contours."""
        return self.geometry.refined(self.multiplier)


def image_grid(session: Any, image: Any) -> ImageGrid:
    """The grid of an image and of its contours; the multiplier is that of a contour it has, else of one made and deleted.

    Raises
    ------
    ImageError
        Not three-dimensional, or without voxels.
    GeometryError
        Not one regular grid in the patient, or contours that do not divide its voxels.
    """
    space = image.getSpace()
    count, size = int(space.getDimensionCount()), [int(n) for n in space.getDataDims()]
    if count != 3 or len(size) != 3 or min(size) < 1:
        raise ImageError("the image has %d dimensions of %s voxels" % (count, words(size[::-1])), "Choose a three-dimensional image.")
    # The workstation's spacing is single precision: 1.2 is 1.2000000476837158 there.
    spacing = [float(str(np.float32(v))) for v in image.getNoxelSizeInMm()]
    return ImageGrid(_solved(session.getPointFactory(), space, size, spacing), _multiplier(image, size))


def words(shape: Sequence[int]) -> str:
    """The shape (z, y, x) of an array as a size for a person: ``x x y x z``."""
    return " x ".join(str(n) for n in reversed(shape))


def _solved(factory: Any, space: Any, size: Sequence[int], spacing: Sequence[float]) -> Geometry:
    """The grid by which points of the patient become noxels, where the centre of a voxel is its index + 0.5."""
    system = factory.getDicomCoordSystem()

    def noxel(point: Any) -> np.ndarray:
        found = factory.createPoint(space, system, [float(v) for v in point]).toNoxel()
        return np.array([float(found.getCoord(axis)) for axis in range(3)])

    zero = noxel((0, 0, 0))
    linear = np.stack([noxel(point) - zero for point in SPAN * np.eye(3)], axis=1) / SPAN
    if not np.isfinite(linear).all() or abs(np.linalg.det(linear)) < 1e-12:
        raise GeometryError("the workstation's points do not tell where the image is in the patient", _RESAMPLE)
    columns = np.linalg.inv(linear)
    direction = columns / np.sqrt((columns**2).sum(axis=0))
    origin = columns @ (0.5 - zero)
    # Rounded to what single precision can say; adding 0 makes -0 plain.
    geometry = Geometry(size, spacing, origin.round(6) + 0.0, direction.round(9).ravel() + 0.0)  # type: ignore[arg-type]
    last = np.array(size) - 1.0
    if not np.abs(noxel(geometry.to_world(last)) - 0.5 - last).max() <= MISPLACED:
        raise GeometryError("the image's voxel size does not fit the workstation's points of the patient", _RESAMPLE)
    return geometry


def _multiplier(image: Any, size: Sequence[int]) -> Factor:
    contours = list(image.getContours())
    factor = next(filter(None, (contour_factor(contour, size) for contour in contours)), None)
    if factor is not None:
        return factor
    probe = create_contour(image, free_name(PROBE, [contour_name(contour) for contour in contours]))
    try:
        factor = contour_factor(probe, size)
    finally:
        try:
            twice(probe.delete)
        except Exception as error:
            raise DelineateError("an empty contour %r may be left on the image" % PROBE, "Look for it and delete it.") from error
    if factor is None:
        raise GeometryError("the contours of the image do not divide its voxels", "Tell the workstation's administrator.")
    return factor


def contour_factor(contour: Any, size: Sequence[int]) -> Optional[Factor]:
    """Voxels of a contour in each voxel of its image of `size`, along x, y, z; None where the two do not fit."""
    factor, dims = [int(n) for n in contour.getMultiplier()], [int(n) for n in contour.getDims()]
    fits = len(factor) == 3 and min(factor) > 0 and dims == [n * times for n, times in zip(size, factor)]
    return (factor[0], factor[1], factor[2]) if fits else None


def contour_name(contour: Any) -> str:
    """A contour's name, composed and trimmed as those of results are."""
    return unicodedata.normalize("NFC", str(contour.getInfo().getName())).strip()


def create_contour(image: Any, name: str) -> Any:
    """A new contour of a name that no other has; where the workstation throws and has made it all the same, it is deleted."""
    try:
        return image.createNewContour(name)
    except BaseException:
        with contextlib.suppress(Exception):
            for contour in list(image.getContours()):
                if contour_name(contour) == name and contour.isEmpty():
                    twice(contour.delete)
        raise


def free_name(name: str, taken: Sequence[str]) -> str:
    """`name`, else ``name 2``, ``name 3``, …: the first that is none of `taken`, whatever its case."""
    keys = {other.casefold() for other in taken}
    free, number = name, 1
    while free.casefold() in keys:
        number += 1
        free = "%s %d" % (name, number)
    return free


def twice(action: Callable[[], Any]) -> None:
    """Do it, and once more where it fails: for what must not stay on a patient's image."""
    try:
        action()
    except Exception:
        action()


class WorkstationImage:
    """One image of the workstation, read when it is packed and not before."""

    def __init__(self, session: Any, image: Any) -> None:
        self._session = session
        self.image = image

    def grid(self) -> ImageGrid:
        """As `image_grid`."""
        return image_grid(self._session, self.image)

    def volume(self, grid: ImageGrid, say: Say) -> Tuple[Image, ImageMeta]:
        """Stored voxels and their spacing alone, on which old models rely; beside them what makes them real and places them."""
        place, modality = grid.geometry, str(self.image.getInfo().getModality() or "").strip()
        rescale = self._stated_rescale(modality)
        # Looked at before the stored voxels are fetched, so that there is one image at a time.
        real = None if rescale else _sample(self.image.getScaledData().copyToNPArray())
        voxels = self.image.getRawData().copyToNPArray()
        if voxels.shape != place.shape:
            raise ImageError("the image of %s voxels gives %s" % (words(place.shape), words(voxels.shape)), "Choose another image.")
        if real is not None:
            rescale = _compared(_sample(voxels), real)
            if rescale is None:
                say("The real values of an image do not follow from its stored ones by one slope: the model is given stored values alone.")
        slope, intercept = rescale or (1.0, 0.0)
        units = "HU" if modality == "CT" and rescale else ""
        where = (place.spacing, place.origin, place.direction)
        meta = ImageMeta(grid.multiplier, *where, slope, intercept, units, modality, place.origin, place.direction)
        return Image(voxels, Geometry(place.size, place.spacing)), meta

    def _stated_rescale(self, modality: str) -> Optional[Tuple[float, float]]:
        """Slope and intercept of the DICOM attributes, which cost no copy of the image; None where the values have to tell."""
        info = self.image.getInfo().getDicomInfo()
        tags = {int(tag) for tag in info.getTags()} if info is not None else set()
        if modality in ("PT", "NM"):
            return None  # each slice has a slope of its own, and the attributes are those of one
        if not {RESCALE_SLOPE, RESCALE_INTERCEPT} <= tags:
            return (1.0, 0.0) if modality == "MR" and tags else None
        try:
            slope, intercept = float(str(info.getValue(RESCALE_SLOPE))), float(str(info.getValue(RESCALE_INTERCEPT)))
        except ValueError:
            return None
        return (slope, intercept) if slope and math.isfinite(slope) and math.isfinite(intercept) else None

    def dicom_info(self) -> bytes:
        """DICOM attributes as ``{"tag as a decimal number": "value"}``."""
        info = self.image.getInfo().getDicomInfo()
        tags = [] if info is None else sorted(int(tag) for tag in info.getTags())
        return json.dumps({str(tag): str(info.getValue(tag)) for tag in tags}).encode("ascii")


def _sample(array: np.ndarray) -> np.ndarray:
    """Values of evenly spaced voxels, at most 64 along an axis."""
    some: np.ndarray = array[tuple(slice(None, None, n // 64 + 1) for n in array.shape)].astype(np.float64)
    return some.ravel()


def _compared(stored: np.ndarray, real: np.ndarray) -> Optional[Tuple[float, float]]:
    """The slope and intercept that make `stored` values `real`; None where there are none."""
    low, high = int(stored.argmin()), int(stored.argmax())
    if stored.shape != real.shape or not stored[low] < stored[high]:
        return None
    slope = float("%.6g" % ((real[high] - real[low]) / (stored[high] - stored[low])))
    intercept = float("%.6g" % (real[low] - slope * stored[low]))
    error = np.abs(stored * slope + intercept - real).max()
    return (slope, intercept) if slope and error <= 1e-4 * np.ptp(real) else None


class TaskInput:
    """Images for one task, and on request their DICOM attributes and contours.

    Parameters
    ----------
    images, model : in the order of the model's inputs; its ``human_readable_id``
    with_dicom_info : whether DICOM attributes leave the workstation
    contour_names : contours of the first image to send: None for none, empty for all
    say : gets a sentence for what a person may want to know
    """

    def __init__(
        self,
        images: Sequence[WorkstationImage],
        model: str,
        *,
        with_dicom_info: bool = False,
        contour_names: Optional[Sequence[str]] = None,
        say: Say = lambda sentence: None,
    ) -> None:
        self.images = list(images)
        self.model = model
        self._with_dicom_info = with_dicom_info
        self._contour_names = None if contour_names is None else [unicodedata.normalize("NFC", name).strip() for name in contour_names]
        self._say = say

    @classmethod
    def of(cls, session: Any, images: Sequence[Any], model: str, **options: Any) -> TaskInput:
        """Of images as the workstation hands them out."""
        return cls([WorkstationImage(session, image) for image in images], model, **options)

    @contextlib.contextmanager
    def archive(self) -> Iterator[str]:
        """Path of the request archive, gone afterwards whatever happens; `InputError` where something cannot be sent."""
        if not self.images:
            raise InputError("there is no image to send", "Choose at least one.")
        with scratch() as folder:
            path = os.path.join(folder, "request.zip")
            with RequestWriter(path) as writer:
                self._write(writer)
            yield path

    def _write(self, writer: RequestWriter) -> None:
        grids = []
        for number, image in enumerate(self.images):
            with _named(number):
                grids.append(image.grid())
        contours = self._contours()
        for number, image in enumerate(self.images):
            with _named(number):
                writer.add_image(*image.volume(grids[number], self._say))
            if self._with_dicom_info:
                writer.add_bytes("tmp_%04d.dicom_info.json" % number, image.dicom_info())
        for name, contour in contours:
            self._add_contour(writer, name, contour, grids[0].geometry)

    def _contours(self) -> List[Tuple[str, Any]]:
        """Contours to send and their names; all that are asked for are there, and none is empty."""
        wanted = self._contour_names
        if wanted is None:
            return []
        named = [(contour_name(contour), contour) for contour in list(self.images[0].image.getContours())]
        missing = set(wanted).difference(name for name, _ in named)
        if missing:
            raise InputError("the first image has no contour %s" % ", ".join(map(repr, sorted(missing))), _WRITE_NAMES)
        chosen = [(name, contour, bool(contour.isEmpty())) for name, contour in named if not wanted or name in wanted]
        empty = [name for name, _, is_empty in chosen if is_empty]
        if empty:
            self._say("Empty contours are not sent: %s." % ", ".join(empty))
        return [(name, contour) for name, contour, is_empty in chosen if not is_empty]

    def _add_contour(self, writer: RequestWriter, name: str, contour: Any, place: Geometry) -> None:
        factor = contour_factor(contour, place.size)
        voxels = contour.getData().copyToNPArray()
        if factor is None or voxels.shape != place.refined(factor).shape:
            sizes = (name, words(voxels.shape), words(place.shape))
            raise GeometryError("the contour %s has %s voxels on an image of %s" % sizes, "Leave it out.")
        grid = place.refined(factor)
        mask = voxels.view(np.uint8) if voxels.dtype.itemsize == 1 else (voxels != 0).view(np.uint8)
        about: Dict[str, Any] = {"name": name, "dimensions": grid.size, "multiplier": factor}
        about.update(spacing=grid.spacing, origin=grid.origin, direction=grid.direction)
        stem = _file_name(name, writer)
        writer.add_nifti(stem + ".nii.gz", Image(mask, Geometry(grid.size, grid.spacing)))
        writer.add_bytes(stem + ".json", json.dumps(about).encode("ascii"))


@contextlib.contextmanager
def _named(number: int) -> Iterator[None]:
    """Errors say of which image they are, counted from 0."""
    try:
        yield
    except DelineateError as error:
        which = "the %s image" % _ORDINALS[number] if number < len(_ORDINALS) else "image %d" % (number + 1)
        error.message = "%s: %s" % (which, error.message)
        error.args = (error.message,)
        raise


def _file_name(name: str, writer: RequestWriter) -> str:
    """What a contour's file is called, without suffix: allowed everywhere, no image's, and no other's whatever its case."""
    clean = _FORBIDDEN.sub("_", name).lstrip(". ")
    clean = clean.encode("utf-8")[:_LONGEST].decode("utf-8", "ignore").rstrip(". ")
    if not clean or _RESERVED.match(clean):
        clean = "contour_" + clean
    stem, number = clean, 1
    while writer.has(stem + ".nii.gz") or writer.has(stem + ".json"):
        number += 1
        stem = "%s_%d" % (clean, number)
    return stem
