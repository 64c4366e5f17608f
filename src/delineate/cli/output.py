"""Structures to files: label map, names, picture; and what was written, for people and for programs."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from delineate.cli.printable import as_file_name, printable
from delineate.errors import InputError, MissingPartError, StorageFullError
from delineate.files import write_segmentation
from delineate.segmentation import Segmentation
from delineate.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
_DICOM = (".rtstruct.dcm", ".seg.dcm")  # as we name them in a folder, where both may lie


@dataclass
class Written:
    """What a command wrote: files by kind, structures with their volumes in millilitres."""

    files: list[Path] = field(default_factory=list)
    picture: Path | None = None
    structures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "files": [str(path) for path in self.files],
            "picture": str(self.picture) if self.picture else None,
            "structures": self.structures,
            "notes": self.notes,
        }


def target_path(output: Path, name: str, suffix: str = ".nii.gz") -> Path:
    """The path of what is written: `output` itself if it names such a file, else ``output/NAME`` with the suffix.

    Raises
    ------
    InputError
        A file that is no image, or what looks like the name of one: a folder ``x.txt`` is hardly ever meant.
    """
    wanted = SUFFIXES if suffix in SUFFIXES else (Path(suffix).suffix,)
    if output.name.lower().endswith(wanted):
        return output
    if output.suffix.lower() == ".dcm" and not output.is_dir():
        raise InputError(f"the name {output.name} does not say which kind of DICOM", "Say --to rtstruct or --to seg.")
    if output.is_file():
        raise InputError(f"{output} is a file", f"Give a folder, or a file name that ends in {', '.join(wanted)}.")
    if re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]{1,4}", output.suffix) and not output.is_dir():
        advice = f"Use a name that ends in {', '.join(wanted)}, or a folder; a folder with a dot in its name must be there already."
        raise InputError(f"structures cannot be written as {output.suffix}", advice)
    return output / f"{as_file_name(name)}{suffix}"


def require_folder(path: Path) -> None:
    """`InputError` where a file surely cannot be written because of the folder that it is to lie in."""
    place = next(folder for folder in path.absolute().parents if os.path.lexists(folder))  # `exists` raises where one may not look
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "is a folder that you may not write to" if place.is_dir() else "is no folder"
        raise InputError(f"{path} cannot be written: {place} {reason}", "Give another place.")


def write_result(
    segmentation: Segmentation,
    output: Path,
    name: str,
    image: Volume | None,
    title: str = "",
    suffix: str = ".nii.gz",
    write: Callable[[Path, Segmentation], list[Path]] | None = None,
) -> Written:
    """Write label maps, names and, where there is an image and the part that draws, a picture; all of them or nothing.

    suffix, write : of another format, and what writes it

    Raises
    ------
    StorageFullError
        No space is left where they should go.
    """
    path = target_path(output, name, suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".delineate-") as folder:
            written = _write_files(segmentation, Path(folder) / path.name, image, title, write or write_segmentation)
            for part in sorted(Path(folder).iterdir()):
                part.replace(path.parent / part.name)
    except OSError as error:
        raise write_error(error, path) from error
    written.files = [path.parent / file.name for file in written.files]
    written.picture = path.parent / written.picture.name if written.picture else None
    return written


def write_error(error: OSError, path: Path) -> StorageFullError | InputError:
    """What to raise where a result cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFullError(
            f"{path} was not written: {(error.strerror or 'no space left').lower()}",
            f"Free space in {path.parent}, or give another place.",
        )
    return InputError(f"{path} was not written: {(error.strerror or str(error)).lower()}", "Check the folder and its permissions.")


def _write_files(
    segmentation: Segmentation, path: Path, image: Volume | None, title: str, write: Callable[[Path, Segmentation], list[Path]]
) -> Written:  # fmt: skip
    written = Written(files=write(path, segmentation))
    for structure in segmentation:
        written.structures.append(
            {
                "name": structure.name,
                "label": structure.label,
                "layer": structure.layer,
                "volume_ml": round(segmentation.volume_ml(structure.name), 3),
            }
        )
    if image is not None:
        try:
            from delineate.pictures import preview

            picture = path.with_name(stem(path) + ".png")
            picture.write_bytes(preview(image, segmentation, title=title))
            written.picture = picture
        except MissingPartError as error:
            written.notes.append(error.sentence())
    return written


def stem(path: Path) -> str:
    """File name without its image suffix."""
    for suffix in (*SUFFIXES, *_DICOM):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def say(written: Written, as_json: bool, **more: Any) -> None:
    """Print what was written, as lines for a person or as one JSON object."""
    if as_json:
        click.echo(printable(json.dumps({**more, **written.to_dict()}, ensure_ascii=False)))
        return
    for row in written.structures:
        empty = "  (empty)" if row["volume_ml"] == 0 else ""
        click.echo(f"  {printable(row['name']):<24} {row['volume_ml']:>10.1f} ml{empty}")
    for path in [*written.files, *([written.picture] if written.picture else [])]:
        click.echo(f"wrote {printable(str(path))}")
    for note in written.notes:
        click.echo(f"note: {printable(note)}", err=True)
