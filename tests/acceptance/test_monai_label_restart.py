"""A server with 10,000 images that is killed is back soon (within two seconds), knows all of them, and hands out the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from delineate.testing.conformance.monai_label_plain import mask
from delineate.testing.conformance.plain import image

IMAGES, LABELS, STARTS = 10_000, 500, 3
READY = b"delineate: ready at "
MOST = 2.5  # times the processor time of a start without images, some 1.5 being usual: looking into each image again would be 4
OLD = 1_700_000_000


class Server:
    def __init__(self, folder: Path, images: int) -> None:
        self.folder = folder
        self.images = images
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> tuple[float, float, httpx.Client]:
        """Seconds by the clock and of processor time until it says how many images there are, and a client."""
        command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(self.folder / "data")]
        command += ["--studies", str(self.folder / "studies")]
        begin = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(READY), (self.folder / "log").read_text()[-3000:]
        http = httpx.Client(base_url=line[len(READY) :].decode().strip(), timeout=60, trust_env=False)
        assert http.get("/info/").json()["datastore"]["total"] == self.images
        took, spent = time.monotonic() - begin, psutil.Process(self.process.pid).cpu_times()
        return took, spent.user + spent.system, http

    def kill(self, http: httpx.Client) -> None:
        http.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_restart_with_many_images(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    first = studies / "case00000.nii.gz"
    first.write_bytes(image())
    os.utime(first, (OLD, OLD))  # what was written just now may not be whole yet
    for number in range(1, IMAGES):
        (studies / f"case{number:05}.nii.gz").hardlink_to(first)
    server = Server(tmp_path, IMAGES)
    *indexing, http = server.start()
    try:
        for number in range(LABELS):
            files = {"label": ("l.nii.gz", mask())}
            assert http.put("/datastore/label", params={"image": f"case{number:05}"}, files=files).status_code == 200
        seconds = []
        for _ in range(STARTS):
            server.kill(http)
            *took, http = server.start()
            seconds.append(took)
            assert http.get("/datastore/").json() == {"total": IMAGES, "completed": LABELS, "label_tags": {"final": LABELS}}
            sample = http.post("/activelearning/first", json={"client_id": "after the restart"}).json()
            assert sample["id"] == f"case{LABELS:05}"
    finally:
        server.kill(http)
    (tmp_path / "empty" / "studies").mkdir(parents=True)
    bare = min(spent_without_images(tmp_path / "empty") for _ in range(STARTS))
    print(f"indexing {indexing[0]:.2f} s; restarts: {', '.join(f'{clock:.2f} s ({spent:.2f} s of processor)' for clock, spent in seconds)}")
    assert min(spent for _, spent in seconds) <= MOST * bare, f"{bare:.2f} s without images"


def spent_without_images(folder: Path) -> float:
    """Seconds of processor time of a start, on this machine at this moment."""
    server = Server(folder, 0)
    _, spent, http = server.start()
    server.kill(http)
    return spent
