"""DICOM series as a task's images: read with what refers to them, which an answer in DICOM needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from delineate import files
from delineate.errors import ImageError, InputError, ModelError
from delineate.prompt import Prompts
from delineate.protocols.dicom_request import DicomAsked, not_dicom
from delineate.volume import Volume

if TYPE_CHECKING:
    from delineate.dicom.source import Series


class ReadImage(NamedTuple):
    """An image; what contours and segments refer to, None where it did not come from DICOM; sentences on what was odd."""

    volume: Volume
    series: Series | None = None
    notes: tuple[str, ...] = ()


def read_image(path: Path, asked: DicomAsked, scratch: Path, name: str = "") -> ReadImage:
    """Read an image of any format.

    Parameters
    ----------
    path : a file, or a folder of the slices of a series
    asked : which series, and what to do with what is odd about it
    scratch : an empty folder for the files of a zip, emptied after the task
    name : what a folder is called for people

    Raises
    ------
    ImageError, GeometryError, ArchiveError
        Not readable; a series with damaged files, which nobody would hear of.
    MissingPartError
        The reader of this format is not installed.
    """
    if not files.is_dicom(path):
        return ReadImage(files.read_volume(path))
    from delineate.dicom.reader import extracted, read_group
    from delineate.dicom.series import scan

    found = replace(scan(extracted(path, scratch / f"{path.name}.files")), name=name or path.name)
    group = found.one(asked.series)
    missed = [str(item) for item in found.missed(group)]
    if missed:  # before a gap is told of, which may be theirs
        raise ImageError(f"files that may be slices cannot be used: {'; '.join(missed[:5])}", "Send these files again, or remove them.")
    image = read_group(group, gaps=asked.gaps, doubled=asked.doubled)  # type: ignore[arg-type]
    return ReadImage(image.volume, image.series, image.notes)


def require_known_places(series: Series | None, prompts: Prompts, params: Mapping[str, Any]) -> None:
    """Refuse points by index in a series whose slices are on no grid: who sent them does not know the volume made of it: `InputError`."""
    is_by_index = bool(prompts.clicks or prompts.boxes) and params.get("prompt_space", "index") == "index"
    if series is not None and series.planes.geometry is None and is_by_index:
        raise InputError(
            "the slices are tilted or unevenly spaced: indices do not say where a point is",
            "Send points and boxes in millimetres (prompt_space lps or ras).",
        )


def require_source(series: Series | None, asked: DicomAsked) -> None:
    """Refuse an answer in DICOM that cannot be made, before a model runs: `ModelError` of kind ``input``."""
    if not asked.output:
        return
    if series is None:
        error = not_dicom()
        raise ModelError(error.message, error.advice, "input")
    if series.missing_uids:
        raise ModelError(
            f"nothing in DICOM can refer to the image: it has no {', no '.join(series.missing_uids)}",
            "Export the image again with its UIDs, or ask for an answer in another format.",
            "input",
        )
