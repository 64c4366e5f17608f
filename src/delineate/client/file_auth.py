"""Who we are to a server, as files say it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx

from delineate.client.secret_files import read_secret


class FileAuth(httpx.Auth):
    """A bearer token or a password, read anew for each request: one that was replaced in its file counts at once.

    token_file : of the token; password_file : of the password of `user`, or of ``name:password`` where that is empty; neither
    for a server that asks for nothing. A request raises `SettingsError` where a file holds no secret.
    """

    def __init__(self, token_file: Path | None = None, password_file: Path | None = None, user: str = "") -> None:
        self._token_file, self._password_file, self._user = token_file, password_file, user

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add it to a request."""
        if self._token_file is not None:
            request.headers["Authorization"] = f"Bearer {read_secret(self._token_file)}"
            yield request
        elif self._password_file is not None:
            secret = read_secret(self._password_file)
            name, password = (self._user, secret) if self._user else secret.partition(":")[::2]
            yield from httpx.BasicAuth(name, password).auth_flow(request)
        else:
            yield request
