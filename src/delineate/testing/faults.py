"""Faults that a scripted server shows on demand: what proxies, networks and broken servers really do to a client."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

LOGIN_PAGE: Final = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><form>Please sign in</form></body></html>"

ACTIONS: Final = ("status", "html", "redirect", "json", "empty", "drop", "drop-early", "break", "short", "drip", "hang")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of misbehaviour, for requests that match.

    action :
        ``status`` answers `status`; ``html`` a login page (with `status`, 200 by default); ``redirect`` to `location`;
        ``json`` something that is JSON and not of the protocol; ``empty`` 200 without a body;
        ``drop`` closes after the request was read, ``drop-early`` before its body is read;
        ``break`` sends half of the true body, then closes; ``short`` announces ten bytes less than it has;
        ``drip`` sends the true body one byte each `seconds`; ``hang`` is silent for `seconds`, then closes.
    method, path : which requests; path is a part of the target; empty for any.
    times : how often, -1 for ever; after : how many matching requests are left alone first.
    """

    action: str
    method: str = ""
    path: str = ""
    times: int = 1
    after: int = 0
    status: int = 200
    location: str = ""
    seconds: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no fault is called {self.action!r}")


class FaultList:
    """Faults in order; the first that matches and is not used up applies. Safe for threads."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._lock = threading.Lock()
        self._met: list[list[int]] = []
        self._faults: list[Fault] = []
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """Let more go wrong from now on."""
        with self._lock:
            self._faults += faults
            self._met += [[0] for _ in faults]

    def clear(self) -> None:
        """Let all go well from now on."""
        with self._lock:
            self._faults.clear()
            self._met.clear()

    def match(self, method: str, target: str) -> Fault | None:
        """The fault for a request, counted as shown."""
        with self._lock:
            for fault, met in zip(self._faults, self._met, strict=True):
                if (fault.method and fault.method != method) or fault.path not in target:
                    continue
                met[0] += 1
                shown = met[0] - fault.after
                if shown > 0 and (fault.times < 0 or shown <= fault.times):
                    return fault
        return None
