"""Whether files that were found have lain still for long enough to be whole."""

from __future__ import annotations

import time

from delineate.datastore.layout import Stamp


class Settling:
    """By a file's own time; where that is ahead of ours, because one of two clocks is wrong, by how long it was seen unchanged.

    seconds : for which a file must not have changed
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: dict[tuple[str, Stamp], float] = {}
        self._seen: dict[tuple[str, Stamp], float] = {}

    def begin(self) -> None:
        """A look begins; files that were not asked about in the one before are forgotten."""
        self._before, self._seen = self._seen, {}

    def is_settled(self, path: str, stamp: Stamp) -> bool:
        """Whether the file that was seen at `path` may be taken over."""
        if stamp.mtime <= time.time_ns() - int(self._seconds * 1e9):
            return True
        now = time.monotonic()
        since = self._before.get((path, stamp), now)
        self._seen[path, stamp] = since
        return now - since >= self._seconds
