"""The node killed at every step by which its state changes, once each: what was acknowledged is there, and one result of it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

import delineate.testing.models
from delineate.cli.embedded import embedded_server
from delineate.client.sync import Client
from delineate.gateway.upper_layer import APPLICATION
from delineate.geometry import Geometry
from delineate.testing.dicom import CT, EXPLICIT, ROOT, stack_of, write_series
from delineate.testing.dicomweb import DicomWebServer
from delineate.testing.gateway import RULES, read
from delineate.testing.pacs import Pacs

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/fd").exists(), reason="forks, and looks into /proc: Linux")

GEOMETRY = Geometry((16, 16, 3), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
SLICES = 3
STRIDE = 1 if os.environ.get("DELINEATE_SOAK") else 16  # every so manieth step; `make soak` takes each of them
SUCCESS = struct.pack("<HHIH", 0, 0x0900, 2, 0)  # an answer's element for the status
QUICK = RULES.replace("quiet_seconds = 0.2", "quiet_seconds = 0.02").replace("broken_seconds = 0.6", "broken_seconds = 200")
LIMIT = 60.0  # seconds


class Steps:
    """The process of `gateway_steps`, and the node that it runs."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        command = [sys.executable, str(Path(__file__).with_name("gateway_steps.py")), str(folder), server]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._said: queue.Queue[dict[str, int]] = queue.Queue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self.port = self._node = 0

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))

    def start(self, last: int = 0) -> bool:
        """Whether it listened before it was killed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{last}\n")
        self._process.stdin.flush()
        said = self._said.get(timeout=LIMIT)
        self.port, self._node = said.get("port", 0), said.get("process", 0)
        return bool(self.port)

    def is_ended(self) -> bool:
        """Whether it was killed."""
        try:
            self._said.get_nowait()
        except queue.Empty:
            return False
        return True

    def kill(self) -> int:
        """End it; the count of its steps."""
        with contextlib.suppress(ProcessLookupError):  # at its last step just now
            os.kill(self._node, signal.SIGKILL)
        self._said.get(timeout=LIMIT)
        return len((self.folder / "steps").read_text().splitlines())

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._node or self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()
        self._thread.join()


def rows(folder: Path, words: str) -> list[Any]:
    """What a query finds in the node's file, nothing where there is none."""
    try:
        line = sqlite3.connect(f"file:{folder}/node/node.sqlite?mode=ro", uri=True, timeout=LIMIT)
    except sqlite3.OperationalError:
        return []
    try:
        return line.execute(words).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        line.close()


def is_sent(port: int, files: list[Path]) -> bool:
    """Send files by one association; whether each was answered with success, and the association's end, too."""
    try:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as line, line.makefile("rb") as answers:
            line.sendall(_associate())
            if _answer(answers)[0] != 2:
                return False
            for number, path in enumerate(files, 1):
                line.sendall(_store(number, path.read_bytes()))
                if SUCCESS not in _answer(answers)[1]:
                    return False
            line.sendall(bytes.fromhex("050000000004 00000000"))
            return _answer(answers)[0] == 6
    except OSError:
        return False


def _answer(answers: BinaryIO) -> tuple[int, bytes]:
    head = answers.read(6)
    if len(head) < 6:
        raise ConnectionError("the node hung up")
    return head[0], answers.read(int.from_bytes(head[2:], "big"))


def _associate() -> bytes:
    """A request for one context: CT, as the files are written."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    context = item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()))
    user = item(0x50, item(0x51, struct.pack(">I", 1 << 16)) + item(0x52, f"{ROOT}.1".encode()))
    body = (
        struct.pack(">HH16s16s32x", 1, 0, b"DELINEATE".ljust(16), b"SENDER".ljust(16)) + item(0x10, APPLICATION.encode()) + context + user
    )
    return struct.pack(">BxI", 1, len(body)) + body


def _store(number: int, file: bytes) -> bytes:
    """A file as a command and its data set, in a data unit each."""

    def element(tag: int, value: bytes) -> bytes:
        value += bytes(len(value) % 2)
        return struct.pack("<HHI", 0, tag, len(value)) + value

    data = file[144 + int.from_bytes(file[140:144], "little") :]  # behind the meta information
    instance = read_instance(file)
    command = element(0x0002, CT.encode()) + element(0x0100, b"\1\0") + element(0x0110, number.to_bytes(2, "little"))
    command += element(0x0700, b"\0\0") + element(0x0800, b"\0\0") + element(0x1000, instance)
    command = element(0x0000, len(command).to_bytes(4, "little")) + command
    units = (struct.pack(">IBB", len(value) + 2, 1, control) + value for value, control in ((command, 3), (data, 2)))
    return b"".join(struct.pack(">BxI", 4, len(unit)) + unit for unit in units)


def read_instance(file: bytes) -> bytes:
    """The SOP Instance UID of a file's meta information."""
    at = file.index(b"\2\0\3\0UI") + 8
    return file[at : at + int.from_bytes(file[at - 2 : at], "little")]


def carry(steps: Steps, batches: Sequence[list[Path]], *lasts: int) -> int:
    """Send a series to a new node that is killed at a step, again at one of its next start, …, until it is done; the last's count.

    What comes in several batches makes as many versions.
    """
    for name in ("node", "results"):
        shutil.rmtree(steps.folder / name, ignore_errors=True)
    left, coming = list(lasts), list(batches)
    end, sent, runs = time.monotonic() + LIMIT, False, steps.start(left.pop(0))
    while True:
        assert time.monotonic() < end, (
            f"killed at steps {lasts}, it came no further than {rows(steps.folder, 'SELECT state FROM versions')}"
        )
        if not runs or steps.is_ended():
            runs = steps.start(left.pop(0) if left else 0)
        elif not sent:
            sent = is_sent(steps.port, coming[0])
        elif rows(steps.folder, "SELECT state FROM versions") == [("done",)] * (1 + len(batches) - len(coming)):
            del coming[0]
            if not coming:
                return steps.kill()
            sent = False
        else:
            time.sleep(0.01)


def tasks(steps: Steps) -> int:
    """The tasks that the server ever had."""
    with Client(steps.server) as client:
        return int(client.tasks(limit=1)[0]["id"])


def found(folder: Path) -> list[str]:
    """Files and folders below, relative; what is removed meanwhile may be among them or not."""
    return sorted(os.path.relpath(os.path.join(place, name), folder) for place, *below in os.walk(folder) for name in chain(*below))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    with embedded_server([Path(delineate.testing.models.__path__[0])]) as server:
        running = Steps(tmp_path_factory.mktemp("steps"), server)
        yield running
        running.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    voxels = np.full(GEOMETRY.shape, 24, np.int16)
    voxels[1:, 4:12, 4:12] = 1800
    return write_series(tmp_path_factory.mktemp("source"), stack_of(voxels, GEOMETRY))


@pytest.mark.timeout(1200)
def test_killed_at_each_step_it_brings_one_result(steps: Steps, files: list[Path]) -> None:
    (steps.folder / "rules.toml").write_text(QUICK)
    count, data = carry(steps, [files], 0), steps.folder / "node"
    assert count > 100
    for last in range(1, count + 1, STRIDE):
        again = [(count - last) // 2 + 8] if last % 2 else []  # half of what is left: a start has some steps of its own
        before = tasks(steps)
        carry(steps, [files], last, *again)
        what = f"killed at steps {last, *again}"
        assert rows(steps.folder, "SELECT count(*) FROM instances") == [(SLICES,)], what
        assert rows(steps.folder, "SELECT state, round FROM jobs") == [("done", 0)], what
        assert rows(steps.folder, "SELECT state FROM deliveries") == [("done",)], what
        assert tasks(steps) == before + 1, what
        (job,) = [row[0] for row in rows(steps.folder, "SELECT id FROM jobs")]
        kept = sorted((data / "jobs" / str(job)).rglob("*.dcm"))
        assert sorted(item.SOPInstanceUID + ".dcm" for item in read(kept)) == found(steps.folder / "results"), what
        assert len(kept) == 2 and len(list((data / "series").rglob("*.dcm"))) == SLICES, what
        assert not found(data / "coming") and not found(data / "aside"), what
        assert [path.name for path in (data / "jobs").rglob("*") if path.suffix != ".dcm"] == [str(job), "question", "results"], what


@pytest.mark.timeout(1200)
def test_killed_at_each_step_of_removing_it_leaves_nothing(steps: Steps, files: list[Path]) -> None:
    (steps.folder / "rules.toml").write_text(QUICK)
    carry(steps, [files], 0)
    shutil.copytree(steps.folder / "node", steps.folder / "before")
    (steps.folder / "rules.toml").write_text(QUICK.replace("[node]", "[node]\nkeep_days = 0"))
    count = removed(steps, 0)
    assert count > 20
    for last in range(1, count + 1, 1 + STRIDE // 3):
        removed(steps, last)
        assert len(found(steps.folder / "results")) == 2


def removed(steps: Steps, last: int) -> int:
    """Have a series removed by a node that is killed at a step; the count of steps."""
    data = steps.folder / "node"
    shutil.rmtree(data)
    shutil.copytree(steps.folder / "before", data)
    end, runs = time.monotonic() + LIMIT, steps.start(last)
    while any(found(data / name) for name in ("series", "versions", "jobs")) or rows(steps.folder, "SELECT id FROM series"):
        assert time.monotonic() < end, f"killed at step {last}, it left {found(data)}"
        if not runs or steps.is_ended():
            runs = steps.start()
        time.sleep(0.01)
    if not runs or steps.is_ended():
        steps.start()
    return steps.kill()


PLACES = """
[destinations.web]
kind = "stow"
url = "{web}"

[destinations.pacs]
kind = "dicom"
host = "127.0.0.1"
port = {pacs}
ae = "PACS"
commitment = true
"""


@pytest.mark.timeout(2400)
def test_killed_at_each_step_late_slices_make_one_more_version(steps: Steps, files: list[Path]) -> None:
    (steps.folder / "rules.toml").write_text(QUICK)
    batches = [files[:2], files[2:]]
    count = carry(steps, batches, 0)
    for last in range(count // 2, count + 1, 1 if STRIDE == 1 else 3 * STRIDE):  # the first half is that of one version
        carry(steps, batches, last)
        what = f"killed at step {last}"
        assert rows(steps.folder, "SELECT number, instances FROM versions ORDER BY number") == [(1, 2), (2, 3)], what
        assert rows(steps.folder, "SELECT version, state, round FROM jobs ORDER BY id") == [(1, "done", 0), (2, "done", 0)], what
        assert len(found(steps.folder / "results")) == 4, what


@pytest.mark.timeout(1200)
def test_killed_at_each_step_of_delivering_it_brings_the_same_objects(steps: Steps, files: list[Path]) -> None:
    pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: results go by it")
    with DicomWebServer() as web, Pacs(commits="same").running() as pacs:
        rules = QUICK.replace('destinations = ["kept"]', 'destinations = ["kept", "web", "pacs"]')
        (steps.folder / "rules.toml").write_text(rules + PLACES.format(web=web.url, pacs=pacs.port))
        carry(steps, [files], 0)
        with contextlib.closing(sqlite3.connect(steps.folder / "node" / "node.sqlite")) as line, line:
            line.execute("UPDATE deliveries SET state = 'waiting'")
            line.execute("UPDATE jobs SET state = 'delivering'")
            line.execute("UPDATE versions SET state = 'working'")
        uids = {item.SOPInstanceUID for item in read(sorted((steps.folder / "node" / "jobs").rglob("*.dcm")))}
        assert len(uids) == 2
        shutil.rmtree(steps.folder / "before", ignore_errors=True)
        shutil.copytree(steps.folder / "node", steps.folder / "before")
        count = delivered(steps, 0)
        for last in range(1, count + 1, STRIDE):
            shutil.rmtree(steps.folder / "results")
            web.stored.clear()
            pacs.objects.clear()
            delivered(steps, last)
            assert {path.stem for path in (steps.folder / "results").iterdir()} == uids, last
            assert set(web.stored) == set(pacs.objects) == uids, last


def delivered(steps: Steps, last: int) -> int:
    """Have results delivered by a node that is killed at a step; the count of steps."""
    shutil.rmtree(steps.folder / "node")
    shutil.copytree(steps.folder / "before", steps.folder / "node")
    end, runs = time.monotonic() + LIMIT, steps.start(last)
    while rows(steps.folder, "SELECT state FROM versions") != [("done",)]:
        assert time.monotonic() < end, f"killed at step {last}: {rows(steps.folder, 'SELECT destination, state, reason FROM deliveries')}"
        if not runs or steps.is_ended():
            runs = steps.start()
        time.sleep(0.01)
    return steps.kill() if runs else 0
