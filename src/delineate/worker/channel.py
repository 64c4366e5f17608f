"""What a worker and its engine say to each other: JSON lines over two pipes.

Worker to engine: ``ready``; ``started`` (task, seconds and MiB it may take); ``warm`` (images that stay decoded); ``progress``;
``settling``; ``done``; so that the engine can renew the lease, enforce the limits and stop a cancelled task from outside, whatever the
model does to the worker's interpreter. Engine to worker: ``cancel``, ``stop``, ``look`` (there may be a task), and
those about images that may be read before a task names them. The end of the worker's standard input means
that the engine is gone: the worker and everything it started end at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

RESTING_LOOK = 0.08  # s after which a worker that rests looks by itself whether it was called, or anything changed
_TOGETHER = 0.05  # s
PROGRESS_INTERVAL = 0.1  # s; a model may report as often as it likes


READ, READ_ALONG, WHOLE, FORGET = "read", "read along", "whole", "forget"
"""Commands about images: tasks may come on this ``place``; a ``file`` begins to come among the blobs; all of it came and is this
``blob``; no task will name it."""

INTERRUPT = signal.SIGUSR1
"""Wakes the main thread out of a wait, so that it hears of a cancellation."""


class Cancelled(BaseException):
    """Raised inside a model when somebody cancelled the task; no ``except Exception`` of a model swallows it."""


class Channel:
    """The worker's end.

    Parameters
    ----------
    commands, events : file descriptors to read from and to write to.
    on_lost : called when the engine is gone; must not return.
    """

    def __init__(self, commands: int, events: int, on_lost: Callable[[], NoReturn] | None = None) -> None:
        self._commands = commands
        self._events = events
        self._on_lost = on_lost or end_process_group
        self.on_image: Callable[[Mapping[str, Any]], None] = _nobody
        self._lock = threading.Lock()
        self._task: str | None = None
        self._cancelled: str | None = None
        self._reported = 0.0
        self._is_in_model = False
        self._warm: list[str] = []
        self.wake = threading.Event()
        self._calls: list[tuple[float, float]] = []  # of `look`: when to obey (monotonic), and when it was said (Unix seconds)
        self._calls_lock = threading.Lock()
        self.stopping = threading.Event()

    def listen(self) -> None:
        """Hear commands in a thread from now on."""
        threading.Thread(target=self._listen, name="channel", daemon=True).start()

    def ready(self) -> None:
        """The worker can take tasks."""
        self._send({"event": "ready"})

    def started(self, task: str, limit: float, memory_mb: int) -> None:
        """A task begins: it may take `limit` seconds and `memory_mb` MiB (0: the engine's default)."""
        with self._lock:
            self._task, self._cancelled, self._reported = task, None, 0.0
        self._send({"event": "started", "task": task, "limit": limit, "memory_mb": memory_mb})

    def warm(self, images: Sequence[str]) -> None:
        """Which images are decoded here now, by their keys; the most recently used last. What was said before is not said again."""
        if list(images) != self._warm:
            self._warm = list(images)
            self._send({"event": "warm", "images": self._warm})

    def settling(self) -> None:
        """The task is as good as done: the worker will be free in a moment."""
        self._send({"event": "settling"})

    def done(self) -> None:
        """The task is settled."""
        with self._lock:
            self._task = None
        self._send({"event": "done"})

    def report(self, fraction: float, message: str) -> None:
        """Progress for the person who waits.

        Raises
        ------
        Cancelled
            Somebody cancelled the task.
        """
        self.raise_if_cancelled()
        now = time.monotonic()
        with self._lock:
            if now - self._reported < PROGRESS_INTERVAL:
                return
            self._reported = now
        self._send({"event": "progress", "fraction": min(1.0, max(0.0, float(fraction))), "message": str(message)[:500]})

    @property
    def is_cancelled(self) -> bool:
        """Whether the present task was cancelled."""
        return self._task is not None and self._cancelled == self._task

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` when the present task was cancelled."""
        if self.is_cancelled:
            raise Cancelled

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """`Cancelled` is raised inside as soon as the interpreter can, also out of a wait. For the main thread."""
        self._is_in_model = True
        try:
            self.raise_if_cancelled()
            yield
        finally:
            self._is_in_model = False

    def rung(self) -> tuple[float | None, float]:
        """Up to which submission, Unix seconds, tasks are this worker's to take by now, None where it was not called since; and
        seconds until that changes: another worker, which is nearer to the task, is left that long."""
        now = time.monotonic()
        with self._calls_lock:
            due = [said for when, said in self._calls if when <= now]
            self._calls = [call for call in self._calls if call[0] > now]
            return max(due, default=None), min((when - now for when, _ in self._calls), default=math.inf)

    def hear_interrupts(self) -> None:
        """Install the handler of `INTERRUPT`. For the main thread."""
        signal.signal(INTERRUPT, self._interrupt)

    def _interrupt(self, _number: int, _frame: object) -> None:
        if self._is_in_model:
            self.raise_if_cancelled()

    def _send(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event).encode("ascii") + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._events, line) :]
            except OSError:
                self._on_lost()

    def _listen(self) -> None:
        buffer = b""
        while True:
            try:
                block = os.read(self._commands, 65536)
            except OSError:
                block = b""
            if not block:
                self._on_lost()
            *lines, buffer = (buffer + block).split(b"\n")
            for line in lines:
                self._obey(json.loads(line))

    def _obey(self, command: Mapping[str, Any]) -> None:
        if command["command"] == "cancel":
            self._cancelled = command["task"]
            if self._is_in_model and signal.getsignal(INTERRUPT) == self._interrupt:
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)
        elif command["command"] == "stop":
            self.stopping.set()
        elif command["command"] == "look":
            after = float(command["after"])
            with self._calls_lock:
                self._calls.append((_when(time.monotonic() + after, after), float(command["said"])))
            if after > RESTING_LOOK:
                return  # who rests looks before that
        else:
            self.on_image(command)
            return
        self.wake.set()


def _when(due: float, after: float) -> float:
    """When to obey a call that is due then. Far ones, which mostly come to nothing, come together: each costs a look at the tasks."""
    return math.ceil(due / _TOGETHER) * _TOGETHER if after > RESTING_LOOK else due


def _nobody(_said: Mapping[str, Any]) -> None:
    """Nobody reads images beforehand."""


def end_process_group() -> NoReturn:
    """End this process and its group at once, nothing flushed: whatever it held goes back by its lock and lease."""
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():  # only where the group is ours alone
            os.killpg(0, signal.SIGKILL)
    os._exit(70)
