"""``delineate user``: what it does, what it refuses, and that no password is seen."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from delineate.cli.main import cli
from delineate.errors import DelineateError, InputError, SettingsError
from delineate.server.accounts.passwords import Passwords
from delineate.store.database import Database
from delineate.store.users import UnknownUserError, UserStore

GOOD = "correct horse battery"


def run(data: Path, *words: str, given: str = GOOD + "\n") -> Result:
    return CliRunner().invoke(cli, ["user", *words, "--data", str(data)], input=given)


def error_of(result: Result) -> DelineateError:
    assert isinstance(result.exception, DelineateError), result.output
    return result.exception


def test_users_come_and_go(tmp_path: Path) -> None:
    assert "added alice, reviewer, to" in run(tmp_path, "add", "alice", "--role", "reviewer", "--password-stdin").output
    assert run(tmp_path, "add", "bob", "--full-name", "Bob B", "--email", "b@x.example", "--password-stdin").exit_code == 0
    assert run(tmp_path, "roles", "bob", "admin").output == "bob is admin\n"
    listed = json.loads(run(tmp_path, "list", "--json").output)
    assert [(row["name"], row["role"], row["full_name"], row["email"]) for row in listed] == [
        ("alice", "reviewer", "", ""),
        ("bob", "admin", "Bob B", "b@x.example"),
    ]
    assert all("password" not in row for row in listed)
    table = run(tmp_path, "list").output
    assert "b@x.example" in table
    assert "argon2" not in table
    assert run(tmp_path, "remove", "alice").output == "removed alice\n"
    assert [row["name"] for row in json.loads(run(tmp_path, "list", "--json").output)] == ["bob"]


def test_a_password_is_changed(tmp_path: Path) -> None:
    run(tmp_path, "add", "alice", "--password-stdin")
    assert run(tmp_path, "password", "alice", "--password-stdin", given="another good one\r\n").exit_code == 0
    database = Database(f"sqlite:///{tmp_path / 'delineate.db'}")
    kept = UserStore(database).require("alice").password
    database.close()
    assert [Passwords().is_right(text, kept) for text in ("another good one", GOOD)] == [True, False]


@pytest.mark.parametrize(
    ("words", "given", "kind"),
    [
        (("add", "alice", "--password-stdin"), GOOD, InputError),  # taken
        (("add", "no name", "--password-stdin"), GOOD, InputError),
        (("add", "bob", "--password-stdin"), "short", InputError),
        (("add", "bob", "--password-stdin"), "", InputError),
        (("add", "bob"), GOOD, InputError),  # nobody to ask
        (("password", "bob", "--password-stdin"), GOOD, UnknownUserError),
        (("roles", "bob", "admin"), "", UnknownUserError),
        (("remove", "bob"), "", UnknownUserError),
    ],
)
def test_what_is_refused(tmp_path: Path, words: tuple[str, ...], given: str, kind: type[DelineateError]) -> None:
    run(tmp_path, "add", "alice", "--password-stdin")
    error = error_of(run(tmp_path, *words, given=given))
    assert isinstance(error, kind)
    assert error.advice
    assert [row["name"] for row in json.loads(run(tmp_path, "list", "--json").output)] == ["alice"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert isinstance(error_of(run(tmp_path / "typo", "list")), SettingsError)
    assert not (tmp_path / "typo").exists()


def test_there_is_no_option_for_a_password(tmp_path: Path) -> None:
    assert run(tmp_path, "add", "bob", "--password", GOOD).exit_code == 2


def test_a_terminal_does_not_show_the_password(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "delineate.cli", "user", "add", "bob", "--data", str(tmp_path)]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    said = b""
    try:
        for asked in (b"Password", b"Again"):
            while asked not in said:  # the echo is off once it asks
                said += os.read(terminal, 4096)
            while not said.rstrip(b" ").endswith(b":"):
                said += os.read(terminal, 4096)
            os.write(terminal, GOOD.encode() + b"\n")
        while b"added bob" not in said:
            said += os.read(terminal, 4096)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert GOOD.encode() not in said
