"""Who may do what, and who asks.

A uid is the right to fetch, cancel and delete its task. Everything else asks `Guard`.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from delineate.errors import AuthorizationError
from delineate.protocols.inference_server import TOKEN_HEADER
from delineate.server.settings import Settings, is_loopback

_FORWARDING = ("x-forwarded-", "forwarded", "x-real-ip", "via")  # beginnings of names
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d*)?\Z", re.IGNORECASE)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Decides by the settings."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = {name: secret.encode() for name, secret in settings.named_tokens.items()}
        self._loopback = settings.is_loopback
        self._origins = frozenset(settings.cors_origins)
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in settings.trusted_proxies]

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are set at all."""
        return bool(self._tokens)

    def require_token(self, request: Request) -> None:
        """For posting tasks and listing models: a token, where there is any.

        Raises
        ------
        AuthorizationError
            401.
        """
        if self._tokens and self._token_name(request.headers) is None:
            given = "authorization" in request.headers or TOKEN_HEADER in request.headers
            what = "the token is not valid" if given else "this server wants a token"
            header = f"`Authorization: Bearer TOKEN` or `{TOKEN_HEADER}: TOKEN`"
            raise AuthorizationError(what, f"Give it with --token-file or DELINEATE_TOKEN; over HTTP as {header}.", 401)

    def require_administrator(self, request: Request) -> None:
        """For registering models and administration: a token; without one set, only from this very machine.

        Whoever registers a model runs programs on the server. A forwarding header shows a proxy, behind which loopback
        means nothing; a foreign ``Host`` shows a browser led here by a foreign name (DNS rebinding).

        Raises
        ------
        AuthorizationError
            401, or 403 where no token could help.
        """
        self._require_token_or_this_machine(request, "administration")

    def require_annotator(self, request: Request) -> None:
        """For the images and labels of others, which may be read and removed: as `require_administrator`."""
        self._require_token_or_this_machine(request, "annotation")

    def _require_token_or_this_machine(self, request: Request, what: str) -> None:
        if self._tokens:
            self.require_token(request)
        elif not self._loopback:
            raise AuthorizationError(f"{what} is closed: the server has no token", "Start it with DELINEATE_TOKEN set.", 403)
        elif any(name.startswith(_FORWARDING) for name in request.headers):
            raise AuthorizationError(
                f"{what} through a proxy is closed: the server has no token", "Start it with DELINEATE_TOKEN set.", 403
            )
        elif not is_loopback(_host_name(request.headers.get("host", ""))):
            raise AuthorizationError(
                f"{what} is open under this machine's own name only",
                "Use http://127.0.0.1, or start the server with DELINEATE_TOKEN set.", 403,
            )  # fmt: skip

    def is_foreign_site(self, scope: Scope) -> bool:
        """Whether a web page of another site makes a browser send this request, which may change something."""
        if scope["method"] in _SAFE:
            return False
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return False
        hosts = {headers.get("host", "").lower()}
        if self._is_proxy(_peer(scope)):
            hosts.add(headers.get("x-forwarded-host", "").lower())
        return urlsplit(origin).netloc.lower() not in hosts - {""}

    def owner(self, request: Request) -> str:
        """In whose name a task is: the token's, else the client's address."""
        return self._token_name(request.headers) or self.client_address(request.scope)

    def client_address(self, scope: Scope) -> str:
        """The address a request comes from; what proxies say counts only where they are trusted."""
        address = _peer(scope)
        if self._is_proxy(address):
            hops = [hop.strip() for hop in Headers(scope=scope).get("x-forwarded-for", "").split(",")]
            for hop in reversed(hops):
                if not _is_address(hop):
                    break
                address = hop
                if not self._is_proxy(hop):
                    break
        return address

    def _is_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ipaddress.ip_address(address) in network for network in self._proxies)

    def _token_name(self, headers: Headers) -> str | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get(TOKEN_HEADER, ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        found = None
        for name, secret in self._tokens.items():  # all of them, always: the time tells nothing
            for text in given:
                if hmac.compare_digest(text.encode("latin-1", "replace"), secret):
                    found = name
        return found


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host_name(host: str) -> str:
    """The name in a ``Host`` header, without the port; empty where it is no name."""
    match = _HOST.match(host)
    return match[1] if match else ""
