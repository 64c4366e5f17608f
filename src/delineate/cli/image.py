"""Images given on the command line, and what to make of odd DICOM series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from delineate.files import is_dicom, read_volume
from delineate.volume import Volume

Command = TypeVar("Command", bound=Callable[..., Any])

DEIDENTIFY_OPTION = click.option(
    "--deidentify",
    type=click.Choice(["off", "on", "required"]),
    default="off",
    envvar="DELINEATE_DEIDENTIFY",
    show_default=True,
    help="Send voxels and grid alone, no text of any header, and refuse images on whose pixels a name may be written.",
)


def dicom_options(command: Command) -> Command:
    """Options by which a person chooses where a DICOM folder leaves a choice."""
    for option in (
        click.option(
            "--doubled", type=click.Choice(["first", "last"]), help="Of DICOM slices at one place take the first or last by name."
        ),
        click.option("--fill-gaps", is_flag=True, help="Interpolate where DICOM slices are missing."),
        click.option("--series", default="", help="Which image of a DICOM folder: its number in `delineate dicom ls`, or its series UID."),
    ):
        command = option(command)
    return command


def read_image(path: Path, notes: list[str], *, series: str, fill_gaps: bool, doubled: str | None) -> Volume:
    """One image; DICOM as chosen. `notes` gets sentences on what is odd."""
    if not is_dicom(path):
        return read_volume(path)
    from delineate.dicom.reader import read

    return read(path, choice=series, gaps="fill" if fill_gaps else "refuse", doubled=doubled or "refuse", notes=notes).volume  # type: ignore[arg-type]


def without_patient(paths: Sequence[Path], images: Sequence[Path | Volume], deidentify: str, series: str = "") -> list[Path | Volume]:
    """Images as they may leave, by `DEIDENTIFY_OPTION`.

    paths : where they lie; images : these, or what was read from there; series : which of a DICOM folder

    Raises
    ------
    DeidentificationError
        A name may be written on the pixels of one.
    """
    if deidentify == "off":
        return list(images)
    from delineate.dicom.deidentify import require_no_names

    for path in paths:
        if is_dicom(path):
            require_no_names(path, series)
    return [image if isinstance(image, Volume) else read_volume(image) for image in images]
