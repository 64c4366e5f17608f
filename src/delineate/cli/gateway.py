"""``delineate gateway``: a DICOM node that carries series to models, and results to where they belong."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delineate.cli.connection import CA_OPTION, TOKEN_FILE_OPTION
from delineate.cli.gateway_explain import explain
from delineate.cli.gateway_rules import RULES_OPTION, SERVER_OPTION, RulesFile, check
from delineate.cli.printable import printable
from delineate.cli.table import print_table, when

if TYPE_CHECKING:
    from delineate.gateway.node import Node

_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("delineate-gateway"),
    show_default=True,
    help="The folder of what the node holds.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_GRACE = 20.0  # seconds
_STATES = ("arriving", "whole", "working", "done", "held", "noted", "replaced")


@click.group()
def gateway() -> None:
    """A DICOM node: series come in, rules choose models, results go to where they belong."""


gateway.add_command(explain)
gateway.add_command(check)


@gateway.command(short_help="Run the node.")
@RULES_OPTION
@_DATA
@SERVER_OPTION
@TOKEN_FILE_OPTION
@CA_OPTION
@click.option("--host", help="Address to listen on, instead of the rules file's.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for any free one, instead of the rules file's.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def serve(
    rules: Path, data: Path, server: str | None, token_file: Path | None, ca_file: Path | None, host: str | None, port: int | None,
    log_level: str,
) -> None:  # fmt: skip
    """Run the node; prints one line when it listens. It ends on SIGTERM or Ctrl-C, and goes on at the next start. At SIGHUP it reads
    its rules anew.

    The rules file holds rules, servers, destinations and, in the table [node], how the node listens and keeps.
    """
    from dataclasses import replace

    file = RulesFile(path=rules, server=server, token_file=token_file, ca_file=ca_file)
    settings, read, default = file.read()
    settings = replace(settings, host=settings.host if host is None else host, port=settings.port if port is None else port)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for name in ("httpx", "httpcore", "pynetdicom", "pydicom"):  # they say more than a log may hold
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from delineate.gateway.node import Node
    from delineate.gateway.reach import warn

    node = Node(settings, read, default, data)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop(node))
    file.follow(node.use)
    click.echo(f"listening as {settings.ae} at {settings.host}:{node.port}")
    sys.stdout.flush()
    threading.Thread(target=warn, args=(read, default), name="gateway-ask", daemon=True).start()  # it may take its time
    node.run()


def _stop(node: Node) -> None:
    """Let what is begun end, for a while; the next start goes on with the rest."""
    node.stop()
    timer = threading.Timer(_GRACE, os._exit, (0,))
    timer.daemon = True
    timer.start()


@gateway.command("list", short_help="List the series, and how each stands.")
@_DATA
@click.option("--state", type=click.Choice(_STATES), default=None, help="Those in one state alone.")
@_JSON
def list_(data: Path, state: str | None, as_json: bool) -> None:
    """List the series that the node holds, and how each stands."""
    from delineate.gateway.watching import listed, open_holdings

    found = listed(open_holdings(data), state or "")
    if as_json:
        _print_json(found)
        return
    columns = ["series", "from", "modality", "objects", "MB", "version", "state", "last object", "why"]
    rows = [
        [item["series"], item["sender"], item["modality"], item["instances"], item["megabytes"], item["version"] or "", item["state"],
         when(item["last"]), item["reason"]]
        for item in found
    ]  # fmt: skip
    print_table(columns, rows)


@gateway.command(short_help="Show all about one series.")
@click.argument("series", type=int)
@_DATA
@_JSON
def show(series: int, data: Path, as_json: bool) -> None:
    """Show all about SERIES, by its number: versions, jobs, deliveries, reasons, and what happened."""
    from delineate.gateway.watching import open_holdings, shown

    found = shown(open_holdings(data), series)
    if as_json:
        _print_json(found)
        return
    click.echo(printable(f"series {series} from {found['sender']}, {found['modality']}: {found['state']}"))
    click.echo(printable(f"UID {found['uid']}, {found['instances']} objects, {found['megabytes']} MB"))
    for item in found["versions"]:
        _say(f"version {item['number']}, {item['instances']} objects", item)
    for item in found["jobs"]:
        _say(f"job {item['id']}, version {item['version']}, rule {item['rule']}", item)
        for delivery in item["deliveries"]:
            _say(f"  to {delivery['destination']}", delivery)
    for item in found["aside"]:
        click.echo(printable(f"kept aside: {item['file']}: {item['reason']}"))
    for item in found["events"]:
        click.echo(printable(f"{when(item['at'])}  {item['words']}"))


@gateway.command(short_help="Try again what failed of a series.")
@click.argument("series", type=int)
@_DATA
@_JSON
def retry(series: int, data: Path, as_json: bool) -> None:
    """Try again now what failed of SERIES, or waits for its next try."""
    from delineate.gateway.watching import open_holdings
    from delineate.gateway.watching import retry as again

    count = again(open_holdings(data), series)
    if as_json:
        _print_json({"series": series, "tried_again": count})
    else:
        click.echo(f"series {series}: {count or 'nothing'} to be tried again")


@gateway.command(short_help="Let a series go on as it is.")
@click.argument("series", type=int)
@_DATA
@_JSON
def release(series: int, data: Path, as_json: bool) -> None:
    """Let SERIES go on as it is: one that is arriving still, whose sender broke off, or with late objects that were noted."""
    from delineate.gateway.watching import open_holdings
    from delineate.gateway.watching import release as go_on

    is_released = go_on(open_holdings(data), series)
    if as_json:
        _print_json({"series": series, "released": is_released})
    else:
        click.echo(f"series {series}: {'goes on as it is' if is_released else 'nothing keeps it; see retry for what failed'}")


def _say(what: str, item: dict[str, Any]) -> None:
    count = item.get("attempts") or 0
    tries = f", tried {'once' if count == 1 else f'{count} times'}" if count else ""
    if tries and item["state"] in ("waiting", "sent"):
        tries += f", next {when(item['due'])}"
    reason = f": {item['reason']}. {item['advice']}".rstrip() if item["reason"] else ""
    click.echo(printable(f"{what}: {item['state']}{tries}{reason}"))


def _print_json(found: Any) -> None:
    click.echo(printable(json.dumps(found, ensure_ascii=False)))
