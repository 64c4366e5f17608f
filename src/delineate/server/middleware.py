"""What every request meets first and every answer last: its id, the headers, the log, the last net for errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from delineate.errors import AuthorizationError
from delineate.protocols.inference_server import SERVER_HEADER, SERVER_HEADER_VALUE
from delineate.server import problems
from delineate.server.metrics import Metrics
from delineate.server.security import Guard

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS: Final = (
    (SERVER_HEADER.lower().encode(), SERVER_HEADER_VALUE.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"),
    (b"cache-control", b"no-store"),
)

_access = logging.getLogger("delineate.access")
_log = logging.getLogger(__name__)


class Envelope:
    """Around the application: gives every request an id and every answer its headers, measures and logs it.

    The log names the route, never the path: a path holds a uid, and a uid is the right to the images.
    """

    def __init__(self, app: ASGIApp, guard: Guard, metrics: Metrics, root_path: str = "") -> None:
        self._app = app
        self._guard = guard
        self._metrics = metrics
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path:
            # The proxy may have taken the prefix away or left it: routes are found either way, links need it.
            scope["root_path"] = self._root_path
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = id
        answer = _Answer(send, id, _has_idle_length(scope))
        begin = time.perf_counter()
        try:
            if self._guard.is_foreign_site(scope):
                error = AuthorizationError("requests from pages of other sites are refused", "Add the site to cors_origins.", 403)
                await problems.answer(Request(scope), error)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:
            _log.exception("request %s failed: %s", id, type(error).__name__)
            if answer.status:
                raise  # too late for another answer: the connection is cut, so that nobody takes the half for the whole
            await problems.answer(Request(scope), problems.InternalError("the server failed"))(scope, receive, answer)
        finally:
            self._note(scope, answer.status, id, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, id: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.request(scope["method"], route, status, seconds)
        level = logging.DEBUG if route in ("/healthz", "/metrics") else logging.INFO
        _access.log(
            level, "%s %s %d %.1f ms %s %s", scope["method"], route, status, seconds * 1000, id, self._guard.client_address(scope)
        )  # fmt: skip


def _has_idle_length(scope: Scope) -> bool:
    """Whether a request without a body announces one, as some clients do: what comes next would be taken for it."""
    return scope["method"] in ("GET", "HEAD", "DELETE") and Headers(scope=scope).get("content-length", "0") != "0"


class _Answer:
    """`send` with our headers in front."""

    def __init__(self, send: Send, id: str, is_last: bool) -> None:
        self._send = send
        self._id = id.encode()
        self._is_last = is_last
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name for name, _ in headers}
            headers += [header for header in _HEADERS if header[0] not in present]
            headers.append((b"x-request-id", self._id))
            if self._is_last:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)
