"""HTTP with a limit for the head of a request, which uvicorn's parser has not.

A header that never ends would be copied at each piece: one connection could hold up everybody else's answers.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 1 << 20
"""Limit for request line and headers; counted in pieces as they come, so that it is not exact."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which answers 400 and hangs up when the head of a request is too long."""

    _is_in_head = False
    _head = 0

    def data_received(self, data: bytes) -> None:
        """A piece came."""
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._is_in_head = False
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._is_in_head = False
        super().on_headers_complete()
