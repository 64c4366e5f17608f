"""``delineate segment``: images in, structures out, in one command."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delineate.cli.connection import connect, connection_options
from delineate.cli.embedded import embedded_server
from delineate.cli.image import DEIDENTIFY_OPTION, dicom_options, read_image, without_patient
from delineate.cli.output import say, write_result
from delineate.cli.printable import printable
from delineate.cli.progress import ProgressDisplay
from delineate.cli.structures import TO_OPTION, contour_options, read_source, require_target, way_to_write
from delineate.errors import DeadlineError, DelineateError, TaskFailedError
from delineate.files import is_dicom

if TYPE_CHECKING:
    from delineate.client.sync import Client


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--model", "-m", required=True, help="Name of the model; `delineate models` lists them.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="A folder, or a file (.nii.gz, .nrrd, .mha; .dcm with --to)."
)
@TO_OPTION
@contour_options
@click.option(
    "--models",
    "model_folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of models for the embedded server; repeatable.",
)
@DEIDENTIFY_OPTION
@click.option("--timeout", type=float, default=3600.0, show_default=True, help="Seconds on the clock until it gives up.")
@click.option("--no-picture", is_flag=True, help="Do not draw a picture of the result.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.option("--verbose", "-v", is_flag=True, help="Show the log of the embedded server, and the model's where it fails.")
@dicom_options
@connection_options
def segment(
    images: tuple[Path, ...], model: str, output: Path, formats: tuple[str, ...], model_folders: tuple[Path, ...], deidentify: str,
    timeout: float, no_picture: bool, as_json: bool, quiet: bool, verbose: bool, server: str | None, series: str, fill_gaps: bool,
    doubled: str | None, contours: Mapping[str, Any], **connection: Any,
) -> None:  # fmt: skip
    """Delineate IMAGE... and write label map, names and a picture.

    An IMAGE is a NIfTI, NRRD or MetaImage file, or DICOM: a folder or zip of the slices of one series, or a file with frames
    (`delineate dicom ls` shows what is in it). Several images make one task.

    Without --server a server with one worker is started for this one task.
    """
    require_target(output, model, formats, images[0], "")  # a wrong one should not cost a segmentation
    notes: list[str] = []
    choices: dict[str, Any] = {"series": series, "fill_gaps": fill_gaps, "doubled": doubled}
    source = read_source(images[0], notes, **choices)
    reference = source.volume
    # Files go as they are; DICOM is read once, here.
    sent = [read_image(path, notes, **choices) if is_dicom(path) else path for path in images[1:]]
    sent.insert(0, reference if is_dicom(images[0]) else images[0])
    sent = without_patient(images, sent, deidentify, series)
    begin = time.monotonic()
    embedded, uids = server is None, list[str]()
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(ProgressDisplay(quiet))
        if server is None:
            show(None, "starting a server")
            server = stack.enter_context(embedded_server(model_folders, verbose))
        client = stack.enter_context(connect(server, **connection, progress=show))
        try:
            segmentation = client.segment(sent, model, timeout=timeout, submitted=uids.append)
        except (KeyboardInterrupt, DeadlineError):
            if uids and not embedded:
                click.echo(f"The task goes on. Its result: delineate fetch {printable(uids[0])} -o {output} --server {server}", err=True)
            raise
        except TaskFailedError:
            if uids and embedded:  # its log goes with the server
                _show_log(client, uids[0], verbose)
            raise
        show(1.0, "writing")
        how = way_to_write(formats, source, model, notes, contours)
        written = write_result(segmentation, output, model, None if no_picture else reference, title=model, **how)
        written.notes += notes + client.notes
    say(written, as_json, model=model, seconds=round(time.monotonic() - begin, 2))


def _show_log(client: Client, uid: str, verbose: bool) -> None:
    """What a model printed before it failed, for whoever asked for it; else that it can be asked for."""
    with contextlib.suppress(DelineateError):  # the failure itself is what is to be told
        text = client.log(uid)
        if text and verbose:
            click.echo(printable(text, lines=True), err=True)
        elif text:
            click.echo(f"The model left a log of {len(text.splitlines())} lines; --verbose shows it.", err=True)
