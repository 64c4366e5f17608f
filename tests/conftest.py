"""What all tests may share: a machine that stands still for a moment must not decide whether they pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

TRIES = 5
STANDSTILL = 0.05  # seconds between two looks at the clock that should be a tenth of that


class _Ticking:
    """Looks at the clock all the time; `longest`: seconds between two looks."""

    def __enter__(self) -> _Ticking:
        self.longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _tick(self) -> None:
        last = time.perf_counter()
        while not self._ended.wait(STANDSTILL / 10):
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last), now
        self.longest = max(self.longest, time.perf_counter() - last)


@pytest.fixture
def while_the_clock_is_steady() -> Callable[[Callable[[], None]], None]:
    """Calls what is right only where nothing stands still for a moment, and again where something did and it failed.

    It fails at once on a machine that runs, and after some tries on one that never does.
    """

    def call(attempt: Callable[[], None]) -> None:
        for number in range(TRIES):
            with _Ticking() as ticking:
                try:
                    return attempt()
                except (Exception, pytest.fail.Exception) as error:
                    failure = error
            if ticking.longest < STANDSTILL or number == TRIES - 1:
                raise failure

    return call
