"""When a series is whole: its associations have ended, and for a while nothing came.

Of a sender that broke off, or a node that did, more is awaited for longer: a stack without its last slices looks like a
shorter stack, and nobody could tell.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from delineate.gateway.association import Link
from delineate.gateway.holdings import Holdings


@dataclass(frozen=True)
class Whole:
    """A series for which nothing more is awaited; `is_broken`: its sender did not end as it should."""

    series: int
    is_broken: bool


class Completion:
    """Knows which series are arriving. For several threads.

    Parameters
    ----------
    quiet, broken : seconds to wait after the last object and the end of its associations, and after one that broke off
    changed : called when something may be due sooner than it was
    """

    def __init__(
        self,
        holdings: Holdings,
        quiet: float,
        broken: float,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._holdings = holdings
        self._wait = {False: quiet, True: broken}
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._links: dict[Link, set[int]] = defaultdict(set)
        self._last: dict[int, float] = {}
        self._broken: set[int] = set()
        for row in holdings.arriving():  # what a killed node left: its associations are over
            self._last[row["id"]] = clock()
            if row["is_open"]:
                self._broken.add(row["id"])

    def arrived(self, series: int, link: Link) -> None:
        """Something of a series comes by an association."""
        with self._lock:
            self._links[link].add(series)
            self._last[series] = self._clock()

    def ended(self, link: Link, is_whole: bool) -> None:
        """An association is over."""
        now = self._clock()
        with self._lock:
            touched = self._links.pop(link, set())
            still = {series for open_ in self._links.values() for series in open_}
            for series in touched:
                self._last[series] = now
                (self._broken.discard if is_whole else self._broken.add)(series)
        for series in touched - still:
            self._holdings.ended(series, is_whole)
        if touched:
            self._changed()

    def release(self, series: int) -> None:
        """Somebody says that nothing more comes."""
        with self._lock:
            if series in self._last:
                self._last[series] = float("-inf")
                self._broken.discard(series)

    def take(self) -> list[Whole]:
        """Series that are whole now; each is told once."""
        now = self._clock()
        with self._lock:
            found = [series for series, at in self._due() if at <= now]
            for series in found:
                del self._last[series]
            return [Whole(series, self._forget_broken(series)) for series in found]

    def put_back(self, whole: Whole) -> None:
        """It was taken in vain."""
        with self._lock:
            self._last.setdefault(whole.series, self._clock())
            if whole.is_broken:
                self._broken.add(whole.series)

    def _forget_broken(self, series: int) -> bool:
        is_broken = series in self._broken
        self._broken.discard(series)
        return is_broken

    def pause(self) -> float:
        """Seconds until something may be whole; infinite where nothing is arriving."""
        with self._lock:
            return max(0.0, min((at for _, at in self._due()), default=float("inf")) - self._clock())

    def _due(self) -> list[tuple[int, float]]:
        open_ = {series for found in self._links.values() for series in found}
        return [(series, last + self._wait[series in self._broken]) for series, last in self._last.items() if series not in open_]
