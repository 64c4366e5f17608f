"""Drives flows over httpx, blocking and asynchronous; holds everything the two have in common."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import certifi
import httpx

from delineate import __version__
from delineate.client.address import Address
from delineate.client.failures import failure_from
from delineate.client.room import Room
from delineate.client.unlogged import unlogged
from delineate.errors import AnswerError, DeadlineError, DelineateError, SettingsError
from delineate.protocols.inference_server import TOKEN_HEADER
from delineate.protocols.messages import Body, Flow, Progress, Request, Response, Step, Wait, begin_body, drive

Result = TypeVar("Result")
ProgressCallback = Callable[["float | None", str], None]

CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 120.0  # seconds in which not one byte moves: a server that checks a large upload is silent for a while
LARGEST_CONTENT = 64 << 20  # an answer without a sink is text; more than this is a mistake or an attack
KEPT = 4.0  # seconds an idle connection is used again: servers commonly close at 5, and a post must not meet a closed one
PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN of OpenSSL, named by Python since 3.10: a server's own certificate will do, too
SHOWN_FROM = 8 << 20  # bytes from which a transfer is worth a progress report


@dataclass
class Line:
    """How one server is reached: address, token, trust. Common to both drivers.

    address : changes once at most, from http to https, where the server insists on it.
    idle : seconds in which not one byte moves until the server is given up.
    keeps : False for a connection of its own for each request: one that is kept may be closed by the server at the
        moment it is used again, and what must not be sent twice would fail.
    """

    address: Address
    token: str | None = None
    ca_file: Path | None = None
    verify: bool = True
    progress: ProgressCallback | None = None
    idle: float = IDLE_TIMEOUT
    keeps: bool = True

    def __post_init__(self) -> None:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise SettingsError("the token has characters that cannot be sent", "Give the token as it was issued, without line breaks.")

    def options(self) -> dict[str, Any]:
        """Arguments of an httpx client. A loopback server is never reached through a proxy."""
        is_plain = self.address.scheme == "http"
        return {
            "verify": False if is_plain else self._trust(),
            "trust_env": not self.address.is_loopback,
            "follow_redirects": False,
            "limits": httpx.Limits(max_connections=20, max_keepalive_connections=4 if self.keeps else 0, keepalive_expiry=KEPT),
        }

    def _trust(self) -> ssl.SSLContext:
        """With `ca_file` that authority alone; else the system's (which knows a hospital's own) and Mozilla's."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            if self.ca_file:
                context.verify_flags |= PARTIAL_CHAIN
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"no certificate authority could be read from {self.ca_file}: {error}", "Give a PEM file.") from None
        if self.ca_file is None:
            context.load_verify_locations(certifi.where())
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def headers(self, request: Request) -> list[tuple[str, str]]:
        """Headers of a request; they go to this address only, since no redirect elsewhere is followed."""
        headers = [("User-Agent", f"delineate/{__version__}"), ("Accept-Encoding", "identity"), *request.headers]
        if self.token is not None:
            headers += [("Authorization", f"Bearer {self.token}"), (TOKEN_HEADER, self.token)]
        if request.body is not None:
            headers.append(("Content-Length", str(request.body.length)))
        return headers

    def report(self, fraction: float | None, message: str) -> None:
        """Tell whoever asked for progress."""
        if self.progress is not None:
            self.progress(fraction, message)


@dataclass
class Call:
    """One request under way: its limit on the clock, and where its answer goes."""

    line: Line
    request: Request
    headers: dict[str, str] | None = None
    _end: float | None = field(init=False)

    def __post_init__(self) -> None:
        self._end = None if self.request.timeout is None else time.monotonic() + self.request.timeout

    def timeouts(self) -> httpx.Timeout:
        """Limits of single steps; the limit over all of it is checked between blocks."""
        limit = self.request.timeout if self.request.timeout is not None else self.line.idle
        idle = min(limit, self.line.idle)
        return httpx.Timeout(idle, connect=min(limit, CONNECT_TIMEOUT))

    def check(self) -> None:
        """`DeadlineError` when the time is up."""
        if self._end is not None and time.monotonic() > self._end:
            raise self.late()

    def late(self) -> DeadlineError:
        """That the time of this one call is up."""
        message = f"{self.line.address.origin} took longer than {self.request.timeout:g} s for one answer"
        return DeadlineError(message, "Try again later, or allow more time.")

    def blocks(self, body: Body) -> Iterator[bytes]:
        """The body to send, watched."""
        sent = 0
        for block in body:
            self.check()
            yield block
            sent += len(block)
            self._show("sending", sent, body.length)

    def begin(self, response: httpx.Response) -> None:
        """Take note of the answer's head; make its place in the sink."""
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        sink = self.request.sink
        if sink is not None and response.is_success:
            begin_body(sink, response.status_code, self.headers)

    def wants_body(self, response: httpx.Response) -> bool:
        """Whether the body is worth reading."""
        return not (self.request.peek and response.is_success)

    # As bytes arrive, not in blocks of a size: httpx would gather them, and a server that drips would not be noticed.
    # Decoded where a server encodes although it was asked not to.

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of an answer."""
        return response.iter_bytes() if self._is_encoded else response.iter_raw()

    def awaited_chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The body of an answer."""
        return response.aiter_bytes() if self._is_encoded else response.aiter_raw()

    @property
    def _is_encoded(self) -> bool:
        return (self.headers or {}).get("content-encoding", "identity").lower() not in ("identity", "")

    def receiver(self, response: httpx.Response) -> Receiver:
        """What takes the body."""
        length = (self.headers or {}).get("content-length", "")
        return Receiver(self, response.is_success, int(length) if length.isdigit() else None)

    def failure(self, error: Exception) -> DelineateError:
        """What an exception of httpx means."""
        return failure_from(error, self.line.address, self.headers, self.request.timeout)

    def _show(self, what: str, done: int, total: int | None) -> None:
        if total is not None and total >= SHOWN_FROM:
            self.line.report(done / total, f"{what} {total / 1e6:.0f} MB")


class Receiver:
    """Takes the body of one answer: into the sink, or into memory up to a limit."""

    def __init__(self, call: Call, is_success: bool, length: int | None) -> None:
        self._call = call
        self._sink = call.request.sink if is_success else None
        self._length = length
        self._done = 0
        self._room = None if self._sink is None else Room(self._sink, length)
        self.content = bytearray()

    def take(self, block: bytes) -> None:
        """The next bytes."""
        self._call.check()
        self._done += len(block)
        if self._sink is not None and self._room is not None:
            self._room.require(len(block))
            self._sink.write(block)
            self._call._show("fetching", self._done, self._length)
            return
        self.content += block
        if len(self.content) > LARGEST_CONTENT:
            raise AnswerError(f"the server answered with more than {LARGEST_CONTENT >> 20} MB where a few words were expected")


class SyncDriver:
    """Runs flows over a blocking httpx client."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._client = httpx.Client(**line.options())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def run(self, flow: Flow[Result]) -> Result:
        """Drive a flow to its end; its result. An interruption closes the flow and leaves the task at the server."""
        return drive(flow, self._perform)

    def _perform(self, step: Step) -> Response | None:
        if isinstance(step, Progress):
            self.line.report(step.fraction, step.message)
        elif isinstance(step, Wait):
            time.sleep(step.seconds)
        else:
            answer = self._send(step)
            secure = _upgrade(self.line, step, answer)
            if secure is None:
                return answer
            self.line.address = secure
            self._client.close()
            self._client = httpx.Client(**self.line.options())
            return self._send(step)
        return None

    @unlogged()
    def _send(self, request: Request) -> Response:
        call = Call(self.line, request)
        content = None if request.body is None else call.blocks(request.body)
        url = f"{self.line.address}{request.target}"
        try:
            message = self._client.build_request(
                request.method, url, headers=self.line.headers(request), content=content, timeout=call.timeouts()
            )
            response = self._client.send(message, stream=True)
            with contextlib.closing(response):
                call.begin(response)
                receiver = call.receiver(response)
                if call.wants_body(response):
                    for block in call.chunks(response):
                        receiver.take(block)
                return Response(response.status_code, call.headers or {}, bytes(receiver.content))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise call.failure(error) from error


class AsyncDriver:
    """Runs flows over an asynchronous httpx client, on asyncio or trio."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._client = httpx.AsyncClient(**line.options())
        self._retired: list[httpx.AsyncClient] = []

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._retired):
            await client.aclose()

    async def run(self, flow: Flow[Result]) -> Result:
        """Drive a flow to its end; its result. A cancellation closes the flow and leaves the task at the server."""
        answer: Response | None = None
        failure: DelineateError | None = None
        with contextlib.closing(flow):
            while True:
                try:
                    step = flow.send(answer) if failure is None else flow.throw(failure)
                except StopIteration as end:
                    result: Result = end.value
                    return result
                answer, failure = None, None
                try:
                    answer = await self._perform(step)
                except DelineateError as error:
                    failure = error

    async def _perform(self, step: Step) -> Response | None:
        if isinstance(step, Progress):
            self.line.report(step.fraction, step.message)
        elif isinstance(step, Wait):
            await anyio.sleep(step.seconds)
        else:
            answer = await self._send(step)
            secure = _upgrade(self.line, step, answer)
            if secure is None:
                return answer
            if self.line.address != secure:  # else another task was first
                self.line.address = secure
                self._retired.append(self._client)  # other tasks may be using it
                self._client = httpx.AsyncClient(**self.line.options())
            return await self._send(step)
        return None

    async def _send(self, request: Request) -> Response:
        call = Call(self.line, request)
        content = None if request.body is None else _unblocked(call.blocks(request.body))
        url = f"{self.line.address}{request.target}"
        try:
            message = self._client.build_request(
                request.method, url, headers=self.line.headers(request), content=content, timeout=call.timeouts()
            )
            with unlogged(), anyio.fail_after(request.timeout):
                return await self._receive(call, message)
        except TimeoutError:
            raise call.late() from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise call.failure(error) from error

    async def _receive(self, call: Call, message: httpx.Request) -> Response:
        response = await self._client.send(message, stream=True)
        try:
            call.begin(response)
            receiver = call.receiver(response)
            if call.wants_body(response):
                async for block in call.awaited_chunks(response):
                    receiver.take(block)
            return Response(response.status_code, call.headers or {}, bytes(receiver.content))
        finally:
            await response.aclose()


def _upgrade(line: Line, request: Request, answer: Response) -> Address | None:
    """The https address of the same server where a GET was redirected to it, else None."""
    if request.method != "GET" or answer.status not in (301, 302, 307, 308):
        return None
    return line.address.upgraded(answer.headers.get("location", ""), f"{line.address}{request.target}")


async def _unblocked(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks read from a file, here and there letting others run: a block is read faster than a thread is woken."""
    for block in blocks:
        yield block
        await anyio.lowlevel.checkpoint()
