"""``delineate conformance``: does a server speak a dialect of the protocol?"""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from delineate.testing.conformance import run


@click.command()
@click.argument("url")
@click.option("--dialect", type=click.Choice(["seed", "v1", "v2"]), required=True)
@click.option("--model", default="noop", show_default=True, help="A model on that server that takes one image and ends soon.")
@click.option("--token", envvar="DELINEATE_TOKEN", help="For servers that want one; better given as DELINEATE_TOKEN.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def conformance(url: str, dialect: str, model: str, token: str | None, as_json: bool) -> None:
    """Check the server at URL, of whatever make; exit code 4 when a check fails. It posts small tasks."""
    checks = run(url, dialect, model, token)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in checks]))
    else:
        for check in checks:
            click.echo(f"{'pass' if check.passed else 'FAIL'}  {check.name}{'' if check.passed else ': ' + check.detail}")
    sys.exit(0 if all(check.passed for check in checks) else 4)
