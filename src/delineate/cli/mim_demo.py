"""``delineate mim demo``: the built extension in a stand-in for the workstation, against a server of its own; the result as a picture."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import click

from delineate.cli.embedded import embedded_server
from delineate.cli.output import write_error
from delineate.cli.printable import printable
from delineate.client.packing import published
from delineate.errors import TaskEndedError
from delineate.files import read_volume
from delineate.mim.packaging.build import build
from delineate.pictures import preview
from delineate.segmentation import Segmentation
from delineate.testing.mimhost import Host, HostFailure, Outcome, Runner, running
from delineate.testing.phantoms import chest_ct
from delineate.volume import Volume

SIZE, SPACING = (170, 150, 110), (2.4, 2.5, 3.0)  # of the phantom: voxels, mm
MULTIPLIER = (2, 2, 1)  # voxels of a contour in each voxel of the image, along x, y, z
LONGEST = 600  # seconds for a task


@click.command(short_help="Show what the extension does with an image.")
@click.argument("image", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--model", "-m", default="lungs-ct", show_default=True, help="Name of the model.")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the picture.")
@click.option(
    "--models", "folders", multiple=True, type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of models for the server; repeatable.",
)  # fmt: skip
def demo(image: Path | None, model: str, output: Path, folders: tuple[Path, ...]) -> None:
    """Show what the extension does with IMAGE, or with a chest phantom, where there is no workstation.

    The zip is built and loaded by a stand-in for the workstation (delineate.testing.mimhost); server and worker are real. The task is
    sent by InferenceServer1images and fetched by InferenceServerGetFromUid.
    """
    begin = time.monotonic()
    volume = read_volume(image) if image else chest_ct(SIZE, SPACING).volume
    click.echo(f"image: {printable(image.name) if image else 'a chest phantom'}, {volume.geometry}")
    picture = output / "mim.png"
    segmentation = _delineated(volume, model, folders)
    for structure in segmentation:
        click.echo(f"  {printable(structure.name):<24} {segmentation.volume_ml(structure.name):>10.1f} ml")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with published(picture) as file:
            file.write(preview(volume, segmentation, title=f"{model}: contours in the workstation"))
    except OSError as error:
        raise write_error(error, picture) from error
    click.echo(f"wrote {printable(str(picture))} after {time.monotonic() - begin:.1f} s")


def _delineated(volume: Volume, model: str, folders: tuple[Path, ...]) -> Segmentation:
    """The contours that are on the image when the extension has done its work."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="delineate-")))
        built = build()
        (folder / "extension.zip").write_bytes(built.data)
        host = stack.enter_context(Host(multiplier=MULTIPLIER))
        runner = stack.enter_context(running(host, folder / "extension.zip"))
        click.echo(f"extension: {len(built.entries)} entry points, {len(built.data):,} bytes, loaded")
        server = stack.enter_context(embedded_server(folders))
        click.echo(f"server: {server}")
        image = host.image_from_volume(volume)
        uid = _run(runner, "InferenceServer1images", image, model, 0, server).value
        _run(runner, "InferenceServerGetFromUid", uid, image, server, 2, LONGEST)
        click.echo(f"contours, {' x '.join(map(str, MULTIPLIER))} voxels in each of the image's:")
        return image.segmentation()


def _run(runner: Runner, name: str, *arguments: object) -> Outcome:
    """Run an entry point and say what the workstation's log says.

    Raises
    ------
    TaskEndedError
        It failed, with the sentence that the person at the workstation sees.
    """
    click.echo(f"{name}:")
    try:
        outcome = runner.run(name, *arguments)
    except HostFailure as error:
        _say(error.outcome)
        raise TaskEndedError(f"{name} failed: {error}") from None
    _say(outcome)
    click.echo(f"  done after {outcome.seconds:.1f} s")
    return outcome


def _say(outcome: Outcome) -> None:
    for line in outcome.log:
        click.echo(f"  log, {line.level}: {printable(line.text)}")
