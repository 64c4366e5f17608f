"""A series received by C-STORE: our node, which waits for the disk at each object or at the end, beside DCMTK's storescp and pynetdicom's.

``python -m benchmarks.gateway [--runs N] [--slices N] [--folder PATH] [--json]``. One association of DCMTK's storescu, 300 slices of
512 x 512, units of 128 kB. Once as Debian installs the peers, where every object waits 40 ms for an acknowledgement of TCP, and
once with TCP_NODELAY=1 for sender and receiver, which DCMTK heeds. Ours has every object on the disk before it answers, or
before it confirms the end of the association; the others leave that to the system.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delineate.geometry import Geometry
from delineate.testing.dicom import stack_of, write_series

Row = dict[str, Any]
Receiver = Iterator[tuple[int, Callable[[], int]]]  # its port, and how many objects it has
_PDU = "131072"
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_RULES = "[node]\nport = 0\nquiet_seconds = 3600\nspare_gigabytes = 0\n"


@contextlib.contextmanager
def ours(folder: Path, environment: dict[str, str], disk: str = "object") -> Receiver:
    """The node in a process of its own: its port, and how many objects it has."""
    folder.mkdir()
    (folder / "rules.toml").write_text(f'{_RULES}wait_for_disk = "{disk}"\n')
    words = ["-m", "delineate.cli", "gateway", "serve", "--rules", "rules.toml", "--data", "node", "--server", "http://127.0.0.1:1"]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        yield port, lambda: len(list((folder / "node" / "series").rglob("*.dcm")))
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextlib.contextmanager
def storescp(folder: Path, environment: dict[str, str], command: Sequence[str] = ("storescp", "-pdu", _PDU)) -> Receiver:
    """A peer that writes into a folder."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [*command, "-od", str(folder), str(port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _until_it_listens(port)
        yield port, lambda: sum(path.is_file() for path in folder.iterdir())
    finally:
        process.terminate()
        process.wait(20)


def _until_it_listens(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > end:
            raise RuntimeError("the peer does not listen")
        time.sleep(0.05)


def send(port: int, source: Path, environment: dict[str, str]) -> float:
    """Seconds of one association, the sender's start included."""
    begin = time.perf_counter()
    words = ["storescu", "-aec", "DELINEATE", "-pdu", _PDU, "+sd", "127.0.0.1", str(port), str(source)]
    subprocess.run(words, env=environment, check=True, **_QUIET)
    return time.perf_counter() - begin


def measure(folder: Path, runs: int, slices: int) -> list[Row]:
    """A row for each receiver and way to send, medians; in turns, so that all see the same load."""
    voxels = np.random.default_rng(1).integers(0, 4096, (slices, 512, 512), dtype=np.uint16)
    grid = Geometry((512, 512, slices), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    write_series(folder / "source", stack_of(voxels, grid, stored=12))
    plain = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    rows = []
    for way, environment in (("as installed", plain), ("TCP_NODELAY=1", {**plain, "TCP_NODELAY": "1"})):
        rows += _measured(folder, runs, slices, way, environment)
    return rows


def _measured(folder: Path, runs: int, slices: int, way: str, environment: dict[str, str]) -> list[Row]:
    receivers: dict[str, Callable[[Path], Any]] = {
        "ours": lambda path: ours(path, environment),
        "storescp": lambda path: storescp(path, environment),
        "ours, waits at the end": lambda path: ours(path, environment, "association"),
        "pynetdicom": lambda path: storescp(path, environment, (sys.executable, "-m", "pynetdicom", "storescp", "-q", "--max-pdu", _PDU)),
    }
    times: dict[str, list[float]] = {name: [] for name in receivers}
    for run in range(runs):
        for name, start in receivers.items():
            place = folder / f"{name} {run}"
            with start(place) as (port, count):
                times[name].append(send(port, folder / "source", environment))
                if count() != slices:
                    raise RuntimeError(f"{name} has {count()} of {slices} objects")
            shutil.rmtree(place)
    peer = statistics.median(times["storescp"])
    return [
        {
            "receiver": name,
            "way": way,
            "s": statistics.median(found),
            "rate": slices / statistics.median(found),
            "of_storescp": peer / statistics.median(found),
        }
        for name, found in times.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Objects per second, and each as a part of storescp's."""
    lines = [f"{'receiver':24}{'way':16}{'seconds':>9}{'objects/s':>11}{'of storescp':>13}"]
    lines += [f"{row['receiver']:24}{row['way']:16}{row['s']:9.2f}{row['rate']:11.0f}{row['of_storescp']:13.2f}" for row in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where the files go; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if shutil.which("storescp") is None:
        print("storescp is not installed; Debian: apt-get install dcmtk")
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.runs, given.slices)
    print(json.dumps(rows) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
