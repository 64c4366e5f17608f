"""Accounts of an OpenID provider, such as Keycloak: its tokens are verified here, its passwords handed on."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from delineate.errors import MissingPartError
from delineate.server.accounts.claims import LEEWAY, head_of, identity_of, verified
from delineate.server.accounts.identity import ExpiredTokenError, Identity, InvalidTokenError
from delineate.server.accounts.provider import Provider
from delineate.server.settings import Settings

REMEMBERED: Final = 1024
"""Tokens that are not verified again while the provider's keys stay the same."""


_PARTS: Final = ("jwt", "cryptography", "httpx")


class OidcAccounts:
    """Users of the issuer in the settings."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time, *, provider: Provider | None = None) -> None:
        for name in _PARTS:
            if importlib.util.find_spec(name) is None:
                raise MissingPartError(f"{name}, which accounts of an OpenID provider need,", "accounts")
        self.client_id = settings.oidc_client_id
        self.realm = settings.oidc_issuer
        self._settings = settings
        self._clock = clock
        self._provider = provider or Provider(settings)
        self._known: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._generation = 0
        self._is_loaded = False

    async def identify(self, token: str) -> Identity | None:
        """See `Accounts`."""
        self._forget_after_other_keys()
        known = self._known.get(token)
        if known is None:
            return await self._verify(token)
        identity, expires = known
        if expires + LEEWAY <= self._clock():
            del self._known[token]
            raise ExpiredTokenError
        return identity

    async def _verify(self, token: str) -> Identity:
        if token.count(".") != 2:
            raise InvalidTokenError
        await self._load()
        algorithm, id = head_of(token)
        keys = await self._provider.keys(id)
        claims = verified(token, algorithm, keys, self._settings)
        identity = identity_of(claims, self._settings)
        self._forget_after_other_keys()
        self._known[token] = (identity, float(claims["exp"]))
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return identity

    async def _load(self) -> None:
        # A fifth of a second: not at the start, which nobody may be waiting for, and not on the event loop.
        if not self._is_loaded:
            await asyncio.to_thread(lambda: [importlib.import_module(name) for name in ("httpx", "jwt.algorithms")])
            self._is_loaded = True

    def _forget_after_other_keys(self) -> None:
        if self._generation != self._provider.generation:
            self._known.clear()
            self._generation = self._provider.generation

    async def log_in(self, name: str, password: str) -> str:
        """See `Accounts`. A token that this server would refuse is not handed out."""
        await self._load()
        token = await self._provider.token(name, password)
        await self.identify(token)
        return token

    async def close(self) -> None:
        """See `Accounts`."""
        await self._provider.close()
