"""What is sent: images of the workstation and what is known of them, packed into a temporary request archive.

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
import unicodedata
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from delineate import nifti
from delineate.errors import DelineateError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.protocols.task_archive import ImageMeta, RequestWriter
from delineate.volume import Volume

Say = Callable[[str], None]

SPAN = 256.0  # mm between the points from which the grid is solved
MISPLACED = 0.1  # voxels by which the far corner may be beside the grid that was solved
PROBE_NAME = "delineate probe"

RESCALE_INTERCEPT, RESCALE_SLOPE = 0x00281052, 0x00281053
UNTRUSTED_RESCALE = ("PT", "NM")  # slices have slopes of their own, and the attributes are those of one slice

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|tmp_.*)(\..*)?$", re.IGNORECASE)
_LONGEST = 200  # bytes of a file's name before its suffix


class ImageGrid(NamedTuple):
    """Where an image is, LPS mm, and how many voxels of its contours one of its voxels holds along x, y, z."""

    geometry: Geometry
    multiplier: Tuple[int, int, int] = (1, 1, 1)

    @property
    def contours(self) -> Geometry:
        """The grid of the image's contours."""
        return self.geometry.refined(self.multiplier)


def image_grid(session: Any, image: Any) -> ImageGrid:
    """The grid of an image and of its contours.

    The multiplier is that of a contour the image has; without one, that of an empty contour that is made and deleted.

    Raises
    ------
    ImageError
        Not three-dimensional, or without voxels.
    GeometryError
        Points of the patient do not map to its voxels by one regular grid, or its contours do not divide its voxels.
    """
    space = image.getSpace()
    count, size = int(space.getDimensionCount()), tuple(int(n) for n in space.getDataDims())
    if count != 3 or len(size) != 3:
        raise ImageError("the image has %d dimensions" % max(count, len(size)), "Choose a three-dimensional image.")
    if min(size) < 1:
        raise ImageError("the image has no voxels", "Choose another image.")
    # The workstation's spacing is single precision: 1.2 is 1.2000000476837158 there.
    spacing = tuple(float(str(np.float32(v))) for v in image.getNoxelSizeInMm())
    return ImageGrid(_solved(session.getPointFactory(), space, size, spacing), _multiplier(image, size))


def _solved(factory: Any, space: Any, size: Sequence[int], spacing: Sequence[float]) -> Geometry:
    """The grid by which points of the patient become noxels; the centre of a voxel is its index + 0.5 there."""
    system = factory.getDicomCoordSystem()

    def noxel(point: Any) -> np.ndarray:
        found = factory.createPoint(space, system, [float(v) for v in point]).toNoxel()
        return np.array([float(found.getCoord(axis)) for axis in range(3)])

    zero = noxel((0, 0, 0))
    linear = np.stack([noxel(point) - zero for point in SPAN * np.eye(3)], axis=1) / SPAN
    advice = "Resample the image onto a regular grid in the workstation first."
    if not np.isfinite(linear).all() or abs(np.linalg.det(linear)) < 1e-12:
        raise GeometryError("the workstation's points do not tell where the image is in the patient", advice)
    columns = np.linalg.inv(linear)
    direction = columns / np.sqrt((columns**2).sum(axis=0))
    origin = columns @ (0.5 - zero)
    geometry = Geometry(size, spacing, origin.round(6) + 0.0, direction.round(9).ravel() + 0.0)  # type: ignore[arg-type]
    last = np.array(size) - 1.0
    if np.abs(noxel(geometry.to_world(last)) - 0.5 - last).max() > MISPLACED:
        raise GeometryError("the image's voxel size does not fit the workstation's points of the patient", advice)
    return geometry


def _multiplier(image: Any, size: Sequence[int]) -> Tuple[int, int, int]:
    contours = list(image.getContours())
    for contour in contours:
        factor = contour_factor(contour, size)
        if factor is not None:
            return factor
    probe = create_contour(image, free_name(PROBE_NAME, [contour_name(contour) for contour in contours]))
    try:
        factor = contour_factor(probe, size)
    finally:
        try:
            twice(probe.delete)
        except Exception as error:
            raise DelineateError(
                "an empty contour %r may be left on the image: the workstation refused to delete it" % PROBE_NAME, "Delete it by hand."
            ) from error
    if factor is None:
        raise GeometryError("the contours of the image have no whole number of voxels in each of its voxels")
    return factor


def contour_factor(contour: Any, size: Sequence[int]) -> Optional[Tuple[int, int, int]]:
    """Voxels of a contour per voxel of its image of `size`, along x, y, z; None where the two do not fit."""
    factor, dims = [int(n) for n in contour.getMultiplier()], [int(n) for n in contour.getDims()]
    if len(factor) != 3 or min(factor) < 1 or dims != [n * times for n, times in zip(size, factor)]:
        return None
    return factor[0], factor[1], factor[2]


def contour_name(contour: Any) -> str:
    """A contour's name, composed and trimmed as those of results are."""
    return unicodedata.normalize("NFC", str(contour.getInfo().getName())).strip()


def create_contour(image: Any, name: str) -> Any:
    """A new contour of a name that no other has; where the workstation throws, one that it made all the same is deleted."""
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
    """Do it, and once more where it fails: it takes back what must not stay on a patient's image."""
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

    def volume(self, grid: ImageGrid, say: Say) -> Tuple[Volume, ImageMeta]:
        """Stored voxels on their spacing alone, as old models rely on, and what makes them real and places them."""
        place, modality = grid.geometry, str(self.image.getInfo().getModality() or "").strip()
        rescale = self._stated(modality)
        real = None if rescale else _sample(self.image.getScaledData().copyToNPArray())
        voxels = _storable(np.asarray(self.image.getRawData().copyToNPArray()), place, say)
        if real is not None:
            rescale = _compared(_sample(voxels), real)
            if rescale is None:
                say("The real values of an image do not follow from the stored ones by one slope: the model gets stored values alone.")
        slope, intercept = rescale or (1.0, 0.0)
        units = "HU" if modality == "CT" and rescale else ""
        where = (place.spacing, place.origin, place.direction)
        meta = ImageMeta(grid.multiplier, *where, slope, intercept, units, modality, place.origin, place.direction)
        return Volume(voxels, Geometry(place.size, place.spacing)), meta

    def _stated(self, modality: str) -> Optional[Tuple[float, float]]:
        """Slope and intercept as the DICOM attributes have them; None where only the values themselves can tell."""
        if modality in UNTRUSTED_RESCALE:
            return None
        info = self.image.getInfo().getDicomInfo()
        tags = set() if info is None else {int(tag) for tag in info.getTags()}
        if RESCALE_SLOPE in tags and RESCALE_INTERCEPT in tags:
            return _rescale(info.getValue(RESCALE_SLOPE), info.getValue(RESCALE_INTERCEPT))
        return (1.0, 0.0) if modality == "MR" and tags else None

    def dicom_info(self) -> bytes:
        """DICOM attributes as ``{"tag as a decimal number": "value"}``."""
        info = self.image.getInfo().getDicomInfo()
        tags = [] if info is None else sorted(int(tag) for tag in info.getTags())
        return json.dumps({str(tag): str(info.getValue(tag)) for tag in tags}).encode("ascii")


def _storable(voxels: np.ndarray, place: Geometry, say: Say) -> np.ndarray:
    if voxels.ndim != 3:
        raise ImageError("the image has %d dimensions" % voxels.ndim, "Choose a three-dimensional image.")
    if voxels.shape != place.shape:
        raise GeometryError("the image says it has %s voxels and gives %s" % (words(place.shape), words(voxels.shape)))
    if voxels.dtype.kind not in "biuf":
        raise ImageError("the image holds %s values" % voxels.dtype, "Choose an image of one number per voxel.")
    if voxels.dtype.itemsize > 8:
        say("An image of %s values is sent as float64." % voxels.dtype)
        return voxels.astype(np.float64)
    return voxels


def words(shape: Sequence[int]) -> str:
    """The shape (z, y, x) of an array as a size for a person: ``x x y x z``."""
    return " x ".join(str(n) for n in reversed(shape))


def _rescale(slope: Any, intercept: Any) -> Optional[Tuple[float, float]]:
    try:
        numbers = float(str(slope)), float(str(intercept))
    except ValueError:
        return None
    return numbers if all(math.isfinite(n) for n in numbers) and numbers[0] else None


def _sample(array: np.ndarray) -> np.ndarray:
    """Values at every so manyth voxel, at most 64 along an axis."""
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
    """What one task is given: one to four images, and on request their DICOM attributes and contours.

    Parameters
    ----------
    images : in the order of the model's inputs
    model : the model's name (``human_readable_id``)
    with_dicom_info : whether DICOM attributes leave the workstation
    contour_names : contours of the first image that are sent too: None for none, empty for all
    say : gets a sentence for everything a person may want to know
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
        """Path of the request archive, which is gone afterwards whatever happens.

        Raises
        ------
        InputError
            No image, an image that cannot be sent (`ImageError`, `GeometryError`), a contour that is not there.
        """
        if not self.images:
            raise InputError("there is no image to send", "Choose at least one.")
        folder = tempfile.mkdtemp(prefix="delineate-")
        try:
            path = os.path.join(folder, "request.zip")
            with RequestWriter(path) as writer:
                self._write(writer)
            yield path
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, writer: RequestWriter) -> None:
        grids = []
        for number, image in enumerate(self.images, start=1):
            with _named("image %d" % number):
                grids.append(image.grid())
        contours = self._contours()
        for number, image in enumerate(self.images):
            with _named("image %d" % (number + 1)):
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
            raise InputError("the first image has no contour %s" % ", ".join(sorted(missing)), "Check the contours' names.")
        chosen = [(name, contour, bool(contour.isEmpty())) for name, contour in named if not wanted or name in wanted]
        empty = [name for name, _, is_empty in chosen if is_empty]
        if empty:
            self._say("Empty contours are not sent: %s." % ", ".join(empty))
        return [(name, contour) for name, contour, is_empty in chosen if not is_empty]

    def _add_contour(self, writer: RequestWriter, name: str, contour: Any, place: Geometry) -> None:
        factor = contour_factor(contour, place.size)
        voxels = np.asarray(contour.getData().copyToNPArray())
        if factor is None or voxels.shape != place.refined(factor).shape:
            raise GeometryError(
                "the contour %s has %s voxels on an image of %s" % (name, words(voxels.shape), words(place.shape)), "Leave it out."
            )
        grid = place.refined(factor)
        mask = voxels.view(np.uint8) if voxels.dtype.itemsize == 1 else (voxels != 0).view(np.uint8)
        about: Dict[str, Any] = {"name": name, "dimensions": grid.size, "multiplier": factor}
        about.update(spacing=grid.spacing, origin=grid.origin, direction=grid.direction)
        stem = _file_name(name, writer)
        with writer.entry(stem + ".nii.gz", mask.nbytes + (mask.nbytes >> 6) + (1 << 20)) as file:
            nifti.write(file, Volume(mask, Geometry(grid.size, grid.spacing)))
        writer.add_bytes(stem + ".json", json.dumps(about).encode("ascii"))


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors say of what they are."""
    try:
        yield
    except DelineateError as error:
        error.message = "%s: %s" % (what, error.message)
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
