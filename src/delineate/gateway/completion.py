"""When a series is whole: its associations have ended, and for a while nothing came.

Of a sender that broke off, or a node that did, more is awaited for longer: a stack without its last slices looks like a
shorter stack, and nobody could tell. The same holds while an object that was refused has not come again: of which series it
is nobody knows, so it counts for all that its sender was sending. So does one that broke off in the middle.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from delineate.gateway.association import Link
from delineate.gateway.holdings import Holdings

_MISSING: Final = 10_000  # refused objects that are remembered
_FORGOTTEN: Final = 86400.0  # seconds after which they are not


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
        self._first: dict[Link, float] = {}
        self._broken: dict[int, float] = {}
        self._began: dict[int, tuple[str, float]] = {}
        self._missing: dict[tuple[str, str], float] = {}
        for row in holdings.arriving():  # what a killed node left: its associations are over
            self._last[row["id"]] = clock()
            if row["is_open"]:
                self._broken[row["id"]] = clock()

    def arrived(self, series: int, link: Link) -> None:
        """Something of a series comes by an association."""
        with self._lock:
            now = self._clock()
            self._links[link].add(series)
            self._first.setdefault(link, now)
            self._last[series] = now
            self._began.setdefault(series, (link.calling, now))

    def refused(self, link: Link, uid: str) -> None:
        """An object was not taken."""
        with self._lock:
            now = self._clock()
            kept = list(self._missing.items())[-_MISSING:]
            self._missing = {key: at for key, at in kept if now - at < _FORGOTTEN}
            self._missing[link.calling, uid] = now

    def taken(self, link: Link, uid: str) -> None:
        """An object was taken; perhaps it was refused before."""
        if self._missing:
            with self._lock:
                self._missing.pop((link.calling, uid), None)

    def ended(self, link: Link, is_whole: bool) -> None:
        """An association is over."""
        now = self._clock()
        with self._lock:
            touched = self._links.pop(link, set())
            first = self._first.pop(link, now)
            still = {series for open_ in self._links.values() for series in open_}
            for series in touched:
                self._last[series] = now
                if not is_whole:
                    self._broken[series] = now
                elif self._broken.get(series, now) <= first:  # what began before the break brought its own part, not the rest
                    self._broken.pop(series, None)
            over = {series: series not in self._broken for series in touched - still}
        for series, is_all in over.items():
            self._holdings.ended(series, is_all)
        if touched:
            self._changed()

    def release(self, series: int) -> None:
        """Somebody says that nothing more comes."""
        with self._lock:
            if series in self._last:
                self._last[series] = float("-inf")
                self._broken.pop(series, None)
                self._began.pop(series, None)

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
                self._broken[whole.series] = self._clock()

    def _forget_broken(self, series: int) -> bool:
        is_broken = self._is_broken(series)
        self._broken.pop(series, None)
        self._began.pop(series, None)
        return is_broken

    def _is_broken(self, series: int) -> bool:
        if series in self._broken:
            return True
        sender, began = self._began.get(series, ("", 0.0))
        return any(who == sender and at >= began - self._wait[False] for (who, _), at in self._missing.items())

    def pause(self) -> float:
        """Seconds until something may be whole; infinite where nothing is arriving."""
        with self._lock:
            return max(0.0, min((at for _, at in self._due()), default=float("inf")) - self._clock())

    def _due(self) -> list[tuple[int, float]]:
        open_ = {series for found in self._links.values() for series in found}
        return [(series, last + self._wait[self._is_broken(series)]) for series, last in self._last.items() if series not in open_]
