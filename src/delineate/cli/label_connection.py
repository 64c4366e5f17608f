"""Options of every ``delineate label`` command, the client they make, and where tokens are kept."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from delineate.cli.connection import CA_OPTION, DEFAULT_SERVER, TOKEN_FILE_OPTION, TOKEN_OPTION, read_token
from delineate.cli.printable import printable
from delineate.client.address import parse_address
from delineate.client.monai_label import MONAILabelClient
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


# ---------------------------------------------------------------- tokens


def token_store() -> Path:
    """The file with the tokens of ``delineate label login``, by server."""
    return Path(click.get_app_dir("delineate")) / "label-tokens.json"


def kept_token(url: str) -> dict[str, str] | None:
    """The token kept for this server, None where there is none."""
    return _kept().get(parse_address(url).origin)


def keep_token(url: str, token: Mapping[str, Any]) -> Path:
    """Keep a token for this server, readable by this user alone; the file."""
    file = token_store()
    tokens = {**_kept(), parse_address(url).origin: {name: token[name] for name in ("token_type", "access_token") if name in token}}
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as target:
            json.dump(tokens, target)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def _kept() -> dict[str, dict[str, str]]:
    try:
        value = json.loads(token_store().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise SettingsError(f"{token_store()} cannot be read", "Remove it, and log in again with `delineate label login`.") from None
    return value if isinstance(value, dict) else {}
