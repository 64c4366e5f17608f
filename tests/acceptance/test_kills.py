"""Kills at random moments: no answered task is lost, none is done twice, every result is what an undisturbed run gives.

A real server with 2 workers, 60 tasks from 4 clients that speak plain HTTP, 30 rounds; each round kills a worker or the
server (and starts it again). DELINEATE_SOAK=1 makes it 300 rounds and 600 tasks.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.protocols.archive import FileRequestWriter
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.records import sweep
from delineate.store.tasks import TaskStore
from delineate.task import TaskState
from delineate.testing.ports import free_port
from delineate.volume import Volume

SOAK = bool(os.environ.get("DELINEATE_SOAK"))
ROUNDS, TASKS, CLIENTS, IMAGES = (300, 600, 4, 5) if SOAK else (30, 60, 4, 5)
PATIENCE = 120.0  # s for one task to get through it all
MODEL = """
name = "slow-threshold"
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
        for step in range(6):
            job.report(step / 6, "looking")
            time.sleep(0.05)
        image = job.images[0]
        return Segmentation.from_labels((image.voxels > 100).astype(np.uint8), image.geometry, {1: "Bright"})
"""


class Server:
    """The real server in a process of its own, on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (folder / "server.log").open("ab")

    def start(self) -> None:
        command = [sys.executable, "-m", "delineate.cli", "serve", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "2"]
        command += ["--data", str(self.data), "--models", str(self.folder / "models")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.startswith("delineate: ready at "), (line, self.log())
        self.starts += 1

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        if self._process is not None:
            self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def workers(self) -> list[psutil.Process]:
        assert self._process is not None
        children = psutil.Process(self._process.pid).children()
        return [child for child in children if _is_worker(child)]

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        self._log.close()

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-4000:]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "delineate.worker" in process.cmdline()
    except psutil.Error:
        return False


@dataclass
class Clients:
    """Clients that send, wait and fetch, and do not mind a server that is away."""

    url: str
    archives: list[bytes]
    tickets: queue.Queue[int | None] = field(default_factory=queue.Queue)
    answered: dict[str, int] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def start(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        return threads

    def _work(self) -> None:
        waiting: list[str] = []
        with httpx.Client(base_url=self.url, timeout=10.0) as http:
            while (ticket := self.tickets.get()) is not None:
                try:
                    waiting.append(self._post(http, ticket % len(self.archives)))
                except (AssertionError, httpx.HTTPError) as error:
                    self.troubles.append(f"post: {error!r}")
            for uid in waiting:
                try:
                    self.results[uid] = self.fetch(http, uid)
                except (AssertionError, httpx.HTTPError) as error:
                    self.troubles.append(f"fetch: {error!r}")

    def _post(self, http: httpx.Client, image: int) -> str:
        key = uuid.uuid4().hex
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = http.post(
                    "/api/tasks/",
                    params={"model_human_readable_id": "slow-threshold"},
                    files={"zip_file": ("a.zip", self.archives[image], "application/zip")},
                    headers={"Idempotency-Key": key},
                )
                if answer.status_code == 200:
                    uid: str = answer.json()
                    self.answered[uid] = image
                    return uid
                assert answer.status_code in (502, 503), answer.text
            except httpx.TransportError:
                assert time.monotonic() < deadline
            time.sleep(0.05)

    def fetch(self, http: httpx.Client, uid: str) -> str:
        """SHA-256 of the result, once it is there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = http.get(f"/api/tasks/{uid}")
                if answer.status_code == 200:
                    return hashlib.sha256(answer.content).hexdigest()
                assert answer.status_code in (551, 503), (answer.status_code, answer.text)
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{uid} never came"
            time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    model = tmp_path / "models" / "slow-threshold"
    model.mkdir(parents=True)
    (model / "model.toml").write_text(MODEL, encoding="utf-8")
    (model / "slow.py").write_text(CODE, encoding="utf-8")
    server = Server(tmp_path)
    try:
        yield server
    finally:
        server.close()


def _archives(folder: Path) -> list[bytes]:
    """Images of one kind, each other than all others, none with its axes along LPS."""
    archives = []
    grid = reorientation(Geometry((24, 20, 16)), "RAS").grid(Geometry((24, 20, 16), (1.0, 1.5, 3.0), (-40.0, 10.0, 70.0)))
    for seed in range(IMAGES):
        voxels = np.random.default_rng(seed).integers(0, 200, grid.shape).astype(np.int16)
        path = folder / f"request-{seed}.zip"
        writer = FileRequestWriter(path)
        writer.add_image(Volume(voxels, grid))
        writer.close()
        archives.append(path.read_bytes())
    return archives


def _undisturbed(url: str, archives: list[bytes]) -> list[str]:
    clients = Clients(url, archives)
    with httpx.Client(base_url=url, timeout=10.0) as http:
        return [clients.fetch(http, clients._post(http, image)) for image in range(len(archives))]


def _disturb(server: Server, clients: Clients, chance: random.Random) -> Counter[str]:
    """Kill, again and again, while the clients get their tickets."""
    kills: Counter[str] = Counter()
    given = 0
    for round_ in range(ROUNDS):
        due = TASKS * (round_ + 1) // ROUNDS
        for ticket in range(given, due):
            clients.tickets.put(ticket)
        given = due
        time.sleep(chance.uniform(0.05, 0.9))
        workers = server.workers()
        if workers and chance.random() < 0.7:
            chance.choice(workers).kill()
            kills["worker"] += 1
        else:
            server.kill()
            kills["server"] += 1
            server.start()
    for _ in range(CLIENTS):
        clients.tickets.put(None)
    return kills


def test_kills(server: Server, tmp_path: Path) -> None:
    archives = _archives(tmp_path)
    server.start()
    expected = _undisturbed(server.url, archives)
    assert len(set(expected)) == IMAGES
    clients = Clients(server.url, archives)
    threads = clients.start()
    kills = _disturb(server, clients, random.Random(20))
    for thread in threads:
        thread.join(PATIENCE)
    assert clients.troubles == [], server.log()
    assert kills["worker"] >= 5
    assert kills["server"] >= 3
    assert len(clients.answered) == TASKS
    assert {uid: expected[image] for uid, image in clients.answered.items()} == clients.results
    with httpx.Client(base_url=server.url, timeout=10.0) as http:
        again = {uid: clients.fetch(http, uid) for uid in clients.answered}
    assert again == clients.results, "a result never changes"
    server.stop()
    server.start()  # what the last killed worker left is swept by the next start
    server.stop()
    _nothing_is_left(server, clients)


def _nothing_is_left(server: Server, clients: Clients) -> None:
    database = Database(f"sqlite:///{server.data / 'delineate.db'}")
    blobs = BlobStore(server.data / "blobs")
    tasks = TaskStore(database, blobs)
    counts = {state: number for state, number in tasks.counts().items() if number}
    assert counts == {TaskState.FINISHED: TASKS + IMAGES}, "none lost, none doubled"
    for uid in clients.answered:
        assert Counter(event.kind for event in tasks.events(uid))["finished"] == 1
        assert len([blob for blob in tasks.get(uid).blobs if blob.role == "result"]) == 1
    assert sweep(database, blobs) == 0, "no file without a row"
    database.close()
    assert [str(path) for part in ("run", "work") for path in (server.data / part).iterdir()] == []
    assert [process for process in psutil.process_iter() if _belongs(process, server.data)] == []


def _belongs(process: psutil.Process, data: Path) -> bool:
    try:
        return str(data) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_the_result_is_right(server: Server, tmp_path: Path) -> None:
    """The bytes that all runs agree on are those of the right answer."""
    server.start()
    clients = Clients(server.url, _archives(tmp_path))
    with httpx.Client(base_url=server.url, timeout=10.0) as http:
        uid = clients._post(http, 0)
        clients.fetch(http, uid)
        path = tmp_path / "result.zip"
        path.write_bytes(http.get(f"/api/tasks/{uid}").content)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("segmentation.json")) == {"1": "Bright"}
        archive.extract("segmentation.nii.gz", tmp_path)
    from delineate import nifti

    labels, _ = nifti.read_labels(tmp_path / "segmentation.nii.gz")
    voxels = np.random.default_rng(0).integers(0, 200, labels.shape)
    np.testing.assert_array_equal(labels, voxels > 100)
