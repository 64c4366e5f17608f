"""From the input blob to decoded images: verify, unpack, decode, fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from delineate import files
from delineate.errors import ArchiveError, DelineateError, ModelError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.protocols.archive import ArchiveReader, ImageMeta, Limits, request_images
from delineate.volume import Volume

ADVICE = "Send three-dimensional images of one grid, each a complete file."


@dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """What was sent, unpacked and decoded.

    folder : where the images are as files, as sent; images : in order; factor : contour grid over image grid, x, y, z.
    """

    folder: Path
    images: tuple[Volume, ...]
    factor: tuple[int, int, int]

    @property
    def grids(self) -> list[dict[str, Any]]:
        """Fingerprints of the inputs."""
        return [image.geometry.to_dict() for image in self.images]


def stage(archive: Path, folder: Path, model: Model, limits: Limits, checkpoint: Callable[[], None]) -> Sent:
    """Unpack a request archive into `folder` and decode every image. `checkpoint` may raise to stop in between.

    Raises
    ------
    ModelError
        Kind ``input``: no usable archive, an image that cannot be read, too few images, grids that differ.
    """
    try:
        reader = ArchiveReader(archive, limits)
        names = request_images(reader.names())
        reader.extract(folder)
    except ArchiveError as error:
        raise ModelError(error.message, error.advice, "input") from error
    if len(names) < len(model.inputs):
        raise ModelError(
            f"model {model.name} needs {len(model.inputs)} images and {len(names)} came",
            "Send the images in the order the model lists.",
            "input",
        )
    images = []
    for name in names:
        checkpoint()
        images.append(_decode(folder, name))
    if model.one_grid:
        _require_one_grid(names, images)
    return Sent(folder=_images_folder(folder, names), images=tuple(image for image, _ in images), factor=_factor(names, images))


def _decode(folder: Path, name: str) -> tuple[Volume, ImageMeta]:
    path = folder / name
    try:
        volume = files.read_volume(path)
        meta = _meta(path)
    except (DelineateError, MemoryError) as error:
        message = error.message if isinstance(error, DelineateError) else "it does not fit into memory"
        advice = error.advice if isinstance(error, DelineateError) else "Send a smaller image."
        raise ModelError(f"{name}: {message.replace(str(path), name)}", advice or ADVICE, "input") from error
    # The protocol sends stored values; what makes them real stands in the metadata where the header does not say it.
    if not volume.is_rescaled:
        volume = replace(volume, slope=meta.slope, intercept=meta.intercept)
    return replace(volume, modality=volume.modality or meta.modality, units=volume.units or meta.units), meta


def _meta(image: Path) -> ImageMeta:
    """The image's own ``NAME.meta.json``, else ``meta.json`` beside it, else the defaults."""
    own = image.with_name(f"{_stem(image.name)}.meta.json")
    for path in (own, image.with_name("meta.json")):
        if path.is_file():
            return ImageMeta.from_json(path.read_bytes())
    return ImageMeta()


def _stem(name: str) -> str:
    lower = name.lower()
    suffix = next((s for s in (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd") if lower.endswith(s)), "")
    return name[: len(name) - len(suffix)]


def _require_one_grid(names: list[str], images: list[tuple[Volume, ImageMeta]]) -> None:
    first: Geometry = images[0][0].geometry
    for name, (volume, _) in zip(names[1:], images[1:], strict=True):
        difference = volume.geometry.difference(first)
        if difference:
            raise ModelError(
                f"{name} is on another grid than {names[0]}: {difference}; {volume.geometry} against {first}",
                "Resample the images onto one grid first.",
                "input",
            )


def _factor(names: list[str], images: list[tuple[Volume, ImageMeta]]) -> tuple[int, int, int]:
    """The scaling factor of the first image: results are on its grid."""
    x, y, z = images[0][1].scaling_factor
    return int(x), int(y), int(z)


def _images_folder(folder: Path, names: list[str]) -> Path:
    """The folder all images are in: `folder`, or the one top folder that some archivers add."""
    parents = {PurePosixPath(name).parent for name in names}
    return folder / parents.pop() if len(parents) == 1 else folder
