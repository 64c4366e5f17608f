"""Our own server, as a process of its own: the suites of all three dialects, and both clients."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import delineate.testing
from delineate.client import AsyncClient, Client
from delineate.errors import TaskCancelledError, TaskFailedError, UnknownModelError, UnknownTaskError
from delineate.geometry import Geometry
from delineate.protocols.inference_server import Dialect
from delineate.testing.conformance import SeedSuite, Server, V1Suite, V2Suite
from delineate.volume import Volume

READY = "delineate: ready at "
GRID = Geometry((8, 5, 4), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.5), (0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    toys = Path(delineate.testing.__file__).parent / "models"
    command = [sys.executable, "-m", "delineate.cli", "serve", "--host", "127.0.0.1", "--port", "0", "--workers", "2"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--data", str(folder / "data"), "--models", str(toys)], stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith(READY), (folder / "log").read_text()
        yield line.removeprefix(READY).strip()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture
def server(url: str) -> Server:
    return Server(url)


class TestSeed(SeedSuite):
    """Dialect seed."""


class TestV1(V1Suite):
    """Dialect v1."""


class TestV2(V2Suite):
    """Dialect v2."""


@pytest.fixture
def volume() -> Volume:
    return Volume(np.arange(160, dtype=np.int16).reshape(GRID.shape), GRID)


@pytest.mark.parametrize("dialect", [None, "seed", "v1", "v2"])
def test_our_clients_in_each_dialect(url: str, volume: Volume, dialect: str | None) -> None:
    said: list[str] = []
    with Client(url, dialect=dialect, progress=lambda _, message: said.append(message), interval=0.05) as client:
        segmentation = client.segment(volume, "index-pattern")
        assert client.dialect == (dialect or Dialect.V1)
    assert segmentation.geometry.matches(GRID)
    low = segmentation.mask("X_low")
    assert low[:, :, 0].all()
    assert not low[:, :, 4:].any()
    z, y, x = np.indices(GRID.shape)
    assert np.array_equal(segmentation.mask("Odd"), (x + y + z) % 2 == 1)
    assert said[0] == "sending"

    async def go() -> list[str]:
        async with AsyncClient(url, dialect=dialect, interval=0.05) as other:
            return (await other.segment(volume, "index-pattern")).names

    assert asyncio.run(go()) == segmentation.names


def test_what_only_our_server_can(url: str, volume: Volume) -> None:
    uids: list[str] = []
    with Client(url) as client:
        assert client.submit(volume, "noop", key="once") == client.submit(volume, "noop", key="once", priority="interactive")
        with pytest.raises(TaskFailedError, match="told to fail"):
            client.segment(volume, "raiser", submitted=uids.append)
        assert "Traceback" in client.log(uids[0])
        assert (client.status(uids[0]).state, client.status(uids[0]).reason != "") == ("failed", True)
        uid = client.submit(volume, "hanger")
        client.cancel(uid)
        with pytest.raises(TaskCancelledError):
            client.wait(uid, timeout=20)
        client.delete(uid)
        with pytest.raises(UnknownTaskError):
            client.fetch(uid)
        with pytest.raises(UnknownModelError):
            client.segment(volume, "no-such-model")
        rows = client.tasks(state="failed", limit=5)
        assert [(row["model"], row["state"], "uid" in row) for row in rows] == [("raiser", "failed", False)]
        assert {"lungs-ct", "noop"} <= {row["human_readable_id"] for row in client.models()}
