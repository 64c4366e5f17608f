"""The routes at which clients of the MONAI Label API log in."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.errors import AuthorizationError, InputError, UnavailableError
from delineate.protocols import monai_label as wire
from delineate.server.accounts.identity import Accounts
from delineate.server.accounts.throttle import Throttle
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import small_body
from delineate.server.monai_label.routing import Routes
from delineate.server.security import Guard

MOST_LETTERS: Final = 4096

_log = logging.getLogger(__name__)

_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {name: {"type": "string"} for name in ("username", "password", "grant_type")},
                    "required": ["username", "password"],
                }
            }
        },
    }
}


class AccountRoutes:
    """Answered as a server without accounts does where they are off."""

    def __init__(self, accounts: Accounts | None, guard: Guard, throttle: Throttle | None = None) -> None:
        self._accounts = accounts
        self._guard = guard
        self._throttle = throttle or Throttle()

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.AUTH_PATH, "GET", self.about)
        routes.add(wire.TOKEN_PATH, "POST", self.token, _FORM)
        routes.add(wire.TOKEN_VALID_PATH, "GET", self.valid)

    async def about(self) -> Response:
        """Whether there are accounts, and whose; 404 where there are none."""
        accounts = self._require()
        return JSONResponse(wire.AuthInfo(enabled=True, client_id=accounts.client_id, realm=accounts.realm).to_json())

    async def token(self, request: Request) -> Response:
        """A token for a name and a password. Wrong ones get slower (429)."""
        accounts = self._require()
        name, password = _credentials(await small_body(request))
        address = self._guard.client_address(request.scope)
        self._throttle.check(name, address)
        self._throttle.begin(name, address)
        try:
            token = await accounts.log_in(name, password)
        except UnavailableError:
            self._throttle.not_tried(name, address)
            raise
        except AuthorizationError as error:
            _log.warning("a log-in from %s was refused: %s", address, error.message)  # the name may be a password, typed too early
            raise
        self._throttle.right(name, address)
        return JSONResponse(wire.Token(access_token=token, token_type="Bearer").to_json())  # noqa: S106 - a scheme

    async def valid(self, request: Request) -> Response:
        """Whose the token is that was sent."""
        self._require()
        who = self._guard.identity(request)
        assert who is not None  # the gate lets nobody else through
        user = wire.User(username=who.name, email=who.email or None, name=who.full_name or None, roles=who.role.words)
        return JSONResponse({"email": None, "name": None, **user.to_json()})  # clients expect all four

    def _require(self) -> Accounts:
        if self._accounts is None:
            raise NotHereError("this server has no accounts", "Use it without logging in, or with its token.")
        return self._accounts


def _credentials(body: bytes) -> tuple[str, str]:
    try:
        form = parse_qs(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise InputError("the form is not url-encoded text", "Send username, password and grant_type=password.") from None
    grant = form.get("grant_type", [wire.PASSWORD_GRANT])[-1]
    if grant not in ("", wire.PASSWORD_GRANT):
        raise InputError(f"the grant {grant[:32]!r} is not served here", "Send grant_type=password.")
    name, password = form.get("username", [""])[-1], form.get("password", [""])[-1]
    if not 0 < len(name) <= MOST_LETTERS or not 0 < len(password) <= MOST_LETTERS:
        raise InputError(
            f"a name and a password are wanted, of at most {MOST_LETTERS} letters", "Send username, password and grant_type=password."
        )
    return name, password
