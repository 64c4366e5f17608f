"""``delineate compare``: two sets of structures of one image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from delineate.cli.image import dicom_options
from delineate.cli.output import write_error
from delineate.cli.printable import printable
from delineate.cli.structures import Source, kind_of, read_source, read_structures
from delineate.cli.table import print_table
from delineate.client.packing import published
from delineate.geometry import Geometry
from delineate.scoring.comparison import StructureScore
from delineate.scoring.comparison import compare as compared
from delineate.scoring.paths import added_path_lengths
from delineate.scoring.tolerance import TOLERANCE
from delineate.segmentation import Segmentation
from delineate.volume import Volume

_NAMES: Final = 'a.json beside a.nii.gz with {"1": "Lung_L"}'


@click.command()
@click.argument("a", type=click.Path(path_type=Path, exists=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True))
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="The image that they are of: for contours, and for a picture.")
@click.option("--tolerance", type=float, default=TOLERANCE, show_default=True, help="Of the surface Dice, mm.")
@click.option("--structure", "names", multiple=True, help="Only this one; repeatable.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="A PNG file: A filled, B a broken line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@dicom_options
def compare(
    a: Path, b: Path, source: Path | None, tolerance: float, names: tuple[str, ...], output: Path | None, as_json: bool, **choices: Any
) -> None:  # fmt: skip
    """Compare the structures of A and B by name: label maps, SEG or RTSTRUCT files.

    Distances and lengths are mm, volumes ml. The added path is what would have to be drawn in the slices of A to make it B.
    """
    notes: list[str] = []
    image = None if source is None else read_source(source, notes, **choices)
    first, second = _read_both(a, b, image, notes)
    scores = compared(first, second, tolerance=tolerance, names=names or None)
    if not any(score.in_a and score.in_b for score in scores):
        notes.append(f"no name is in both {a.name} and {b.name}. A file of label and name beside a label map names its labels: {_NAMES}")
    paths = added_path_lengths(first, second)
    if output is not None:
        _draw(first, second, scores, image, output, f"A: {a.name}    B: {b.name}")
    if as_json:
        rows = [{**score.to_json(), "added_path": round(paths[score.name], 2) if score.name in paths else 0.0} for score in scores]
        click.echo(printable(json.dumps({"structures": rows, "notes": notes}, ensure_ascii=False)))
        return
    _print(scores, paths, tolerance)
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)


def _read_both(a: Path, b: Path, image: Source | None, notes: list[str]) -> tuple[Segmentation, Segmentation]:
    """On the image's grid, or what is in DICOM on the other one's."""
    if image is not None:
        return read_structures(a, image.grid, notes), read_structures(b, image.grid, notes)
    if kind_of(a) and not kind_of(b):
        second = read_structures(b, None, notes)
        return read_structures(a, second.geometry, notes), second
    first = read_structures(a, None, notes)
    grid: Geometry | None = None if kind_of(a) == kind_of(b) == "seg" else first.geometry
    return first, read_structures(b, grid, notes)


def _print(scores: Sequence[StructureScore], paths: dict[str, float], tolerance: float) -> None:
    columns = ["structure", "Dice", f"surface Dice {tolerance:g} mm", "Hausdorff 95 % mm", "Hausdorff mm", "mean mm"]
    columns += ["volume A ml", "volume B ml", "added path mm"]
    rows = [
        [
            score.name, f"{score.dice:.4f}", f"{score.surface_dice:.4f}", _millimetres(score.hausdorff_95),
            _millimetres(score.hausdorff), _millimetres(score.mean_surface), f"{score.volume_a:.2f}" if score.in_a else "-",
            f"{score.volume_b:.2f}" if score.in_b else "-", f"{paths.get(score.name, 0.0):.0f}",
        ]
        for score in scores
    ]  # fmt: skip
    print_table(columns, rows)


def _millimetres(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _draw(a: Segmentation, b: Segmentation, scores: Sequence[StructureScore], image: Source | None, output: Path, title: str) -> None:
    from delineate.pictures import contrast

    volume = image.volume if image is not None else Volume(np.zeros(a.geometry.shape, np.uint8), a.geometry)
    picture = contrast(volume, a, b, [(score.name, _words(score)) for score in scores], title=title)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with published(output) as file:
            file.write(picture)
    except OSError as error:
        raise write_error(error, output) from error
    click.echo(f"wrote {printable(str(output))}", err=True)


def _words(score: StructureScore) -> str:
    """Beside a name in the picture's legend."""
    if score.in_a and score.in_b:
        return f"Dice {score.dice:.2f}"
    return "A alone" if score.in_a else "B alone"
