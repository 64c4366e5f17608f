"""The server as a process of its own: start, one task, signals, its lock."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import trustme

from delineate import nifti
from delineate.geometry import Geometry
from delineate.server.main import warn_if_open
from delineate.server.settings import Settings
from delineate.testing.models import FOLDER
from delineate.volume import Volume

PREFIX = "delineate: ready at "


class Process:
    def __init__(self, data: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(data), "--models", str(FOLDER), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
            )

    def ready(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith(PREFIX), line + self.log.read_text()
        return line[len(PREFIX) :].strip()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            if self.process.stdout is not None and not self.process.stdout.closed:
                rest = self.process.stdout.read()
                self.process.stdout.close()
                assert rest == b"", "one line on standard output, and no more"


@contextlib.contextmanager
def running(data: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[tuple[Process, str]]:
    process = Process(data, *options, environment=environment)
    try:
        yield process, process.ready()
    finally:
        process.stop()


def archive() -> bytes:
    image, packed = io.BytesIO(), io.BytesIO()
    geometry = Geometry((8, 7, 6))
    nifti.write(image, Volume(np.arange(8 * 7 * 6, dtype=np.int16).reshape(geometry.shape), geometry))
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("tmp_0000.nii.gz", image.getvalue())
    return packed.getvalue()


def post(url: str, model: str = "noop") -> str:
    answer = httpx.post(f"{url}/api/tasks/?model_human_readable_id={model}", files={"zip_file": archive()}, trust_env=False)
    assert answer.status_code == 200, answer.text
    return str(answer.json())


def test_a_task_through_a_real_server(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--workers", "1") as (process, url):
        workers = psutil.Process(process.process.pid).children(recursive=True)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        uid = post(url)
        answer = httpx.get(f"{url}/api/tasks/{uid}?wait=30", timeout=60, trust_env=False)
        assert answer.status_code == 200
        assert any(name.endswith(".nii.gz") for name in zipfile.ZipFile(io.BytesIO(answer.content)).namelist())
        assert httpx.get(f"{url}/healthz?ready", trust_env=False).json()["workers"]["ready"] == 1
        assert process.stop() == 0
        gone, alive = psutil.wait_procs(workers, timeout=60)
        assert gone
        assert not alive
    log = process.log.read_text()
    assert "GET /api/tasks/{uid} 200" in log
    assert uid not in log


def test_sigterm_answers_who_waits_and_ends_soon(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--workers", "0") as (process, url):
        uid = post(url)
        answers: list[int] = []
        waiting = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{url}/api/tasks/{uid}?wait=50", timeout=60, trust_env=False).status_code)
        )
        stream = httpx.stream("GET", f"{url}/api/tasks/{uid}/events", timeout=60, trust_env=False)
        with stream as events:
            lines = events.iter_lines()
            next(lines)
            waiting.start()
            until_waiting(url, 2)
            begin = time.monotonic()
            process.process.send_signal(signal.SIGTERM)
            waiting.join(40)
            list(lines)
        assert answers == [551]
        assert process.stop() == 0
        assert time.monotonic() - begin < 30


def until_waiting(url: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while f"delineate_waiting_clients {count}.0" not in httpx.get(f"{url}/metrics", trust_env=False).text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_task_outlives_the_server(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--workers", "0") as (process, url):
        uid = post(url)
        process.process.kill()
        process.process.wait()
    with running(tmp_path / "data", "--workers", "1") as (_, url):
        assert httpx.get(f"{url}/api/tasks/{uid}?wait=30", timeout=60, trust_env=False).status_code == 200


def test_one_server_per_data_folder_and_port(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--workers", "0") as (process, url):
        second = Process(tmp_path / "data", "--workers", "0")
        assert second.stop(0) == 2
        text = second.log.read_text()
        assert f"another server (process {process.process.pid}) runs on the data folder" in text
        third = Process(tmp_path / "other", "--workers", "0", "--port", url.rsplit(":", 1)[1])
        assert third.stop(0) == 2
        assert "cannot be used" in third.log.read_text()
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    trustme.CA().issue_cert("localhost").cert_chain_pems[0].write_to_path(str(tmp_path / "other.pem"))
    for certificate, words in (("gone.pem", "Check the setting tls_certificate"), ("other.pem", "that belong together")):
        options = ("--tls-certificate", str(tmp_path / certificate), "--tls-key", str(tmp_path / "key.pem"))
        process = Process(tmp_path / "data", *options)
        assert process.stop(0) == 2
        assert words in process.log.read_text()


@pytest.mark.parametrize(
    ("given", "is_open"),
    [({"host": "192.0.2.1"}, True), ({"host": "192.0.2.1", "token": "secret"}, False), ({"host": "127.0.0.1"}, False)],
)
def test_an_open_server_is_warned_of(caplog: pytest.LogCaptureFixture, given: dict[str, str], is_open: bool) -> None:
    warn_if_open(Settings(**given))  # type: ignore[arg-type]
    assert ("192.0.2.1, port 8000, can post tasks: set a token" in caplog.text) is is_open


def test_settings_from_the_environment(tmp_path: Path) -> None:
    environment = {"DELINEATE_TOKEN": "s3cret", "DELINEATE_ROOT_PATH": "/x", "DELINEATE_LOG_LEVEL": "debug"}
    with running(tmp_path / "data", "--workers", "0", environment=environment) as (process, url):
        assert httpx.get(f"{url}/x/api/models/", trust_env=False).status_code == 401
        models = httpx.get(f"{url}/x/api/models/", headers={"x-token": "s3cret"}, trust_env=False).json()
        assert "noop" in {model["human_readable_id"] for model in models}
    assert "s3cret" not in process.log.read_text()


@pytest.mark.parametrize(
    "body", [b"GET / HTTP/1.1\r\nHost: x\r\n broken\r\n\r\n", b"\x16\x03\x01\x02\x00", b"POST /api/tasks/?uid=SECRET\r\n\r\n"]
)
def test_broken_requests_are_survived_and_not_logged(tmp_path: Path, body: bytes) -> None:
    with running(tmp_path / "data", "--workers", "0") as (process, url):
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 5) as connection:
            connection.sendall(body)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    assert "SECRET" not in process.log.read_text()


def test_a_head_without_end_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path / "d", "--workers", "0") as (_, url):
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
            with pytest.raises(ConnectionError):
                for _ in range(64):
                    connection.sendall(bytes(1 << 20).replace(b"\0", b"a"))
        long = {"X": "a" * 200_000}
        assert httpx.get(url + "/healthz", headers=long).status_code in (200, 503)


def test_the_api_process_stays_light(tmp_path: Path) -> None:
    """No scipy, no image library, no migration tool, and far from 120 MB."""
    code = (
        "import sys, json; from pathlib import Path; import psutil\n"
        "from delineate.server.main import serve, create_app; from delineate.server.settings import Settings\n"
        f"create_app(Settings(data=Path({str(tmp_path)!r}), sync=False))\n"
        "print(json.dumps([sorted(m for m in sys.modules if '.' not in m), psutil.Process().memory_info().rss >> 20]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, megabytes = json.loads(done.stdout)
    assert not {"scipy", "SimpleITK", "matplotlib", "alembic", "torch", "nibabel"} & set(modules)
    assert megabytes < 115
