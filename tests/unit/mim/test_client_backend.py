"""The extension's way to a server, against servers of each dialect and what goes wrong with them."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import re
import socket
import ssl
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from delineate.client.packing import packed
from delineate.errors import (
    AddressError,
    AnswerError,
    AuthorizationError,
    CertificateError,
    ConnectionFailedError,
    DeadlineError,
    DelineateError,
    ResultLostError,
    SettingsError,
    TaskFailedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.geometry import Geometry
from delineate.mim.client_backend import ClientBackend
from delineate.mim.inference_client import Connection
from delineate.testing.faults import Fault
from delineate.testing.script import FAILURE, Script
from delineate.testing.scripted import ScriptedServer, refusing_url
from delineate.volume import Volume

DIALECTS = ("seed", "v1", "v2")
UID = "u" * 43


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there is given up soon; no proxy of this machine is used."""
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 0.2)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    volume = Volume(np.arange(160, dtype=np.int16).reshape(4, 5, 8), Geometry((8, 5, 4)))
    with packed([volume]) as path:
        yield str(path)


@contextlib.contextmanager
def scripted(*faults: Fault, tls: ssl.SSLContext | None = None, **script: Any) -> Iterator[ScriptedServer]:
    with ScriptedServer(Script(**script), *faults, tls=tls) as server:
        yield server


def backend(url: str, said: list[str] | None = None, **options: Any) -> ClientBackend:
    options.setdefault("sleep", lambda seconds: time.sleep(min(seconds, 0.02)))
    return ClientBackend(Connection.of(url, None), (said if said is not None else []).append, **options)


def got(client: ClientBackend, uid: str, timeout: float = 20.0, interval: float = 1.0) -> bytes:
    sink = io.BytesIO()
    client.get(uid, sink, timeout, interval)
    return sink.getvalue()


@contextlib.contextmanager
def raw(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does with each connection what `answer` does; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def head_of(connection: socket.socket) -> bytes:
    """A request's head, with what came along of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = connection.recv(1 << 16)
        if not block:
            raise OSError
        data += block
    return data


# ------------------------------------------------------------ all goes well


@pytest.mark.parametrize("prefix", ["", "/a/path prefix"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_post_and_get_in_each_dialect(archive: str, dialect: str, prefix: str) -> None:
    said: list[str] = []
    with scripted(dialect=dialect, prefix=prefix) as server:
        client = backend(server.url.replace(" ", "%20") + "/", said)
        uid = client.post("noop", archive, 20)
        assert list(server.tasks) == [uid]
        data = got(client, uid)
        result = server.tasks[uid].result
        assert result is not None
        assert data == result.read_bytes()
    assert server.uploads
    assert said == ["Sending", "Waiting for the server"]


def test_every_request_says_who_asks(archive: str) -> None:
    with scripted(dialect="v1") as server:
        backend(server.url + "#token=t0ken").post("noop", archive, 20)
        for request in server.requests:
            assert request.headers["authorization"] == "Bearer t0ken"
            assert request.headers["x-token"] == "t0ken"
            assert request.headers["host"] == server.url.partition("//")[2]
            assert request.headers["user-agent"].startswith("delineate-mim/")
            assert request.headers["accept-encoding"] == "identity"


def test_a_model_s_name_is_quoted(archive: str) -> None:
    with scripted(dialect="v1", models={"Lunge & Herz/1": "finished"}) as server:
        assert backend(server.url).post("Lunge & Herz/1", archive, 20)


def test_polls_share_a_connection(archive: str) -> None:
    """As many as the server closes by itself: none."""
    accepted: list[int] = []
    with scripted(dialect="v1", polls=5) as server:
        client = backend(server.url)
        uid = client.post("noop", archive, 20)
        accept = server._http.get_request  # type: ignore[union-attr]

        def counted() -> Any:
            accepted.append(1)
            return accept()

        server._http.get_request = counted  # type: ignore[union-attr,method-assign]
        got(client, uid)
        assert len(server.requests) > 8
        # One for the question which dialect it is, whose answer is not read; one for the rest.
        assert len(accepted) <= 2
        assert server.open_sockets == set() or _is_soon(lambda: not server.open_sockets)


def _is_soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    """It answers once on each connection, promises to keep it, and closes it."""
    answers = [b"HTTP/1.1 551 x\r\nContent-Length: 0\r\n\r\n"] * 4 + [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nPK"]
    first = b"HTTP/1.1 554 x\r\nContent-Length: 0\r\n\r\n"
    heads: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(first if len(heads) == 1 else answers[len(heads) - 2])

    with raw(answer) as url:
        assert got(backend(url, sleep=lambda _: None), UID) == b"PK"
    assert len(heads) == 6


def test_bodies_are_streamed(tmp_path: Path) -> None:
    size = 48 << 20
    (tmp_path / "request.zip").write_bytes(bytes(size))
    received = [0]

    def answer(connection: socket.socket) -> None:
        head = head_of(connection)
        if head.startswith(b"POST"):
            received[0] = len(head.partition(b"\r\n\r\n")[2])
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            buffer = bytearray(1 << 20)
            while received[0] < length:
                received[0] += connection.recv_into(buffer)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"%s"' % UID.encode())
        elif UID.encode() in head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size >> 20):
                connection.sendall(bytes(1 << 20))
        else:
            connection.sendall(b"HTTP/1.1 554 x\r\nContent-Length: 0\r\n\r\n")

    said: list[str] = []
    with raw(answer) as url, (tmp_path / "result").open("w+b") as sink:
        tracemalloc.start()
        assert backend(url, said).post("noop", str(tmp_path / "request.zip"), 60) == UID
        backend(url).get(UID, sink, 60, 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "result").stat().st_size == size
    assert received[0] > size
    assert peak < 8 << 20
    assert said[0] == "Sending"


@pytest.mark.parametrize("framing", ["chunked", "until it closes"])
def test_a_result_of_no_known_length(framing: str) -> None:
    body = bytes(range(256)) * 5000

    def answer(connection: socket.socket) -> None:
        if UID.encode() not in head_of(connection):
            connection.sendall(b"HTTP/1.1 554 x\r\nContent-Length: 0\r\n\r\n")
        elif framing == "chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 70_000):
                block = body[start : start + 70_000]
                connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))
            connection.sendall(b"0\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    with raw(answer) as url:
        assert got(backend(url), UID) == body


def test_chunks_that_break_off_are_no_result() -> None:
    def answer(connection: socket.socket) -> None:
        if UID.encode() in head_of(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx")
        else:
            connection.sendall(b"HTTP/1.1 554 x\r\nContent-Length: 0\r\n\r\n")

    with raw(answer) as url, pytest.raises(ConnectionFailedError, match="dropped"):
        got(backend(url), UID)


# ------------------------------------------------------------ the server says no


@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_the_server_s_reason_reaches_the_person(archive: str, dialect: str) -> None:
    with scripted(dialect=dialect) as server:
        client = backend(server.url)
        with pytest.raises(TaskFailedError, match=FAILURE):
            got(client, client.post("failing", archive, 20))
        with pytest.raises(ResultLostError, match="gone"):
            got(client, client.post("losing", archive, 20))
        with pytest.raises(UnknownModelError, match="no-such") as raised:
            client.post("no-such", archive, 20)
        assert "model_human_readable_id" in raised.value.advice
        with pytest.raises(UnknownTaskError) as unknown:
            got(client, UID)
        assert "server_url" in unknown.value.advice


@pytest.mark.parametrize("uid", ["", "../../x", "a b", "ü" * 43, "http://x"])
def test_what_is_no_uid_is_never_sent(uid: str) -> None:
    with scripted(dialect="v1") as server:
        with pytest.raises(UnknownTaskError):
            got(backend(server.url), uid)
        assert server.requests == []


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(action="html", times=-1), AnswerError, "HTML"),
        (Fault(action="json", times=-1), AnswerError, "something else"),
        (Fault(action="redirect", location="https://sso.example/login?next=x", times=-1), AnswerError, "https://sso.example/login "),
        (Fault(action="redirect", location="https://sso.example/login", method="POST", times=-1), AnswerError, "redirects to"),
        (Fault(action="html", status=502, times=-1), UnavailableError, "502"),
        (Fault(action="status", status=401, times=-1), AuthorizationError, "401"),
        (Fault(action="html", status=403, times=-1), AuthorizationError, "403"),
        (Fault(action="html", method="POST", times=-1), AnswerError, "HTML"),
        (Fault(action="drop", method="POST", times=-1), ConnectionFailedError, "dropped"),
        (Fault(action="json", times=-1, headers=(("Content-Encoding", "br"),), status=500), AnswerError, "packs its answers"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_protocol_s(archive: str, fault: Fault, kind: type[DelineateError], words: str) -> None:
    with scripted(fault, dialect="v1") as server:
        with pytest.raises(kind, match=words) as raised:
            backend(server.url).post("noop", archive, 20)
        assert raised.value.advice
        assert [r.method for r in server.requests].count("POST") <= 1


def test_a_login_page_instead_of_a_result(archive: str) -> None:
    fault = Fault(action="html", path="/api/tasks/", method="GET", after=1, times=-1)
    with scripted(fault, dialect="v1", polls=0) as server:
        client = backend(server.url)
        uid = client.post("noop", archive, 20)
        fault_now = Fault(action="html", path=uid, times=-1)
        server.faults.clear()
        server.faults.add(fault_now)
        with pytest.raises(AnswerError, match="HTML page instead of a result"):
            got(client, uid)


def test_neither_uid_nor_token_is_in_the_words(archive: str) -> None:
    with scripted(dialect="v1") as server:
        client = backend(server.url + "#token=t0ken")
        uid = client.post("noop", archive, 20)
        server.faults.add(Fault(action="redirect", path=uid, location=f"https://other.example/t0ken/{uid}/", times=-1))
        with pytest.raises(AnswerError, match="redirects to") as raised:
            got(client, uid)
        for words in (str(raised.value), raised.value.sentence(), repr(raised.value)):
            assert uid not in words
            assert "t0ken" not in words


def test_redirects_are_not_followed() -> None:
    with scripted(dialect="v1") as other:
        with scripted(Fault(action="redirect", location=other.url + "/", times=-1), dialect="v1") as server:
            with pytest.raises(AnswerError, match="redirects to"):
                got(backend(server.url + "#token=secret"), UID)
        assert other.requests == []


def test_a_refusal_before_the_upload_is_read(tmp_path: Path) -> None:
    (tmp_path / "request.zip").write_bytes(bytes(32 << 20))
    body = b'{"detail": "no such model"}'

    def answer(connection: socket.socket) -> None:
        head = head_of(connection)
        status = b"550" if head.startswith(b"POST") else b"554"
        connection.sendall(b"HTTP/1.1 %s x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + 0.3
        while head.startswith(b"POST") and time.monotonic() < end and connection.recv(1 << 16):
            pass

    with raw(answer) as url, pytest.raises(UnknownModelError, match="no such model"):
        backend(url).post("noop", str(tmp_path / "request.zip"), 20)


def test_a_token_that_is_wanted_is_written_where_the_workstation_reads_it(archive: str) -> None:
    """Whatever advice our server gives to those at a command line."""
    body = b'{"type": "urn:delineate:error:authorization", "message": "The token is not valid", "advice": "Use --token-file."}'

    def answer(connection: socket.socket) -> None:
        head_of(connection)
        head = b"HTTP/1.1 401 x\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)

    with raw(answer) as url, pytest.raises(AuthorizationError, match="The token is not valid") as raised:
        backend(url).post("noop", archive, 20)
    assert "delineate.ini" in raised.value.advice
    assert "--token-file" not in raised.value.sentence()


# ------------------------------------------------------------ the way is broken


def test_refused_connection() -> None:
    with refusing_url() as url, pytest.raises(ConnectionFailedError, match="nothing listens") as raised:
        got(backend(url), UID)
    assert raised.value.advice


def test_name_that_cannot_be_resolved() -> None:
    with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid cannot be resolved"):
        got(backend("http://no-such-host.invalid"), UID)


def test_a_server_that_starts_a_moment_later_is_met(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 3.0)
    with scripted(dialect="v1") as server:
        server.stop()
        tries: list[float] = []

        def sleep(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 2:
                server.start()

        assert backend(server.url, sleep=sleep).post("noop", archive, 20)


def test_502_passes(archive: str) -> None:
    faults = [Fault(action="html", status=502, times=3, method="GET"), Fault(action="status", status=503, times=2, method="POST")]
    with scripted(*faults, dialect="v1") as server:
        client = backend(server.url)
        assert got(client, client.post("noop", archive, 20))


def test_a_post_is_never_sent_twice_to_a_stranger_that_may_have_taken_it(archive: str) -> None:
    with scripted(Fault(action="drop", method="POST"), dialect="v1") as server:
        with pytest.raises(ConnectionFailedError):
            backend(server.url).post("noop", archive, 20)
        assert [r.method for r in server.requests].count("POST") == 1


def test_a_server_that_is_gone_while_a_task_is_awaited(archive: str) -> None:
    """It goes at the second wait and comes back six waits later, with the task."""
    with scripted(dialect="v1", polls=4) as server:
        uid = backend(server.url).post("noop", archive, 20)
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 2:
                server.stop()
            if len(waits) == 8:
                server.start()

        said: list[str] = []
        assert got(backend(server.url, said, sleep=sleep), uid)
        assert len(waits) > 8


@pytest.mark.parametrize("ranges", [True, False])
def test_a_result_that_breaks_off_is_completed(archive: str, tmp_path: Path, ranges: bool) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(np.random.default_rng(1).bytes(3_000_000))
    with scripted(dialect="v1", ranges=ranges, polls=0, late_row=False, result=whole) as server:
        client = backend(server.url)
        uid = client.post("noop", archive, 20)
        server.faults.add(Fault(action="break", path=uid, times=2))
        assert got(client, uid) == whole.read_bytes()
        assert any("range" in r.headers for r in server.requests) is ranges


@pytest.mark.parametrize(("action", "kind"), [("break", ConnectionFailedError), ("empty", ResultLostError)])
def test_a_result_that_never_comes_whole(archive: str, action: str, kind: type[DelineateError]) -> None:
    with scripted(dialect="v1", polls=0, late_row=False) as server:
        client = backend(server.url)
        uid = client.post("noop", archive, 20)
        server.faults.add(Fault(action=action, path=uid, times=-1))
        with pytest.raises(kind) as raised:
            got(client, uid)
        assert raised.value.advice


def test_something_that_speaks_no_http() -> None:
    def greet(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    with raw(greet) as url, pytest.raises(AnswerError, match="does not speak HTTP"):
        got(backend(url), UID)


# ------------------------------------------------------------ time


def test_timeout_is_measured_on_the_clock(archive: str) -> None:
    with scripted(dialect="v1") as server:
        uid = backend(server.url).post("sleeping", archive, 20)
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match=r"0\.5 s") as raised:
            got(backend(server.url, sleep=time.sleep), uid, timeout=0.5)
        assert 0.4 < time.monotonic() - begin < 20
        assert "InferenceServerGetFromUid" in raised.value.advice


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"HTTP/1.1 404 x\r\nX: " + b"x" * 60_000, id="dripping head"),
        pytest.param(b"HTTP/1.1 404 x\r\nContent-Length: 10000\r\n\r\n" + b"x" * 9999, id="dripping body"),
        pytest.param(b"HTTP/1.1 404 x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 999, id="dripping chunks"),
    ],
)
def test_a_server_holds_nobody(answer: bytes) -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        head_of(connection)
        for value in answer:
            connection.sendall(bytes((value,)))
            if stop.wait(0.01):
                return
        stop.wait(60)

    with raw(drip) as url:
        begin = time.monotonic()
        try:
            with pytest.raises(DeadlineError) as raised:
                got(backend(url), UID, timeout=0.6)
            assert time.monotonic() - begin < 20
            assert raised.value.advice
        finally:
            stop.set()


def test_silence_of_one_call_is_limited() -> None:
    stop = threading.Event()

    def hang(connection: socket.socket) -> None:
        head_of(connection)
        stop.wait(60)

    with raw(hang) as url:
        try:
            connection = Connection("http", "127.0.0.1", int(url.rpartition(":")[2]), "", timeout=0.2)
            client = ClientBackend(connection, [].append, sleep=lambda _: None)
            with pytest.raises(DeadlineError, match=r"was silent for 0\.2 s"):
                client.get(UID, io.BytesIO(), 60, 1)
        finally:
            stop.set()


def test_a_server_that_takes_no_data_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "request.zip").write_bytes(bytes(32 << 20))
    stop = threading.Event()

    def swallow(connection: socket.socket) -> None:
        if head_of(connection).startswith(b"POST"):
            stop.wait(60)
        else:
            connection.sendall(b"HTTP/1.1 554 x\r\nContent-Length: 0\r\n\r\n")

    with raw(swallow) as url:
        begin = time.monotonic()
        try:
            with pytest.raises(DeadlineError) as raised:
                backend(url).post("noop", str(tmp_path / "request.zip"), 1.0)
            assert time.monotonic() - begin < 20
            assert "goes on" not in raised.value.advice, "no task is there yet"
        finally:
            stop.set()


class Clock:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_lines_while_waiting_are_few_and_say_how_long(archive: str) -> None:
    clock = Clock()
    told: list[tuple[float, str]] = []
    with scripted(dialect="v1") as server:
        uid = backend(server.url).post("sleeping", archive, 20)
        client = ClientBackend(
            Connection.of(server.url, None), lambda line: told.append((clock.now - 1000, line)), clock=clock, sleep=clock.sleep
        )
        with pytest.raises(DeadlineError):
            client.get(uid, io.BytesIO(), 600, 2)
    times = [at for at, _ in told]
    assert told[0] == (0, "Waiting for the server")
    assert told[1][1] == f"Waiting for the server, {times[1]:.0f} s"
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(times))
    assert 15 <= len(told) <= 50


@pytest.mark.parametrize("interval", [2, 30])
def test_an_interval_that_a_person_chose_is_kept(archive: str, interval: float) -> None:
    clock = Clock()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.sleep(seconds)

    with scripted(dialect="v1", polls=4, late_row=False) as server:
        uid = backend(server.url).post("noop", archive, 20)
        got(backend(server.url, clock=clock, sleep=sleep), uid, timeout=600, interval=interval)
    assert waits == [interval] * 4


def test_a_person_hears_that_the_server_is_gone_and_that_it_is_back(archive: str) -> None:
    clock = Clock()
    said: list[str] = []
    waits: list[float] = []
    with scripted(dialect="v1", polls=9) as server:

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            waits.append(seconds)
            if len(waits) == 2:
                server.stop()
            if len(waits) == 8:
                server.start()

        uid = backend(server.url).post("noop", archive, 20)
        got(backend(server.url, said, clock=clock, sleep=sleep), uid, timeout=600, interval=2)
        words = [re.sub(r", \d+ s$", "", line) for line in said]
        gone = [line for line in words if line.startswith("Trying again: ")]
        assert gone
        assert all(server.url in line for line in gone)
        first, last = words.index(gone[0]), len(words) - 1 - words[::-1].index(gone[-1])
        assert set(words[first : last + 1]) == set(gone), "one thing is said until it is over"
        assert words[0] == words[last + 1] == "Waiting for the server"


# ------------------------------------------------------------ the disk


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_no_broken_connection(archive: str) -> None:
    with scripted(dialect="v1", polls=0) as server:
        client = backend(server.url)
        uid = client.post("noop", archive, 20)
        with pytest.raises(SettingsError, match="No space left"):
            client.get(uid, FullDisk(), 20, 1)


@pytest.mark.parametrize(("name", "value"), [("LARGEST_RESULT", 1000), ("SPARE", 1 << 60)])
def test_a_result_without_end_does_not_fill_the_disk(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(bytes(3_000_000))
    monkeypatch.setattr(f"delineate.mim.client_backend.{name}", value)
    with scripted(dialect="v1", polls=0, late_row=False, result=whole) as server, (tmp_path / "sink").open("w+b") as sink:
        client = backend(server.url)
        uid = client.post("noop", archive, 20)
        with pytest.raises(AnswerError, match="result"):
            client.get(uid, sink, 20, 1)
        assert sink.tell() == 0


def test_an_answer_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.mim.client_backend.LARGEST_TEXT", 1 << 20)

    def flood(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 404 x\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))

    with raw(flood) as url, pytest.raises(AnswerError, match="more than 1 MB"):
        got(backend(url), UID)


# ------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_private_authority(archive: str, authority: trustme.CA, server_context: ssl.SSLContext, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with scripted(dialect="v1", tls=server_context, prefix="/x") as server:
        for behind in (f"#ca_file={tmp_path / 'ca.pem'}", "#verify=no"):
            client = backend(server.url + behind)
            assert got(client, client.post("noop", archive, 20))


def test_the_servers_own_certificate_as_authority(archive: str, authority: trustme.CA, tmp_path: Path) -> None:
    certificate, context = authority.issue_cert("127.0.0.1"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    with scripted(tls=context) as server:
        assert backend(f"{server.url}#ca_file={tmp_path / 'server.pem'}").post("noop", archive, 20) in server.tasks


def test_wrong_certificates(authority: trustme.CA, server_context: ssl.SSLContext, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with scripted(dialect="v1", tls=server_context) as server:
        other_name = server.url.replace("127.0.0.1", "localhost")
        for url, words in (
            (server.url, "(ca_file)"),
            (f"{server.url}#ca_file={tmp_path / 'other.pem'}", "(ca_file)"),
            (f"{other_name}#ca_file={tmp_path / 'ca.pem'}", "Use the name"),
        ):
            pauses: list[float] = []
            with pytest.raises(CertificateError) as raised:
                got(backend(url, sleep=pauses.append), UID)
            assert words in raised.value.advice
            assert pauses == [], "a certificate does not become right by trying again"
        assert server.requests == []


def test_a_certificate_that_has_expired(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=datetime(2021, 1, 1, tzinfo=timezone.utc)).configure_cert(context)
    with scripted(dialect="v1", tls=context) as server, pytest.raises(CertificateError, match="expired") as raised:
        got(backend(f"{server.url}#ca_file={tmp_path / 'ca.pem'}"), UID)
    assert "renew" in raised.value.advice


def test_https_where_http_is_spoken_and_the_other_way_round(server_context: ssl.SSLContext) -> None:
    with scripted(dialect="v1") as server:
        with pytest.raises(AddressError, match="does not speak TLS") as raised:
            got(backend(server.url.replace("http:", "https:")), UID)
        assert server.url in raised.value.advice
    with scripted(dialect="v1", tls=server_context) as server:
        with pytest.raises((AddressError, ConnectionFailedError)) as dropped:
            got(backend(server.url.replace("https:", "http:")), UID)
        assert "https://" in dropped.value.advice


# ------------------------------------------------------------ proxies


def test_through_the_system_s_proxy(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(dialect="v1", prefix="/x") as server:
        monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://me:s%40cret@"))
        client = backend("http://server.example:81/x")
        assert got(client, client.post("noop", archive, 20))
        for request in server.requests:
            assert request.target.startswith("http://server.example:81/x/")
            assert request.headers["host"] == "server.example:81"
            assert request.headers["proxy-authorization"] == "Basic bWU6c0BjcmV0"


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(dialect="v1") as server:
        monkeypatch.setenv("https_proxy", server.url.replace("http://", ""))
        with pytest.raises(ConnectionFailedError, match=r"the proxy 127\.0\.0\.1 on the way to https://server\.example refuses") as raised:
            got(backend("https://server.example"), UID)
        assert "NO_PROXY" in raised.value.advice
        held = [frame.f_locals for frame, _ in traceback.walk_tb(raised.value.__context__.__traceback__)]  # type: ignore[union-attr]
        assert not any("response" in values for values in held), "the proxy's answer keeps the socket open"


@pytest.mark.parametrize("url", ["http://proxy:port", "http://[proxy", "socks5://proxy:1080", "http://", "http://secret@:3128"])
def test_a_proxy_s_address_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(SettingsError, match="proxy cannot be used") as raised:
        got(backend("http://server.example"), UID)
    assert "secret" not in raised.value.sentence()


def test_https_through_a_proxy(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: str) -> None:
    """The proxy is told the server's name, and from then on understands nothing."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.example").configure_cert(context)
    heads: list[bytes] = []
    with scripted(dialect="v1", tls=context) as server:
        port = int(server.url.rpartition(":")[2])

        def tunnel(connection: socket.socket) -> None:
            heads.append(head_of(connection))
            with socket.create_connection(("127.0.0.1", port)) as onward:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_relay, args=(onward, connection))
                back.start()
                _relay(connection, onward)
                back.join()

        with raw(tunnel) as url:
            monkeypatch.setenv("https_proxy", url)
            client = backend(f"https://server.example#ca_file={tmp_path / 'ca.pem'}&token=t0ken")
            assert client.post("noop", archive, 20) in server.tasks
        assert server.requests[-1].headers["host"] == "server.example"
    assert all(head.startswith(b"CONNECT server.example:443 ") and b"t0ken" not in head for head in heads)


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("exceptions", ["", "server.example"])
def test_this_machine_and_exceptions_are_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch, exceptions: str) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", exceptions)
    with scripted(dialect="v1") as server, pytest.raises(UnknownTaskError):
        got(backend(server.url), UID)
    assert (Connection.of("http://server.example", None).proxy() is None) is bool(exceptions)
