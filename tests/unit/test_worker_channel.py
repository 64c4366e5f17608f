from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from delineate.worker.channel import INTERRUPT, Cancelled, Channel


class Pipes:
    """A channel with the engine's ends in the test's hands."""

    def __init__(self) -> None:
        commands, self.commands = os.pipe()
        self.events, events = os.pipe()
        self.lost = 0
        self.channel = Channel(commands, events, on_lost=self._on_lost)

    def _on_lost(self) -> NoReturn:
        self.lost += 1
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait()  # for good, as a daemon: the real one does not return either
        raise SystemExit

    def said(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in os.read(self.events, 65536).splitlines()]

    def tell(self, **command: str) -> None:
        os.write(self.commands, json.dumps(command).encode() + b"\n")


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    yield Pipes()


def _until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_events_are_lines_of_json(pipes: Pipes) -> None:
    pipes.channel.ready()
    pipes.channel.started("u", 3.0, 100)
    pipes.channel.report(0.5, "half\nway")
    pipes.channel.done()
    assert pipes.said() == [
        {"event": "ready"},
        {"event": "started", "task": "u", "limit": 3.0, "memory_mb": 100},
        {"event": "progress", "fraction": 0.5, "message": "half\nway"},
        {"event": "done"},
    ]


def test_progress_is_thinned_and_clipped(pipes: Pipes) -> None:
    pipes.channel.started("u", 3.0, 0)
    for _ in range(1000):
        pipes.channel.report(7.0, "x" * 9000)
    progress = [event for event in pipes.said() if event["event"] == "progress"]
    assert 1 <= len(progress) <= 3
    assert progress[0]["fraction"] == 1.0
    assert len(str(progress[0]["message"])) == 500


def test_cancel_is_for_the_present_task_only(pipes: Pipes) -> None:
    pipes.channel.listen()
    pipes.channel.started("now", 3.0, 0)
    pipes.tell(command="cancel", task="before")
    _until(pipes.channel.wake.is_set)
    pipes.channel.report(0.1, "")
    pipes.tell(command="cancel", task="now")
    _until(lambda: pipes.channel.is_cancelled)
    with pytest.raises(Cancelled):
        pipes.channel.report(0.2, "")
    pipes.channel.done()
    assert not pipes.channel.is_cancelled


def test_no_except_exception_of_a_model_swallows_a_cancellation() -> None:
    assert not issubclass(Cancelled, Exception)


def test_stop_wakes_an_idle_worker(pipes: Pipes) -> None:
    pipes.channel.listen()
    pipes.tell(command="stop")
    assert pipes.channel.wake.wait(60)
    assert pipes.channel.stopping.is_set()


def test_the_end_of_the_engine_ends_the_worker(pipes: Pipes) -> None:
    pipes.channel.listen()
    os.close(pipes.commands)
    _until(lambda: pipes.lost == 1)


def test_an_engine_that_does_not_listen_any_more_ends_the_worker(pipes: Pipes) -> None:
    os.close(pipes.events)
    with pytest.raises(SystemExit):
        pipes.channel.ready()


def test_a_cancellation_interrupts_a_wait_inside_a_model_only(pipes: Pipes) -> None:
    before = signal.getsignal(INTERRUPT)
    try:
        pipes.channel.hear_interrupts()
        pipes.channel.listen()
        pipes.channel.started("now", 3.0, 0)
        began = time.monotonic()
        with pytest.raises(Cancelled), pipes.channel.interruptible():
            pipes.tell(command="cancel", task="now")
            time.sleep(120)
        assert time.monotonic() - began < 60
        os.kill(os.getpid(), INTERRUPT)  # outside of a model it means nothing
        with pytest.raises(Cancelled), pipes.channel.interruptible():
            raise AssertionError("a cancelled task does not begin")
    finally:
        signal.signal(INTERRUPT, before)
