"""Tokens and passwords in files, where neither a command line nor a log shows them."""

from __future__ import annotations

from pathlib import Path

from delineate.errors import SettingsError


def read_token(file: Path) -> str:
    """The token on the first line of a file; `SettingsError` where there is none."""
    try:
        return file.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError, UnicodeDecodeError):
        raise SettingsError(f"no token could be read from {file}", "Write the token on the first line of that file.") from None


def read_secret(file: Path) -> str:
    """The token or password that a file holds and nothing else; `SettingsError` where there is none, or more."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}", "Check its name and who may read it.") from None
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise SettingsError(f"{file} holds no token or password in one line", "Write it there, alone.")
    return text
