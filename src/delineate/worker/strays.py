"""Processes that a worker's models started, but for those that look after themselves."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from delineate.runners import memory

_GUARD = "/guard.py"
_LOOKED_AT = 5  # words of a command line: the interpreter, its options, the guard


def unguarded(process: int) -> list[int]:
    """`process` and its descendants without the guards of commands and containers, and without what these guard.

    A guard (`delineate.runners.guard`) ends what it guards when its worker is dead, and removes the container, too.
    """
    processes = memory.tree(process)
    guarded: set[int] = set()
    for number in processes:
        with contextlib.suppress(psutil.Error):
            if any(word.endswith(_GUARD) for word in psutil.Process(number).cmdline()[:_LOOKED_AT]):
                guarded.update(memory.tree(number))
    return [number for number in processes if number not in guarded]


def own_strays() -> list[int]:
    """What this process started and did not wait for."""
    return unguarded(os.getpid())[1:]


def kill_strays() -> None:
    """Kill them."""
    for number in own_strays():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(number, signal.SIGKILL)
