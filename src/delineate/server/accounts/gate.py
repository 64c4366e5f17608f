"""What every request passes between its route and its endpoint: who asks, and may they?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from starlette.requests import Request

from delineate.errors import AuthorizationError, UnknownTaskError
from delineate.protocols.inference_server import TOKEN_HEADER
from delineate.server.accounts.identity import (
    LONGEST_TOKEN,
    Accounts,
    Identity,
    InvalidTokenError,
    Role,
    RoleMissingError,
)
from delineate.server.accounts.rights import Rule, rule_of
from delineate.server.accounts.static import StaticTokens
from delineate.server.security import IDENTITY, Guard

_HOW: Final = f"Give it with --token-file or DELINEATE_TOKEN; over HTTP as `Authorization: Bearer` or `{TOKEN_HEADER}: TOKEN`."
_LOG_IN: Final = "Log in with `delineate label login`, or give a token with DELINEATE_TOKEN; over HTTP as `Authorization: Bearer TOKEN`."

_log = logging.getLogger(__name__)


class Gate:
    """A dependency of every route of the application.

    Parameters
    ----------
    accounts : None where they are off.
    owner_of : whose a task is, by its uid; blocks. Raises `UnknownTaskError`.
    threads : for `owner_of`.
    """

    def __init__(
        self, guard: Guard, tokens: StaticTokens, accounts: Accounts | None, owner_of: Callable[[str], str], threads: Executor
    ) -> None:  # fmt: skip
        self._guard = guard
        self._tokens = tokens
        self._accounts = accounts
        self._owner_of = owner_of
        self._threads = threads

    async def __call__(self, request: Request) -> None:
        """Let the request through.

        Raises
        ------
        AuthorizationError
            401 for no token, or one that is not valid; 403 for a role that is missing, or where no token could help.
        UnavailableError
            Nobody can tell now.
        """
        route = getattr(request.scope.get("route"), "path", "")
        rule = rule_of(request.method, route)
        if rule is None:
            _log.error("no rule in accounts/rights.py says who may %s %s: nobody", request.method, route)
            raise AuthorizationError("nobody may use this route", "Tell the server's administrator.", 403)
        if rule.role is not None:
            await self._require(request, rule, rule.role)
        elif rule.is_owners:
            await self._require_owner(request)

    async def _require(self, request: Request, rule: Rule, role: Role) -> None:
        if role is Role.NONE and self._accounts is None:
            return  # the route says that there are no accounts
        if not self._guard.has_accounts:
            if rule.is_near:
                self._guard.require_this_machine(request)
            return
        identity = await self._identify(request)
        if identity.role < role:
            raise RoleMissingError(role, identity.role)

    async def _require_owner(self, request: Request) -> None:
        if self._accounts is None:  # a uid is enough; a token says in whose name
            for token in self._given(request):
                if (named := self._tokens.identify(token)) is not None:
                    request.scope.setdefault("state", {})[IDENTITY] = named
            return
        identity = await self._identify(request)
        if identity.role is Role.ADMIN:
            return
        uid = str(request.path_params.get("uid") or request.query_params.get("uid", ""))
        try:
            owner = await asyncio.get_running_loop().run_in_executor(self._threads, self._owner_of, uid)
        except UnknownTaskError:
            return  # the route says so in its own words
        if owner != identity.name:
            raise AuthorizationError(
                "the task is somebody else's; this needs its owner or the role admin", "Ask the server's administrator.", 403
            )  # fmt: skip

    async def _identify(self, request: Request) -> Identity:
        given = self._given(request)
        if not given:
            raise AuthorizationError("this server wants to know who asks: there is no token", self._advice, 401)
        for token in given:
            identity = self._tokens.identify(token) if len(token) <= LONGEST_TOKEN else None
            if identity is None and self._accounts is not None and len(token) <= LONGEST_TOKEN:
                identity = await self._accounts.identify(token)
            if identity is not None:
                request.scope.setdefault("state", {})[IDENTITY] = identity
                return identity
        raise InvalidTokenError(advice=self._advice)

    @property
    def _advice(self) -> str:
        return _HOW if self._accounts is None else _LOG_IN

    @staticmethod
    def _given(request: Request) -> list[str]:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = [bearer.strip() if scheme.lower() == "bearer" else "", request.headers.get(TOKEN_HEADER, "")]
        return [token for token in given if token]
