"""Our own server, as a process of its own: the suite of the MONAI Label API, with what other servers get wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import delineate.testing
from delineate.testing.conformance import Server, StrictMonaiLabelSuite

READY = "delineate: ready at "


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    toys = Path(delineate.testing.__file__).parent / "models"
    command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--workers", "1", "--data", str(folder / "data")]
    command += ["--models", str(toys), "--studies", str(folder / "studies")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith(READY), (folder / "log").read_text()
        yield Server(line.removeprefix(READY).strip(), "threshold")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


class TestOurs(StrictMonaiLabelSuite):
    """All of it, and nothing left out."""


class Liar(BaseHTTPRequestHandler):
    """Has one answer to everything."""

    status, kind, body = 200, "application/json", b"{}"

    def answer(self) -> None:
        if self.command in ("POST", "PUT"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


LIES = [(200, "application/json", b"{}"), (200, "application/json", b"[]"), (500, "text/plain", b"Internal Server Error")]


def test_each_check_can_fail() -> None:
    passed = set(StrictMonaiLabelSuite().names())
    for status, kind, body in LIES:
        handler = type("Handler", (Liar,), {"status": status, "kind": kind, "body": body})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            checks = StrictMonaiLabelSuite().run(Server(f"http://127.0.0.1:{server.server_port}", "threshold", patience=5))
            server.shutdown()
            thread.join()
        passed &= {check.name.partition(": ")[2] for check in checks if check.passed}
    assert passed == set()


def test_a_server_that_is_not_there_fails() -> None:
    found = StrictMonaiLabelSuite().check("session", Server("http://127.0.0.1:9", "threshold", patience=1))
    assert (found.passed, "could not be spoken to" in found.detail) == (False, True)


def test_nothing_is_left_behind(server: Server) -> None:
    assert server.request("GET", "/datastore/").json() == {"total": 0, "completed": 0, "label_tags": {}}
