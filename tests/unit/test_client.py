"""Both clients against scripted servers of each dialect: what they do when all goes well, and when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trustme

from delineate import nifti
from delineate.client import AsyncClient, Client
from delineate.client.room import Room
from delineate.errors import (
    AddressError,
    AnswerError,
    ArchiveError,
    AuthorizationError,
    CertificateError,
    ConnectionFailedError,
    DeadlineError,
    DelineateError,
    GeometryError,
    ImageError,
    InputError,
    ResultLostError,
    SettingsError,
    TaskFailedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.files import write_volume
from delineate.geometry import Geometry
from delineate.protocols.messages import Backoff
from delineate.testing.faults import Fault
from delineate.testing.script import FAILURE, Script
from delineate.testing.scripted import ScriptedServer, refusing_url
from delineate.volume import Volume

DIALECTS = ("seed", "v1", "v2")
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = Geometry((8, 5, 4), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.5), (COS, -SIN, 0, SIN, COS, 0, 0, 0, 1))
QUICK = {"interval": 0.01, "backoff": Backoff(first=0.01, highest=0.05)}


class _AwaitedClient:
    """An `AsyncClient` that can be called like a `Client`: one set of tests for both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._client = AsyncClient(*arguments, **options)
        except BaseException:
            self._loop.close()
            raise

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return (lambda *a, **k: self._loop.run_until_complete(value(*a, **k))) if asyncio.iscoroutinefunction(value) else value

    def __enter__(self) -> _AwaitedClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


Maker = Callable[..., Any]


@pytest.fixture(params=[Client, _AwaitedClient], ids=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Maker:
    return lambda url, **options: request.param(url, **{**QUICK, **options})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 0.2)


@pytest.fixture
def volume() -> Volume:
    return Volume(np.arange(160, dtype=np.int16).reshape(OBLIQUE.shape), OBLIQUE)


@contextlib.contextmanager
def scripted(*faults: Fault, tls: ssl.SSLContext | None = None, **script: Any) -> Iterator[ScriptedServer]:
    with ScriptedServer(Script(**script), *faults, tls=tls) as server:
        yield server


# ------------------------------------------------------------ all goes well


@pytest.mark.parametrize("prefix", ["", "/a/path prefix"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_segment_on_the_true_grid_in_each_dialect(make: Maker, volume: Volume, dialect: str, prefix: str) -> None:
    said: list[str] = []
    uids: list[str] = []
    with scripted(dialect=dialect, prefix=prefix) as server:
        url = server.url.replace(" ", "%20") + "/"
        with make(url, progress=lambda _, message: said.append(message)) as client:
            segmentation = client.segment(volume, "noop", submitted=uids.append)
            assert client.dialect == dialect
        assert uids == list(server.tasks)
    assert segmentation.geometry.matches(OBLIQUE), "headers of strangers do not count"
    assert segmentation.mask("First_Half")[:, :, :4].all()
    assert segmentation.mask("Second_Half")[:, :, 4:].all()
    assert said[0] == "sending"
    assert "waiting for the server" in said


def test_step_by_step(make: Maker, volume: Volume, tmp_path: Path) -> None:
    with scripted(dialect="v1") as server, make(server.url) as client:
        uid = client.submit(volume, "noop")
        client.wait(uid)
        assert client.status(uid).state == "finished"
        assert client.fetch(uid).names == ["First_Half", "Second_Half"]
        path = client.fetch_archive(uid, tmp_path / "result.zip")
        assert sorted(zipfile.ZipFile(path).namelist()) == ["segmentation.json", "segmentation.nii.gz"]
        assert [p.name for p in tmp_path.iterdir()] == ["result.zip"]
        assert "noop" in [row["human_readable_id"] for row in client.models()]
        client.delete(uid)
        with pytest.raises(UnknownTaskError):
            client.wait(uid)


def test_nifti_files_go_byte_for_byte_and_others_are_converted(make: Maker, volume: Volume, tmp_path: Path) -> None:
    nifti.write(tmp_path / "a.nii.gz", volume)
    write_volume(tmp_path / "b.nrrd", volume)
    with scripted(dialect="v1") as server, make(server.url) as client:
        client.submit([tmp_path / "a.nii.gz", str(tmp_path / "b.nrrd"), volume], "noop")
        with zipfile.ZipFile(io.BytesIO(server.uploads[0].read())) as packed:
            assert packed.read("tmp_0000.nii.gz") == (tmp_path / "a.nii.gz").read_bytes()
            for name in ("tmp_0001.nii.gz", "tmp_0002.nii.gz"):
                sent = nifti.read(io.BytesIO(packed.read(name)))
                assert sent.geometry.matches(OBLIQUE)
                assert np.array_equal(sent.voxels, volume.voxels)
            assert {"meta.json", "tmp_0000.meta.json", "tmp_0002.meta.json"} <= set(packed.namelist())


def test_token_goes_in_both_headers(make: Maker, volume: Volume) -> None:
    with scripted(dialect="v2", token="t0ken") as server:
        with make(server.url, token="t0ken") as client:
            assert client.models()
        with make(server.url) as client, pytest.raises(AuthorizationError):
            client.models()
        assert server.requests[0].headers["authorization"] == "Bearer t0ken"
        assert server.requests[0].headers["x-token"] == "t0ken"
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_one_result_is_not_downloaded_twice_while_waiting(make: Maker, volume: Volume) -> None:
    with scripted(dialect="v2", describes=False) as server, make(server.url) as client:
        client.segment(volume, "noop")
        assert [r.method + " " + r.target.partition("?")[0] for r in server.requests[2:]] == [
            "POST /api/tasks/", "POST /api/tasks/", "GET /api/tasks/outputs/", "GET /api/tasks/outputs/",
        ]  # fmt: skip


# ------------------------------------------------------------ the server says no


@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_the_servers_reason_reaches_the_person(make: Maker, volume: Volume, dialect: str) -> None:
    with scripted(dialect=dialect) as server, make(server.url) as client:
        with pytest.raises(TaskFailedError, match=FAILURE):
            client.segment(volume, "failing")
        with pytest.raises(ResultLostError, match="gone"):
            client.segment(volume, "losing")
        with pytest.raises(UnknownModelError, match="no-such"):
            client.segment(volume, "no-such")
        with pytest.raises(UnknownTaskError):
            client.wait("x" * 43)


def test_what_cannot_be_sent_is_told_before_anything_is(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    with scripted(dialect="v1") as server, make(server.url) as client:
        for images, kind in (
            (tmp_path / "missing.nii.gz", ImageError), (tmp_path, ImageError), ([], InputError), (tmp_path / "broken.nii.gz", ImageError),
        ):  # fmt: skip
            with pytest.raises(kind):
                client.segment(images, "noop")
        assert [r for r in server.requests if r.method == "POST"] == []


def test_a_result_on_another_grid_is_refused(make: Maker, volume: Volume) -> None:
    with scripted(dialect="v1") as server, make(server.url) as client:
        uid = client.submit(volume, "noop")
        with pytest.raises(GeometryError):
            client.fetch(uid, geometry=Geometry((8, 5, 5)))


# ------------------------------------------------------------ bad input, row "client"


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(action="html", times=-1), AnswerError, "HTML"),
        (Fault(action="html", status=404, times=-1), AnswerError, "HTML"),
        (Fault(action="json", times=-1), AnswerError, "something else"),
        (Fault(action="redirect", location="https://sso.example/login?next=x", times=-1), AnswerError, "https://sso.example/login "),
        (Fault(action="status", status=502, times=-1), UnavailableError, "502"),
        (Fault(action="html", status=502, times=-1), UnavailableError, "502"),
        (Fault(action="status", status=504, times=-1), UnavailableError, "504"),
        (Fault(action="status", status=401, times=-1), AuthorizationError, "401"),
        (Fault(action="html", status=403, times=-1), AuthorizationError, "403"),
        (Fault(action="status", status=500, times=-1, after=2), UnavailableError, "500"),
        (Fault(action="html", times=-1, after=2), AnswerError, "HTML"),
        (Fault(action="json", times=-1, after=2), AnswerError, "no list"),
        (Fault(action="empty", times=-1, after=2), AnswerError, "octet-stream"),
        (Fault(action="drop", times=-1, after=1), ConnectionFailedError, "dropped"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_protocols(make: Maker, volume: Volume, fault: Fault, kind: type[DelineateError], words: str) -> None:
    with scripted(fault, dialect="v1") as server, make(server.url) as client:
        begin = time.monotonic()
        with pytest.raises(kind, match=words) as raised:
            client.models()
            client.models()
        assert time.monotonic() - begin < 60
        assert raised.value.advice


def test_refused_connection(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 1.0)
    begin = time.monotonic()
    with refusing_url() as url, make(url) as client, pytest.raises(ConnectionFailedError, match="nothing listens") as raised:
        client.models()
    assert raised.value.is_refused
    assert 0.6 < time.monotonic() - begin < 30


def test_a_server_that_starts_a_moment_later_is_met(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 30.0)
    with scripted(dialect="v1") as server:
        server.stop()
        threading.Timer(0.6, server.start).start()
        with make(server.url) as client:
            assert client.models()


@pytest.mark.usefixtures("impatient")
def test_name_that_cannot_be_resolved(make: Maker) -> None:
    with make("http://no-such-host.invalid", timeout=20) as client, pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid"):
        client.models()


@pytest.mark.parametrize(
    ("url", "kind"), [("server.example", AddressError), ("ftp://server.example", AddressError), ("http://h?x=1", AddressError)]
)
def test_wrong_or_no_scheme(make: Maker, url: str, kind: type[DelineateError]) -> None:
    with pytest.raises(kind) as raised:
        make(url)
    assert raised.value.advice


@pytest.mark.parametrize(
    "options", [{"token": "a\nb"}, {"token": "ü"}, {"token": ""}, {"timeout": 0}, {"dialect": "v3"}, {"ca_file": "/no/such/file.pem"}]
)
def test_settings_that_make_no_sense(make: Maker, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as raised:
        make("https://127.0.0.1:1", **options)
    assert raised.value.advice


def test_timeout_is_measured_on_the_clock(make: Maker, volume: Volume) -> None:
    with scripted(dialect="v1") as server, make(server.url) as client:
        uid = client.submit(volume, "sleeping")
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match=r"0\.5 s") as raised:
            client.wait(uid, timeout=0.5)
        assert 0.4 < time.monotonic() - begin < 20
        assert "uid" in raised.value.advice
        with pytest.raises(DeadlineError):
            client.segment(volume, "sleeping", timeout=0.5)


@pytest.mark.parametrize("fault", [Fault(action="hang", seconds=60, after=1), Fault(action="drip", seconds=0.5, after=1, times=-1)])
def test_a_silent_or_dripping_server_does_not_hold_anybody(make: Maker, fault: Fault) -> None:
    with scripted(fault, dialect="v1") as server, make(server.url) as client:
        begin = time.monotonic()
        with pytest.raises(DeadlineError):
            client.models(timeout=1.0)
        assert time.monotonic() - begin < 20


def test_502_from_a_proxy_passes(make: Maker, volume: Volume) -> None:
    faults = [Fault(action="html", status=502, times=3, method="GET"), Fault(action="status", status=503, times=2, method="POST")]
    with scripted(*faults, dialect="v1") as server, make(server.url) as client:
        assert client.segment(volume, "noop").names


def test_a_post_is_never_sent_twice_to_a_stranger_that_may_have_taken_it(make: Maker, volume: Volume) -> None:
    with scripted(Fault(action="drop", method="POST"), dialect="v1") as server, make(server.url) as client:
        with pytest.raises(ConnectionFailedError):
            client.submit(volume, "noop")
        assert [r.method for r in server.requests].count("POST") == 1


def test_a_server_that_restarts_while_a_task_is_awaited(make: Maker, volume: Volume) -> None:
    with scripted(dialect="v1", polls=3) as server, make(server.url, interval=0.2) as client:
        uid = client.submit(volume, "noop")
        threading.Timer(0.3, server.stop).start()
        threading.Timer(1.0, server.start).start()
        assert client.fetch(uid, geometry=OBLIQUE).names
        time.sleep(0.1)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_result_that_breaks_off_is_completed(make: Maker, tmp_path: Path, ranges: bool) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(np.random.default_rng(1).bytes(3_000_000))
    fault = Fault(action="break", path="/api/tasks/", method="GET", after=1, times=2)
    with scripted(fault, dialect="v1", ranges=ranges, polls=0, late_row=False, result=whole) as server, make(server.url) as client:
        uid = client.submit(Volume(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2))), "noop")
        assert client.fetch_archive(uid, tmp_path / "got").read_bytes() == whole.read_bytes()
        assert any("range" in r.headers for r in server.requests) is ranges


@pytest.mark.parametrize(("action", "kind"), [("break", ConnectionFailedError), ("short", ArchiveError), ("empty", ResultLostError)])
def test_a_result_that_never_comes_whole_leaves_nothing(
    make: Maker, volume: Volume, tmp_path: Path, action: str, kind: type[DelineateError]
) -> None:
    fault = Fault(action=action, path="/api/tasks/", method="GET", after=1, times=-1)
    with scripted(fault, dialect="v1", polls=0, late_row=False) as server, make(server.url) as client:
        uid = client.submit(volume, "noop")
        with pytest.raises(kind):
            client.fetch(uid)
        if kind is not ArchiveError:  # whether bytes are an archive is for whoever reads them
            with pytest.raises(kind):
                client.fetch_archive(uid, tmp_path / "got.zip")
            assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), [("LARGEST_RESULT", 1_000_000), ("SPARE", 1 << 60)])
def test_a_result_without_end_does_not_fill_the_disk(
    make: Maker, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    whole, target = tmp_path / "whole", tmp_path / "target"
    whole.write_bytes(bytes(3_000_000))
    target.mkdir()
    monkeypatch.setattr(f"delineate.client.room.{name}", value)
    with scripted(dialect="v1", polls=0, late_row=False, result=whole) as server, make(server.url) as client:
        uid = client.submit(volume, "noop")
        with pytest.raises(AnswerError, match="the server sent a result"):
            client.fetch_archive(uid, target / "got.zip")
        assert list(target.iterdir()) == []


def test_bytes_that_nobody_announced_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.client.room.LARGEST_RESULT", 100)
    with (tmp_path / "sink").open("w+b") as sink:
        room = Room(sink, None)
        room.require(60)
        room.require(40)
        with pytest.raises(AnswerError):
            room.require(1)


def test_redirects_are_not_followed_and_the_token_stays(make: Maker) -> None:
    with scripted(dialect="v1") as other:
        fault = Fault(action="redirect", location=other.url + "/api/models/", times=-1)
        with scripted(fault, dialect="v1") as server, make(server.url, token="secret") as client:
            with pytest.raises(AnswerError, match="redirects to"):
                client.models()
        assert other.requests == []


# ------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_private_authority(make: Maker, volume: Volume, authority: trustme.CA, server_context: ssl.SSLContext, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with scripted(dialect="v1", tls=server_context) as server:
        with make(server.url, ca_file=tmp_path / "ca.pem") as client:
            assert client.segment(volume, "noop").names
        with make(server.url, verify=False) as client:
            assert client.models()


def test_the_servers_own_certificate_as_authority(make: Maker, authority: trustme.CA, tmp_path: Path) -> None:
    certificate, context = authority.issue_cert("127.0.0.1"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    with scripted(dialect="v1", tls=context) as server, make(server.url, ca_file=tmp_path / "server.pem") as client:
        assert client.models()


def test_wrong_certificates(
    make: Maker, authority: trustme.CA, server_context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 60.0)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with scripted(dialect="v1", tls=server_context) as server:
        other_name = server.url.replace("127.0.0.1", "localhost")
        for url, options, words in (
            (server.url, {}, "authority"),
            (server.url, {"ca_file": tmp_path / "other.pem"}, "authority"),
            (other_name, {"ca_file": tmp_path / "ca.pem"}, "Use the name"),
        ):
            begin = time.monotonic()
            with make(url, **options) as client, pytest.raises(CertificateError) as raised:
                client.models()
            assert words in raised.value.advice
            assert time.monotonic() - begin < 20, "a certificate does not become right by trying again"
        assert server.requests == []


@pytest.mark.usefixtures("impatient")
def test_https_where_http_is_spoken_and_the_other_way_round(make: Maker, server_context: ssl.SSLContext) -> None:
    with scripted(dialect="v1") as server, make(server.url.replace("http:", "https:")) as client:
        with pytest.raises(AddressError, match="does not speak TLS") as raised:
            client.models()
        assert server.url in raised.value.advice
    with scripted(dialect="v1", tls=server_context) as server, make(server.url.replace("https:", "http:")) as client:
        with pytest.raises((AddressError, ConnectionFailedError)) as dropped:
            client.models()
        assert "https://" in dropped.value.advice


def test_something_that_speaks_no_http(make: Maker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with make(f"http://127.0.0.1:{listener.getsockname()[1]}") as client, pytest.raises(AnswerError, match="HTTP"):
            client.models()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


# ------------------------------------------------------------ leaving


def test_an_interruption_leaves_the_task_and_no_files(volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def interrupt(_: float | None, message: str) -> None:
        if message == "waiting for the server":
            raise KeyboardInterrupt

    uids: list[str] = []
    with scripted(dialect="v1") as server, Client(server.url, **QUICK) as client:
        with Client(server.url, progress=interrupt, **QUICK) as interrupted, pytest.raises(KeyboardInterrupt):
            interrupted.segment(volume, "noop", submitted=uids.append)
        assert client.fetch(uids[0], geometry=OBLIQUE).names
    assert [p for p in tmp_path.iterdir() if p.name.startswith("delineate-")] == []


def test_a_cancelled_coroutine_leaves_at_once(volume: Volume) -> None:
    async def go(url: str) -> float:
        async with AsyncClient(url, **QUICK) as client:
            uid = await client.submit(volume, "sleeping")
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.wait(uid), 0.3)
            return time.monotonic() - begin

    with scripted(dialect="v1") as server:
        assert asyncio.run(go(server.url)) < 20


def test_tasks_of_one_loop_share_a_client(volume: Volume) -> None:
    async def go(url: str) -> list[list[str]]:
        async with AsyncClient(url, **QUICK) as client:
            return [s.names for s in await asyncio.gather(*(client.segment(volume, "noop") for _ in range(8)))]

    with scripted(dialect="v1") as server:
        assert asyncio.run(go(server.url)) == [["First_Half", "Second_Half"]] * 8


def test_a_server_that_insists_on_https_is_met_there(make: Maker, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url.copy_with(query=None)).rpartition("/api/")[0]))
        if request.url.scheme == "http":
            location = str(request.url.copy_with(scheme="https"))
            return httpx.Response(308, headers={"location": location}, stream=httpx.ByteStream(b""))
        status, body = (200, b'"%s"' % (b"u" * 43)) if request.method == "POST" else (554, b'{"detail": "x"}')
        return httpx.Response(status, headers={"content-type": "application/json"}, stream=httpx.ByteStream(body))

    monkeypatch.setattr("delineate.client.transport.Line.options", lambda _: {"transport": httpx.MockTransport(handle)})
    with make("http://server.example/x") as client:
        assert client.submit(volume, "noop") == "u" * 43
        assert client.url == "https://server.example/x"
    assert seen == [
        ("GET", "http://server.example/x"), ("GET", "https://server.example/x"), ("POST", "https://server.example/x"),
    ]  # fmt: skip
