from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from delineate.worker import lock
from delineate.worker.lock import WorkerLock, dead_workers, is_held

HOLD = """
import sys, time
from pathlib import Path
from delineate.worker.lock import WorkerLock
WorkerLock(Path(sys.argv[1]), "w").acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_shows_that_its_holder_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            assert is_held(tmp_path, "w")
            assert list(dead_workers(tmp_path)) == []
        finally:
            holder.kill()
    assert not is_held(tmp_path, "w")
    assert list(dead_workers(tmp_path, skip=lambda name: name == "w")) == []
    assert list(dead_workers(tmp_path)) == ["w"]
    assert list(dead_workers(tmp_path)) == [], "whoever acted on it removed the file"


def test_a_full_disk_does_not_keep_a_worker_from_starting(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        held = WorkerLock(tmp_path, "w")
        held.acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_held(tmp_path, "w")
    held.release()


def test_a_dead_worker_is_seen_again_where_giving_back_its_tasks_failed(tmp_path: Path) -> None:
    (tmp_path / "w.lock").touch()
    with pytest.raises(ZeroDivisionError):
        for _ in dead_workers(tmp_path):
            raise ZeroDivisionError
    assert list(dead_workers(tmp_path)) == ["w"]


def test_release_removes_the_file(tmp_path: Path) -> None:
    held = WorkerLock(tmp_path / "run", "w")
    held.acquire()
    assert is_held(tmp_path / "run", "w")
    held.release()
    held.release()
    assert list((tmp_path / "run").iterdir()) == []
    assert not is_held(tmp_path / "run", "w")


def test_two_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    first = WorkerLock(tmp_path, "w")
    first.acquire()
    with pytest.raises(BlockingIOError):
        WorkerLock(tmp_path, "w").acquire()
    first.release()


def test_a_lock_whose_file_was_removed_under_it_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Somebody who looks for dead workers may remove the file between our open and our lock.
    real, seen = lock._is_same_file, []

    def first_time_gone(descriptor: int, path: Path) -> bool:
        seen.append(path)
        if len(seen) == 1:
            path.unlink()
        return real(descriptor, path)

    monkeypatch.setattr(lock, "_is_same_file", first_time_gone)
    held = WorkerLock(tmp_path, "w")
    held.acquire()
    assert len(seen) == 2
    assert is_held(tmp_path, "w")
    held.release()
