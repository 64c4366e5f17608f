"""What a model says while it runs, kept in a file that outlives the worker."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

KEPT_HEAD, KEPT_TAIL = 256 << 10, 3 << 20  # bytes of a log that are kept; a loop that prints must not fill the store


class TaskLog:
    """The log of one task: everything written to standard output and error by this process, C code included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, text: str) -> None:
        """Add a line."""
        line = text if text.endswith("\n") else text + "\n"
        os.write(self._descriptor, line.encode("utf-8", "replace"))

    def close(self) -> None:
        """No more is written."""
        os.close(self._descriptor)

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Standard output and error go to the log inside."""
        saved = os.dup(2)
        _flush()
        os.dup2(self._descriptor, 1)
        os.dup2(self._descriptor, 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, 1)  # where standard output of a worker goes outside of a task: with its own log
            os.dup2(saved, 2)
            os.close(saved)


def read_log(path: Path) -> bytes:
    """The log, its middle left out where it is very long; empty where there is none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= KEPT_HEAD + KEPT_TAIL:
                return file.read()
            head = file.read(KEPT_HEAD)
            file.seek(size - KEPT_TAIL)
            return head + b"\n[%d bytes left out]\n" % (size - KEPT_HEAD - KEPT_TAIL) + file.read(KEPT_TAIL)
    except FileNotFoundError:
        return b""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
