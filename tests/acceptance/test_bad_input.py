"""Bad input, cell by cell, through a real server with real workers: the code on the wire, the words, our client's exception,
and that nothing is left of what was refused and nobody else is disturbed. What only a client can meet is in test_client.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
import sqlite3
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from delineate.client import Client
from delineate.client.session import Session
from delineate.client.transport import SyncDriver
from delineate.errors import (
    DelineateError,
    RejectedError,
    ResultLostError,
    TaskFailedError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.protocols.inference_server import error_from
from delineate.protocols.messages import Response
from delineate.testing import models

READY = "delineate: ready at "
MIB = 1 << 20
LIMITS = ["--workers", "2"]
ENVIRONMENT = {"DELINEATE_MAX_UPLOAD_MB": "20", "DELINEATE_MAX_ENTRIES": "5", "DELINEATE_MAX_UNPACKED_MB": "30", "DELINEATE_SYNC": "0"}
SIZE = (6, 5, 4)


class Server:
    """`delineate serve` with toy models, and what a person at it can see and break."""

    def __init__(self, folder: Path, environment: dict[str, str] = ENVIRONMENT) -> None:
        self.data = folder / "data"
        own = folder / "models"
        models.copy("hanger", own, "hanger-quick", time_limit=0.5)
        models.copy("process-hanger", own, "process-hanger-quick", time_limit=0.5)
        models.copy("memory-eater", own, "memory-eater-quick", megabytes=400, memory_mb=200)
        models.copy("sleeper", own, "sleeper-2", seconds=2.0)
        self._err = (folder / "log").open("wb")
        command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(self.data), *LIMITS]
        command += ["--models", str(own), "--models", str(models.FOLDER)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._err, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith(READY), (folder / "log").read_text()
        self.url = line[len(READY) :].strip()
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            assert self.process.wait(30) == 0
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._err.close()

    def post(self, archive: bytes, model: str = "noop") -> httpx.Response:
        return self.http.post("/api/tasks/", params={"model_human_readable_id": model}, files={"zip_file": ("a.zip", archive)})

    def submit(self, archive: bytes, model: str = "noop") -> str:
        answer = self.post(archive, model)
        assert answer.status_code == 200, answer.text
        return str(answer.json())

    def ended(self, uid: str) -> httpx.Response:
        """The answer once the task has ended."""
        for _ in range(3):
            answer = self.http.get(f"/api/tasks/{uid}?wait=30")
            if answer.status_code != 551:
                return answer
        raise AssertionError("the task did not end")

    def send(self, archive: bytes, model: str, folder: Path, timeout: float = 60.0) -> str:
        """Our client's way of posting, for archives that it would not make itself."""
        path = folder / "request.zip"
        path.write_bytes(archive)
        session = Session(self.url)
        driver = SyncDriver(session.line)
        try:
            return driver.run(session.server.submit(model, str(path), None, timeout))
        finally:
            driver.close()

    def traces(self) -> tuple[int, list[str]]:
        """Number of tasks ever posted, and the names of all stored files, half ones included."""
        with contextlib.closing(sqlite3.connect(self.data / "delineate.db")) as database:
            count = database.execute("select coalesce(max(id), 0) from tasks").fetchone()[0]
        return int(count), sorted(path.name for path in (self.data / "blobs").rglob("*") if path.is_file())

    def blob(self, uid: str, role: str) -> Path:
        with contextlib.closing(sqlite3.connect(self.data / "delineate.db")) as database:
            query = "select digest from blobs join tasks on tasks.id = blobs.task where uid = ? and role = ?"
            digest = database.execute(query, (uid, role)).fetchone()[0]
        return next(path for path in (self.data / "blobs").rglob(digest))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bad-input"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def others_are_not_disturbed(server: Server) -> Iterator[None]:
    """After each piece of bad input a good task goes through."""
    yield
    answer = server.ended(server.submit(request(tmp_0000__nii=image())))
    assert answer.status_code == 200, answer.text


# ---------------------------------------------------------------- what is sent


def image(size: tuple[int, ...] = SIZE, kind: int = 4, bits: int = 16, spacing: float = 1.0, value: bytes = b"\1\0") -> bytes:
    """A NIfTI-1 file, written by hand; `kind` is its datatype code."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into(f"<{1 + len(size)}h", head, 40, len(size), *size)
    struct.pack_into("<2h", head, 70, kind, bits)
    struct.pack_into("<8f", head, 76, 1.0, spacing, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<2f", head, 108, 352.0, 1.0)
    struct.pack_into("<2h", head, 252, 0, 1)
    struct.pack_into("<12f", head, 280, spacing, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    head[344:348] = b"n+1\0"
    return bytes(head) + value * int(np.prod(size))


def request(**entries: bytes) -> bytes:
    """A zip (``__`` for a dot)."""
    return zipped({name.replace("__", "."): data for name, data in entries.items()})


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as file:
        for name, data in entries.items():
            file.writestr(zipfile.ZipInfo(name), data, method)
    return packed.getvalue()


def linked() -> bytes:
    """A zip with a symbolic link."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        info = zipfile.ZipInfo("tmp_0000.nii")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    return packed.getvalue()


def tarred(kind: bytes = tarfile.REGTYPE, name: str = "tmp_0000.nii", size: int = 0, mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as file:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "/etc/passwd", size
        file.addfile(info, io.BytesIO(bytes(size)))
    return packed.getvalue()


def client_error(answer: httpx.Response) -> DelineateError:
    """What our client makes of an answer."""
    return error_from(Response(answer.status_code, dict(answer.headers), answer.content), "the upload")


# ---------------------------------------------------------------- unknown model, unknown and malformed uids


def test_unknown_model(server: Server, tmp_path: Path) -> None:
    before = server.traces()
    assert server.post(request(tmp_0000__nii=image()), "no-such").status_code == 550
    with pytest.raises(UnknownModelError, match="no-such") as raised:
        server.send(request(tmp_0000__nii=image()), "no-such", tmp_path)
    assert raised.value.advice
    assert server.traces() == before


@pytest.mark.parametrize("uid", ["A" * 43, "x", "..", "%2e%2e", "..%2f..%2fhealthz", "%00", "A" * 5000])
def test_unknown_and_malformed_uids(server: Server, uid: str) -> None:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    for method, path in (("GET", uid), ("DELETE", uid), ("GET", f"outputs/?uid={uid}"), ("GET", f"{uid}/log"), ("POST", f"{uid}/cancel")):
        with socket.create_connection((host, int(port)), 10) as connection:  # by hand: no library tidies the path
            connection.sendall(f"{method} /api/tasks/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 554 "), (method, path[:80])
        assert b"no such task" in answer
    with Client(server.url) as client, pytest.raises(UnknownTaskError) as raised:
        client.fetch(uid)
    assert raised.value.advice


# ---------------------------------------------------------------- what is no request


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no file": ({}, 422, "no file"),
    "wrong field": ({"files": {"image": ("a.zip", b"x")}}, 422, "image"),
    "not an archive": ({"content": b"hello" * 500}, 422, "zip"),
    "empty body": ({"content": b""}, 422, "empty"),
    "empty zip": ({"content": b"PK\5\6" + bytes(18)}, 422, "empty"),
    "empty tar": ({"content": tarred()[512:]}, 422, ""),
    "no image": ({"content": zipped({"readme.txt": b"x"})}, 422, "image"),
    "truncated zip": ({"content": request(tmp_0000__nii=image())[:-30]}, 422, ""),
    "truncated tar": ({"content": tarred(size=5000)[:3000]}, 422, ""),
    "truncated form": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="zip_file"; filename="a"\r\n\r\nPK',
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
        422, "cut off",
    ),
    "path escape": ({"content": zipped({"../tmp_0000.nii": b"x"})}, 422, "../tmp_0000.nii"),
    "path escape in a tar": ({"content": tarred(name="a/../../tmp_0000.nii")}, 422, ".."),
    "absolute name": ({"content": zipped({"/tmp_0000.nii": b"x"})}, 422, "/tmp_0000.nii"),
    "drive letter": ({"content": zipped({"C:/tmp_0000.nii": b"x"})}, 422, "C:/tmp_0000.nii"),
    "link in a zip": ({"content": linked()}, 422, "link"),
    "link in a tar": ({"content": tarred(tarfile.SYMTYPE)}, 422, "link"),
    "hard link in a tar": ({"content": tarred(tarfile.LNKTYPE)}, 422, "link"),
    "device in a tar": ({"content": tarred(tarfile.CHRTYPE)}, 422, "device"),
    "bomb in a zip": ({"content": zipped({"tmp_0000.nii": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED)}, 413, "30 MiB"),
    "bomb in a tar.gz": ({"content": tarred(size=64 * MIB, mode="w:gz")}, 413, "30 MiB"),
    "too large": ({"content": bytes(21 * MIB)}, 413, "max_upload_mb"),
    "too many entries": ({"content": zipped({f"tmp_000{n}.nii": image() for n in range(6)})}, 413, "5"),
    "too much when unpacked": ({"content": zipped({f"tmp_000{n}.nii": bytes(7 * MIB) for n in range(5)}, zipfile.ZIP_DEFLATED)}, 413, "30"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_leaves_nothing(server: Server, name: str, tmp_path: Path) -> None:
    options, status, word = REFUSED[name]
    before = server.traces()
    if "files" not in options:
        options = {"headers": {"content-type": "application/zip"}, **options} if options else options
    answer = server.http.post("/api/tasks/?model_human_readable_id=noop", **options)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert word in body["message"]
    assert body["detail"]["detail"].startswith(body["message"])
    error = client_error(answer)
    assert isinstance(error, RejectedError)
    assert (error.message, error.status) == (body["message"], status)
    assert error.advice
    if name not in ("no file", "wrong field", "empty body", "truncated form"):  # these no client of ours can send
        with pytest.raises(RejectedError, match=r"\w") as raised:
            server.send(options["content"], "noop", tmp_path)
        assert (raised.value.message, raised.value.status) == (body["message"], status)
    assert server.traces() == before


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    before = server.traces()
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        head = "POST /api/tasks/?model_human_readable_id=noop HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"
        connection.sendall(f"{head}Content-Length: 9000000\r\n\r\n".encode() + bytes(8_000_000))
        until(lambda: len(server.traces()[1]) > len(before[1]))
    until(lambda: server.traces() == before)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# ---------------------------------------------------------------- images that no model can use


IMAGES: dict[str, tuple[dict[str, bytes], str]] = {
    "unreadable": ({"tmp_0000.nii": b"no image at all"}, ""),
    "truncated": ({"tmp_0000.nii": image()[:-50]}, ""),
    "truncated head": ({"tmp_0000.nii": image()[:80]}, ""),
    "4-D": ({"tmp_0000.nii": image((*SIZE, 3))}, "3"),
    "complex": ({"tmp_0000.nii": image(kind=32, bits=64, value=bytes(8))}, "complex"),
    "NaN only": ({"tmp_0000.nii": image(kind=16, bits=32, value=struct.pack("<f", np.nan))}, "NaN"),
    "zero size": ({"tmp_0000.nii": image((6, 0, 4))}, "0"),
    "mismatched grids": ({"tmp_0000.nii": image(), "tmp_0001.nii": image(spacing=2.5)}, "2.5"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_no_model_can_use_fails_the_task(server: Server, name: str, tmp_path: Path) -> None:
    entries, word = IMAGES[name]
    # Stored under .nii.gz as clients do, whatever is in it: content decides.
    uid = server.send(zipped(entries), "noop", tmp_path)
    body = failed(server, uid, word)
    assert body["kind"] == "input"
    assert list(entries)[-1] in body["message"]


def failed(server: Server, uid: str, word: str) -> dict[str, Any]:
    """The body of 552, whose reason the client's exceptions have, too."""
    answer = server.ended(uid)
    assert answer.status_code == 552, answer.text
    body: dict[str, Any] = answer.json()
    assert word in body["message"]
    assert body["advice"]
    assert body["detail"]["detail"].startswith(body["message"])
    with Client(server.url) as client:
        for ask in (client.wait, client.fetch):
            with pytest.raises(TaskFailedError) as raised:
                ask(uid)
            assert (raised.value.message, raised.value.advice) == (body["message"], body["advice"])
    assert server.http.get(f"/api/tasks/outputs/?uid={uid}").json()["detail"] == body["detail"]["detail"]
    return body


# ---------------------------------------------------------------- what models do


MODELS = {
    # model: kind of failure, a word of the reason, a word of the log
    "raiser": ("model", "told to fail", "Traceback"),
    "crasher": ("crash", "SIGSEGV", "dying of SIGSEGV"),
    "quitter": ("crash", "code 3", ""),
    "process-crasher": ("crash", "", ""),
    "process-exit": ("exit", "", ""),
    "hanger-quick": ("timeout", "0.5 s", "hanging"),
    "process-hanger-quick": ("timeout", "0.5 s", ""),
    "memory-eater-quick": ("memory", "200 MiB", ""),
    "empty": ("output", "no label map", ""),
    "wrong-grid": ("grid", "7 x 5 x 4", ""),
    "undeclared-label": ("labels", "7", ""),
    "wrong-type": ("output", "ndarray", ""),
}


@pytest.fixture(scope="module")
def tried(server: Server) -> dict[str, str]:
    return {model: server.submit(request(tmp_0000__nii=image()), model) for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_what_a_model_does_wrong_fails_the_task_and_keeps_its_log(server: Server, model: str, tried: dict[str, str]) -> None:
    kind, word, logged = MODELS[model]
    body = failed(server, tried[model], word)
    assert body["kind"] == kind
    log = server.http.get(f"/api/tasks/{tried[model]}/log")
    assert log.status_code == 200
    assert logged in log.text
    with Client(server.url) as client:
        assert client.log(tried[model]) == log.text


# ---------------------------------------------------------------- the server's own troubles


def test_a_full_disk_is_507_and_the_client_tries_again_until_it_heals(server: Server, tmp_path: Path) -> None:
    """No file of the server can grow beyond some MiB for a while, as on a full disk."""
    before = server.traces()
    archive = zipped({"tmp_0000.nii": image((200, 200, 200))})  # 15 MiB
    with limited(server.process.pid, 8 * MIB):
        answer = server.post(archive)
        assert answer.status_code == 507, answer.text
        assert "no space left" in answer.json()["message"]
        assert answer.headers["retry-after"].isdigit()
        assert server.traces() == before
        heard: list[str] = []
        sender = threading.Thread(target=lambda: heard.append(server.send(archive, "noop", tmp_path)))
        sender.start()
        until(lambda: refusals(server, 507) >= 2)
    sender.join(60)
    assert server.ended(heard[0]).status_code == 200
    assert server.traces()[0] == before[0] + 1, "posted once"


@contextlib.contextmanager
def limited(process: int, size: int) -> Iterator[None]:
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))


def refusals(server: Server, status: int) -> int:
    """How many posts were answered so."""
    lines = server.http.get("/metrics").text.splitlines()
    wanted = f'delineate_request_seconds_count{{method="POST",route="/api/tasks/",status="{status}"}}'
    return int(float(next((line.rpartition(" ")[2] for line in lines if line.startswith(wanted)), "0")))


def test_workers_that_can_write_nothing_leave_the_task_waiting_until_it_heals(server: Server) -> None:
    log = server.data.parent / "log"
    workers = [child.pid for child in psutil.Process(server.process.pid).children(recursive=True)]
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.enter_context(limited(worker, 4 << 10))
        uid = server.submit(request(tmp_0000__nii=image()))
        seen = log.read_text().count("no task could be claimed")
        until(lambda: log.read_text().count("no task could be claimed") > seen)
        assert server.http.get(f"/api/tasks/{uid}").status_code == 551
    assert server.ended(uid).status_code == 200


def test_a_locked_database_is_503_and_the_client_tries_again_until_it_heals(server: Server, tmp_path: Path) -> None:
    before = server.traces()
    archive = request(tmp_0000__nii=image())
    locker = sqlite3.connect(server.data / "delineate.db", timeout=20, isolation_level=None, check_same_thread=False)
    with contextlib.closing(locker):
        locker.execute("BEGIN IMMEDIATE")
        heard: list[str] = []
        sender = threading.Thread(target=lambda: heard.append(server.send(archive, "noop", tmp_path)))
        sender.start()
        answer = server.post(archive)
        assert answer.status_code == 503, answer.text
        assert "busy" in answer.json()["message"] or "locked" in answer.json()["message"]
        assert answer.headers["retry-after"].isdigit()
        until(lambda: refusals(server, 503) >= 2)
        assert server.traces()[0] == before[0]
        locker.execute("ROLLBACK")
    sender.join(60)
    assert server.ended(heard[0]).status_code == 200
    assert server.traces()[0] == before[0] + 1, "posted once"


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_result_that_is_gone_is_553_and_never_a_wrong_answer(server: Server, damage: str) -> None:
    uid = server.submit(
        request(tmp_0000__nii=image(value=b"\3\0" if damage == "missing" else b"\4\0"), note__txt=damage.encode()), "writer"
    )
    assert server.ended(uid).status_code == 200
    harm(server.blob(uid, "result"), damage)
    lost(server, uid, damage)


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_images_that_the_server_lost_are_553_and_can_be_sent_again(server: Server, damage: str) -> None:
    archive = request(tmp_0000__nii=image(value=b"\5\0" if damage == "missing" else b"\6\0"))
    busy = [server.submit(request(tmp_0000__nii=image()), "sleeper-2") for _ in range(2)]
    uid = server.submit(archive)
    harm(server.blob(uid, "input"), damage)
    lost(server, uid, damage)
    assert server.ended(server.submit(archive)).status_code == 200, "the same bytes heal the file"
    assert [server.ended(other).status_code for other in busy] == [200, 200]


def harm(path: Path, damage: str) -> None:
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def lost(server: Server, uid: str, damage: str) -> None:
    for url in (f"/api/tasks/{uid}?wait=30", f"/api/tasks/{uid}", f"/api/tasks/outputs/?uid={uid}"):
        answer = server.http.get(url)
        assert answer.status_code == 553, answer.text
        assert damage in answer.json()["message"]
    with Client(server.url) as client, pytest.raises(ResultLostError, match=damage) as raised:
        client.fetch(uid)
    assert raised.value.advice


# ---------------------------------------------------------------- afterwards


def test_the_log_of_the_server_holds_no_uid_and_no_traceback(server: Server, tried: dict[str, str]) -> None:
    log = (server.data.parent / "log").read_text()
    assert not any(uid in log for uid in tried.values())
    assert "Traceback" not in log, log[log.find("Traceback") - 500 :][:3000]
    assert server.ended(server.submit(request(tmp_0000__nii=image()))).status_code == 200
    text = server.http.get("/metrics").text
    assert 'delineate_task_seconds_count{model="noop",state="finished"}' in text
    assert json.loads(server.http.get("/healthz").text)["checks"] == {"database": True, "disk": True, "workers": True}
