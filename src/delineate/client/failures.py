"""From the errors of httpx, sockets and TLS to the tree of `delineate.errors`: the one place that knows both."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx

from delineate.client.address import Address
from delineate.errors import (
    AddressError,
    AnswerError,
    CertificateError,
    ConnectionFailedError,
    DeadlineError,
    DelineateError,
    SettingsError,
)

_TLS_ALERT = r"\x15\x03"  # how h11 prints the first bytes of a TLS alert where a status line should be

_USE_NAME = "Use the name that the certificate is made for in the server's address."
_CERTIFICATE_ADVICE = {  # by OpenSSL's code: what another authority would not cure
    9: "Check the clock of this machine.",
    10: "The server's administrator has to renew it; check the clock of this machine, too.",
    62: _USE_NAME,
    64: _USE_NAME,
}


def failure_from(error: Exception, address: Address, headers: dict[str, str] | None, seconds: float | None) -> DelineateError:
    """What an exception of httpx means for a person.

    Parameters
    ----------
    headers : of the answer, where it had begun.
    seconds : the limit of the call, for messages.
    """
    where = address.origin
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectionFailedError(f"{where} does not answer: no connection in time", is_refused=True)
    if isinstance(error, httpx.TimeoutException):
        return _silence(error, where, headers, seconds)
    if isinstance(error, httpx.ProxyError):
        return ConnectionFailedError(f"the proxy on the way to {where} refused: {error}", "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY.")
    if isinstance(error, httpx.ConnectError):
        return _not_connected(error, address)
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return AddressError(f"the server's address makes no sense: {error}")
    if isinstance(error, httpx.LocalProtocolError):
        return SettingsError(f"the request could not be made: {error}", "Check the token for characters that do not belong there.")
    if isinstance(error, httpx.DecodingError):
        return AnswerError(f"{where} sent a body that cannot be decoded: {error}")
    if isinstance(error, httpx.RemoteProtocolError) and "illegal status line" in str(error):
        return _no_http(str(error), address)
    advice = "The server or a proxy closed it; try again."
    if address.scheme == "http" and headers is None:
        advice += " If the server wants TLS, write https:// in its address."
    return ConnectionFailedError(f"the connection to {where} was dropped", advice, headers=headers)


def _silence(error: httpx.TimeoutException, where: str, headers: dict[str, str] | None, seconds: float | None) -> DelineateError:
    if headers is not None:
        return ConnectionFailedError(f"{where} stopped sending in the middle of an answer", headers=headers)
    within = f" within {seconds:g} s" if seconds is not None else " in time"
    what = "took no more data" if isinstance(error, httpx.WriteTimeout) else "did not answer"
    return DeadlineError(f"{where} {what}{within}", "Try again later, allow more time, or check what stands between here and the server.")


def _not_connected(error: httpx.ConnectError, address: Address) -> DelineateError:
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = _CERTIFICATE_ADVICE.get(cause.verify_code, "Give the file of its certificate authority (--ca, ca_file).")
            return CertificateError(
                f"the certificate of {address.origin} could not be verified: {cause.verify_message or cause.reason}", advice
            )
        if isinstance(cause, ssl.SSLError):
            http = str(Address("http", address.host, address.port, address.prefix))
            return AddressError(f"{address.origin} does not speak TLS ({cause.reason or 'broken handshake'})", f"Perhaps it is {http}")
        if isinstance(cause, socket.gaierror):
            return ConnectionFailedError(f"the name {address.host} cannot be resolved", "Check the server's name.", is_refused=True)
        if isinstance(cause, ConnectionRefusedError):
            return ConnectionFailedError(f"{address.origin} refuses the connection: nothing listens there", is_refused=True)
    text = str(error).replace("All connection attempts failed", "it refuses or cannot be reached")
    return ConnectionFailedError(f"no connection to {address.origin}: {text or 'unreachable'}", is_refused=True)


def _no_http(text: str, address: Address) -> DelineateError:
    if _TLS_ALERT in text:
        return AddressError(
            f"{address.origin} wants TLS", f"Write https:// instead: {Address('https', address.host, address.port, address.prefix)}"
        )
    return AnswerError(f"{address.origin} does not speak HTTP")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        todo += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
