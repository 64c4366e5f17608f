"""``delineate conformance``: does a server speak a dialect of the protocol?"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from delineate.cli.connection import CA_OPTION, TOKEN_FILE_OPTION, TOKEN_OPTION
from delineate.cli.printable import printable
from delineate.client.secret_files import read_token
from delineate.errors import ConnectionFailedError
from delineate.testing.conformance import SUITES, run
from delineate.testing.conformance.checks import UNSPOKEN


@click.command()
@click.argument("url")
@click.option("--dialect", type=click.Choice(list(SUITES)), required=True)
@click.option("--model", default="noop", show_default=True, help="A model on that server that takes one image and ends soon.")
@TOKEN_FILE_OPTION
@TOKEN_OPTION
@CA_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def conformance(
    url: str, dialect: str, model: str, token_file: Path | None, token: str | None, ca_file: Path | None, as_json: bool
) -> None:
    """Check the server at URL, of whatever make; exit code 4 when a check fails.

    It posts small tasks; of the MONAI Label API it adds images to the datastore and removes them.
    """
    checks = run(url, dialect, model, read_token(token_file) if token_file else token, ca_file)
    if all(check.detail.startswith(UNSPOKEN) for check in checks):
        reason = checks[0].detail.removeprefix(UNSPOKEN).removeprefix(": ")
        raise ConnectionFailedError(
            f"{url} could not be spoken to: {reason}", "Check the server's address and port, and that the server runs."
        )
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in checks]))
    else:
        for check in checks:
            click.echo(f"{'pass' if check.passed else 'FAIL'}  {check.name}{': ' + printable(check.detail) if check.detail else ''}")
    sys.exit(0 if all(check.passed for check in checks) else 4)
