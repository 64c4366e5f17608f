"""Images given on the command line, and what to make of odd DICOM series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from delineate.files import is_dicom, read_volume
from delineate.volume import Volume

Command = TypeVar("Command", bound=Callable[..., Any])


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
