"""Long polls and event streams: one watcher looks at the database while somebody waits, and wakes those concerned.

The cost of a look does not grow with the number of people waiting: the watcher reads what changed, never what they ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Final, Protocol

from delineate.errors import StoreError
from delineate.server.feed import QUIET_KINDS, Change

INTERVAL: Final = 0.005  # s between looks; a look without a change costs some 10 µs
_PAUSE: Final = 0.5  # s after a failed look

_log = logging.getLogger(__name__)


class ChangeSource(Protocol):
    """What a watcher reads; `delineate.server.feed.Feed` is one."""

    def version(self) -> int:
        """Grows with every commit."""

    def newest(self) -> int:
        """Id of the newest event."""

    def after(self, event: int) -> list[Change]:
        """Events after one."""

    def progress(self) -> dict[int, tuple[float, str]]:
        """Progress of running tasks by id."""


class Signal:
    """Somebody's interest in one task.

    task : its id; quiet : whether to sleep through events that cannot end it; progress : whether to hear of progress too.
    """

    def __init__(self, task: int, *, quiet: bool, progress: bool) -> None:
        self.task = task
        self.quiet = quiet
        self.progress = progress
        self.is_over = False  # the listener is gone, or the server stops
        self._event = asyncio.Event()

    def wake(self) -> None:
        """There may be news."""
        self._event.set()

    def end(self) -> None:
        """There will be no more waiting."""
        self.is_over = True
        self._event.set()

    async def until(self, deadline: float) -> bool:
        """True as soon as there may be news, False when the loop's time has passed `deadline` or the signal is over."""
        loop = asyncio.get_running_loop()
        if not self._event.is_set() and loop.time() < deadline:
            timer = loop.call_at(deadline, self._event.set)
            try:
                await self._event.wait()
            finally:
                timer.cancel()
        self._event.clear()
        return not self.is_over and loop.time() < deadline


class Watcher:
    """Wakes the signals of tasks that changed; looks only while there are any. Belongs to one event loop."""

    def __init__(self, source: ChangeSource, interval: float = INTERVAL) -> None:
        self._source = source
        self._interval = interval
        self._signals: dict[int, set[Signal]] = {}
        self._with_progress = 0
        self._progress: dict[int, tuple[float, str]] = {}
        self._last = 0
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poked = asyncio.Event()
        self._closed = False

    def poke(self) -> None:
        """Look now: somebody knows that there is something to see. Any thread."""
        loop = self._loop
        if loop is not None and self._signals:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._poked.set)

    @property
    def waiting(self) -> int:
        """How many signals there are."""
        return sum(map(len, self._signals.values()))

    @contextlib.contextmanager
    def watch(self, task: int, *, quiet: bool = False, progress: bool = False) -> Iterator[Signal]:
        """Listen to a task. Nothing is missed when its state is read after entering, or between `begin` and here without an await."""
        signal = Signal(task, quiet=quiet, progress=progress)
        if self._closed:
            signal.end()
            yield signal
            return
        self.begin()
        self._signals.setdefault(task, set()).add(signal)
        self._with_progress += progress
        try:
            yield signal
        finally:
            self._with_progress -= progress
            mine = self._signals.get(task, set())
            mine.discard(signal)
            if not mine:
                self._signals.pop(task, None)

    def close(self) -> None:
        """The server stops: everybody who waits is answered now."""
        self._closed = True
        for signal in [signal for signals in self._signals.values() for signal in signals]:
            signal.end()

    def begin(self) -> None:
        """Look from now on; it ends by itself when nobody listens at the next turn of the loop."""
        if self._closed:
            return
        if self._task is not None and not self._task.done():
            return
        version = self._source.version()  # before the newest event: one that comes between is looked at twice, not never
        self._last = self._source.newest()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(version))

    async def _run(self, version: int) -> None:
        loop = asyncio.get_running_loop()
        while self._signals and not self._closed:
            timer = loop.call_later(self._interval, self._poked.set)
            await self._poked.wait()
            timer.cancel()
            self._poked.clear()
            try:
                seen = self._source.version()
                if seen != version:
                    self._look()
                    version = seen
            except StoreError as error:
                _log.error("the store cannot be watched: %s", error.message)
                await asyncio.sleep(_PAUSE)

    def _look(self) -> None:
        for change in self._source.after(self._last):
            self._last = change.event
            for signal in self._signals.get(change.task, ()):
                if not (signal.quiet and change.kind in QUIET_KINDS):
                    signal.wake()
        if not self._with_progress:
            return
        now = self._source.progress()
        for task, progress in now.items():
            if progress != self._progress.get(task):
                for signal in self._signals.get(task, ()):
                    if signal.progress:
                        signal.wake()
        self._progress = now
