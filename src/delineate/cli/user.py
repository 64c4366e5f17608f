"""``delineate user``: local accounts, on the server's machine, in its data folder."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from delineate.cli.connection import PASSWORD_STDIN_OPTION, piped_password
from delineate.cli.printable import printable
from delineate.cli.table import print_table, when
from delineate.errors import InputError, MissingPartError, SettingsError
from delineate.protocols.monai_label import ROLES

if TYPE_CHECKING:
    from delineate.store.users import UserStore

Command = TypeVar("Command", bound=Callable[..., Any])

_ROLES = click.Choice(ROLES)
_OPTIONS = (
    click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The server's data folder.  [default: delineate-data]"),
    click.option("--settings", "settings_file", type=click.Path(path_type=Path, dir_okay=False), help="The server's TOML file."),
)


def _data_options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def user() -> None:
    """Local accounts of the server whose data folder this is; it may run meanwhile.

    They count where the server is started with accounts = local (docs/accounts.md). Passwords are asked for, or read from
    standard input, and never stand on the command line.
    """


@user.command()
@click.argument("name")
@click.option("--role", type=_ROLES, default="annotator", show_default=True, help="What the user may.")
@click.option("--full-name", default="", help="For people.")
@click.option("--email", default="", help="For people.")
@PASSWORD_STDIN_OPTION
@_data_options
def add(name: str, role: str, full_name: str, email: str, is_piped: bool, **place: Any) -> None:
    """Add the user NAME."""
    with _store(**place) as users:
        file = users.file
        users.require_free(name)  # before somebody thinks of a password
        users.add(name, _hash(_password(is_piped)), role, full_name, email)
    click.echo(f"added {printable(name)}, {role}, to {printable(str(file))}")


@user.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_data_options
def list_users(as_json: bool, **place: Any) -> None:
    """List all users."""
    with _store(**place) as users:
        found = users.users()
    if as_json:
        rows = [{name: value for name, value in vars(known).items() if name != "password"} for known in found]
        click.echo(printable(json.dumps(rows, ensure_ascii=False)))
        return
    print_table(
        ["name", "role", "full name", "e-mail", "changed"],
        [[known.name, known.role, known.full_name, known.email, when(known.changed)] for known in found],
    )


@user.command(short_help="Remove a user.")
@click.argument("name")
@_data_options
def remove(name: str, **place: Any) -> None:
    """Remove the user NAME, whose tokens end at once; what they made stays."""
    with _store(**place) as users:
        users.remove(name)
    click.echo(f"removed {printable(name)}")


@user.command(short_help="Give a user another password.")
@click.argument("name")
@PASSWORD_STDIN_OPTION
@_data_options
def password(name: str, is_piped: bool, **place: Any) -> None:
    """Give the user NAME another password; all tokens of the old one end at once."""
    with _store(**place) as users:
        users.require(name)
        users.set_password(name, _hash(_password(is_piped)))
    click.echo(f"changed the password of {printable(name)}")


@user.command(short_help="Give a user another role.")
@click.argument("name")
@click.argument("role", type=_ROLES)
@_data_options
def roles(name: str, role: str, **place: Any) -> None:
    """Give the user NAME the role ROLE, which holds those before it: user, annotator, reviewer, admin."""
    with _store(**place) as users:
        users.set_role(name, role)
    click.echo(f"{printable(name)} is {role}")


@contextlib.contextmanager
def _store(settings_file: Path | None, data: Path | None) -> Iterator[UserStore]:
    try:
        from delineate.server.settings import Settings
        from delineate.store.database import Database
        from delineate.store.users import UserStore
    except ModuleNotFoundError as error:
        raise MissingPartError(f"the server's part {error.name}", "server") from None
    settings = Settings.load(settings_file, data=data)
    if not settings.database and data is not None and not data.is_dir():
        raise SettingsError(f"there is no folder {data}", "Give --data the data folder of the server; make it first for a new one.")
    with contextlib.closing(Database(settings.database_url)) as database:
        database.migrate()
        yield UserStore(database)


def _password(is_piped: bool) -> str:
    from delineate.server.accounts.passwords import checked_password

    if is_piped:
        return checked_password(piped_password())
    if not sys.stdin.isatty():
        raise InputError("there is no terminal to ask for the password", "Send it to standard input with --password-stdin.")
    return checked_password(click.prompt("Password", hide_input=True, confirmation_prompt="Again", err=True))


def _hash(password: str) -> str:
    from delineate.server.accounts.passwords import Passwords

    return Passwords().hash(password)
