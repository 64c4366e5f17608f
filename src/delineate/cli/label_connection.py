"""Options of every ``delineate label`` command, and the client they make."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from delineate.cli.connection import CA_OPTION, DEFAULT_SERVER, TOKEN_FILE_OPTION, TOKEN_OPTION
from delineate.cli.kept_tokens import kept_token
from delineate.cli.printable import printable
from delineate.client.monai_label import MONAILabelClient
from delineate.client.secret_files import read_token
from delineate.errors import DelineateError, InputError, SettingsError
from delineate.protocols.monai_label_failures import MONAILabelClientException

Command = TypeVar("Command", bound=Callable[..., Any])

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
QUIET_OPTION = click.option("--quiet", "-q", is_flag=True, help="No progress.")
PARAMETERS_OPTION = click.option(
    "--param", "-P", "parameters", multiple=True, metavar="NAME=VALUE",
    help="A parameter of the request; the value is JSON where it can be, else text. Repeatable.",
)  # fmt: skip
_OPTIONS = (
    click.option("--server", metavar="URL", envvar="DELINEATE_SERVER", help="The server, with its path prefix if it has one."),
    TOKEN_FILE_OPTION,
    TOKEN_OPTION,
    CA_OPTION,
    click.option("--insecure", is_flag=True, help="Do not verify the server's certificate. For tests only."),
    click.option("--client-id", help="The name under which you annotate."),
    click.option("--timeout", type=float, default=3600.0, show_default=True, help="Seconds on the clock until it gives up."),
)


def label_options(command: Command) -> Command:
    """Decorate a command with the options that `speaking` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def speaking(
    server: str | None,
    token_file: Path | None,
    token: str | None,
    ca_file: Path | None,
    insecure: bool,
    client_id: str | None,
    timeout: float,
    folder: Path | None = None,
    progress: Callable[[float | None, str], None] | None = None,
) -> Iterator[MONAILabelClient]:
    """A client for the options of `label_options`; failures leave as the errors they came from, for their exit codes.

    Without a token given, the one that ``delineate label login`` kept for this server is sent. folder : for results.
    """
    url = server or DEFAULT_SERVER
    if token_file is not None:
        token = read_token(token_file)
    try:
        with MONAILabelClient(
            url, folder, client_id, token=token, ca_file=ca_file, verify=not insecure, timeout=timeout, progress=progress
        ) as client:
            if token is None:
                client.update_auth(kept_token(url))
            yield client
    except MONAILabelClientException as error:
        cause = error.__cause__
        if isinstance(cause, DelineateError):
            raise cause from None
        if isinstance(cause, OSError):
            raise InputError(error.message, error.advice) from None
        raise


def say(value: Any, as_json: bool, text: str) -> None:
    """Print an answer, as JSON or in words."""
    click.echo(printable(json.dumps(value, ensure_ascii=False)) if as_json else printable(text, lines=True))


def read_parameters(given: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` as a dictionary."""
    read: dict[str, Any] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise SettingsError(f"{entry!r} is no parameter", "Write --param NAME=VALUE.")
        try:
            read[name] = json.loads(value)
        except ValueError:
            read[name] = value
    return read
