"""Memory of this process, from ``/proc`` where there is one."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import psutil

_MEMORY = Path("/proc/self/statm")
_PAGE = mmap.PAGESIZE


def now() -> int:
    """Bytes resident at this moment."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_MEMORY.read_bytes().split()[1]) * _PAGE  # psutil looks at a dozen things for this one
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Begin a new peak (Linux; elsewhere the peak is that of the whole life)."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")  # 5 resets the high-water mark and nothing else
        finally:
            os.close(descriptor)


def peak() -> int:
    """The highest number of bytes resident since `reset_peak`, children not counted."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
    return now()
