"""Wrong passwords get slower, by account and by address."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from delineate.server.accounts.identity import TooManyTriesError

FREE_BY_ACCOUNT: Final = 5
FREE_BY_ADDRESS: Final = 20  # a clinic may come through one address
LONGEST_PAUSE: Final = 60.0  # s; an account is slowed down, never locked, or anybody could lock its owner out
FORGET: Final = 900.0  # s without a wrong password
MOST: Final = 10_000
"""Accounts and addresses that are remembered; the one that was quiet longest goes first."""


class Throttle:
    """Counts wrong passwords. Names that do not exist are counted like those that do: the pause tells nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._wrong: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wrong)

    def check(self, name: str, address: str) -> None:
        """May another password be tried now? Raises `TooManyTriesError`."""
        pause = max(self._left(_key("account", name), FREE_BY_ACCOUNT), self._left(_key("address", _network(address)), FREE_BY_ADDRESS))
        if pause > 0:
            raise TooManyTriesError(pause)

    def begin(self, name: str, address: str) -> None:
        """A password is looked at: it counts as wrong until `right` or `not_tried`, so that many at once are not many for free."""
        for key in (_key("account", name), _key("address", _network(address))):
            self._wrong[key] = (self._count(key) + 1, self._clock())
            self._wrong.move_to_end(key)
        while len(self._wrong) > self._most:
            self._wrong.popitem(last=False)

    def right(self, name: str, address: str) -> None:
        """It was right: the account's wrong ones are forgotten, the address's are what they were before `begin`."""
        self._wrong.pop(_key("account", name), None)
        self._take_back(_key("address", _network(address)))

    def not_tried(self, name: str, address: str) -> None:
        """Nobody could tell: all is as it was before `begin`. Forgetting would let whoever keeps us busy try for free."""
        for key in (_key("account", name), _key("address", _network(address))):
            self._take_back(key)

    def _take_back(self, key: bytes) -> None:
        count, at = self._wrong.get(key, (0, 0.0))
        if count > 1:
            self._wrong[key] = (count - 1, at)
        else:
            self._wrong.pop(key, None)

    def _count(self, key: bytes) -> int:
        count, at = self._wrong.get(key, (0, 0.0))
        return count if self._clock() - at < FORGET else 0

    def _left(self, key: bytes, free: int) -> float:
        count = self._count(key)
        if count < free:
            return 0.0
        pause: float = min(LONGEST_PAUSE, 2.0 ** min(count - free, 10))
        return self._wrong[key][1] + pause - self._clock()


def _network(address: str) -> str:
    """An IPv6 address without its second half, which whoever has one may choose."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address


def _key(kind: str, text: str) -> bytes:
    # Of one length, however long the name that somebody sends.
    return hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "replace")).digest()[:16]
