"""``delineate dicom``: what lies in DICOM folders and files."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click

from delineate.cli.printable import printable
from delineate.cli.table import print_table
from delineate.dicom.planes import SHIFT
from delineate.dicom.reader import looked_at
from delineate.dicom.series import Found, Group, Skipped

_LISTED: Final = 20  # files that are no image; the rest is counted
_UID: Final = 10  # letters of a series' UID

# The first is what --series takes, which the number that the scanner gave is not.
_COLUMNS: Final = (
    "--series", "modality", "matrix", "slices", "spacing mm", "axes", "series number", "uid", "folder", "description", "apart", "state",
)  # fmt: skip
_NEEDLESS: Final = ("series number", "description", "apart")  # where nothing is in them


@click.group()
def dicom() -> None:
    """Look at DICOM files."""


@dicom.command("ls", short_help="List the images in a folder, a zip or a file.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all files that are no image.")
def ls(path: Path, as_json: bool) -> None:
    """List the images in PATH, a folder, a zip or a file, and what is none, with the reason.

    Slices of one image have the same series, frame of reference, matrix, orientation and spacing, and lie at places of
    their own. Pixels are not read.
    """
    with looked_at(path) as found:
        if as_json:
            click.echo(printable(json.dumps(_to_dict(found), ensure_ascii=False)))
            return
        _print(found)


def _print(found: Found) -> None:
    rows = [_row(group) for group in found.groups]
    told = [number for number, column in enumerate(_COLUMNS) if column not in _NEEDLESS or any(row[number] for row in rows)]
    print_table([_COLUMNS[number] for number in told], [[row[number] for number in told] for row in rows])
    notes: dict[str, list[str]] = {}
    for group in found.groups:
        for note in group.notes:
            notes.setdefault(note, []).append(str(group.number))
    for note, numbers in notes.items():
        click.echo(printable(f"image{'' if len(numbers) == 1 else 's'} {', '.join(numbers)}: {note}"))
    if found.skipped:
        click.echo("\nno image:")
        reasons = Counter(item.reason for item in found.skipped)
        shown = [item for item in found.skipped if reasons[item.reason] == 1 or item.error][:_LISTED]
        for item in shown:
            click.echo(printable(f"  {item.name}: {item.reason}"))
        rest = Counter(item.reason for item in found.skipped if item not in shown)
        for reason, count in rest.most_common():
            click.echo(printable(f"  {count} file{'' if count == 1 else 's'}: {reason}"))


def _row(group: Group) -> list[Any]:
    header, planes = group.header, group.planes
    spacing = " x ".join(f"{value:.4g}" for value in (*planes.spacing, planes.usual))
    return [
        group.number, header.text("Modality"), f"{planes.size[0]} x {planes.size[1]}", len(planes), spacing, axes_of(group),
        header.text("SeriesNumber"), _end_of(group.uid), folder_of(group), header.text("SeriesDescription"), group.apart, state_of(group),
    ]  # fmt: skip


def _end_of(uid: str) -> str:
    """As much of a UID as tells it from another: their beginnings are the same. ``--json`` has all of it."""
    return uid if len(uid) <= _UID else f"…{uid[-_UID:]}"


def folder_of(group: Group) -> str:
    """The folder that all its files lie in, below the one that was looked at."""
    return posixpath.commonpath([posixpath.dirname(item.header.name) for item in group.slices]) or "."


def axes_of(group: Group) -> str:
    """Towards what columns, rows and slices grow, such as LPS."""
    return group.planes.plane(0).axis_codes


def state_of(group: Group) -> str:
    """Whether the planes are on a grid, and what is odd about them."""
    planes = group.planes
    words = []
    if planes.doubled:
        words.append(f"{len(planes.doubled)} doubled")
    if planes.gaps:
        words.append(f"{len(planes.gaps)} gap{'' if len(planes.gaps) == 1 else 's'}")
    elif not planes.is_even and not planes.doubled:
        words.append("uneven")
    if not planes.is_straight:
        words.append(f"tilted by {planes.tilt:.1f} degrees" if planes.shear[2] <= SHIFT else "shifted")
    return ", ".join(words) or "regular"


def _to_dict(found: Found) -> dict[str, Any]:
    return {
        "images": [_image(group) for group in found.groups],
        "skipped": [_skipped(item) for item in found.skipped],
    }


def _image(group: Group) -> dict[str, Any]:
    header, planes = group.header, group.planes
    return {
        "number": group.number,
        "series_uid": group.uid,
        "study_uid": header.text("StudyInstanceUID"),
        "modality": header.text("Modality"),
        "series_number": header.text("SeriesNumber"),
        "description": header.text("SeriesDescription"),
        "size": [*planes.size, len(planes)],
        "spacing": [*planes.spacing, planes.usual],
        "axes": axes_of(group),
        "apart": group.apart,
        "state": state_of(group),
        "notes": list(group.notes),
        "files": list(dict.fromkeys(item.header.name for item in group.slices)),
    }


def _skipped(item: Skipped) -> dict[str, Any]:
    return {"name": item.name, "reason": item.reason, "unusable": item.error is not None}
