"""A real server for a measurement: its own process, its own data folder, ended by its own id."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

READY = "delineate: ready at "


@dataclass
class Running:
    """A started server: its URL, process and the seconds from start to the first answer of /healthz."""

    url: str
    process: subprocess.Popen[bytes]
    seconds_to_health: float
    data: Path

    def api_rss(self) -> float:
        """Resident memory of the API process alone, MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@contextlib.contextmanager
def running(workers: int = 2, models: Sequence[Path] = (), folder: Path | None = None, options: Sequence[str] = ()) -> Iterator[Running]:
    """``delineate serve`` on a free port, ready when /healthz has answered once."""
    with tempfile.TemporaryDirectory(prefix="delineate-bench-", dir=folder, ignore_cleanup_errors=True) as data:
        command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", data, "--workers", str(workers), *options]
        for path in models:
            command += ["--models", str(path)]
        begin = time.perf_counter()
        with (Path(data) / "server.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            if not line.startswith(READY):
                raise RuntimeError("the server did not start:\n" + (Path(data) / "server.log").read_text()[-2000:])
            url = line[len(READY) :].strip()
            with urllib.request.urlopen(url + "/healthz") as answer:
                answer.read()
            yield Running(url, process, time.perf_counter() - begin, Path(data))
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
