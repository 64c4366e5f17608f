"""Options of every command that speaks to a server, and the client they make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from delineate.cli.kept_tokens import kept_token
from delineate.client.secret_files import read_token
from delineate.errors import InputError

if TYPE_CHECKING:
    from delineate.client.sync import Client

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_SERVER = "http://127.0.0.1:8000"

TOKEN_FILE_OPTION = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="DELINEATE_TOKEN_FILE",
    help="A file with the token on its first line. Or give the token itself as DELINEATE_TOKEN.",
)
# Not advertised: a command line is visible to other users.
TOKEN_OPTION = click.option("--token", envvar="DELINEATE_TOKEN", hidden=True)
PASSWORD_STDIN_OPTION = click.option(
    "--password-stdin", "is_piped", is_flag=True, help="Read the password from standard input instead of asking for it."
)
CA_OPTION = click.option(
    "--ca", "ca_file", type=click.Path(path_type=Path), envvar="DELINEATE_CA", help="PEM file of the server's private authority."
)
_OPTIONS = (
    click.option("--server", metavar="URL", envvar="DELINEATE_SERVER", help="The server, with its path prefix if it has one."),
    TOKEN_FILE_OPTION,
    TOKEN_OPTION,
    CA_OPTION,
    click.option("--insecure", is_flag=True, help="Do not verify the server's certificate. For tests only."),
    click.option(
        "--dialect",
        type=click.Choice(["seed", "v1", "v2"]),
        help="The dialect of the protocol that the server speaks; found out where it is not given.",
    ),
)


def connection_options(command: Command) -> Command:
    """Decorate a command with the options that `connect` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def connect(
    server: str | None,
    token_file: Path | None = None,
    token: str | None = None,
    ca_file: Path | None = None,
    insecure: bool = False,
    dialect: str | None = None,
    **options: Any,
) -> Client:
    """A client for the options of `connection_options`; `options` go to the client as they are.

    Without a token given, the one that ``delineate label login`` kept for this server is sent.
    """
    from delineate.client.sync import Client  # not above: commands that need the options alone load without images

    url = server or DEFAULT_SERVER
    if token_file is not None:
        token = read_token(token_file)
    elif token is None:
        token = (kept_token(url) or {}).get("access_token")
    return Client(url, token=token, ca_file=ca_file, verify=not insecure, dialect=dialect, **options)


def piped_password() -> str:
    """The password on the first line of standard input; `InputError` where it is no text."""
    try:
        return sys.stdin.buffer.readline(1 << 16).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError("the password is not UTF-8 text", "Send it as text, on one line.") from None
