"""Requests that offer another protocol, as Java's client does to every server it does not know (h2c): they are plain HTTP here.

uvicorn's parser takes what follows the head of such a request for the other protocol, so that its body would be lost.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import httptools

_LENGTHS: Final = (b"content-length", b"transfer-encoding")


class Receiver(Protocol):
    """What a parser tells; `headers` are those of the request whose head came last, names in lower case."""

    headers: list[tuple[bytes, bytes]]

    def on_message_begin(self) -> None:
        """A request begins."""

    def on_url(self, url: bytes) -> None:
        """A piece of its address."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""

    def on_headers_complete(self) -> None:
        """Its head is complete."""

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""

    def on_message_complete(self) -> None:
        """All of it came; not, where `PlainParser.has_body_to_come`."""


class PlainParser:
    """The parser of a connection that stays with the protocol it began with."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = _parser(receiver)
        self.get_http_version, self.get_method, self.should_keep_alive = _questions(self._parser)

    def feed_data(self, data: bytes) -> None:
        """The next bytes. Raises ``httptools.HttpParserError``."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offered:
                data = data[offered.args[0] :]
                self._go_on()
            else:
                return

    def should_upgrade(self) -> bool:
        """Never."""
        return False

    def has_body_to_come(self) -> bool:
        """Asked when the parser calls a request complete: whether it does so too early."""
        return bool(self._parser.should_upgrade()) and bool(self._lengths())

    def _lengths(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self._receiver.headers if name in _LENGTHS and value.strip() != b"0"]

    def _go_on(self) -> None:
        """Behind the head of a request with an offer: a parser that knows only how long the body is reads on."""
        if not self._lengths():
            return
        self._parser = _parser(_Rest(self._receiver))
        self.get_http_version, self.get_method, self.should_keep_alive = _questions(self._parser)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % length for length in self._lengths()) + b"\r\n")


class _Rest:
    """Receives the body of a request whose head is known already, and then whole requests."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._is_known = True
        self.on_body = receiver.on_body

    def on_message_begin(self) -> None:
        if not self._is_known:
            self._receiver.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_known:
            self._receiver.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_known:  # a known one may have trailers, too
            self._receiver.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_known:
            self._receiver.on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_known = False
        self._receiver.on_message_complete()


def _parser(receiver: Any) -> Any:
    parser = httptools.HttpRequestParser(receiver)
    if hasattr(parser, "set_dangerous_leniencies"):
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
    return parser


def _questions(parser: Any) -> tuple[Any, Any, Any]:
    return parser.get_http_version, parser.get_method, parser.should_keep_alive
