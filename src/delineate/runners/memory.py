"""How much memory a process and all that it started hold, cheaply enough to ask ten times a second."""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
_PROC = Path("/proc")


def tree(process: int) -> list[int]:
    """Its number and those of all its descendants. Empty when it is gone."""
    if not (_PROC / "self" / "task").is_dir():
        return _tree_elsewhere(process)
    found, waiting = [], [process]
    while waiting:
        number = waiting.pop()
        try:
            tasks = list((_PROC / str(number) / "task").iterdir())
            found.append(number)
            for task in tasks:
                waiting += [int(word) for word in (task / "children").read_text().split()]
        except OSError:  # it ended while we looked
            continue
    return found


def _tree_elsewhere(process: int) -> list[int]:
    import psutil  # only where there is no /proc

    try:
        parent = psutil.Process(process)
        return [process, *(child.pid for child in parent.children(recursive=True))]
    except psutil.Error:
        return []


def resident(processes: list[int]) -> int:
    """Sum of their resident sets, bytes; shared pages count once for each, so this is an upper bound."""
    total = 0
    for number in processes:
        try:
            total += int((_PROC / str(number) / "statm").read_text().split()[1]) * PAGE
        except OSError:
            continue
    return total


def proportional(processes: list[int]) -> int:
    """Sum of their proportional set sizes, bytes: each shared page counts once. Dearer than `resident`."""
    total = 0
    for number in processes:
        try:
            match = re.search(r"^Pss:\s+(\d+) kB", (_PROC / str(number) / "smaps_rollup").read_text(), re.MULTILINE)
            total += int(match[1]) * 1024 if match else 0
        except OSError:
            total += resident([number])
    return total


def used_beyond(process: int, limit: int) -> int:
    """Bytes that `process` and its descendants hold where that exceeds `limit`, else 0."""
    processes = tree(process)
    if resident(processes) <= limit:
        return 0
    exact = proportional(processes)
    return exact if exact > limit else 0


def kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        match = re.search(r"^oom_kill (\d+)", (_PROC / "vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0
