"""From the input blob to decoded images: unpack, decode, fingerprint."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from delineate.errors import ArchiveError, DelineateError, MissingPartError, ModelError
from delineate.geometry import Geometry
from delineate.model import AS_SENT, Model
from delineate.protocols.archive import ArchiveReader, ImageMeta, Limits, image_meta, request_images
from delineate.protocols.dicom_request import DicomAsked
from delineate.protocols.request_series import WHOLE
from delineate.volume import Volume
from delineate.worker.series import read_image

if TYPE_CHECKING:
    from delineate.dicom.source import Series

ADVICE = "Send three-dimensional images of one grid, each a complete file."
_NO_CHOICE = DicomAsked()
MOST_META = 1 << 20  # bytes of a file that describes an image


@dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """What was sent, unpacked and decoded.

    folder : where the images are as files, as sent; images : in order, where they are in the patient as far as that is
    known; header : grid of the first image as its own header has it, for the result; factor : contour grid over image
    grid, x, y, z; place : where the first image truly is, None where its sender did not say; series : what the first image
    was read from, None where it is no DICOM; are_files : whether every image is a file that models of the convention read;
    notes : sentences on what was odd about the images.
    """

    folder: Path
    images: tuple[Volume, ...]
    header: Geometry
    factor: tuple[int, int, int]
    place: Geometry | None = None
    series: Series | None = None
    are_files: bool = True
    notes: tuple[str, ...] = ()


def stage(
    archive: Path, folder: Path, model: Model, limits: Limits, checkpoint: Callable[[], None], asked: DicomAsked = _NO_CHOICE
) -> Sent:  # fmt: skip
    """Unpack a request archive into the empty `folder` and decode every image. `checkpoint` may raise to stop in between.

    `asked` : which series the first image is, and what to do with what is odd about series.

    Raises
    ------
    ModelError
        Kind ``input``: no usable archive, an image that cannot be read, too few images, grids that differ.
    """
    try:
        reader = ArchiveReader(archive, limits)
        reader.extract(folder)
        files_sent = frozenset(reader.names())
        names = request_images(reader)
    except ArchiveError as error:
        raise ModelError(error.message, error.advice, "input") from error
    require_enough(len(names), model)
    decoded: list[_Decoded] = []
    for name in names:
        checkpoint()
        # A choice among several series is one among those of the first image.
        decoded.append(_decode(folder, files_sent, name, model, replace(asked, series="") if decoded else asked))
    if model.one_grid:
        # Headers of workstations tell no place: two images of one size may be anywhere, so what is truly known counts.
        places = [one.place for one in decoded if one.place is not None]
        require_one_grid(names, places if len(places) == len(names) else [one.image.geometry for one in decoded])
    return Sent(
        folder=_images_folder(folder, names),
        images=tuple(one.image for one in decoded),
        header=decoded[0].header,
        factor=decoded[0].factor,
        place=decoded[0].place,
        series=decoded[0].series,
        are_files=all(one.series is None for one in decoded),
        notes=tuple(note for one in decoded for note in one.notes),
    )


class _Decoded(NamedTuple):
    header: Geometry
    image: Volume
    factor: tuple[int, int, int]
    place: Geometry | None
    series: Series | None
    notes: tuple[str, ...]


def _decode(folder: Path, files_sent: Container[str], name: str, model: Model, asked: DicomAsked) -> _Decoded:
    path = folder / name
    shown = "the archive" if name == WHOLE else name
    try:
        volume, series, notes = read_image(path, asked, folder, shown)
        meta = image_meta(files_sent, lambda place: _small_file(folder / place), name)
        place = _place(volume.geometry, meta) if series is None else volume.geometry
    except (DelineateError, MemoryError) as error:
        message = error.message if isinstance(error, DelineateError) else "it does not fit into memory"
        advice = error.advice if isinstance(error, DelineateError) else "Send a smaller image."
        message = _without_folder(message, folder)
        kind = "missing" if isinstance(error, MissingPartError) else "input"
        raise ModelError(message if message.startswith(shown) else f"{shown}: {message}", advice or ADVICE, kind) from error
    # The protocol sends stored values; what makes them real stands in the metadata where the header does not say it.
    slope, intercept = (volume.slope, volume.intercept) if volume.is_rescaled else (meta.slope, meta.intercept)
    modality, units = volume.modality or meta.modality, volume.units or meta.units
    # Workstations write NIfTI without direction. A model that takes what is sent relies on that; for one that declares an
    # orientation the place in the metadata counts.
    geometry = volume.geometry if place is None or model.orientation == AS_SENT else place
    image = replace(volume, geometry=geometry, slope=slope, intercept=intercept, modality=modality, units=units)
    return _Decoded(volume.geometry, image, meta.scaling_factor, place, series, tuple(f"{shown}: {note}" for note in notes))


def _place(header: Geometry, meta: ImageMeta) -> Geometry | None:
    """Where the image is in the patient, by the metadata that our own clients write."""
    if meta.true_direction is None or meta.true_origin is None:
        return None
    return Geometry(header.size, header.spacing, _vector(meta.true_origin), meta.true_direction)


def _vector(values: tuple[float, ...]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ArchiveError(f"true_origin has {len(values)} numbers instead of 3")
    return (values[0], values[1], values[2])


def _small_file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_META + 1)
    if len(content) > MOST_META:
        raise ArchiveError(f"{path.name} is larger than {MOST_META} bytes", "Send what describes one image there, and no more.")
    return content


def _without_folder(message: str, folder: Path) -> str:
    """A message about a file, named as the sender knows it."""
    return message.replace(f"{folder}/", "")


def require_enough(count: int, model: Model) -> None:
    """Refuse fewer images than the model lists: `ModelError` of kind ``input``."""
    if count < len(model.inputs):
        raise ModelError(
            f"model {model.name} needs {len(model.inputs)} images and {count} came",
            "Send the images in the order the model lists.",
            "input",
        )


def require_one_grid(names: Sequence[str], grids: Sequence[Geometry]) -> None:
    """Refuse images of different grids: `ModelError` of kind ``input`` that names both."""
    for name, grid in zip(names[1:], grids[1:], strict=True):
        difference = grid.difference(grids[0])
        if difference:
            raise ModelError(
                f"{name} is on another grid than {names[0]}: {difference}; {grid} against {grids[0]}",
                "Resample the images onto one grid first.",
                "input",
            )


def _images_folder(folder: Path, names: list[str]) -> Path:
    """The folder all images are in: `folder`, or the one top folder that some archivers add."""
    parents = {posixpath.dirname(name) for name in names}
    return folder / parents.pop() if len(parents) == 1 else folder
