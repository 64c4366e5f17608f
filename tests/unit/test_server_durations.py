"""The histogram of task durations, on a store and a clock in the test's hands."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.dialects import sqlite

from delineate.server import durations
from delineate.server.durations import Durations
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import Failure


class Bench:
    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.database = Database(f"sqlite:///{folder / 'd.db'}", sync=False)
        self.database.migrate()
        self.blobs = BlobStore(folder / "blobs", sync=False)
        self.tasks = TaskStore(self.database, self.blobs, clock=lambda: self.now)
        self.begin()

    def begin(self) -> None:
        self.registry = CollectorRegistry()
        self.durations = Durations(self.database, self.registry)

    def submit(self, model: str) -> str:
        archive = self.blobs.incoming()
        archive.write(b"x")
        return self.tasks.submit(model=model, archive=archive, owner="me", protocol="v1").uid

    def run(self, model: str, seconds: float, failure: Failure | None = None) -> str:
        uid = self.submit(model)
        assert self.tasks.claim("w") is not None
        self.now += seconds
        if failure is None:
            result = self.blobs.incoming()
            result.write(b"y")
            self.tasks.finish(uid, "w", result=result)
        else:
            self.tasks.fail(uid, "w", failure)
        return uid

    def seen(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Count and sum of seconds by model and state."""
        self.durations.look()
        found: dict[tuple[str, str], tuple[float, float]] = {}
        for sample in next(iter(self.registry.collect())).samples:
            key = (sample.labels["model"], sample.labels["state"])
            count, total = found.get(key, (0.0, 0.0))
            if sample.name.endswith("_count"):
                found[key] = (sample.value, total)
            elif sample.name.endswith("_sum"):
                found[key] = (count, sample.value)
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_seconds_from_claim_to_end_by_model_and_state(bench: Bench) -> None:
    bench.run("a", 3.0)
    bench.run("a", 5.0)
    bench.run("b", 7.0, Failure(kind="model", message="no"))
    waiting = bench.submit("a")
    assert bench.seen() == {("a", "finished"): (2, 8.0), ("b", "failed"): (1, 7.0)}
    bench.now += 100
    assert bench.tasks.claim("w") is not None
    bench.now += 1
    bench.tasks.cancel(waiting)
    bench.tasks.cancelled(waiting, "w")
    expected = {("a", "finished"): (2, 8.0), ("b", "failed"): (1, 7.0), ("a", "cancelled"): (1, 1.0)}
    assert bench.seen() == expected
    assert bench.seen() == expected, "nothing is counted twice"


def test_the_last_try_counts_and_waiting_does_not(bench: Bench) -> None:
    uid = bench.submit("a")
    assert bench.tasks.claim("w") is not None
    bench.now += 50
    bench.tasks.release("w", "gone")
    cancelled = bench.submit("a")
    bench.tasks.cancel(cancelled)
    bench.now += 50
    assert bench.tasks.claim("w") is not None
    bench.now += 2
    bench.tasks.fail(uid, "w", Failure(kind="model", message="no"))
    again = bench.submit("a")
    assert bench.tasks.claim("w") is not None
    bench.tasks.release("w", "gone")
    bench.tasks.cancel(again)
    assert bench.seen() == {("a", "failed"): (1, 2.0)}


def test_a_deleted_task_keeps_its_time_and_loses_its_name(bench: Bench) -> None:
    bench.tasks.delete(bench.run("a", 4.0))
    assert bench.seen() == {(durations.DELETED, "finished"): (1, 4.0)}


def test_a_server_begins_at_zero_and_does_not_read_the_past(bench: Bench) -> None:
    bench.run("a", 4.0)
    bench.begin()
    assert bench.seen() == {}
    bench.run("a", 6.0)
    assert bench.seen() == {("a", "finished"): (1, 6.0)}


def test_names_have_a_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "MODELS", 2)
    for name in ("a", "b", "c", "d", "a"):
        bench.run(name, 1.0)
    assert bench.seen() == {("a", "finished"): (2, 2.0), ("b", "finished"): (1, 1.0), (durations.OTHER, "finished"): (2, 2.0)}


def test_a_look_costs_what_happened_since_the_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        bench.run("a", 1.0)
    monkeypatch.setattr(durations, "_AT_ONCE", 7)
    assert bench.seen() == {("a", "finished"): (20, 20.0)}, "piece by piece, none left out"
    statement = durations._ENDED.params(last=5, until=9).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    with bench.database.read() as connection:
        plan = [row[-1] for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {statement}"))]
    assert any("rowid>? AND rowid<?" in step for step in plan), plan
    assert not any(step.startswith("SCAN") for step in plan), plan
