"""Our own server, as a process of its own: the suite of the MONAI Label API, with what other servers get wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
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


def test_nothing_is_left_behind(server: Server) -> None:
    assert server.request("GET", "/datastore/").json() == {"total": 0, "completed": 0, "label_tags": {}}
