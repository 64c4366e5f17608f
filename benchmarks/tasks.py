"""Task overhead and tasks per second through real processes: server, two workers, HTTP clients.

The model does nothing, so what is measured is the way: post, store, claim, stage, run, check, publish, answer.
Clients are plain ``http.client`` with kept connections, in processes of their own, as light as a client can be;
they share the two cores with the server.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import multiprocessing
import statistics
import threading
import time
import zipfile
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.server import Running, running
from delineate import nifti
from delineate.geometry import Geometry
from delineate.testing.models import FOLDER
from delineate.volume import Volume

BOUNDARY = "bench-boundary"


def archive() -> bytes:
    """A small request archive: one image of 16 x 14 x 12 voxels."""
    image = io.BytesIO()
    geometry = Geometry((16, 14, 12), (1.0, 1.5, 2.0))
    nifti.write(image, Volume(np.arange(16 * 14 * 12, dtype=np.int16).reshape(geometry.shape), geometry))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("tmp_0000.nii.gz", image.getvalue())
        file.writestr("meta.json", json.dumps({"scaling_factor": [1, 1, 1], "spacing": [1.0, 1.5, 2.0]}))
    return packed.getvalue()


def body() -> bytes:
    """The archive as a multipart body."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="zip_file"; filename="a.zip"\r\nContent-Type: application/zip\r\n\r\n'
    return head.encode() + archive() + f"\r\n--{BOUNDARY}--\r\n".encode()


class Poster:
    """One client on one kept connection."""

    def __init__(self, url: str, model: str = "noop") -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._body = body()
        self._path = f"/api/tasks/?model_human_readable_id={model}"

    def run(self) -> float:
        """Post, long-poll, fetch; seconds until the result's bytes are here."""
        begin = time.perf_counter()
        self._connection.request("POST", self._path, self._body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {text[:300]!r}")
        uid = json.loads(text)
        while True:
            self._connection.request("GET", f"/api/tasks/{uid}?wait=30")
            answer = self._connection.getresponse()
            result = answer.read()
            if answer.status == 200:
                return time.perf_counter() - begin
            if answer.status != 551:
                raise RuntimeError(f"{answer.status} {result[:300]!r}")


def _crowd(url: str, threads: int, each: int, start: Any, out: Any) -> None:
    seconds: list[float] = []
    start.wait()  # the start of this process is not what is measured

    def work() -> None:
        poster = Poster(url)
        seconds.extend([poster.run() for _ in range(each)])

    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    out.put(seconds)


def throughput(server: Running, clients: int, tasks: int) -> tuple[float, float]:
    """Tasks per second and median seconds of one task, with `clients` in two processes."""
    context = multiprocessing.get_context("spawn")
    out, start = context.Queue(), context.Barrier(3)
    each = tasks // clients
    crew = [context.Process(target=_crowd, args=(server.url, clients // 2, each, start, out)) for _ in range(2)]
    for process in crew:
        process.start()
    start.wait()
    begin = time.perf_counter()
    seconds = [value for _ in crew for value in out.get(timeout=600)]
    total = time.perf_counter() - begin
    for process in crew:
        process.join()
    if len(seconds) != each * clients:
        raise RuntimeError(f"{each * clients - len(seconds)} tasks failed")
    return len(seconds) / total, statistics.median(seconds)


def main(arguments: list[str]) -> None:
    """Overhead of single tasks, then a crowd, then again after many tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1600, help="tasks per measurement")
    parser.add_argument("--total", type=int, default=10_000, help="tasks in the store before the last measurement")
    options = parser.parse_args(arguments)
    with running(workers=2, models=[FOLDER]) as server:
        poster = Poster(server.url)
        for _ in range(20):
            poster.run()
        times = sorted(poster.run() * 1000 for _ in range(200))
        print(f"{'task overhead, median':<44}{statistics.median(times):8.1f} ms  (bar 30)")
        print(f"{'task overhead, 95th percentile':<44}{times[int(len(times) * 0.95)]:8.1f} ms  (bar 100)")
        first, latency = throughput(server, 16, options.tasks)
        print(f"{'tasks per second, 16 clients, 2 workers':<44}{first:8.0f}     (bar 100; each {latency * 1000:.0f} ms)")
        done = options.tasks + 220
        while done < options.total:
            throughput(server, 16, min(3200, options.total - done + 16))
            done += min(3200, options.total - done + 16)
        last, latency = throughput(server, 16, options.tasks)
        print(f"{f'the same after {done} tasks':<44}{last:8.0f}     (ratio {last / first:.2f})")
        print(f"{'API process after it':<44}{server.api_rss():8.0f} MiB")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
