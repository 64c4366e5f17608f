"""The server killed while 4 clients upload images, save labels and infer: whatever it answered is there, readable, with its label.

200 uploads and as many labels, 20 kills at random moments; a session made before the first is there after the last.
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from delineate import nifti
from delineate.geometry import Geometry
from delineate.testing import models
from delineate.testing.ports import free_port
from delineate.volume import Volume

KILLS, IMAGES, CLIENTS = (60, 600, 4) if os.environ.get("DELINEATE_SOAK") else (20, 200, 4)
PATIENCE = 300.0  # s for one call to get through: an infer may have to wait for the last kill
GRID = Geometry((12, 10, 8), (1.0, 1.0, 2.0))


class Server:
    """The real server in a process of its own, on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        self.studies = folder / "studies"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.dearest = 0.0  # s of processor time for a start
        self._data = folder / "data"
        self._log = (folder / "server.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "delineate.cli", "serve", "--port", str(self.port), "--data", str(self._data)]
        command += ["--studies", str(self.studies), "--models", str(models.FOLDER)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(b"delineate: ready"), Path(self._log.name).read_text()[-3000:]
        spent = psutil.Process(self._process.pid).cpu_times()
        self.dearest = max(self.dearest, spent.user + spent.system)

    def end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def close(self) -> None:
        self.end(signal.SIGTERM)
        self._log.close()


def volume(number: int) -> Volume:
    return Volume(np.random.default_rng(number).integers(-1000, 1000, (8, 10, 12)).astype(np.int16), GRID)


@dataclass
class Annotators:
    """Clients that do not mind a server that is away: they send again what was not answered."""

    url: str
    folder: Path
    tickets: queue.Queue[int] = field(default_factory=queue.Queue)
    images: dict[str, bytes] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    inferred: int = 0
    troubles: list[str] = field(default_factory=list)

    def work(self) -> None:
        with httpx.Client(base_url=self.url, timeout=20, trust_env=False) as http:
            while True:
                try:
                    number = self.tickets.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._annotate(http, number)
                except Exception as error:
                    self.troubles.append(f"{number}: {type(error).__name__}: {error}")

    def _annotate(self, http: httpx.Client, number: int) -> None:
        id, path = f"case{number}", self.folder / f"{number}.nii.gz"
        nifti.write(path, volume(number))
        data = path.read_bytes()
        nifti.write_labels(path, (volume(number).voxels > 0).astype(np.uint8), GRID)
        label = path.read_bytes()
        path.unlink()
        params = (None, json.dumps({"number": number}))
        self._send(http, "PUT", "/datastore/", {"image": id}, {"params": params, "file": ("x.nii.gz", data)})
        self.images[id] = data
        if number % 5 == 0:
            self._send(http, "POST", "/infer/threshold", {"image": id, "output": "json"}, {"params": (None, "{}")})
            self.inferred += 1
        self._send(http, "PUT", "/datastore/label", {"image": id}, {"params": params, "label": ("x.nii.gz", label)})
        self.labels[id] = label

    def _send(self, http: httpx.Client, method: str, path: str, query: dict[str, str], parts: object) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                answer = http.request(method, path, params=query, files=parts)  # type: ignore[arg-type]
                if answer.status_code == 200:
                    return
                assert answer.status_code == 503, answer.text
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, f"{method} {path} was never answered"
            time.sleep(0.05)


@pytest.mark.timeout(600)
def test_whatever_was_answered_is_there(tmp_path: Path) -> None:
    chance = random.Random(7)
    server = Server(tmp_path)
    server.start()
    try:
        people = Annotators(server.url, tmp_path)
        session = httpx.put(f"{server.url}/session/", files=[("files", ("x.nii.gz", b"image"))], trust_env=False).json()["session_id"]
        for number in range(IMAGES):
            people.tickets.put(number)
        threads = [threading.Thread(target=people.work) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        in_vain = 0
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 0.5))
            in_vain += not any(thread.is_alive() for thread in threads)
            server.end(signal.SIGKILL)
            server.start()
        assert in_vain < KILLS // 2, "the kills were to come while there was work"
        for thread in threads:
            thread.join(300)
        assert people.troubles == []
        assert (len(people.images), len(people.labels), people.inferred) == (IMAGES, IMAGES, IMAGES // 5)
        server.end(signal.SIGKILL)
        server.start()
        with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as http:
            assert http.get("/datastore/").json() == {"total": IMAGES, "completed": IMAGES, "label_tags": {"final": IMAGES}}
            for id, data in people.images.items():
                assert http.get("/datastore/image", params={"image": id}).content == data
                assert http.get("/datastore/label", params={"label": id, "tag": "final"}).content == people.labels[id]
                assert http.get("/datastore/image/info", params={"image": id}).json()["number"] == int(id[4:])
            assert http.get(f"/session/{session}", params={"image": True}).content == b"image"
        named = {f"case{number}.nii.gz" for number in range(IMAGES)}
        assert {path.name for path in server.studies.iterdir() if path.is_file()} - {"datastore_v2.json"} == named
        assert server.dearest < 10.0, "a start takes no longer because of kills"
    finally:
        server.close()
    index = json.loads((server.studies / "datastore_v2.json").read_text())
    assert len(index["objects"]) == IMAGES
