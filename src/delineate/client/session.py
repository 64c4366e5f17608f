"""What both clients are made of: an address, what is known of its server, limits."""

from __future__ import annotations

import math
import time
from os import PathLike
from pathlib import Path

from delineate.client.address import parse_address
from delineate.client.transport import Line, ProgressCallback
from delineate.errors import DeadlineError, SettingsError
from delineate.protocols.administration_flows import AdministeredServer
from delineate.protocols.inference_flows import INTERVAL
from delineate.protocols.inference_server import Dialect
from delineate.protocols.messages import Backoff

DEFAULT_TIMEOUT = 3600.0


class Session:
    """Arguments of a client, checked once.

    Raises
    ------
    AddressError, SettingsError
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: str | PathLike[str] | None = None,
        verify: bool = True,
        dialect: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        progress: ProgressCallback | None = None,
        backoff: Backoff | None = None,
        interval: float = INTERVAL,
    ) -> None:
        if not timeout > 0:
            raise SettingsError(f"a time limit of {timeout} s makes no sense", "Give seconds above zero.")
        try:
            known = None if dialect is None else Dialect(dialect)
        except ValueError:
            raise SettingsError(f"{dialect!r} is no dialect of the protocol", "Use seed, v1 or v2, or leave it out.") from None
        self.line = Line(parse_address(url), token, Path(ca_file) if ca_file else None, verify, progress)
        self.server = AdministeredServer(time.monotonic, known, backoff, interval)
        self.timeout = timeout

    def limit(self, timeout: float | None) -> float | None:
        """Seconds for one conversation: those given, or the client's; None where both are infinite."""
        seconds = self.timeout if timeout is None else timeout
        return None if math.isinf(seconds) else seconds

    def stopwatch(self, timeout: float | None) -> Stopwatch:
        """One limit over several conversations."""
        return Stopwatch(self.limit(timeout))


class Stopwatch:
    """What is left of a limit on the wall clock."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds, above zero, perhaps infinite; `DeadlineError` when the time is up."""
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise DeadlineError(f"the time limit of {self._seconds:g} s passed")
        return remaining
