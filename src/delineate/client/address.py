"""The address of a server: what people type, made exact or refused with a proposal."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from delineate.errors import AddressError

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where a server is.

    scheme : ``http`` or ``https``; host : name or IP address, IPv6 without brackets; prefix : path without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def origin(self) -> str:
        """Scheme, host and port; the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.origin + self.prefix

    def upgraded(self, location: str, asked: str) -> Address | None:
        """The same server by https, where a redirect from `asked` (a URL here) to `location` means no more than that; else None.

        The port must be that of https, or unchanged: another port is another service.
        """
        if self.scheme != "http":
            return None
        try:
            target, source = urlsplit(location), urlsplit(asked)
            port = target.port or 443
        except ValueError:
            return None
        same = target.scheme == "https" and target.hostname == source.hostname and not target.username and not target.password
        if not same or (target.path, target.query) != (source.path, source.query) or port not in (443, self.port):
            return None
        return Address("https", self.host, port, self.prefix)


def parse_address(text: str) -> Address:
    """Read a server's URL as a person gives it; blanks around it and a slash at its end do not matter.

    Raises
    ------
    AddressError
        No scheme (with a proposal), another scheme than http and https, no host, a user, a query or a fragment.
    """
    given = text.strip()
    if not given:
        raise AddressError("the server's address is empty")
    if any(c.isspace() or not c.isprintable() for c in given):
        raise AddressError("the server's address has blanks in it")
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        raise AddressError(f"the server's address {_shown(given)} has no scheme", f"Write https://{_shown(given.lstrip('/'))}")
    try:
        parts = urlsplit(given)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise AddressError(f"the server's address {_shown(given)} cannot be read: {error}") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise AddressError(
            f"the server's address begins with {scheme}://, which is no way to reach it", "Begin it with https:// or http://"
        )
    if parts.username is not None or parts.password is not None:
        raise AddressError("the server's address holds a user name or password", "Leave it out and give a token instead.")
    if parts.query or parts.fragment or given.endswith(("?", "#")):
        raise AddressError(f"the server's address {_shown(given)} has a query or fragment", "Leave out what begins with ? or #.")
    if not host or (":" not in host and not re.fullmatch(r"[\w.-]+", host)):
        raise AddressError(f"the server's address {_shown(given)} has no host that could be reached")
    if port == 0:
        raise AddressError(f"the server's address {_shown(given)} has port 0", "Give the port that the server says when it is ready.")
    prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return Address(scheme, host, port or _DEFAULT_PORTS[scheme], prefix)


def _shown(text: str) -> str:
    """What was given, without a user name, password or query, which may be secrets."""
    return re.sub(r"[?#].*", "", re.sub(r"(?<=//)[^/@]*@|^[^/@]*@", "", text))[:200]
