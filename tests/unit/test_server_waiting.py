from __future__ import annotations

import asyncio

import pytest

from delineate.errors import StoreBusyError
from delineate.server.feed import Change
from delineate.server.waiting import Watcher


class Source:
    """Changes made by hand, and how often somebody looked."""

    def __init__(self) -> None:
        self.rows: list[Change] = []
        self.running: dict[int, tuple[float, str]] = {}
        self.commits = 0
        self.looks = 0
        self.queries = 0
        self.broken = 0

    def change(self, task: int, kind: str = "finished") -> None:
        self.rows.append(Change(len(self.rows) + 1, task, kind))
        self.commits += 1

    def move(self, task: int, fraction: float) -> None:
        self.running[task] = (fraction, "")
        self.commits += 1

    def version(self) -> int:
        self.looks += 1
        if self.broken:
            self.broken -= 1
            raise StoreBusyError("locked")
        return self.commits

    def newest(self) -> int:
        return len(self.rows)

    def after(self, event: int) -> list[Change]:
        self.queries += 1
        return self.rows[event:]

    def progress(self) -> dict[int, tuple[float, str]]:
        return dict(self.running)


async def heard(watcher: Watcher, task: int, seconds: float = 60.0, *, quiet: bool = False, progress: bool = False) -> bool:
    with watcher.watch(task, quiet=quiet, progress=progress) as signal:
        return await signal.until(asyncio.get_running_loop().time() + seconds)


def test_only_those_concerned_wake() -> None:
    async def go() -> None:
        source = Source()
        watcher = Watcher(source)
        first = asyncio.create_task(heard(watcher, 1))
        second = asyncio.create_task(heard(watcher, 2, 0.15))
        await asyncio.sleep(0.02)
        source.change(1)
        assert await first
        assert not await second

    asyncio.run(go())


def test_a_change_before_listening_is_not_news_and_one_after_begin_is() -> None:
    async def go() -> None:
        source = Source()
        source.change(1)
        watcher = Watcher(source)
        assert not await heard(watcher, 1, 0.05)
        watcher.begin()
        source.change(1)  # between the first look and the listener, without a turn of the loop
        assert await heard(watcher, 1)

    asyncio.run(go())


def test_quiet_listeners_sleep_through_what_cannot_end_a_task() -> None:
    async def go() -> None:
        source = Source()
        watcher = Watcher(source)
        quiet = asyncio.create_task(heard(watcher, 1, 0.1, quiet=True))
        loud = asyncio.create_task(heard(watcher, 1))
        await asyncio.sleep(0.01)
        source.change(1, "claimed")
        assert await loud
        assert not await quiet

    asyncio.run(go())


def test_progress_wakes_those_who_asked_for_it() -> None:
    async def go() -> None:
        source = Source()
        watcher = Watcher(source)
        curious = asyncio.create_task(heard(watcher, 1, progress=True))
        other = asyncio.create_task(heard(watcher, 1, 0.1))
        await asyncio.sleep(0.01)
        source.move(1, 0.5)
        assert await curious
        assert not await other

    asyncio.run(go())


def test_thousands_of_listeners_cost_one_query_per_change() -> None:
    async def go() -> None:
        source = Source()
        watcher = Watcher(source)
        waiting = [asyncio.create_task(heard(watcher, task, 20)) for task in range(3000)]
        await asyncio.sleep(0.05)
        assert watcher.waiting == 3000
        assert source.queries == 0
        for task in range(3000):
            source.change(task)
        assert all(await asyncio.gather(*waiting))
        assert source.queries <= 3
        assert watcher.waiting == 0

    asyncio.run(go())


def test_nobody_looks_while_nobody_waits() -> None:
    async def go() -> None:
        source = Source()
        watcher = Watcher(source)
        await heard(watcher, 1, 0.03)
        await asyncio.sleep(0.03)
        looks = source.looks
        await asyncio.sleep(0.1)
        assert source.looks == looks
        source.change(1)
        waiting = asyncio.create_task(heard(watcher, 2))
        await asyncio.sleep(0.02)
        source.change(2)
        assert await waiting

    asyncio.run(go())


def test_closing_wakes_everybody_and_lets_nobody_wait_again() -> None:
    async def go() -> None:
        watcher = Watcher(Source())
        waiting = asyncio.create_task(heard(watcher, 1, 60))
        await asyncio.sleep(0.01)
        watcher.close()
        assert not await waiting
        assert not await heard(watcher, 1, 60)

    asyncio.run(asyncio.wait_for(go(), 30))


def test_a_locked_database_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.server.waiting._PAUSE", 0.01)

    async def go() -> None:
        source = Source()
        watcher = Watcher(source)
        waiting = asyncio.create_task(heard(watcher, 1))
        await asyncio.sleep(0.01)
        source.broken = 3
        source.change(1)
        assert await waiting

    asyncio.run(go())


def test_a_cancelled_listener_leaves_nothing() -> None:
    async def go() -> None:
        watcher = Watcher(Source())
        waiting = asyncio.create_task(heard(watcher, 1, 60))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert watcher.waiting == 0

    asyncio.run(go())


def test_who_is_poked_looks_at_once() -> None:
    async def go() -> None:
        source = Source()
        watcher = Watcher(source, interval=60.0)
        watcher.poke()  # nobody waits yet: nothing happens
        waiting = asyncio.create_task(heard(watcher, 1))
        await asyncio.sleep(0.02)
        source.change(1)
        await asyncio.get_running_loop().run_in_executor(None, watcher.poke)
        assert await waiting
        watcher.close()

    asyncio.run(go())
