"""The last lines of the log, in memory."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

KEPT: Final = 2000  # lines
_LONGEST: Final = 2000  # characters of one


class RecentLog(logging.Handler):
    """Keeps what was logged last. It hears what the level of the root logger lets through, from `begin` to `end`."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._kept: deque[str] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._kept.append(self.format(record)[:_LONGEST])

    def begin(self) -> None:
        """Listen."""
        logging.getLogger().addHandler(self)

    def end(self) -> None:
        """Listen no more."""
        logging.getLogger().removeHandler(self)

    def lines(self, count: int) -> list[str]:
        """The newest, oldest first; 0 for all."""
        return list(self._kept)[-count:]
