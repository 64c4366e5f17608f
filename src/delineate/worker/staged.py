"""A task's images, ready for its model, however they came: in an archive, or by reference from where they lie."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from delineate import files, nifti
from delineate.errors import GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.model import AS_SENT, Model
from delineate.orientation import is_same_place, reorientation
from delineate.protocols.dicom_request import DicomAsked
from delineate.protocols.reference import Place, Reference
from delineate.protocols.request_archive import meta_of
from delineate.resampling import labels_to_grid, to_model_grid
from delineate.segmentation import Segmentation
from delineate.volume import Volume
from delineate.worker.convert import converted, to_model
from delineate.worker.images import Key, WarmImage, WarmImages, as_read
from delineate.worker.referred import Files, named, readable, suffix_of
from delineate.worker.series import ReadImage, read_image
from delineate.worker.stage import ADVICE, Sent, require_enough, require_one_grid

if TYPE_CHECKING:
    from delineate.dicom.source import Series

_RAW_LABELS: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # by bytes of a voxel
RAW_SUFFIX: Final = ".bin"


@dataclass(frozen=True, kw_only=True, eq=False)
class Staged:
    """What a model is given.

    images : as the model declares them; grids : of the images as they came, in the patient as far as that is known;
    header : grid of the first as its own header has it; place : where it truly is, None where nobody said; factor : contour
    grid over image grid, x, y, z; label : on the grid of the first of `images`; suffix : of the first image's file; fill :
    writes the images as files into a folder, None where they are in `folder` already; series : what the first image was read
    from, None where it is no DICOM; notes : sentences on what was odd about the images.
    """

    images: tuple[Volume, ...]
    grids: tuple[Geometry, ...]
    header: Geometry
    place: Geometry | None = None
    factor: tuple[int, int, int] = (1, 1, 1)
    label: np.ndarray | None = None
    suffix: str = ".nii.gz"
    folder: Path | None = None
    fill: Callable[[Path], None] | None = None
    series: Series | None = None
    notes: tuple[str, ...] = ()

    @property
    def contours(self) -> Geometry:
        """The grid of the result."""
        return self.header.refined(self.factor) if self.factor != (1, 1, 1) else self.header


def from_archive(sent: Sent, model: Model) -> Staged:
    """The images of a request archive."""
    images = to_model(sent.images, model)
    as_sent = model.orientation == AS_SENT and sent.are_files
    return Staged(
        images=images,
        grids=tuple(image.geometry for image in sent.images),
        header=sent.header,
        place=sent.place,
        factor=sent.factor,
        folder=sent.folder if as_sent else None,
        fill=None if as_sent else _writer_of(images, with_meta=not sent.are_files),
        series=sent.series,
        notes=sent.notes,
    )


class ReferredImages:
    """Stages tasks by reference.

    Parameters
    ----------
    found : finds the files; warm : keeps what was decoded; scratch : an empty folder for links, emptied after the task;
    checkpoint : may raise to stop in between.
    """

    def __init__(self, found: Files, warm: WarmImages, scratch: Path, checkpoint: Callable[[], None]) -> None:
        self._files = found
        self._warm = warm
        self._scratch = scratch
        self._checkpoint = checkpoint

    def stage(self, reference: Reference, model: Model, asked: DicomAsked) -> Staged:
        """The images of a reference, decoded and converted only where they are not warm; `asked` as for an archive.

        Raises
        ------
        ModelError
            Kind ``input``: gone, changed, not allowed, not readable, too few, of different grids; a label on another grid.
        """
        require_enough(len(reference.images), model)
        images = []
        for index, place in enumerate(reference.images):
            self._checkpoint()
            images.append(self._image(place, model, index, replace(asked, series="") if index else asked))
        headers = tuple(image.header for image in images)
        if model.one_grid:
            require_one_grid([place.name for place in reference.images], headers)
        seen = images[0].volume.geometry
        return Staged(
            images=tuple(image.volume for image in images),
            grids=headers,
            header=headers[0],
            place=headers[0],
            label=None if reference.label is None else self._label(reference.label, headers[0], seen, model),
            suffix=suffix_of(reference.images[0].name),
            fill=lambda folder: self._fill(folder, reference, model, images),
            series=images[0].series,
        )

    def _image(self, place: Place, model: Model, index: int, asked: DicomAsked) -> WarmImage:
        if place.path:
            self._files.find(place)  # one that is warm must still be there and allowed
        wanted = model.inputs[min(index, len(model.inputs) - 1)]
        raw_key = as_read(place.key, asked)
        key: Key = (*raw_key, model.orientation, model.spacing, wanted.units)
        found = self._warm.get(key)
        if found is not None:
            return found
        raw = self._warm.get(raw_key) or self._decoded(place, asked, raw_key)
        volume = converted(raw.volume, model, wanted)
        return self._warm.keep(key, volume, raw.header, raw.series, place.path)

    def _decoded(self, place: Place, asked: DicomAsked, key: Key) -> WarmImage:
        self._warm.forget_gone()
        with self._files.reading(place) as path:
            volume, series, _ = readable(place, lambda: self._read(place, path, asked), ADVICE)
        return self._warm.keep(key, volume, volume.geometry, series, place.path)

    def _read(self, place: Place, path: Path, asked: DicomAsked) -> ReadImage:
        return read_image(named(place, path, self._scratch), asked, self._scratch, place.name)

    def _label(self, place: Place, grid: Geometry, seen: Geometry, model: Model) -> np.ndarray:
        path = self._files.find(place)
        labels = readable(place, lambda: self._read_label(place, path, grid), ADVICE)
        self._files.require_unchanged(place, path)
        if model.orientation == AS_SENT:
            return np.ascontiguousarray(labels)
        turned = to_model_grid(Volume(labels, grid), model.orientation)
        if turned.geometry.matches(seen):
            return turned.voxels
        return labels_to_grid(Segmentation.from_labels(turned.voxels, turned.geometry, {}), seen).layers[0]

    def _read_label(self, place: Place, path: Path, grid: Geometry) -> np.ndarray:
        if place.name.lower().endswith(RAW_SUFFIX):
            return _raw_labels(path, grid)
        segmentation = files.read_segmentation(named(place, path, self._scratch))
        if len(segmentation.layers) != 1:
            raise ImageError("it holds structures that overlap", "Send one label map.")
        if not is_same_place(grid, segmentation.geometry):
            raise GeometryError(
                f"it is on another grid than the image: {segmentation.geometry} against {grid}", "Draw the label on the image itself."
            )
        turned = segmentation.mapped(reorientation(segmentation.geometry, grid.axis_codes))
        return np.ascontiguousarray(turned.layers[0])

    def _fill(self, folder: Path, reference: Reference, model: Model, images: list[WarmImage]) -> None:
        """The images as files: as they are where they are NIfTI and the model takes them so."""
        for index, (place, image) in enumerate(zip(reference.images, images, strict=True)):
            target = folder / f"tmp_{index:04d}.nii.gz"
            if model.orientation == AS_SENT and place.name.lower().endswith(".nii.gz"):
                with self._files.reading(place) as path:
                    shutil.copyfile(path, target)
            else:
                nifti.write(target, image.volume)
            (folder / f"tmp_{index:04d}.meta.json").write_bytes(meta_of(image.volume).to_json())


def _writer_of(images: tuple[Volume, ...], *, with_meta: bool) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for index, image in enumerate(images):
            nifti.write(folder / f"tmp_{index:04d}.nii.gz", image)
            if with_meta:
                (folder / f"tmp_{index:04d}.meta.json").write_bytes(meta_of(image).to_json())

    return fill


def _raw_labels(path: Path, grid: Geometry) -> np.ndarray:
    """Voxels without a header, in the order of the image's own."""
    count = int(np.prod(grid.size))
    dtype = _RAW_LABELS.get(path.stat().st_size // count)
    if dtype is None or path.stat().st_size != count * np.dtype(dtype).itemsize:
        raise InputError(
            f"it has {path.stat().st_size} bytes, which are not the {count} voxels of the image", "Draw the label on the image itself."
        )
    return np.fromfile(path, dtype=np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False).reshape(grid.shape)
