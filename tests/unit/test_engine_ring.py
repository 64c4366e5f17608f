"""Who is rung first, and what a worker makes of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from delineate.engines.local import HEAD_START, SHORT_START, LocalEngine
from delineate.store.database import Database
from delineate.worker.attempt import Workplace
from delineate.worker.channel import Channel
from delineate.worker.loop import Loop


class FakeKeeper:
    def __init__(self, name: str, rung: list[tuple[str, float]], *, free: bool = True, images: tuple[str, ...] = ()) -> None:
        self._name, self._rung, self.is_free, self._images = name, rung, free, images

    def has_warm(self, image: str) -> bool:
        return image in self._images

    def ring(self, after: float = 0.0) -> None:
        self._rung.append((self._name, after))


def rung(tmp_path: Path, image: str, keepers: Any = None, **options: Any) -> list[tuple[str, float]]:
    Database(f"sqlite:///{tmp_path / 'delineate.db'}", sync=False).migrate()
    engine = LocalEngine(tmp_path, workers=0, sync=False)
    order: list[tuple[str, float]] = []
    engine._keepers = cast("Any", keepers(order) if keepers else [FakeKeeper("a", order), FakeKeeper("b", order, images=("x",), **options)])
    engine.ring(image)
    engine._database.close()
    return order


def test_the_worker_that_has_the_image_goes_first(tmp_path: Path) -> None:
    assert rung(tmp_path, "x") == [("b", 0.0), ("a", HEAD_START)]


@pytest.mark.parametrize("image", ["", "y"])
def test_no_worker_goes_first_where_none_has_it(tmp_path: Path, image: str) -> None:
    assert rung(tmp_path, image) == [("a", 0.0), ("b", 0.0)]


def test_nobody_waits_long_for_a_busy_one(tmp_path: Path) -> None:
    assert rung(tmp_path, "x", free=False) == [("b", 0.0), ("a", SHORT_START)]


def test_of_several_that_have_it_one_that_is_free_goes_first(tmp_path: Path) -> None:
    def keepers(order: list[tuple[str, float]]) -> list[FakeKeeper]:
        return [FakeKeeper("busy", order, free=False, images=("x",)), FakeKeeper("free", order, images=("x",)), FakeKeeper("other", order)]

    assert rung(tmp_path, "x", keepers) == [("free", 0.0), ("busy", SHORT_START), ("other", HEAD_START)]


@pytest.fixture
def waiting(tmp_path: Path) -> tuple[Loop, Channel]:
    channel = Channel(-1, os.open(tmp_path / "events", os.O_CREAT | os.O_WRONLY))
    database = SimpleNamespace(changes=lambda: 1)
    place = SimpleNamespace(channel=channel, name="w", desk=SimpleNamespace(folder=tmp_path), tasks=SimpleNamespace())
    return Loop(cast("Workplace", place), cast("Database", database), 30.0), channel


def look(after: float) -> dict[str, Any]:
    return {"command": "look", "task": "", "after": after, "said": time.time()}


def test_a_worker_that_is_asked_to_wait_does(waiting: tuple[Loop, Channel]) -> None:
    loop, channel = waiting
    began = time.monotonic()
    channel._obey(look(after=0.2))
    while not loop._rung:
        assert time.monotonic() < began + 60
        loop._rest(1)
    assert time.monotonic() - began >= 0.19


def test_a_worker_that_is_not_asked_to_wait_does_not(waiting: tuple[Loop, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, channel = waiting
    waits: list[float] = []
    monkeypatch.setattr(channel.wake, "wait", waits.append)
    channel._obey(look(after=0.0))
    loop._rest(1)
    assert loop._rung > 0
    assert waits == []


def test_who_only_looks_was_not_rung(waiting: tuple[Loop, Channel]) -> None:
    loop, channel = waiting
    loop._rest(0)  # something changed, and nobody called
    assert loop._rung == 0.0
    before = time.time()
    channel._obey(look(after=0.0))
    loop._rest(1)
    assert before <= loop._rung <= time.time()


def test_who_is_to_wait_takes_only_what_was_there_when_it_was_called(waiting: tuple[Loop, Channel]) -> None:
    """Calls that come while it waits do not end its waiting, and what they are about is not its own yet."""
    loop, channel = waiting
    channel._obey(look(after=0.1))
    first = time.time()
    time.sleep(0.02)
    channel._obey(look(after=60.0))
    began = time.monotonic()
    while not loop._rung and time.monotonic() < began + 50:
        loop._rest(1)
    assert 0 < loop._rung <= first
    assert channel.rung()[0] is None


def test_who_has_just_worked_takes_what_it_was_called_for_and_no_more(waiting: tuple[Loop, Channel]) -> None:
    """The worker that has the image may need longer to begin than this one to end its task."""
    loop, channel = waiting
    asked: list[float] = []
    cast("Any", loop._place.tasks).claim = lambda *_, rung: asked.append(rung) or "a task"
    mine, others = look(after=0.0), look(after=60.0)
    others["said"] = mine["said"] + 1
    channel._obey(others)
    channel._obey(mine)
    loop._next_task()
    loop._next_task()
    assert asked == [mine["said"]] * 2


def test_calls_that_may_wait_wake_nobody_and_come_together(waiting: tuple[Loop, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    _, channel = waiting
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(20):
        now[0] += 0.002
        channel._obey(look(after=HEAD_START))
    assert not channel.wake.is_set()
    dues = []
    while channel.rung()[1] < 60:
        pause = channel.rung()[1]
        now[0] += pause
        dues.append(now[0])
        assert channel.rung()[0] is not None
    assert 1 <= len(dues) <= 2
    assert 1000.04 + HEAD_START <= dues[-1] <= 1000.04 + HEAD_START + 0.051
    channel._obey(look(after=SHORT_START))
    assert channel.wake.is_set()


def test_what_it_says_of_its_images(tmp_path: Path) -> None:
    events = tmp_path / "events"
    channel = Channel(-1, os.open(events, os.O_CREAT | os.O_WRONLY))
    channel.warm(["a", "b"])
    channel.warm(["a", "b"])  # nothing new
    channel.settling()
    assert [json.loads(line) for line in events.read_text().splitlines()] == [
        {"event": "warm", "images": ["a", "b"]},
        {"event": "settling"},
    ]
