"""How much of an answer is taken onto the disk: a server may send without end."""

from __future__ import annotations

import os
from typing import BinaryIO, Final

from delineate.errors import AnswerError
from delineate.protocols.archive_entries import Limits

LARGEST_RESULT: Final = Limits.total_bytes  # more than this would not be unpacked either
SPARE: Final = 256 << 20  # bytes that other programs on the same disk keep
LOOK_EVERY: Final = 64 << 20  # bytes between two looks at the free space


class Room:
    """Watches what is written into a file.

    Parameters
    ----------
    sink : where the answer goes.
    announced : bytes that the answer says it has, if it does.

    Raises
    ------
    AnswerError
        From here and from `require`: more than `LARGEST_RESULT`, or less than `SPARE` would be left of the disk.
    """

    def __init__(self, sink: BinaryIO, announced: int | None) -> None:
        self._sink = sink
        self._size = sink.tell()
        self._look_at = 0
        self.require(announced or 0)
        self._size = sink.tell()
        self._look_at = 0

    def require(self, more: int) -> None:
        """Check that `more` bytes may be written after those before."""
        self._size += more
        if self._size > LARGEST_RESULT:
            raise AnswerError(
                f"the server sent a result of more than {LARGEST_RESULT / (1 << 30):g} GiB",
                "Check with its administrator that it is an inference server, and what its model answers.",
            )
        if self._size < self._look_at:
            return
        self._look_at = self._size + LOOK_EVERY
        free = _free(self._sink)
        if free is not None and free - more < SPARE:
            raise AnswerError(
                "the server sent a result that fills the disk here",
                f"Free space, or set TMPDIR to a folder on a larger disk: {SPARE >> 20} MiB are kept free.",
            )


def _free(sink: BinaryIO) -> int | None:
    """Bytes free on the disk of a file, None where the system does not tell."""
    try:
        status = os.fstatvfs(sink.fileno())
    except (AttributeError, OSError):  # no POSIX, or a file in memory
        return None
    return status.f_bavail * status.f_frsize
