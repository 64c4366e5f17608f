"""A rules file as the node goes by it, read anew where a person wants that; ``delineate gateway check``: what it names and is not there."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from delineate.cli.connection import CA_OPTION, TOKEN_FILE_OPTION
from delineate.cli.printable import printable
from delineate.client.address import parse_address
from delineate.errors import DelineateError, MissingPartError, SettingsError

if TYPE_CHECKING:
    from delineate.gateway.node_settings import NodeSettings
    from delineate.gateway.rules import Rules, Server

_LOG = logging.getLogger("delineate.gateway")

RULES_OPTION = click.option(
    "--rules",
    default=Path("rules.toml"),
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The rules file.",
)
SERVER_OPTION = click.option("--server", metavar="URL", envvar="DELINEATE_SERVER", help="The server of rules that name none.")


@dataclass(frozen=True, kw_only=True)
class RulesFile:
    """Where the rules are, and where those go that name no server."""

    path: Path
    server: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None

    def read(self) -> tuple[NodeSettings, Rules, Server | None]:
        """Settings of the node, rules, the server of those that name none.

        Raises
        ------
        SettingsError, AddressError
            It makes no sense, or names what could not work whatever is there.
        """
        try:
            from delineate.gateway import rules_file
            from delineate.gateway.destinations import make
            from delineate.gateway.node_settings import NodeSettings
            from delineate.gateway.rules import Rules, Server
        except ModuleNotFoundError as error:
            raise MissingPartError(f"the node's part {error.name}", "dicom") from None
        tables = rules_file.opened(self.path)
        settings, rules = NodeSettings.of(tables), Rules.of(tables)
        for place in rules.destinations.values():
            make(place)  # what its settings name has to be there before anything comes
        if self.server:
            parse_address(self.server)
        default = Server(name="", url=self.server, token_file=self.token_file, ca_file=self.ca_file) if self.server else None
        if default is None and any(not rule.server and not rule.leaves for rule in rules.rules):
            raise SettingsError("there are rules without a server", "Give --server, or write [servers.NAME] into the rules file.")
        return settings, rules, default

    def follow(self, use: Callable[[Rules], None]) -> None:
        """At SIGHUP, have the rules read anew and used; where they make no sense, those that were read before stay."""
        one = threading.Lock()  # at a time: what was read last is used last

        def again() -> None:
            from delineate.gateway.reach import warn

            with one:
                try:
                    _, rules, default = self.read()
                except DelineateError as error:
                    _LOG.error("the rules stay as they were: %s", error.sentence())
                    return
                use(rules)
            _LOG.info("the rules were read anew: %d of them; what stands under [node] is read at the start alone", len(rules.rules))
            warn(rules, default)

        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=again, name="gateway-rules", daemon=True).start())


@click.command(short_help="Ask whether what the rules name is there.")
@RULES_OPTION
@SERVER_OPTION
@TOKEN_FILE_OPTION
@CA_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(rules: Path, server: str | None, token_file: Path | None, ca_file: Path | None, as_json: bool) -> None:
    """Ask the servers and destinations that the rules name whether they are there, and have the models.

    Nothing of a patient is sent. The exit code is 2 where something is missing.
    """
    _, read, default = RulesFile(path=rules, server=server, token_file=token_file, ca_file=ca_file).read()
    from delineate.gateway.reach import missing

    sentences = missing(read, default)
    if as_json:
        click.echo(printable(json.dumps({"missing": sentences}, ensure_ascii=False)))
    else:
        for sentence in sentences:
            click.echo(printable(sentence))
        if not sentences:
            click.echo("all servers, models and destinations of the rules are there")
    if sentences:
        raise SystemExit(2)
