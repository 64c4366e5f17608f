"""HTTP with limits for the head of a request and for the time that it takes to come, which uvicorn's parser has not; and plain HTTP only.

A header that never ends would be copied at each piece: one connection could hold up everybody else's answers. A request
that never ends would keep its connection, and the file of its upload, for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
from enum import Enum
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from delineate.errors import UnavailableError
from delineate.protocols import inference_replies as replies
from delineate.server.upgrades import PlainParser

HEAD_BYTES: Final = 1 << 20
"""Limit for request line and headers, and for what comes in a body without being of it: trailers, extensions of chunks.

It is counted in pieces as they come, so that it is not exact.
"""

PIPELINED: Final = 64
"""Requests that may wait behind another one on a connection: uvicorn keeps each in memory, however many come."""

HEAD_SECONDS: Final = 20.0
"""Limit for the time in which request line and headers come, in all."""

BODY_SECONDS: Final = 60.0
"""Time in which `BODY_BYTES` more of a body must come, or its end."""

BODY_BYTES: Final = 30_000
"""500 bytes a second: what the slowest honest line brings, and what one who drips does not."""

_LOOKS: Final = 20
"""Looks at the clock within a limit. Looks are counted, not seconds: while the server itself stands still, nobody is late."""

_log = logging.getLogger(__name__)


class _Part(Enum):
    """What of a request is awaited."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which hangs up when the head of a request is too long (400), or a request too slow (408)."""

    head_seconds: ClassVar[float] = HEAD_SECONDS
    body_seconds: ClassVar[float] = BODY_SECONDS
    body_bytes: ClassVar[int] = BODY_BYTES

    _plain: PlainParser
    _awaited = _Part.HEAD
    _has_begun = False
    _head = 0
    _came = 0
    _looks = 0
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; it has to say something."""
        super().connection_made(transport)
        self._plain = PlainParser(self)
        self.parser = self._plain  # type: ignore[assignment]
        self._wind(_Part.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece came."""
        if self._awaited is _Part.NOTHING:
            self._awaited = _Part.HEAD  # also if it is but an empty line: the parser passes over it, and the clock must not
        self._came += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._awaited is _Part.NOTHING:
            self._stop()
            return
        if self._clock is None:  # most requests come in one piece, and need no clock
            self._wind(self._awaited)
        self._head += len(data)
        if self._head > HEAD_BYTES:
            self._stop()
            self._refuse_length()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._awaited, self._has_begun, self._head = _Part.HEAD, True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests without waiting for their answers")  # the parser makes a 400 of it
        if self._clock is not None:
            self._stop()
        self._awaited, self._came = _Part.BODY, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Its body grows."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        if self._plain.has_body_to_come():
            return
        self._awaited, self._has_begun = _Part.NOTHING, False
        super().on_message_complete()

    def _refuse_length(self) -> None:
        if self._awaited is _Part.BODY and self.cycle.response_started:
            self.transport.close()
        else:
            self.send_400_response("The head of the request is too long, or what follows its body.")

    def _wind(self, part: _Part) -> None:
        self._stop()
        self._looks = 0
        seconds = self.head_seconds if part is _Part.HEAD else self.body_seconds
        self._clock = self.loop.call_later(seconds / _LOOKS, self._look, seconds / _LOOKS)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _look(self, pause: float) -> None:
        """Count the looks since enough has come; what the server itself does not take yet is not late."""
        self._clock = None
        if self.transport.is_closing():
            return
        if self._awaited is _Part.BODY and self._came >= self.body_bytes:
            self._came = self._looks = 0
        elif not self._is_held_up():
            self._looks += 1
        if self._looks < _LOOKS:
            self._clock = self.loop.call_later(pause, self._look, pause)
        else:
            self._give_up()

    def _is_held_up(self) -> bool:
        """Whether the client waits for the server: its disk is slow, or an answer comes first."""
        if self._awaited is _Part.BODY:
            return self.flow.read_paused or self.cycle.waiting_for_100_continue
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        """Say 408 where an answer is due, and hang up; the application sees a client that went away, and clears up."""
        part, cycle = self._awaited, self.cycle
        _log.warning("a request was given up: its %s came too slowly", part.name.lower())
        is_due = not cycle.response_started if part is _Part.BODY else self._has_begun
        if is_due:
            self.transport.write(_too_slow(part))
        self.transport.close()
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()


def _too_slow(part: _Part) -> bytes:
    limit = f"the {part.name.lower()} of the request came too slowly: the server waits no longer for it"
    error = UnavailableError(limit, "Send it again, over a faster line if it is large.", status=408)
    body = json.dumps(replies.problem(error)).encode()
    head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"delineate: 1\r\nconnection: close\r\n\r\n" + body
