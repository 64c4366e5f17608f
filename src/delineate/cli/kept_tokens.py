"""Tokens of ``delineate label login``, kept for the servers they are for, in a file of this user alone."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from delineate.client.address import parse_address
from delineate.errors import SettingsError


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
