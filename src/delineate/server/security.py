"""Where a request comes from: this machine, a page of another site, a proxy. Who may do what: `delineate.server.accounts`."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from delineate.errors import AuthorizationError
from delineate.server.accounts.identity import Identity
from delineate.server.settings import Settings, is_loopback

_FORWARDING = ("x-forwarded-", "forwarded", "x-real-ip", "via")  # beginnings of names
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d*)?\Z", re.IGNORECASE)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SET: Final = "Start it with accounts, or with DELINEATE_TOKEN set."

IDENTITY: Final = "identity"
"""In a request's state: who asks."""


class Guard:
    """Decides by the settings."""

    def __init__(self, settings: Settings) -> None:
        self.has_accounts = settings.has_accounts
        """Whether requests say who asks, by accounts or by tokens."""
        self._loopback = settings.is_loopback
        self._origins = frozenset(settings.cors_origins)
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in settings.trusted_proxies]

    def require_this_machine(self, request: Request) -> None:
        """For what is others' or runs programs, on a server that knows nobody.

        A forwarding header shows a proxy, behind which loopback means nothing; a foreign ``Host`` shows a browser led here
        by a foreign name (DNS rebinding). No browser speaks HTTP 1.0, in which a request need not name a host.

        Raises
        ------
        AuthorizationError
            403.
        """
        if not self._loopback:
            raise AuthorizationError("this is closed: the server has neither accounts nor a token", _SET, 403)
        if any(name.startswith(_FORWARDING) for name in request.headers):
            raise AuthorizationError("this is closed through a proxy: the server has neither accounts nor a token", _SET, 403)
        is_nameless = request.scope.get("http_version") == "1.0" and "host" not in request.headers
        if not is_nameless and not is_loopback(_host_name(request.headers.get("host", ""))):
            raise AuthorizationError(
                "this is open under this machine's own name only: the server has neither accounts nor a token",
                f"Use http://127.0.0.1. {_SET}", 403,
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
        try:
            return urlsplit(origin).netloc.lower() not in hosts - {""}
        except ValueError:  # no address, such as one with half a bracket
            return True

    def identity(self, request: Request) -> Identity | None:
        """Who asks, None where nobody had to say."""
        found = request.scope.get("state", {}).get(IDENTITY)
        return found if isinstance(found, Identity) else None

    def owner(self, request: Request) -> str:
        """In whose name a task is: the user's or the token's, else the client's address."""
        identity = self.identity(request)
        return self.client_address(request.scope) if identity is None else identity.name

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

    def own_address(self, request: Request) -> str:
        """Scheme, host and prefix under which whoever asks knows this server; the prefix alone where the host is no name."""
        headers = request.headers
        host, scheme = headers.get("host", ""), request.url.scheme
        if self._is_proxy(_peer(request.scope)):
            host = headers.get("x-forwarded-host", host)
            scheme = headers.get("x-forwarded-proto", scheme).lower()
        prefix = str(request.scope.get("root_path", ""))
        return f"{scheme}://{host}{prefix}" if _HOST.match(host) and scheme in ("http", "https") else prefix

    def _is_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ipaddress.ip_address(address) in network for network in self._proxies)


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
