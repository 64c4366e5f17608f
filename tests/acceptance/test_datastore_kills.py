"""Kills at random moments: all images and labels that were answered are there, readable, with all their versions.

Four processes add and replace images and save labels in one folder; 20 times one of them, or all, are killed and begin
again. They are forked by a nursery that has imported everything, so that a new life takes milliseconds.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from delineate import nifti
from delineate.datastore.local import LocalDatastore
from delineate.store.database import Database

KILLS, PROCESSES, TICKETS = 20, 4, 200
PATIENCE = 120.0  # s for all of it

NURSERY = """
import io, os, sys
from pathlib import Path
import numpy as np
from delineate import nifti
from delineate.datastore.local import LocalDatastore
from delineate.geometry import Geometry
from delineate.store.database import Database
from delineate.volume import Volume

root, processes, tickets = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
GRID = Geometry((8, 7, 6), (1.0, 1.0, 2.0))

def content(number, turn, kind):
    voxels = np.full(GRID.shape, turn, kind)
    voxels[0, 0, :3] = number % 100, number // 100, turn
    return voxels

def packed(write, *values):
    buffer = io.BytesIO()
    write(buffer, *values)
    return io.BytesIO(buffer.getvalue())

def live(index):
    log = os.open(root / f"answers-{index}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    turn = int((root / f"answers-{index}").stat().st_size) % 200 + 1
    store = LocalDatastore(root / "studies", Database(f"sqlite:///{root}/delineate.db"), interval=0.05, settle=0.0)
    while not (root / "stop").exists():
        for number in range(index, tickets, processes):
            name = f"case{number:03}"
            if turn % 5 == 1:
                image = packed(nifti.write, Volume(content(number, turn, np.int16), GRID))
                store.add_image(store.received(image, name + ".nii.gz"), who=f"p{index}", info={"number": number})
                os.write(log, f"image {number} {turn}\\n".encode())
            try:
                label = packed(nifti.write_labels, content(number, turn, np.uint8), GRID)
                store.save_label(name, "final", store.received(label, "label.nii.gz"), who=f"p{index}")
                os.write(log, f"label {number} {turn}\\n".encode())
            except Exception as error:
                if type(error).__name__ != "UnknownImageError":
                    raise
            if (root / "stop").exists():
                break
        turn = turn % 200 + 1
    store.close()

print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            live(int(line))
        except BaseException as error:
            import traceback
            (root / f"trouble-{os.getpid()}").write_text(traceback.format_exc())
        os._exit(0)
    print(pid, flush=True)
"""


class Nursery:
    """Starts and kills the processes; knows only those it started."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", NURSERY, str(folder), str(PROCESSES), str(TICKETS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask("ready")
        self.pids: dict[int, int] = {}

    def _ask(self, expected: str = "") -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line and (not expected or line == expected)
        return line

    def start(self, index: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index}\n")
        self._process.stdin.flush()
        self.pids[index] = int(self._ask())

    def kill(self, index: int) -> None:
        process = psutil.Process(self.pids.pop(index))
        process.send_signal(signal.SIGKILL)
        while process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1:  # one that waits for the disk dies a little later
            time.sleep(0.001)

    def close(self) -> None:
        for index in list(self.pids):
            self.kill(index)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    database = Database(f"sqlite:///{tmp_path}/delineate.db")
    database.migrate()
    database.close()
    nursery = Nursery(tmp_path)
    try:
        yield nursery
    finally:
        nursery.close()


def answers(folder: Path) -> dict[tuple[str, int], set[int]]:
    """What was answered: (kind, number) → turns."""
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for log in folder.glob("answers-*"):
        for line in log.read_text().splitlines():
            kind, number, turn = line.split()
            found[kind, int(number)].add(int(turn))
    return found


def wait_for(folder: Path, kind: str, count: int, deadline: float) -> None:
    while sum(1 for key in answers(folder) if key[0] == kind) < count:
        assert not list(folder.glob("trouble-*")), [path.read_text() for path in folder.glob("trouble-*")]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def turn_of(path: Path, number: int) -> int:
    """The turn that a file is of; it must be whole."""
    voxels = np.asarray(nifti.read(path).voxels)
    turn = int(voxels[0, 0, 2])
    expected = np.full(voxels.shape, turn, voxels.dtype)
    expected[0, 0, :2] = number % 100, number // 100
    np.testing.assert_array_equal(voxels, expected)
    return turn


def test_kills(nursery: Nursery, tmp_path: Path) -> None:
    chance = random.Random(4)
    deadline = time.monotonic() + PATIENCE
    for index in range(PROCESSES):
        nursery.start(index)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.4))
        victims = list(range(PROCESSES)) if chance.random() < 0.4 else [chance.randrange(PROCESSES)]
        for index in victims:
            nursery.kill(index)
        if len(victims) == PROCESSES:
            everything_answered_is_current(tmp_path)
        for index in victims:
            nursery.start(index)
    wait_for(tmp_path, "label", TICKETS, deadline)
    for index in range(PROCESSES):
        nursery.kill(index)
    found = answers(tmp_path)
    assert sum(len(turns) for turns in found.values()) >= 2 * TICKETS
    assert not list(tmp_path.glob("trouble-*")), [path.read_text() for path in tmp_path.glob("trouble-*")]
    database = Database(f"sqlite:///{tmp_path}/delineate.db")
    start = time.process_time()
    store = LocalDatastore(tmp_path / "studies", database, interval=0, settle=0.0)
    assert time.process_time() - start < 2.0, "a start takes no longer because of kills"
    everything_answered_is_there(store, found)
    nothing_is_left(store)
    store.close()
    database.close()


def everything_answered_is_current(folder: Path) -> None:
    """What the next start finds, before anything is done again."""
    database = Database(f"sqlite:///{folder}/delineate.db")
    store = LocalDatastore(folder / "studies", database, interval=0, settle=0.0)
    for (kind, number), turns in answers(folder).items():
        id = f"case{number:03}"
        current = store.image(id) if kind == "image" else store.label(id, "final")
        assert current.path is not None
        assert turn_of(current.path, number) >= 1
        assert current.version >= len(turns)
    store.close()
    database.close()


def everything_answered_is_there(store: LocalDatastore, found: dict[tuple[str, int], set[int]]) -> None:
    for (kind, number), turns in found.items():
        id = f"case{number:03}"
        versions = store.image_versions(id) if kind == "image" else store.label_versions(id, "final")
        paths = [version.path for version in versions]
        assert all(paths), f"{kind} {number}: a version is lost"
        assert turns <= {turn_of(path, number) for path in paths if path}, f"{kind} {number}"
        current = store.image(id) if kind == "image" else store.label(id, "final")
        assert current.path == paths[-1], "the newest is the current one"
    assert {record.id for record in store.images()} == {f"case{number:03}" for _, number in found}
    assert all(record.info["name"] == f"{record.id}.nii.gz" for record in store.images())


def nothing_is_left(store: LocalDatastore) -> None:
    assert store.look() == 0
    assert store.sweep() == 0
    hidden = store.layout.hidden
    assert list((hidden / "blobs" / "incoming").iterdir()) == []
    files = {path.name for path in store.layout.images.iterdir() if path.is_file()} - {"datastore_v2.json"}
    assert files == {f"{record.id}.nii.gz" for record in store.images()}
    store.write_manifest()
    assert json.loads(store.layout.manifest.read_bytes()) == json.loads(store.index())
