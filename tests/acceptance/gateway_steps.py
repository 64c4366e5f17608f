"""Runs a node that ends by SIGKILL at one of the steps by which its state changes.

``python gateway_steps.py FOLDER SERVER`` imports everything once. For each number on its standard input it runs, in a fork, the
node of FOLDER, killed at the step of that number (0: at none), and says as JSON where it listens, then how it ended. The
steps: before a file is made, and when it is there and empty; before one gets a name, another one or none, folders too; before
and after each commit, and each message to callers and servers. Those that were taken stand in FOLDER/steps.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from delineate.dicom.parts import pydicom
from delineate.errors import MissingPartError
from delineate.gateway import dicom_send, stow  # noqa: F401 - which forks would import, each anew
from delineate.gateway import node as node_module
from delineate.gateway.node import Node
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.parts import pynetdicom
from delineate.gateway.rules import Rules, Server

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MADE = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_WRONLY


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, last: int, folder: Path) -> None:
        self._last = last
        self._folder = str(folder)
        self._lock = threading.Lock()
        self._count = 0
        self._log = os.open(folder / "steps", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def take(self, words: str, last: Callable[[], Any] = lambda: None) -> None:
        """The next step; `last` is done before the end, where it is the last."""
        with self._lock:
            self._count += 1
            os.write(self._log, f"{words}\n".encode())
            if self._count == self._last:
                with contextlib.suppress(OSError):  # a file without a name needs none
                    last()
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)

    def around(self, words: str, real: Callable[..., Any], is_one: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        """A function with a step before and one after it."""

        @functools.wraps(real)
        def taken(*given: Any, **named: Any) -> Any:
            if not is_one(*given):
                return real(*given, **named)
            self.take(f"before {words}")
            result = real(*given, **named)
            self.take(f"after {words}")
            return result

        return taken

    def hear(self, event: str, given: tuple[Any, ...]) -> None:
        """An audit hook."""
        if self._lock.locked():  # of what is done here
            return
        if event == "open":
            path, _, flags = given
            if isinstance(path, str) and flags & _WRITES and self._is_ours(path):
                self.take(f"open {path}")
                self.take(f"opened {path}", lambda: os.open(path, flags & _MADE, 0o600))
        elif event in ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir"):
            place = given[-1]
            folder = os.readlink(f"/proc/self/fd/{place}") if event in ("os.remove", "os.rmdir") and place >= 0 else ""
            path = os.path.join(folder, os.fspath(given[0]))
            if self._is_ours(path):
                self.take(f"{event} {path}")

    def _is_ours(self, path: str) -> bool:
        return path.startswith(self._folder)


def run(folder: Path, server: str, last: int) -> None:
    """The node, until it is killed."""
    steps = Steps(last, folder)

    class Line(sqlite3.Connection):
        """Counts commits."""

        execute = steps.around("COMMIT", sqlite3.Connection.execute, lambda _, words, *more: words == "COMMIT")

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Line)  # type: ignore[assignment]
    socket.socket.sendall = steps.around("sendall", socket.socket.sendall)  # type: ignore[method-assign]
    socket.socket.send = steps.around("send", socket.socket.send)  # type: ignore[method-assign]
    sys.addaudithook(steps.hear)
    node_module._RETENTION = 0.0
    path = folder / "rules.toml"
    node = Node(NodeSettings.read(path), Rules.read(path), Server(name="", url=server), folder / "node")
    print(json.dumps({"port": node.port, "process": os.getpid()}), flush=True)
    node.run()


def main() -> None:
    """A fork for each line of the standard input."""
    folder, server = Path(sys.argv[1]), sys.argv[2]
    pydicom()
    with contextlib.suppress(MissingPartError):
        pynetdicom()
    while line := sys.stdin.readline():
        process = os.fork()
        if not process:
            run(folder, server, int(line))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
