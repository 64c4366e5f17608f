"""From the input blob to decoded images: unpack, decode, fingerprint."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from delineate import files
from delineate.errors import ArchiveError, DelineateError, ModelError
from delineate.geometry import Geometry
from delineate.model import AS_SENT, Model
from delineate.protocols.archive import ArchiveReader, ImageMeta, Limits, image_meta, request_images
from delineate.volume import Volume

ADVICE = "Send three-dimensional images of one grid, each a complete file."
MOST_META = 1 << 20  # bytes of a file that describes an image


@dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """What was sent, unpacked and decoded.

    folder : where the images are as files, as sent; images : in order, where they are in the patient as far as that is
    known; header : grid of the first image as its own header has it, for the result; factor : contour grid over image
    grid, x, y, z; place : where the first image truly is, None where its sender did not say.
    """

    folder: Path
    images: tuple[Volume, ...]
    header: Geometry
    factor: tuple[int, int, int]
    place: Geometry | None = None


def stage(archive: Path, folder: Path, model: Model, limits: Limits, checkpoint: Callable[[], None]) -> Sent:
    """Unpack a request archive into the empty `folder` and decode every image. `checkpoint` may raise to stop in between.

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
    decoded = []
    for name in names:
        checkpoint()
        decoded.append(_decode(folder, files_sent, name, model))
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
    )


class _Decoded(NamedTuple):
    header: Geometry
    image: Volume
    factor: tuple[int, int, int]
    place: Geometry | None


def _decode(folder: Path, files_sent: Container[str], name: str, model: Model) -> _Decoded:
    path = folder / name
    try:
        volume = files.read_volume(path)
        meta = image_meta(files_sent, lambda place: _small_file(folder / place), name)
        place = _place(volume.geometry, meta)
    except (DelineateError, MemoryError) as error:
        message = error.message if isinstance(error, DelineateError) else "it does not fit into memory"
        advice = error.advice if isinstance(error, DelineateError) else "Send a smaller image."
        raise ModelError(f"{name}: {_without_folder(message, folder)}", advice or ADVICE, "input") from error
    # The protocol sends stored values; what makes them real stands in the metadata where the header does not say it.
    slope, intercept = (volume.slope, volume.intercept) if volume.is_rescaled else (meta.slope, meta.intercept)
    modality, units = volume.modality or meta.modality, volume.units or meta.units
    # Workstations write NIfTI without direction. A model that takes what is sent relies on that; for one that declares an
    # orientation the place in the metadata counts.
    geometry = volume.geometry if place is None or model.orientation == AS_SENT else place
    image = replace(volume, geometry=geometry, slope=slope, intercept=intercept, modality=modality, units=units)
    return _Decoded(volume.geometry, image, meta.scaling_factor, place)


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
