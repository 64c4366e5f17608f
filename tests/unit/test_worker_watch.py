"""What an engine holds a running task to, without a process in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from delineate.engines import watch as watch_module
from delineate.engines.watch import CANCEL_GRACE, KILLS_FRESH, TIME_GRACE, RecentKills, TaskWatch
from delineate.errors import StoreBusyError
from delineate.runners import memory
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import Task


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """One claimed task and its watch."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'd.db'}", sync=False)
        self.database.migrate()
        self.tasks = TaskStore(self.database, BlobStore(folder / "blobs", sync=False))
        writer = self.tasks.blobs.incoming()
        writer.write(b"x")
        self.tasks.submit(model="m", archive=writer, owner="o", protocol="v1")
        task = self.tasks.claim("w", 30.0)
        assert task is not None
        self.uid = task.uid
        self.clock = Clock()
        self.watch = TaskWatch(self.uid, "w", self.database, self.tasks, 30.0, self.clock)
        self.watch.limit(1000.0, 0)
        self.asked = 0

    def look(self, seconds: float = 0.1) -> str | None:
        """Let time pass and look: why the worker is to be killed, if it is."""
        self.clock.now += seconds
        verdict = self.watch.look(os.getpid(), self._ask)
        return None if verdict is None else verdict.why

    def _ask(self) -> None:
        self.asked += 1

    @property
    def task(self) -> Task:
        return self.tasks.get(self.uid)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


def test_a_short_task_is_not_looked_at(bench: Bench) -> None:
    assert not bench.watch.is_due()
    bench.clock.now += 0.2
    assert bench.watch.is_due()


def test_the_lease_is_renewed_in_time(bench: Bench) -> None:
    before = bench.task.lease_expires or 0
    assert bench.look() is None
    assert bench.task.lease_expires == before
    assert bench.look(11.0) is None
    assert (bench.task.lease_expires or 0) > before


def test_progress_is_written_a_few_times_a_second(bench: Bench) -> None:
    bench.watch.progress(0.25, "looking")
    bench.look(0.1)
    assert bench.task.fraction == 0.0
    bench.look(0.2)
    assert (bench.task.fraction, bench.task.message) == (0.25, "looking")


def test_over_time(bench: Bench) -> None:
    bench.watch.limit(5.0, 0)
    assert bench.look(5.0 + TIME_GRACE) is None, "a runner that keeps to the limit by itself goes first"
    verdict = None
    bench.clock.now += 0.1
    verdict = bench.watch.look(os.getpid(), bench._ask)
    assert verdict is not None
    assert verdict.failure is not None
    assert verdict.failure.kind == "timeout"
    assert "5 s" in verdict.failure.message


def test_over_memory(bench: Bench) -> None:
    bench.watch.limit(1000.0, 1 << 20)
    verdict = bench.watch.look(os.getpid(), bench._ask)
    assert verdict is not None
    assert verdict.failure is not None
    assert verdict.failure.kind == "memory"
    assert "limit of 1 MiB" in verdict.failure.message


def test_cancelling_asks_first_and_kills_then(bench: Bench) -> None:
    bench.look()
    bench.tasks.cancel(bench.uid)
    assert bench.look() is None
    assert bench.asked == 1
    assert bench.look(CANCEL_GRACE / 2) is None
    assert bench.look(CANCEL_GRACE) == "its task was cancelled"
    assert bench.asked == 1
    assert bench.watch.is_cancelled


def test_a_cancellation_before_the_first_look_is_seen(bench: Bench) -> None:
    bench.tasks.cancel(bench.uid)
    bench.look()
    assert bench.asked == 1


@pytest.mark.parametrize("how", ["deleted", "given back"])
def test_a_task_that_is_not_ours_any_more(how: str, bench: Bench) -> None:
    bench.look()
    if how == "deleted":
        bench.tasks.delete(bench.uid)
    else:
        bench.tasks.release("w", "somebody thought so")
    bench.look()
    assert bench.asked == 1
    assert bench.look(CANCEL_GRACE + 0.1) == "its task was taken away"
    assert not bench.watch.is_cancelled, "there is nothing to settle"


def test_a_lease_that_is_lost_is_noticed_at_its_renewal(bench: Bench) -> None:
    bench.tasks.delete(bench.uid)
    bench.look(11.0)
    assert bench.asked == 1


def test_a_busy_store_costs_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> bool:
        raise StoreBusyError("busy")

    monkeypatch.setattr(bench.tasks, "heartbeat", busy)
    monkeypatch.setattr(bench.tasks, "get", busy)
    assert bench.look() is None
    assert bench.look(11.0) is None
    assert bench.asked == 0


def test_the_kernel_says_that_it_killed_for_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not bench.watch.killed_by_kernel()
    monkeypatch.setattr(watch_module.memory, "kernel_kills", lambda: 1 << 40)
    assert bench.watch.killed_by_kernel()


def test_the_kernel_is_not_asked_for_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def kills() -> int:
        asked.append(1)
        return len(asked)

    monkeypatch.setattr(memory, "kernel_kills", kills)
    now = [10.0]
    recent = RecentKills(lambda: now[0])
    assert [recent(), recent()] == [1, 1]
    now[0] += KILLS_FRESH + 0.1
    assert recent() == 2
