"""Runs one command under the guard: output, progress, time and memory; and says how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delineate.errors import ModelError
from delineate.model import Model
from delineate.runners import memory
from delineate.runners.base import Job
from delineate.runners.output_log import OutputLog

POLL_SECONDS = 0.05
BLOCK = 1 << 16
GUARD_SECONDS = 25.0  # a little more than the guard gives its clean-up command
_GUARD = Path(__file__).with_name("guard.py")
_CRASH_SIGNALS = (
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run.

    environment : all of it, None for the worker's own; folder : current folder.
    memory_limit : bytes, 0 for none; memory_used(pid, limit) : bytes beyond the limit or 0, asked every 50 ms.
    clean_up : run by the guard after a forced stop, also when the worker is dead.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] | None = None
    folder: Path | None = None
    memory_limit: int = 0
    memory_used: Callable[[int, int], int] = memory.used_beyond
    clean_up: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended.

    code : exit code, negative for a signal; stopped : ``timeout`` or ``memory`` when we stopped it, else empty;
    used : bytes it held when it was stopped for memory; kernel_kills : processes the kernel killed meanwhile for want
    of memory; words : the last lines it printed.
    """

    code: int
    stopped: str = ""
    used: int = 0
    kernel_kills: int = 0
    words: str = ""

    @property
    def signal(self) -> int:
        """The signal that ended it, 0 for none; a shell and a container say 128 + signal."""
        if self.code < 0:
            return -self.code
        return self.code - 128 if self.code - 128 in _CRASH_SIGNALS else 0


def run(command: Command, job: Job, log_line: Callable[[str], None] | None = None) -> Ending:
    """Run to its end, or stop it at the job's deadline or its memory limit. Whatever is raised, nothing stays behind.

    `log_line` takes the lines in place of ``job.log``.
    """
    kills = memory.kernel_kills()
    log = OutputLog(log_line or job.log, job.report)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_GUARD), json.dumps(list(command.clean_up)), *command.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if command.environment is None else dict(command.environment),
        cwd=command.folder,
        start_new_session=True,
    )
    try:
        stopped, used = _watch(process, command, job.deadline, log)
    finally:
        _end(process)
        if process.stdout is not None:
            with process.stdout:
                _drain(process.stdout.fileno(), log)
        log.close()
    return Ending(
        code=process.returncode,
        stopped=stopped,
        used=used,
        kernel_kills=memory.kernel_kills() - kills,
        words=log.last_words(),
    )


def _watch(process: subprocess.Popen[bytes], command: Command, deadline: float, log: OutputLog) -> tuple[str, int]:
    """Pass output on until the end; ("", 0), or why it has to be stopped."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    looked = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "timeout", 0
            if command.memory_limit and now - looked >= POLL_SECONDS:
                looked = now
                used = command.memory_used(process.pid, command.memory_limit)
                if used:
                    return "memory", used
            # The guard holds the other end, so the end of the output is the end of the command.
            if selector.select(min(POLL_SECONDS, deadline - now)):
                data = os.read(output, BLOCK)
                if not data:
                    return "", 0
                log.feed(data)


def _drain(output: int, log: OutputLog) -> None:
    """What was printed before it ended; never waits."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(output, BLOCK):
            log.feed(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make the guard kill everything, which does nothing after a normal end; kill it ourselves if it does not."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(GUARD_SECONDS)
    except subprocess.TimeoutExpired:
        for number in reversed(memory.tree(process.pid)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def check(ending: Ending, model: Model) -> None:
    """Raise what the ending means; nothing for exit code 0."""
    said = f": {ending.words}" if ending.words else "; it printed nothing"
    if ending.stopped == "timeout":
        raise ModelError(
            f"model {model.name} did not finish within its time limit of {model.time_limit:g} s and was stopped",
            "Raise time_limit in its model.toml, or send a smaller image.",
            kind="timeout",
        )
    if ending.stopped == "memory":
        raise _out_of_memory(model, f"it used {ending.used / memory.MIB:.0f} MiB")
    if ending.code == 0:
        return
    if ending.signal == signal.SIGKILL and ending.kernel_kills > 0:
        raise _out_of_memory(model, "the system killed it")
    if ending.signal:
        name = signal.Signals(ending.signal).name
        raise ModelError(
            f"model {model.name} was ended by signal {ending.signal} ({name}){said}",
            "Its log may say more." if ending.signal != signal.SIGKILL else "Something outside killed it; see the system's log.",
            kind="crash",
        )
    raise ModelError(f"model {model.name} ended with exit code {ending.code}{said}", "See the task's log.", kind="exit")


def _out_of_memory(model: Model, why: str) -> ModelError:
    limit = f" (its limit is {model.resources.memory_mb} MiB)" if model.resources.memory_mb else ""
    return ModelError(
        f"model {model.name} ran out of memory: {why}{limit}",
        "Raise memory_mb under [resources] in its model.toml, or send a smaller image.",
        kind="memory",
    )


def settle_output(folder: Path, log: Callable[[str], None]) -> None:
    """Make what a command wrote readable and removable, and remove what is neither file nor folder.

    A link in the results could lead the reader to any file of the machine, and a pipe would block it.
    """
    _claim(folder, folder.lstat().st_mode)
    for parent, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                _claim(path, mode)
            else:
                path.unlink()
                log(f"removed {path.relative_to(folder)} from the output: only files and folders can be results")


def _claim(path: Path, mode: int) -> None:
    if os.geteuid() == 0 and not _is_ours(path):
        os.chown(path, 0, 0, follow_symlinks=False)
    wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
    if mode & wanted != wanted and _is_ours(path):
        path.chmod(wanted)


def _is_ours(path: Path) -> bool:
    return path.lstat().st_uid == os.geteuid()


def remove_folder(folder: Path) -> None:
    """Remove a scratch folder and all in it, whatever its modes are."""
    if folder.is_dir():
        settle_output(folder, lambda _: None)
        shutil.rmtree(folder, ignore_errors=True)
