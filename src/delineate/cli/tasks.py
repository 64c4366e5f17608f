"""Commands on the tasks of a server: submit, wait, fetch, cancel, delete, log, tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from delineate.cli.connection import connect, connection_options
from delineate.cli.image import DEIDENTIFY_OPTION, dicom_options, without_patient
from delineate.cli.output import say, write_result
from delineate.cli.printable import printable
from delineate.cli.progress import ProgressDisplay
from delineate.cli.structures import TO_OPTION, contour_options, read_source, require_target, way_to_write
from delineate.cli.table import print_table, when

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress.")
_TIMEOUT = click.option("--timeout", type=float, default=3600.0, show_default=True, help="Seconds on the clock until it gives up.")


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--model", "-m", required=True, help="Name of the model.")
@click.option(
    "--priority", type=click.Choice(["batch", "normal", "interactive"]), help="Interactive goes ahead of normal, normal ahead of batch."
)
@click.option("--key", help="Idempotency key: sent again with the same images it answers the same uid.")
@DEIDENTIFY_OPTION
@_JSON
@_QUIET
@connection_options
def submit(
    images: tuple[Path, ...], model: str, priority: str | None, key: str | None, deidentify: str, as_json: bool, quiet: bool,
    **connection: Any,
) -> None:  # fmt: skip
    """Send IMAGE... to a server and print the uid of the task.

    The uid is a key: whoever knows it can fetch and delete the result.
    """
    sent = without_patient(images, images, deidentify)
    with ProgressDisplay(quiet) as show, connect(**connection, progress=show) as client:
        uid = client.submit(sent, model, priority=priority, key=key)
    click.echo(json.dumps({"uid": uid, "model": model}) if as_json else printable(uid))


@click.command()
@click.argument("uid")
@_TIMEOUT
@_JSON
@_QUIET
@connection_options
def wait(uid: str, timeout: float, as_json: bool, quiet: bool, **connection: Any) -> None:
    """Wait until the task UID has ended; exit code 4 when it failed, 5 when the time passed."""
    with ProgressDisplay(quiet) as show, connect(**connection, progress=show) as client:
        client.wait(uid, timeout=timeout)
    click.echo(json.dumps({"uid": uid, "state": "finished"}) if as_json else "finished")


@click.command()
@click.argument("uid")
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder, a file (.nii.gz, .nrrd, .mha; .dcm with --to), or an archive (.zip).",
)
@click.option("--image", type=click.Path(path_type=Path), help="The image that was sent first: its grid is used, and a picture is drawn.")
@TO_OPTION
@contour_options
@dicom_options
@_JSON
@_QUIET
@connection_options
def fetch(
    uid: str, output: Path, image: Path | None, formats: tuple[str, ...], series: str, fill_gaps: bool, doubled: str | None,
    contours: Mapping[str, Any], as_json: bool, quiet: bool, **connection: Any,
) -> None:  # fmt: skip
    """Fetch the structures of the finished task UID; with a name that ends in .zip, the archive as it is."""
    if output.suffix.lower() != ".zip":
        require_target(output, "structures", formats, image, " as --image")  # a wrong one should not cost a download
    notes: list[str] = []
    source = read_source(image, notes, series=series, fill_gaps=fill_gaps, doubled=doubled) if image else None
    reference = source.volume if source else None
    with ProgressDisplay(quiet) as show, connect(**connection, progress=show) as client:
        if output.suffix.lower() == ".zip":
            output.parent.mkdir(parents=True, exist_ok=True)
            client.fetch_archive(uid, output)
            click.echo(json.dumps({"files": [str(output)]}) if as_json else f"wrote {output}")
            return
        segmentation = client.fetch(uid, geometry=reference.geometry if reference else None)
    how = way_to_write(formats, source, "Delineate", notes, contours)
    written = write_result(segmentation, output, "structures", reference, **how)
    written.notes += notes
    say(written, as_json)


@click.command()
@click.argument("uid")
@_JSON
@connection_options
def cancel(uid: str, as_json: bool, **connection: Any) -> None:
    """Cancel the task UID, waiting or running, and print its state; a running one ends a moment later."""
    with connect(**connection) as client:
        client.cancel(uid)
        state = client.status(uid).state
    click.echo(json.dumps({"uid": uid, "state": state}) if as_json else "cancelling" if state == "running" else printable(state))


@click.command()
@click.argument("uid")
@_JSON
@connection_options
def delete(uid: str, as_json: bool, **connection: Any) -> None:
    """Delete the task UID and its files from the server."""
    with connect(**connection) as client:
        client.delete(uid)
    click.echo(json.dumps({"uid": uid, "deleted": True}) if as_json else "deleted")


@click.command()
@click.argument("uid")
@connection_options
def log(uid: str, **connection: Any) -> None:
    """Print the log that the model left with the task UID (or, with the server's token, of the id that `tasks` shows)."""
    with connect(**connection) as client:
        click.echo(printable(client.log(uid), lines=True), nl=False)


@click.command()
@click.option("--state", type=click.Choice(["pending", "running", "finished", "failed", "cancelled"]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many, newest first.")
@_JSON
@connection_options
def tasks(state: str | None, limit: int, as_json: bool, **connection: Any) -> None:
    """List the tasks of a server: with accounts your own, an administrator's list has all.

    A server without accounts lists them for its token, or for this machine.
    """
    with connect(**connection) as client:
        rows = client.tasks(state=state, limit=limit)
    if as_json:
        click.echo(printable(json.dumps(rows, ensure_ascii=False)))
        return
    print_table(
        ["id", "model", "state", "progress", "created", "seconds", "reason"],
        [
            [
                row.get("id"), row.get("model"), row.get("state"), f"{row.get('fraction') or 0:.0%}", when(row.get("created")),
                _seconds(row), (row.get("failure") or {}).get("message", ""),
            ]
            for row in rows
        ],
    )  # fmt: skip


def _seconds(row: dict[str, Any]) -> str:
    if row.get("started") is None or row.get("finished") is None:
        return ""
    return f"{row['finished'] - row['started']:.1f}"
