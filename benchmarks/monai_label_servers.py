"""Two servers of the MONAI Label API on loopback, with the same images and models: ours, and the peer's from its own environment."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import psutil

from delineate import nifti
from delineate.geometry import Geometry
from delineate.volume import Volume

HERE = Path(__file__).resolve().parent
OLD = 1_700_000_000  # s: a file that was written just now may not be whole yet
START_LIMIT = 180.0  # s: the peer's first start compiles half of torch's modules
KEPT = 3.0  # s of rest after which a connection is not used again: the peer closes it after 5
BOUNDARY = "bench-boundary-7d0c1"
SIZES = {"small": 8, "medium": 120, "large": 300}  # planes of 512 x 512 voxels, of 64 x 64 where it is small


@dataclass
class Started:
    """A server that answers: its process, and how long its start took."""

    port: int
    process: subprocess.Popen[bytes]
    seconds: float

    def tree(self) -> list[psutil.Process]:
        """Its process and all below it."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


@dataclass
class Place:
    """Where a server has its things; made anew for each measurement that must not see another's."""

    folder: Path
    studies: Path = field(init=False)
    data: Path = field(init=False)

    def __post_init__(self) -> None:
        self.studies, self.data = self.folder / "studies", self.folder / "data"
        self.studies.mkdir(parents=True)


def our_command(place: Place, port: int, workers: int = 2) -> list[str]:
    """What starts ours."""
    command = [sys.executable, "-m", "delineate.cli", "serve", "--port", str(port), "--data", str(place.data)]
    return [*command, "--studies", str(place.studies), "--workers", str(workers), "--models", str(HERE / "monai_label_models")]


def peer_command(peer: Path, place: Place, port: int) -> list[str]:
    """What starts the peer's."""
    app = place.folder / "app"
    if not app.exists():
        shutil.copytree(HERE / "monai_label_app", app, ignore=shutil.ignore_patterns("__pycache__"))
    command = [str(peer / "bin" / "python"), "-m", "monailabel.main", "start_server", "-a", str(app), "-s", str(place.studies)]
    return [*command, "-i", "127.0.0.1", "-p", str(port)]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def start(command: list[str], port: int, folder: Path) -> Started:
    """Start it and wait for its first answer of ``/info/``. Raises `RuntimeError` when it ends before."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder)}  # the peer's sessions go into the home folder
    begin = time.perf_counter()
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=folder, start_new_session=True
        )
    while time.perf_counter() - begin < START_LIMIT:
        if process.poll() is not None:
            raise RuntimeError("the server did not start:\n" + (folder / "server.log").read_text(errors="replace")[-2000:])
        with contextlib.suppress(OSError, http.client.HTTPException), Asker(port, 30) as asker:
            if asker.ask("GET", "/info/")[0] == 200:
                return Started(port, process, time.perf_counter() - begin)
        time.sleep(0.01)
    stop(process)
    raise RuntimeError(f"the server did not answer within {START_LIMIT:g} s")


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """End a server with all that it started; `how` SIGKILL ends it at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[Started]:
    """A server that answers, and is ended in the end."""
    server = start(command, port, folder)
    try:
        yield server
    finally:
        stop(server.process)


class Asker:
    """One plain client on one kept connection; as light as can be, and the same for both servers."""

    def __init__(self, port: int, timeout: float = 120.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._used = time.monotonic()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", query: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if time.monotonic() - self._used > KEPT:
            self._connection.close()  # it is opened again
        self._connection.request(method, path + (f"?{urlencode(query)}" if query else ""), body, {"Content-Type": kind} if kind else {})
        answer = self._connection.getresponse()
        found = answer.status, answer.read()
        self._used = time.monotonic()
        return found

    def form(
        self, method: str, path: str, query: Mapping[str, str], files: Mapping[str, tuple[str, bytes]], params: str = "{}"
    ) -> bytes:  # fmt: skip
        """Send a form with parameters and files; `RuntimeError` for another answer than 200."""
        return self.send(method, path, query, form_body(files, params))

    def send(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> bytes:
        """Send a form that is made already; `RuntimeError` for another answer than 200."""
        status, answer = self.ask(method, path, body, f"multipart/form-data; boundary={BOUNDARY}", query)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return answer

    def infer(self, model: str, **query: str) -> float:
        """Seconds until the whole answer to an infer is here."""
        begin = time.perf_counter()
        self.form("POST", f"/infer/{model}", query, {})
        return time.perf_counter() - begin


def form_body(files: Mapping[str, tuple[str, bytes]], params: str = "{}") -> bytes:
    """A form with parameters and files: name → (file name, content)."""
    parts = [b'Content-Disposition: form-data; name="params"\r\n\r\n' + params.encode() + b"\r\n"]
    for name, (filename, data) in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    mark = b"--" + BOUNDARY.encode()
    return mark + b"\r\n" + (mark + b"\r\n").join(parts) + mark + b"--\r\n"


def write_ct(path: Path, planes: int, size: int = 512) -> None:
    """A CT of a chest-like body with noise; 512 x 512 x 300 voxels pack to some 85 MB."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    plain = np.where((x / 0.8) ** 2 + (y / 0.62) ** 2 < 1, 40, -1000).astype(np.int16)
    for side in (-0.36, 0.36):
        plain[((x - side) / 0.28) ** 2 + ((y + 0.05) / 0.4) ** 2 < 1] = -850
    plain[(x / 0.1) ** 2 + ((y - 0.42) / 0.1) ** 2 < 1] = 600
    cage, around = (np.hypot(x / 0.78, y / 0.6) - 1) ** 2 < 0.0006, 14 * np.arctan2(y, x)
    noise = draw.normal(0, 12.3, (9, size, size)).astype(np.int16)
    voxels = np.empty((planes, size, size), np.int16)
    for number, plane in enumerate(voxels):
        plane[...] = np.where(cage & (np.sin(around + number / 9) > 0.2), 500, plain)
        plane += np.roll(noise[number % 9], tuple(draw.integers(0, size, 2)), (0, 1))
    nifti.write(path, Volume(voxels, Geometry((size, size, planes), (0.8, 0.8, 1.5))))
    os.utime(path, (OLD, OLD))


def images(folder: Path) -> dict[str, Path]:
    """The three images that everything is measured on."""
    folder.mkdir(exist_ok=True)
    for name, planes in SIZES.items():
        write_ct(folder / f"{name}.nii.gz", planes, 64 if name == "small" else 512)
    return {name: folder / f"{name}.nii.gz" for name in SIZES}


def lay(source: Path, target: Path) -> None:
    """The same file under another name, without a copy."""
    os.link(source, target)
