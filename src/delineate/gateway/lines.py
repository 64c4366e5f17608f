"""The connections that are open, and which of them goes when there are too many: one that is of no use.

That is one without an association, and one whose association brought no object for a while. Who opens them in bulk keeps
out nobody but itself: a sender that comes then takes the place of the longest waiting one of the address that has most of
them.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

_LOG: Final = logging.getLogger("delineate.gateway")
_OTHERS: Final = 128  # descriptors that are none of connections
_LINES, _WINDOW = 20, 10.0  # of the log, and seconds in which there are no more


def places(wanted: int) -> int:
    """How many connections there may be: `wanted`, or as many as the system gives descriptors for, two each.

    The process' soft limit is raised as far as that needs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OTHERS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = wanted if soft == resource.RLIM_INFINITY else min(wanted, max(1, (soft - min(_OTHERS, soft // 2)) // 2))
    if most < wanted:
        _LOG.warning("only %d connections are taken at once: the system gives this process %d open files (ulimit -n)", most, soft)
    return most


class Talk(Protocol):
    """What is spoken on a line."""

    @property
    def is_open(self) -> bool:
        """Whether there is an association."""

    @property
    def is_idle(self) -> bool:
        """Whether there is one that brought nothing, though it had time."""


class Line:
    """One connection.

    Attributes
    ----------
    socket, address : its own, and who is at the other end; talk : None until it begins; thread : that serves it, None until it
    runs; is_dropped : it had to go.
    """

    def __init__(self, found: socket.socket, address: str) -> None:
        self.socket = found
        self.address = address
        self.talk: Talk | None = None
        self.thread: threading.Thread | None = None
        self.is_dropped = False

    @property
    def is_outside(self) -> bool:
        """Whether it has no association."""
        return not self.is_dropped and (self.talk is None or not self.talk.is_open)

    @property
    def is_idle(self) -> bool:
        """Whether it has one that is of no use."""
        return not self.is_dropped and self.talk is not None and self.talk.is_idle

    def cut(self) -> None:
        """Whoever reads from it or writes to it comes to an end. TLS is left as it is, for another thread may be within it."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class Lines:
    """All of them, `most` at once, and as many more for a moment that are on their way out. For several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._lines: dict[Line, None] = {}  # the longest waiting first

    def __len__(self) -> int:
        return len(self._lines)

    def take(self, line: Line) -> bool:
        """Find a place for a new one; whether there is one."""
        with self._lock:
            count = sum(not other.is_dropped for other in self._lines)
            if (count >= self._most and not self._drop()) or len(self._lines) >= 2 * self._most:
                return False
            self._lines[line] = None
            return True

    def make_room(self) -> bool:
        """Let one go: of those without an association, else one that is idle; whether there was one."""
        with self._lock:
            return self._drop()

    def end_idle(self) -> bool:
        """End an association that is idle; whether there was one."""
        with self._lock:
            return self._drop_of([line for line in self._lines if line.is_idle])

    def _drop(self) -> bool:
        return self._drop_of([line for line in self._lines if line.is_outside] or [line for line in self._lines if line.is_idle])

    @staticmethod
    def _drop_of(waiting: Sequence[Line]) -> bool:
        if not waiting:
            return False
        counts = Counter(line.address for line in waiting)
        victim = max(waiting, key=lambda line: counts[line.address])  # the first of them
        victim.is_dropped = True
        victim.cut()
        return True

    def leave(self, line: Line) -> None:
        """One has ended."""
        with self._lock:
            self._lines.pop(line, None)

    def cut(self) -> list[Line]:
        """End all; which they are."""
        with self._lock:
            found = list(self._lines)
        for line in found:
            line.cut()
        return found


class Sparing:
    """A log for what strangers may cause as often as they like: a few lines in a while, then how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._count = 0

    def warning(self, words: str, *values: object) -> None:
        """A line, or one more that is only counted."""
        with self._lock:
            left = 0
            if self._clock() - self._began > _WINDOW:
                left, self._count, self._began = max(0, self._count - _LINES), 0, self._clock()
            self._count += 1
            is_said = self._count <= _LINES
        if left:
            _LOG.warning("%d more lines of connections without an association were left out", left)
        if is_said:
            _LOG.warning(words, *values)
