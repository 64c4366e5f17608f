"""A file that a worker holds locked while it lives, so that anyone can see at once that it is dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SUFFIX = ".lock"
PATIENCE = 2.0  # s; somebody who looks for dead workers holds a lock for a moment


class WorkerLock:
    """``FOLDER/WORKER.lock``, locked by this process from `acquire` to its end, however it ends.

    Not inherited by programs that are started; a child that is only forked would share it.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / f"{worker}{SUFFIX}"
        self._descriptor = -1

    def acquire(self) -> None:
        """Make and lock the file.

        Raises
        ------
        BlockingIOError
            Somebody holds it: two workers of one name.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + PATIENCE
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            # Somebody who looked for dead workers may have locked and removed the file between our two calls.
            if _is_same_file(descriptor, self.path):
                self._descriptor = descriptor
                note_holder(descriptor)
                return
            os.close(descriptor)

    def release(self) -> None:
        """Remove the file and let go of it."""
        if self._descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def note_holder(descriptor: int) -> None:
    """Write this process's number into a file that it has locked, for people; on a full disk they do without."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))


def is_held(folder: Path, name: str) -> bool:
    """Whether the process of that name lives."""
    try:
        descriptor = os.open(folder / f"{name}{SUFFIX}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def dead_workers(folder: Path, skip: Callable[[str], bool] = lambda name: False) -> Iterator[str]:
    """Names of workers that died without removing their lock; not those that `skip` says are in hand.

    Each is yielded while its lock is held, so that two who look cannot both act on it; its file is removed afterwards,
    and stays for the next look where the caller raised.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if skip(path.name[: -len(SUFFIX)]):
            continue
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(descriptor, path):
                yield path.name[: -len(SUFFIX)]
                path.unlink(missing_ok=True)
        except BlockingIOError:
            continue  # it lives
        finally:
            os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
