"""``delineate convert``: images and structures from one format to another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from delineate.cli.image import dicom_options
from delineate.cli.output import stem, write_error
from delineate.cli.printable import printable
from delineate.cli.structures import (
    DICOM,
    FORMATS,
    Source,
    contour_options,
    ending_of,
    format_of,
    has_names,
    kind_of,
    read_source,
    read_structures,
    write_structures,
)
from delineate.errors import InputError
from delineate.files import write_volume


@click.command()
@click.argument("given", metavar="IN", type=click.Path(path_type=Path, exists=True))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(list(FORMATS)), help="The format; by default what the name of OUT says.")
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="The image that structures are of: a series, or any image.")
@click.option("--labels", is_flag=True, help="IN is a label map, although nothing names its labels.")
@click.option(
    "--kind", type=click.Choice(["binary", "fractional", "labelmap"]), default="binary", show_default=True, help="Which kind of SEG."
)
@click.option(
    "--packing", type=click.Choice(["none", "rle", "deflated"]), default="none", show_default=True, help="How to make a SEG smaller."
)
@contour_options
@dicom_options
def convert(
    given: Path, output: Path, to: str | None, source: Path | None, labels: bool, kind: str, packing: str, contours: Mapping[str, Any],
    **choices: Any,
) -> None:  # fmt: skip
    """Convert IN to OUT: an image, or structures, among NIfTI, NRRD, MetaImage, and in DICOM series, RTSTRUCT and SEG.

    IN is structures if it is an RTSTRUCT or SEG file, if a file or metadata beside its voxels names labels, or if OUT is
    one of these. RTSTRUCT and SEG refer to a series: --source. Images are not written as DICOM.
    """
    notes: list[str] = []
    wanted = to or format_of(output)
    target = _target(output, given, wanted)
    if not (labels or wanted in DICOM or kind_of(given) or has_names(given)):
        volume = read_source(given, notes, **choices).volume
        written = [target]
        _prepare(target)
        write_volume(target, volume)
    else:
        image: Source | None = None if source is None else read_source(source, notes, **choices)
        structures = read_structures(given, None if image is None else image.grid, notes)
        _prepare(target)
        written = write_structures(structures, target, wanted, image, notes, kind=kind, packing=packing, **contours)
        count = len(structures.structures)
        click.echo(printable(f"{count} structure{'' if count == 1 else 's'}: {', '.join(structures.names)}"))
    for path in written:
        click.echo(f"wrote {printable(str(path))}")
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)


def _target(output: Path, given: Path, wanted: str) -> Path:
    if not wanted:
        raise InputError(f"the name {output.name} does not say a format", f"Say --to, one of {', '.join(FORMATS)}.")
    if output.is_dir() or not output.suffix:
        output = output / f"{stem(given)}{FORMATS[wanted]}"
    if output.exists() and output.samefile(given):
        raise InputError(f"{output} is what is converted", "Give another name.")
    if (format_of(output) or "dicom") != (wanted if wanted not in DICOM else "dicom"):
        raise InputError(f"{output.name} is not a name for {wanted}", f"Use one that ends in {ending_of(wanted)}.")
    return output


def _prepare(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, target) from error
