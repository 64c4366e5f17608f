"""Several processes on one store, and processes that are killed in the middle of it."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.records import sweep
from delineate.store.tasks import TaskStore
from delineate.task import TaskState

OPEN = """
import hashlib, os, sys, time
from pathlib import Path
from delineate.errors import BlobError, LeaseLostError, UnknownTaskError
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore

def open_store(folder):
    database = Database(f"sqlite:///{folder}/delineate.db")
    database.migrate()
    return TaskStore(database, BlobStore(Path(folder) / "blobs"), losses=1000)

def blob(store, data):
    writer = store.blobs.incoming()
    writer.write(data)
    return writer

def work(store, worker):
    task = store.claim(worker)
    if task is None:
        return None
    try:
        data = store.blobs.verified(task.blob("input").digest).read_bytes()
        store.heartbeat(task.uid, worker)
        store.finish(task.uid, worker, result=blob(store, hashlib.sha256(data).hexdigest().encode()), provenance={})
    except LeaseLostError:
        return None
    except (BlobError, FileNotFoundError):  # the other process may have deleted the task; nothing else excuses a missing file
        try:
            store.get(task.uid)
        except UnknownTaskError:
            return None
        raise
    return task.uid

store = open_store(sys.argv[1])
worker = sys.argv[2]
"""
WORK = """
while True:
    uid = work(store, worker)
    if uid is not None:
        print(uid, flush=True)
    elif not store.counts()["pending"]:
        break
"""
SUBMIT_AND_WORK = """
number = 0
while True:
    number += 1
    data = f"{worker} {number}".encode()
    task = store.submit(model="m", archive=blob(store, data), owner=worker, protocol="v1", key=str(number))
    print(task.uid, hashlib.sha256(data).hexdigest(), flush=True)
    work(store, worker)
    if number % 7 == 0:
        store.delete(task.uid)
"""


def opened(folder: Path) -> TaskStore:
    database = Database(f"sqlite:///{folder}/delineate.db")
    database.migrate()
    return TaskStore(database, BlobStore(folder / "blobs"), losses=1000)


def started(code: str, folder: Path, worker: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OPEN + code, folder, worker], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def submit(store: TaskStore, data: bytes) -> str:
    archive = store.blobs.incoming()
    archive.write(data)
    return store.submit(model="m", archive=archive, owner="a", protocol="v1").uid


def check(store: TaskStore) -> None:
    """What must hold whatever died when."""
    with sqlite3.connect(store.database.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        named = {row[0] for row in connection.execute("SELECT digest FROM blobs")}
        finished = connection.execute(
            "SELECT task, count(*) FROM events WHERE kind = 'finished' GROUP BY task HAVING count(*) > 1"
        ).fetchall()
    connection.close()
    assert finished == [], "no task is finished twice"
    for digest in named:
        assert store.blobs.verified(digest)
    sweep(store.database, store.blobs)
    assert {path.name for path in store.blobs.folder.rglob("*") if path.is_file()} == named, "no file without a row"


def test_four_processes_share_300_tasks(tmp_path: Path) -> None:
    store = opened(tmp_path)
    uids = [submit(store, b"task %d" % number) for number in range(300)]
    workers = [started(WORK, tmp_path, f"w{number}") for number in range(4)]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, outputs
    shares = [output.split() for output, _ in outputs]
    assert Counter(uid for share in shares for uid in share) == Counter(uids)
    assert store.counts()[TaskState.FINISHED] == 300
    for number, task in enumerate(reversed(store.tasks(limit=300))):
        result = task.blob("result")
        assert result is not None and task.attempt == 1
        assert store.blobs.path(result.digest).read_text() == hashlib.sha256(b"task %d" % number).hexdigest()
    check(store)
    store.database.close()


def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two processes submit, claim, finish and delete; each round one is killed at a random moment."""
    rounds = 40 if os.environ.get("DELINEATE_SOAK") else 8
    choice = random.Random(20)
    store = opened(tmp_path)
    answered: dict[str, str] = {}
    for number in range(rounds):
        names = [f"w{number}a", f"w{number}b"]
        processes = [started(SUBMIT_AND_WORK, tmp_path, name) for name in names]
        end = time.monotonic() + 60
        while sum(task.owner in names for task in store.tasks(limit=100)) < 5:
            assert time.monotonic() < end, "they do not begin"
            time.sleep(0.01)
        time.sleep(choice.random() * 0.6)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            time.sleep(choice.random() * 0.02)
        for process, name in zip(processes, names, strict=True):
            output, errors = process.communicate()
            assert process.returncode == -signal.SIGKILL, errors
            answered.update(line.split() for line in output.splitlines() if line.count(" ") == 1 and len(line) == 43 + 1 + 64)
            store.release(name, "killed")
        check(store)
    time.sleep(0.2)
    finisher = started(WORK, tmp_path, "last")
    _, errors = finisher.communicate(timeout=120)
    assert finisher.returncode == 0, errors
    check(store)
    deleted = len(answered) - len(store.get_many(answered))
    for uid, task in store.get_many(answered).items():
        result = task.blob("result")
        assert task.state is TaskState.FINISHED and result is not None
        assert store.blobs.path(result.digest).read_text() == answered[uid]
    assert len(answered) > rounds
    with sqlite3.connect(store.database.path) as connection:
        (events,) = connection.execute("SELECT count(*) FROM events WHERE kind = 'deleted'").fetchone()
    connection.close()
    assert deleted <= events
    store.database.close()


def test_a_change_is_seen_across_processes_at_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    submit(store, b"x")
    before = store.database.changes()
    worker = started("input_ = work(store, worker); print(input_, flush=True)", tmp_path, "w")
    output, errors = worker.communicate(timeout=30)
    assert worker.returncode == 0, errors
    assert store.database.changes() > before
    assert store.get(output.strip()).state is TaskState.FINISHED
    store.database.close()


def test_a_full_disk_stops_submits_and_nothing_else(tmp_path: Path) -> None:
    """The system's own limit on file sizes stands in for the disk."""
    store = opened(tmp_path)
    uid = submit(store, b"before")
    code = """
import resource
from delineate.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
refused = 0
for number in range(3):
    try:
        with blob(store, b"") as archive:
            for _ in range(10):
                archive.write(bytes(50_000))
            store.submit(model="m", archive=archive, owner="a", protocol="v1")
    except StoreError as error:
        refused += 1
for number in range(2000):  # until the log of the database reaches the limit
    try:
        store.submit(model="m", archive=blob(store, b"small"), owner="a", protocol="v1")
    except StoreError as error:
        refused += 1
        break
print(refused)
"""
    worker = started(code, tmp_path, "w")
    output, errors = worker.communicate(timeout=120)
    assert worker.returncode == 0, errors
    assert int(output) == 4
    check(store)
    assert store.get(uid).state is TaskState.PENDING
    assert submit(store, b"after")
    check(store)
    store.database.close()
