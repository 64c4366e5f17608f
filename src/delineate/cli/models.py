"""``delineate models``: what a server, or a folder, can delineate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from delineate.cli.connection import connect, connection_options
from delineate.cli.doctor import examine_models
from delineate.cli.embedded import embedded_server
from delineate.cli.printable import printable
from delineate.cli.table import print_table


@click.command()
@click.option(
    "--models",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of models beside the built-in ones, where no server is asked; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def models(folders: tuple[Path, ...], as_json: bool, server: str | None, **connection: Any) -> None:
    """List the models of a server; without --server, the built-in ones and those in --models."""
    if server is None:
        click.echo("No server was asked (--server URL): these are the built-in models and those of --models.", err=True)
        for finding in examine_models(None, folders):
            if finding.level == "problem":
                click.echo(printable(f"problem: {finding.detail}. {finding.advice}"), err=True)
        with embedded_server(folders) as url, connect(url) as client:
            rows = client.models()
    else:
        with connect(server, **connection) as client:
            rows = client.models()
    if as_json:
        click.echo(printable(json.dumps(rows, ensure_ascii=False)))
        return
    print_table(["name", "description"], [[row.get("human_readable_id"), row.get("description", "")] for row in rows])
