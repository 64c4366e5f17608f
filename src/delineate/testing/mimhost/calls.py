"""What every call to the host goes through: it is counted, it can be made to throw, and it takes no more than is documented."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Method = TypeVar("Method", bound=Callable[..., Any])


class JavaError(Exception):
    """What the host throws: its text is Java's, class first, and no sentence for a person."""

    def __init__(self, java_class: str, message: str) -> None:
        super().__init__(f"{java_class}: {message}")
        self.java_class = java_class


@dataclass
class Fault:
    """One arranged error: on the `n`-th call whose name begins with `call`, `times` times, before or after the call has acted."""

    n: int
    call: str
    times: int
    after: bool
    error: BaseException
    met: int = 0

    def strikes(self, name: str) -> bool:
        """Count a call; whether this one fails."""
        if not (name == self.call or name.startswith(self.call + ".") or not self.call):
            return False
        self.met += 1
        return self.met >= self.n and (self.times < 0 or self.met < self.n + self.times)


class Ledger:
    """All calls to one host: their names, their faults, their time, the bytes that were handed out, and what was done wrong.

    Attributes
    ----------
    calls : names, ``XMimImage.getRawData``, in order.
    misuses : a sentence for each call that the host refused; also for those whose error was caught.
    seconds : spent inside the host.
    live, peak, total : bytes of arrays handed out: that still exist, the most that existed at once, all.
    """

    def __init__(self, one_thread: bool) -> None:
        self.calls: list[str] = []
        self.misuses: list[str] = []
        self.faults: list[Fault] = []
        self.seconds = 0.0
        self.live = self.peak = self.total = 0
        self.thread = threading.get_ident()
        self._one_thread = one_thread

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """One call, around what it does."""
        begin = time.perf_counter()
        self.calls.append(name)
        try:
            if self._one_thread and threading.get_ident() != self.thread:
                self.refuse("java.lang.IllegalStateException", f"{name} was called from another thread than the entry point's")
            struck = [fault for fault in self.faults if fault.strikes(name)]
            for fault in struck:
                if not fault.after:
                    raise fault.error.with_traceback(None)
            yield
            for fault in struck:
                raise fault.error.with_traceback(None)
        finally:
            self.seconds += time.perf_counter() - begin

    def refuse(self, java_class: str, message: str) -> None:
        """Throw for wrong use, and keep it, because the caller may catch it."""
        self.misuses.append(message)
        raise JavaError(java_class, message)

    def hand_out(self, array: np.ndarray) -> np.ndarray:
        """Count the bytes of a fresh array for as long as it, or a view of it, exists."""
        size = array.nbytes
        self.live += size
        self.total += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(array, self._returned, size).atexit = False
        return array

    def _returned(self, size: int) -> None:
        self.live -= size


class HostObject:
    """Base of what the workstation hands out: a name for something that it keeps.

    Has the documented methods and nothing else; takes arguments by position only, as Java does. Two names for one thing are
    two objects, because nothing says that they are one.
    """

    __slots__ = ("_kept", "_ledger")
    _kept: Any
    _ledger: Ledger

    def __init__(self, ledger: Ledger, kept: Any = None) -> None:
        object.__setattr__(self, "_ledger", ledger)
        object.__setattr__(self, "_kept", kept)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} takes no attributes: {name}")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the specification lists no {type(self).__name__}.{name}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def _must_exist(self) -> None:
        """Throw if what this names is gone."""


def host_call(method: Method) -> Method:
    """A method of the host: counted, by position only, refused where the object is gone."""
    name = {"__iter__": "iterator", "_next": "next"}.get(method.__name__, method.__name__)

    @functools.wraps(method)
    def called(self: HostObject, *arguments: Any) -> Any:
        with self._ledger.call(f"{type(self).__name__}.{name}"):
            self._must_exist()
            return method(self, *arguments)

    return called  # type: ignore[return-value]


class JavaVector:
    """An array of Java: has a length, items and an order, and is no list: neither compared by content, nor sliced, nor JSON."""

    __slots__ = ("_items",)

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, int):
            raise TypeError("an array of Java is indexed by whole numbers")
        return self._items[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"<java array of {len(self._items)}>"
