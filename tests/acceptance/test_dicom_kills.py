"""Kills while series become RTSTRUCT and SEG: every answer is right, and the very bytes that an undisturbed try gives."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

pytest.importorskip("pydicom")

from delineate.dicom import rtstruct, seg
from delineate.dicom.reader import read
from delineate.segmentation import Segmentation
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.ports import free_port
from delineate.testing.roundtrips import Place, differing, places, shapes

TASKS, ROUNDS, PATIENCE = 12, 10, 120.0
SHAPES = ("ring", "random mask", "single voxels")
MODEL = """
name = "slow"
runner = "python"
orientation = "LPS"
[parameters]
class = "slow:Slow"
[[structures]]
name = "Bright"
label = 1
"""
CODE = """
import time
import numpy as np
from delineate.segmentation import Segmentation

class Slow:
    def __init__(self, parameters, folder): pass
    def segment(self, job):
        for step in range(4):
            job.report(step / 4, "looking")
            time.sleep(0.05)
        image = job.images[0]
        return Segmentation.from_labels((image.values() > 0).astype(np.uint8), image.geometry, {1: "Bright"})
"""


class Server:
    """The real server, in a process of its own on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "delineate.cli", "serve", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "2"]
        command += ["--data", str(self._folder / "data"), "--models", str(self._folder / "models")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"delineate: ready at ")

    def end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def workers(self) -> list[psutil.Process]:
        assert self._process is not None
        found = []
        for child in psutil.Process(self._process.pid).children():
            try:
                found += [child] if "delineate.worker" in child.cmdline() else []
            except psutil.Error:
                continue
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "models" / "slow"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(MODEL)
    (folder / "slow.py").write_text(CODE)
    made = Server(tmp_path)
    made.start()
    yield made
    made.end(signal.SIGKILL)


def _series(folder: Path, place: Place, shape: str) -> tuple[bytes, Any, Segmentation]:
    """A zip of slices, what refers to them, and what is true on them."""
    labels = shapes(place.geometry.shape)[shape]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in write_series(folder, stack_of(labels.astype(np.int16) + 1024, place.geometry)):
            archive.write(path, path.name)
    return buffer.getvalue(), read(folder).series, Segmentation.from_labels(labels, place.geometry, {1: "Bright"})


def _asked(server: Server, method: str, path: str, **more: Any) -> httpx.Response:
    """The answer, however often the server is away before it comes."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            answer = httpx.request(method, server.url + path, timeout=10.0, trust_env=False, **more)
            if answer.status_code == 200:
                return answer
            assert answer.status_code in (503, 551), answer.text
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)


def _disturb(server: Server, chance: random.Random) -> dict[str, int]:
    kills = {"worker": 0, "server": 0}
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0.1, 0.6))
        workers = server.workers()
        if workers and chance.random() < 0.7:
            chance.choice(workers).kill()
            kills["worker"] += 1
        else:
            server.end(signal.SIGKILL)
            server.start()
            kills["server"] += 1
    return kills


def test_kills_change_neither_voxels_nor_bytes(server: Server, tmp_path: Path) -> None:
    chosen = list(places())[:48:9]
    given = [_series(tmp_path / f"in{number}", place, SHAPES[number % 3]) for number, place in enumerate(chosen)]
    query = {"model_human_readable_id": "slow", "output": "rtstruct,seg"}
    uids = [
        _asked(
            server, "POST", "/api/tasks/", params=query, files={"zip_file": ("a.zip", given[number % len(given)][0])},
            headers={"Idempotency-Key": f"kills-{number}"},
        ).json()
        for number in range(TASKS)
    ]  # fmt: skip
    kills = _disturb(server, random.Random(5))
    assert kills["worker"] > 2
    assert kills["server"] > 0
    results = [_asked(server, "GET", f"/api/tasks/{uid}").content for uid in uids]
    for number, result in enumerate(results):
        _, series, truth = given[number % len(given)]
        with zipfile.ZipFile(io.BytesIO(result)) as archive:
            archive.extractall(tmp_path / "out")
        assert not any(differing(seg.read_seg(tmp_path / "out" / "seg.dcm", series), truth).values())
        assert not any(differing(rtstruct.read_rtstruct(tmp_path / "out" / "rtstruct.dcm", series), truth).values())
    tasks = _asked(server, "GET", "/api/tasks/", params={"limit": 100}).json()
    assert len(tasks) == TASKS, "none lost, none doubled"
    for task in tasks:
        _asked(server, "PUT", "/api/tasks/", params={"task_id": task["id"], "status": -1})
    assert [_asked(server, "GET", f"/api/tasks/{uid}").content for uid in uids] == results
