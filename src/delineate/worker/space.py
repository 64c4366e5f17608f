"""Whether there is space to work in, and how long a task waits for some.

A full disk is nobody's fault who sent a task, and it heals: a task that met one goes back instead of failing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from delineate.store.faults import is_full
from delineate.task import Task

FLOOR: Final = 16 << 20
"""Free bytes below which no task is begun: it could hardly end."""

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 600.0  # s; all tries of a task together last some two hours


def is_short(folder: Path) -> bool:
    """Whether less than `FLOOR` is left where `folder` is; False where that cannot be told."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < FLOOR
    return False


def ran_out(error: BaseException, folder: Path) -> bool:
    """Whether an error came of a full disk: it says so, something it came of does, or there is no space left now.

    The last, because a command or a library tells what happened in words of its own, or not at all.
    """
    return any(isinstance(cause, OSError) and is_full(cause) for cause in _causes(error)) or is_short(folder)


def wait(task: Task) -> float:
    """Seconds until another try at a task for which there was no space."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(task.lost, 32))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
