"""Whether a series fits into this machine's memory: one that does not would have the node ended, and all that it is doing."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Final

from delineate.dicom.series import Group
from delineate.errors import ImageError

_VOXEL: Final = 3  # bytes that one takes at least: two in the image, one in its structures
_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


def room() -> float:
    """Bytes of memory that this process may have at most, whoever else has them now."""
    found = math.inf
    with contextlib.suppress(ValueError, OSError):
        found = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _LIMITS:
        with contextlib.suppress(ValueError, OSError):  # not there, or "max"
            found = min(found, float(path.read_text(encoding="ascii")))
    return found


def require_room(group: Group) -> None:
    """`ImageError` for an image that cannot fit."""
    form = group.slices[0].form
    needed, there = _VOXEL * form.columns * form.rows * len(group.slices), room()
    if needed > there:
        raise ImageError(
            f"the image needs {needed / 2**30:.1f} GB of memory, and the node has {there / 2**30:.1f}",
            "Give its machine or container more memory, or write a rule that leaves such images; then let it be tried again.",
        )
