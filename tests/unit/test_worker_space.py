"""A full disk: nothing is begun, and what met it goes back instead of failing."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from delineate import runners
from delineate.errors import ModelError, StoreError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.protocols.archive import FileRequestWriter
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.shelf import ModelShelf
from delineate.store.tasks import TaskStore
from delineate.task import Task, TaskState
from delineate.testing import models as toys
from delineate.volume import Volume
from delineate.worker import space
from delineate.worker.attempt import Attempt, Workplace
from delineate.worker.channel import Channel
from delineate.worker.desk import Desk
from delineate.worker.loop import Loop
from delineate.worker.warm import WarmRunners


class Shelf:
    def knows(self, name: str) -> bool:
        return True

    def find(self, name: str) -> tuple[Model, Path]:
        return toys.load("noop"), toys.FOLDER / "noop"


class Silent(Channel):
    def __init__(self) -> None:
        super().__init__(-1, -1)

    def _send(self, event: object) -> None:
        """Nobody listens."""


class Failing:
    def __init__(self, fail: Callable[[Job], None]) -> None:
        self._fail = fail

    def segment(self, job: Job) -> Segmentation | None:
        self._fail(job)
        return None

    def close(self) -> None:
        """Nothing to free."""


class Bench:
    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.database = Database(f"sqlite:///{folder / 'd.db'}", sync=False)
        self.database.migrate()
        blobs = BlobStore(folder / "blobs", sync=False)
        self.tasks = TaskStore(self.database, blobs, clock=lambda: self.now)
        with FileRequestWriter(folder / "request.zip") as request:
            request.add_image(Volume(np.zeros((2, 3, 4), np.int16), Geometry((4, 3, 2))))
        self.uid = self.tasks.submit(model="noop", archive=blobs.adopt(folder / "request.zip"), owner="o", protocol="v1").uid
        self.place = Workplace(
            name="w", tasks=self.tasks, blobs=blobs, models=cast("ModelShelf", Shelf()), channel=Silent(),
            warm=WarmRunners(runners.create, 1 << 40, lambda: 0), desk=Desk(folder / "w"),
        )  # fmt: skip

    def attempt(self, fail: Callable[[Job], None]) -> Task:
        place = dataclasses.replace(self.place, warm=WarmRunners(lambda *_: Failing(fail), 1 << 40, lambda: 0))
        task = self.tasks.claim("w")
        assert task is not None
        Attempt(place, task).run()
        return self.tasks.get(self.uid)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


def no_space(_job: Job) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise ModelError("model noop failed: OSError: No space left on device") from error


def says_nothing(_job: Job) -> None:
    raise ModelError("model noop ended with exit code 1", kind="exit")


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_model_that_met_a_full_disk_does_not_fail_its_task(bench: Bench) -> None:
    task = bench.attempt(no_space)
    assert (task.state, task.lost) == (TaskState.PENDING, 1)
    assert task.failure is not None
    assert "no space left" in task.failure.message


def test_a_command_need_not_say_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, space.FLOOR - 1)
    assert bench.attempt(says_nothing).state is TaskState.PENDING


def test_other_failures_are_the_models(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, space.FLOOR)
    assert bench.attempt(says_nothing).state is TaskState.FAILED


def test_tries_last_two_hours_and_end(bench: Bench) -> None:
    begin = bench.now
    while (task := bench.attempt(no_space)).state is TaskState.PENDING:
        bench.now = task.not_before
    assert task.state is TaskState.FAILED
    assert 1.5 * 3600 < bench.now - begin < 3 * 3600


def test_no_task_is_begun_without_space(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, space.FLOOR - 1)
    loop = Loop(bench.place, bench.database, 30.0)
    thread = threading.Thread(target=loop.run)
    thread.start()
    bench.place.channel.stopping.wait(0.2)
    bench.place.channel.stopping.set()
    thread.join(5.0)
    assert not thread.is_alive()
    assert bench.tasks.get(bench.uid).attempt == 0


def test_an_idle_worker_survives_a_store_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.tasks.cancel(bench.uid)
    looks: list[int] = []

    def changes() -> int:
        looks.append(1)
        if len(looks) == 2:  # the first look of its rest
            raise StoreError("the disk is away")
        bench.place.channel.stopping.set() if len(looks) > 2 else None
        return 0

    monkeypatch.setattr(bench.database, "changes", changes)
    monkeypatch.setattr("delineate.worker.loop.TROUBLE_WAIT", 0.01)
    Loop(bench.place, bench.database, 30.0).run()
    assert len(looks) > 2


def test_an_unreadable_disk_is_not_called_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_folder: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", gone)
    assert not space.is_short(Path("/"))
