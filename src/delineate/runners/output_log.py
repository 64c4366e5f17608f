"""Turns what a command prints into log lines and progress."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable

HEAD_BYTES = 256 * 1024  # streamed as it comes
TAIL_BYTES = 256 * 1024  # what is kept of all that follows
LINE_BYTES = 8 * 1024
LAST_LINES = 4

_PROGRESS = re.compile(r"progress:\s*(\d+(?:\.\d+)?)(\s*%)?\s*(.*)", re.IGNORECASE)


class OutputLog:
    """Collects the output of one command.

    Lines go to `log` at once until 256 KiB are full; of what follows, the last 256 KiB are logged by `close`, with a
    note of how much is missing between. Progress lines go to `report` and are not logged: ``progress: 0.4 text``,
    ``progress: 40% text``, or a JSON object with ``progress`` and, if wanted, ``message``.
    A carriage return overwrites the line, as on a terminal.
    """

    def __init__(self, log: Callable[[str], None], report: Callable[[float, str], None]) -> None:
        self._log = log
        self._report = report
        self._rest = b""
        self._head = 0
        self._tail: deque[str] = deque()
        self._tail_bytes = 0
        self._left_out = 0
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, data: bytes) -> None:
        """Take bytes as they come, cut anywhere."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        # What a progress bar overwrote is gone on a terminal, too; a line without end is cut.
        self._rest = rest if len(rest) <= LINE_BYTES else rest.rsplit(b"\r", 1)[-1]
        while len(self._rest) > LINE_BYTES:
            self._line(self._rest[:LINE_BYTES])
            self._rest = self._rest[LINE_BYTES:]

    def close(self) -> None:
        """Log what is still held back."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        if self._left_out:
            self._log(f"[… {self._left_out} bytes of output left out …]")
        for line in self._tail:
            self._log(line)
        self._tail.clear()

    def last_words(self, longest: int = 400) -> str:
        """The last lines in one, for an error message."""
        words = " | ".join(self.last)
        return words if len(words) <= longest else "…" + words[-longest:]

    def _line(self, raw: bytes) -> None:
        text = raw.decode("utf-8", "replace").rstrip("\r").rsplit("\r", 1)[-1].rstrip()
        progress = read_progress(text)
        if progress is not None:
            self._report(*progress)
            return
        if text:
            self.last.append(text)
        size = len(text) + 1
        if self._head + size <= HEAD_BYTES and not self._tail:
            self._head += size
            self._log(text)
            return
        self._tail.append(text)
        self._tail_bytes += size
        while self._tail_bytes > TAIL_BYTES:
            gone = len(self._tail.popleft()) + 1
            self._tail_bytes -= gone
            self._left_out += gone


def read_progress(line: str) -> tuple[float, str] | None:
    """(fraction 0 to 1, phrase) of a progress line, None of any other."""
    match = _PROGRESS.fullmatch(line.strip())
    if match:
        fraction = float(match[1]) / (100.0 if match[2] else 1.0)
        return min(fraction, 1.0), match[3].strip()
    if not line.startswith("{") or '"progress"' not in line:
        return None
    try:
        fields = json.loads(line)
        return min(max(float(fields["progress"]), 0.0), 1.0), str(fields.get("message", ""))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
