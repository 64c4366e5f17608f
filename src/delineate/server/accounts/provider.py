"""An OpenID provider over HTTP: what it says of itself, its keys, and passwords that are handed on to it."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from delineate.errors import AuthorizationError, SettingsError
from delineate.server.accounts.identity import ProviderAwayError, WrongPasswordError
from delineate.server.settings import Settings, is_loopback, is_safe_address

if TYPE_CHECKING:
    import httpx

TIMEOUT: Final = 10.0
"""Seconds for one answer of the provider."""

PAUSE: Final = 10.0
"""Seconds between two looks at its keys, however many tokens name one that is not known."""

REFRESH: Final = 3600.0
"""Seconds after which its keys are looked at again: one that it took back is not trusted for longer."""

_MOST_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 100
_NOT_FOR_US: Final = ("unauthorized_client", "invalid_client", "unsupported_grant_type", "invalid_scope", "invalid_request")

_log = logging.getLogger(__name__)


class Provider:
    """One issuer. All of it runs on the event loop and waits for the network alone."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()
        self._about: Mapping[str, Any] | None = None
        self._keys: Sequence[Mapping[str, Any]] = ()
        self._looked = self._tried = -REFRESH
        self._failure: ProviderAwayError | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self.generation = 0
        """Grows whenever the keys are others than before."""

    async def keys(self, id: str | None) -> Sequence[Mapping[str, Any]]:
        """The keys (RFC 7517) of an id, all for None; empty where there is none, also after another look.

        Raises
        ------
        ProviderAwayError
            It is not among those that are known, and the provider does not answer. Known ones go on.
        """
        found = self._of(id)
        if found:
            if self._clock() - self._looked > REFRESH and self._may_look():
                self._refreshing = asyncio.create_task(self._refresh())  # in the background: nobody waits for it
            return found
        async with self._lock:
            if not self._of(id) and self._may_look():
                await self._look()
        found = self._of(id)
        if not found and self._failure is not None:
            raise self._failure
        return found

    def _of(self, id: str | None) -> Sequence[Mapping[str, Any]]:
        return [key for key in self._keys if id is None or key.get("kid") == id]

    def _may_look(self) -> bool:
        return self._clock() - self._tried > PAUSE

    async def _refresh(self) -> None:
        async with self._lock:
            if self._may_look():
                await self._look()

    async def _look(self) -> None:
        self._tried = self._clock()
        try:
            about = await self._describe()
            value = await self._json("GET", str(about["jwks_uri"]))
            keys = value.get("keys")
            if not isinstance(keys, list):
                raise ProviderAwayError("answered with something that is no set of keys")
        except ProviderAwayError as error:
            self._failure = error
            _log.warning("%s", error.message)
            return
        fresh = [key for key in keys[:_MOST_KEYS] if isinstance(key, dict)]
        if fresh != self._keys:
            self.generation += 1
        self._about, self._keys, self._looked, self._failure = about, fresh, self._clock(), None

    async def _describe(self) -> Mapping[str, Any]:
        issuer = self._settings.oidc_issuer
        about = await self._json("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
        if about.get("issuer") != issuer:
            raise ProviderAwayError("says it is another issuer than the setting oidc_issuer names")
        for name in ("jwks_uri", "token_endpoint"):
            if not isinstance(about.get(name), str) or not is_safe_address(about[name]):
                raise ProviderAwayError(f"gives no https address as its {name}")
        return about

    async def token(self, name: str, password: str) -> str:
        """The access token that the provider gives for a password.

        Raises
        ------
        WrongPasswordError, ProviderAwayError
            It refused; it does not answer.
        AuthorizationError
            403: it gives this client no tokens for passwords.
        """
        if self._about is None:
            self._about = await self._describe()
        settings = self._settings
        form = {"grant_type": "password", "client_id": settings.oidc_client_id, "username": name, "password": password, "scope": "openid"}
        if settings.oidc_client_secret:
            form["client_secret"] = settings.oidc_client_secret
        value = await self._json("POST", str(self._about["token_endpoint"]), form)
        token = value.get("access_token")
        if not isinstance(token, str) or not token:
            raise ProviderAwayError("answered without a token")
        return token

    async def _json(self, method: str, url: str, form: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        import httpx  # not above: loaded where there is a provider, and nowhere else

        try:
            with anyio.fail_after(TIMEOUT):
                async with self._http().stream(method, url, data=dict(form) if form else None) as answer:
                    body = await _body(answer)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, TimeoutError) as error:
            raise ProviderAwayError(f"does not answer ({type(error).__name__})") from None
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if form is not None and answer.status_code in (400, 401):
            raise _refusal(value)
        if answer.status_code != 200 or not isinstance(value, dict):
            raise ProviderAwayError(f"answered with status {answer.status_code}" if answer.status_code != 200 else "answered with no JSON")
        return value

    def _http(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            ca = self._settings.oidc_ca
            try:
                verify: ssl.SSLContext | bool = True if ca is None else ssl.create_default_context(cafile=ca)
            except OSError as error:
                raise SettingsError(f"the certificates {ca} cannot be read", "Check the setting oidc_ca.") from error
            # What is on this machine is not asked for through a proxy.
            is_far = not is_loopback(urlsplit(self._settings.oidc_issuer).hostname or "")
            self._client = httpx.AsyncClient(timeout=TIMEOUT, verify=verify, follow_redirects=False, trust_env=is_far)
        return self._client

    async def close(self) -> None:
        """Close its connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._client is not None:
            await self._client.aclose()


async def _body(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for block in answer.aiter_bytes():
        body += block
        if len(body) > _MOST_BYTES:
            raise ProviderAwayError("answers without end")
    return bytes(body)


def _refusal(value: object) -> AuthorizationError:
    reason = value.get("error") if isinstance(value, dict) else None
    if reason in _NOT_FOR_US:
        return AuthorizationError(
            f"the identity provider gives this server no tokens for passwords ({reason})",
            "Log in at the provider and give its token; or its administrator allows the password grant for this client.", 403,
        )  # fmt: skip
    return WrongPasswordError()
