"""A small parent for a model's command, so that nothing of it outlives the worker.

Run as a script with the standard library alone (``python -I -S guard.py CLEANUP COMMAND…``), because it must
start in milliseconds. It ends the command and every process it left behind when

- the command ends (background processes do not stay),
- its standard input closes: the worker wants it stopped, or is dead,
- the worker's thread that started it dies (Linux' parent-death signal; a second net under the first).

It then ends as the command ended: with its exit code, or by its signal. CLEANUP is a JSON list, a command run
after a forced stop (it removes the container), ``[]`` for none; with one, the guard is no subreaper, because an
engine's monitor process is meant to outlive the engine's client.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
CLEANUP_SECONDS = 20.0
OOM_SCORE = "500"  # the kernel then takes the model before the worker and the server


def main(arguments: list[str]) -> int:
    """Run the command under guard; returns its exit code, or dies by its signal."""
    cleanup: list[str] = json.loads(arguments[0])
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if not cleanup:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on_signals()
    child = _start(arguments[1:])
    stopped = _wait(child, wake)
    if stopped and cleanup:
        _run_briefly(cleanup)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]  # reaped only now, so that the group's number cannot have been reused
    if not cleanup:
        _kill_orphans()
    return _end_like(status)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _wake_on_signals() -> int:
    """A descriptor that becomes readable on SIGCHLD and SIGTERM."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides; it closes standard input
    return reader


def _start(command: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 (pathlib costs start-up time)
            file.write(OOM_SCORE)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)  # noqa: S606 (no shell is the point)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _wait(child: int, wake: int) -> bool:
    """Until the command ended (False) or is to be stopped (True)."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready and signal.SIGTERM in os.read(wake, 64):
            return True
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        if 0 in ready and not os.read(0, 64):
            return True
        _reap_others(child)


def _reap_others(child: int) -> None:
    """Orphans that ended under us as their subreaper."""
    for process in _children():
        if process != child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _kill_orphans() -> None:
    """Kill what is left, again and again: each death may hand us its children."""
    while orphans := _children():
        for process in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        for process in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)


def _run_briefly(command: list[str]) -> None:
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2)]  # the log is the model's
    process = os.posix_spawnp(command[0], command, os.environ, file_actions=silent, setsid=True)
    with contextlib.suppress(ChildProcessError):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(process, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, CLEANUP_SECONDS)
        os.waitpid(process, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_like(status: int) -> int:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
