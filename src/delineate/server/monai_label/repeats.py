"""Requests that come twice, because nobody heard the first answer: the second gets the same one, and nothing is done again."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

MOST: Final = 4096
"""Answers that are kept; the oldest go first."""

SECONDS: Final = 600.0
"""For which one is kept: far longer than a client tries."""

_LONGEST_KEY: Final = 255


@dataclass
class _Asked:
    when: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    answer: Any = None


class Repeats:
    """Belongs to one event loop. Kept in memory: a request that a restart came between is done again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: OrderedDict[tuple[str, str, str], _Asked] = OrderedDict()

    async def once(self, what: str, who: str, key: str | None, do: Callable[[], Awaitable[Any]]) -> Any:
        """What `do` answers, or answered before to the same request.

        Parameters
        ----------
        what, who, key : the same for the same request; without a key, or with one that is too long, every request is new.
        do : where it fails, the next request with the key tries again.
        """
        if not key or len(key) > _LONGEST_KEY:
            return await do()
        asked = self._find((what, who, key))
        async with asked.turn:
            if asked.answer is None:
                asked.answer = await do()
            return asked.answer

    def _find(self, key: tuple[str, str, str]) -> _Asked:
        now = self._clock()
        while self._asked and (len(self._asked) >= MOST or next(iter(self._asked.values())).when + SECONDS < now):
            self._asked.popitem(last=False)
        return self._asked.setdefault(key, _Asked(now))
