"""Limits of time for requests, against clients that say nothing, drip or stand still."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from delineate.errors import UnavailableError
from delineate.protocols.inference_server import error_from
from delineate.protocols.messages import Response as Heard
from delineate.server.app import create_app
from delineate.server.bounded_http import HEAD_BYTES, PIPELINED, BoundedHttp
from delineate.server.settings import Settings

POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n"

Steady = Callable[[Callable[[], None]], None]


class Hasty(BoundedHttp):
    """The same with limits that a test can await."""

    head_seconds = 0.4
    body_seconds = 0.4
    body_bytes = 10


class Server:
    """Counts what comes; `/slow` takes its time to read and to answer."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        config = uvicorn.Config(
            self._app, interface="asgi3", http=Hasty, loop="uvloop", ws="none", lifespan="off", log_config=None, access_log=False,
            timeout_keep_alive=60,  # so that what ends sooner was ended by the limits
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer: Response
        try:
            if scope["path"] == "/slow":
                await asyncio.sleep(1.0)
            if scope["path"] == "/early":
                answer = PlainTextResponse("no")
            else:
                size = len(await request.body())
                if scope["path"] == "/slow":
                    await asyncio.sleep(1.0)
                self.ended.append(f"{size} bytes")
                answer = PlainTextResponse(f"{size} bytes")
            await answer(scope, receive, send)
        except ClientDisconnect:
            self.ended.append("gone")

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 20)

    def answers(self, *pieces: bytes) -> list[str]:
        """What it says to requests that come in these pieces, the last of which closes the connection."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.02)  # so that they come apart; together they must be answered as well
            said = b"".join(iter(lambda: connection.recv(65536), b""))
        return [part.rsplit(b"\r\n", 1)[-1].decode() for part in said.split(b"HTTP/1.1 ")[1:]]


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(module_server: Server) -> Server:
    module_server.ended.clear()
    return module_server


def heard(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass  # it hung up on what the test still sent
    return data


def drip(connection: socket.socket, data: bytes, size: int, seconds: float) -> int:
    """Send a little now and then, until the server has enough of it; how much of it was not sent."""
    for start in range(0, len(data), size):
        try:
            connection.sendall(data[start : start + size])
        except OSError:
            return len(data) - start
        time.sleep(seconds)
    return 0


def until(server: Server, *ended: str) -> None:
    deadline = time.monotonic() + 60
    while server.ended != list(ended):
        assert time.monotonic() < deadline, server.ended
        time.sleep(0.01)


def reason(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head
    found = json.loads(body)
    assert isinstance(found, dict)
    return found


def test_who_says_nothing_is_hung_up_on_without_a_word(server: Server) -> None:
    with server.connect() as connection:
        assert heard(connection) == b""


def test_a_dripping_head_ends_however_often_something_comes(server: Server) -> None:
    with server.connect() as connection:
        assert drip(connection, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 400, 6, 0.05), "it was let go on"
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert "head" in reason(heard(connection))["message"]
    assert server.ended == []


def test_empty_lines_are_no_request(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        assert heard(connection) == b"", "nobody asked a second time"  # and it holds the connection no longer than a request without end


@pytest.mark.parametrize("sent", [b"", b"some"], ids=["nothing", "a little"])
def test_a_silent_body_ends_with_408_and_the_application_clears_up(server: Server, sent: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(POST + sent)
        body = reason(heard(connection))
    until(server, "gone")
    assert (body["status"], "body" in body["message"], bool(body["advice"])) == (408, True, True)
    error = error_from(Heard(408, {"content-type": "application/problem+json"}, json.dumps(body).encode()), "the upload")
    assert isinstance(error, UnavailableError)
    assert error.message == body["message"]


def test_a_dripping_body_ends(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(POST.replace(b"60", b"9000"))
        assert drip(connection, b"x" * 400, 1, 0.05), "it was let go on"  # 8 bytes in the time that wants 10
    until(server, "gone")


def test_a_chunked_body_without_end_ends(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert reason(heard(connection))["status"] == 408
    until(server, "gone")


def test_a_slow_but_steady_upload_arrives(server: Server, while_the_clock_is_steady: Steady) -> None:
    def attempt() -> None:
        server.ended.clear()
        with server.connect() as connection:
            connection.sendall(POST)
            begin = time.monotonic()
            drip(connection, b"x" * 60, 3, 0.045)  # 26 bytes in the time that wants 10
            assert time.monotonic() - begin > 2 * Hasty.body_seconds, "it took longer than the limit allows for silence"
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = heard(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"60 bytes" in answer
        assert server.ended == ["60 bytes", "0 bytes"]

    while_the_clock_is_steady(attempt)


def test_a_slow_server_is_not_held_against_the_client(server: Server, while_the_clock_is_steady: Steady) -> None:
    """It reads late, so that the body stands still; it answers late, when there is nothing more to come."""
    size = 8 << 20

    def attempt() -> None:
        with server.connect() as connection:
            connection.sendall(f"POST /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode())
            connection.sendall(bytes(size))
            assert f"{size} bytes".encode() in heard(connection)
        with server.connect() as connection:
            connection.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            connection.sendall(b"four")
            assert b"4 bytes" in heard(connection)

    while_the_clock_is_steady(attempt)


def test_the_rest_of_a_body_that_was_answered_already_is_not_awaited_for_ever(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(POST.replace(b"POST /", b"POST /early"))
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"408" not in answer


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        pytest.param(b"0\r\n", b"X: y\r\n" * 10_000, id="trailers"),
        pytest.param(b"0\r\nX: ", b"x" * 60_000, id="one trailer"),
        pytest.param(b"5;a=", b"x" * 60_000, id="extension of a chunk"),
    ],
)
def test_what_comes_in_a_body_without_being_of_it_is_limited(server: Server, begin: bytes, piece: bytes) -> None:
    """The parser keeps each trailer, twelve times its bytes, and never says so."""
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + begin)
        with pytest.raises(OSError, match=r"reset|Broken"):
            for _ in range(1000):
                connection.sendall(piece)
    until(server, "gone")


def test_small_chunks_are_no_trailers(server: Server) -> None:
    count = 3 * HEAD_BYTES // 6
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"1\r\nx\r\n" * count + b"0\r\nDigest: x\r\n\r\n")
        assert f"{count} bytes".encode() in heard(connection)


def test_requests_without_waiting_for_answers_are_limited(server: Server) -> None:
    few = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * PIPELINED
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(few + last)
        assert heard(connection).count(b"HTTP/1.1 200 ") == PIPELINED + 1
    with server.connect() as connection:
        connection.sendall(few + few + last)
        assert b"HTTP/1.1 400 " in heard(connection)


def test_a_connection_is_kept_between_requests(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(2 * Hasty.head_seconds)
    assert server.ended == ["0 bytes", "0 bytes"]


@pytest.mark.parametrize("size", [100, 5 << 20], ids=["in memory", "in a file"])
def test_an_upload_that_stops_leaves_no_task_and_no_file(tmp_path: Path, size: int) -> None:
    model = tmp_path / "models" / "noop"
    model.mkdir(parents=True)
    (model / "model.toml").write_text('name = "noop"\nrunner = "process"\n')
    app = create_app(Settings(data=tmp_path / "data", models=(model.parent,), sync=False))
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Hasty, ws="none", log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), 10) as connection:
                head = "POST /api/tasks/?model_human_readable_id=noop HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"
                connection.sendall(f"{head}Content-Length: {size + 1}\r\n\r\n".encode() + bytes(size))
                assert reason(heard(connection))["status"] == 408
            left = [tmp_path]
            deadline = time.monotonic() + 60
            while left and time.monotonic() < deadline:
                left = [path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]
            assert left == []
            assert app.state.service.tasks.tasks() == []
        finally:
            server.should_exit = True
            thread.join(10)


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
SIZED = b"PUT / HTTP/1.1\r\nHost: x\r\n" + OFFER + b"Content-Length: 7\r\n\r\n"
IN_CHUNKS = b"PUT / HTTP/1.1\r\nHost: x\r\n" + OFFER + b"Transfer-Encoding: chunked\r\n\r\n"
BARE = b"GET / HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n"
LAST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend"


@pytest.mark.parametrize(
    ("pieces", "sizes"),
    [
        ((SIZED + b"7 bytes", LAST), (7, 3)),
        ((SIZED, b"7 by", b"tes" + LAST), (7, 3)),
        ((SIZED[:40], SIZED[40:] + b"7 bytes" + LAST), (7, 3)),
        ((IN_CHUNKS + b"4\r\nfour\r\n5\r\n five\r\n0\r\nX-Trailer: 1\r\n\r\n", LAST), (9, 3)),
        ((IN_CHUNKS, b"4\r\nfo", b"ur\r\n0\r\n\r\n" + LAST), (4, 3)),
        ((BARE, LAST), (0, 3)),
        ((BARE + SIZED + b"7 bytes" + SIZED + b"7 bytes" + BARE + LAST,), (0, 7, 7, 0, 3)),
        ((SIZED.replace(b"th: 7", b"th: 0"), SIZED, b"7 bytes", IN_CHUNKS, b"1\r\n1\r\n0\r\n\r\n", LAST), (0, 7, 1, 3)),
        ((SIZED.replace(b"h2c", b"websocket") + b"7 bytes", LAST), (7, 3)),
    ],
)
def test_who_offers_another_protocol_is_served_in_this_one(
    module_server: Server, pieces: tuple[bytes, ...], sizes: tuple[int, ...]
) -> None:
    """As Java's client does with every server that it does not know."""
    assert module_server.answers(*pieces) == [f"{size} bytes" for size in sizes]


def test_a_broken_body_behind_an_offer_is_refused(module_server: Server) -> None:
    assert module_server.answers(IN_CHUNKS, b"nonsense\r\n") == ["Invalid HTTP request received."]
