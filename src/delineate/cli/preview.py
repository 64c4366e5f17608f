"""``delineate preview``: a picture of structures on an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from delineate.cli.image import dicom_options
from delineate.cli.output import write_error
from delineate.cli.printable import printable
from delineate.cli.structures import read_source, read_structures
from delineate.client.packing import published
from delineate.pictures import preview as draw


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("segmentation", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The PNG file to write.")
@click.option("--title", default="", help="Printed above the picture.")
@click.option(
    "--window", nargs=2, type=float, default=None, metavar="LOW HIGH", help="Values drawn black and white; found out where not given."
)
@dicom_options
def preview(image: Path, segmentation: Path, output: Path, title: str, window: tuple[float, float] | None, **choices: Any) -> None:
    """Draw SEGMENTATION, a label map, SEG or RTSTRUCT file, on IMAGE: three planes through the structures, contours and names."""
    notes: list[str] = []
    source = read_source(image, notes, **choices)
    picture = draw(source.volume, read_structures(segmentation, source.grid, notes), title=title, window=window)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with published(output) as file:
            file.write(picture)
    except OSError as error:
        raise write_error(error, output) from error
    click.echo(f"wrote {output}")
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
