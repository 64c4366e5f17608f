"""The node: a door for series, and hands that carry them through; in one process of its own, a client of the server."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from delineate.errors import SettingsError, StoreError
from delineate.gateway.adoption import adopt
from delineate.gateway.completion import Completion, Whole
from delineate.gateway.holdings import Holdings
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.retention import Retention
from delineate.gateway.rules import Rules, Server
from delineate.gateway.scp import Door, Listener
from delineate.gateway.spool import Spool
from delineate.gateway.store import Store
from delineate.gateway.work import Work

_LOG: Final = logging.getLogger("delineate.gateway")
_LOOK: Final = 2.0  # seconds between looks at what the commands changed, where nothing else is due
_RETENTION: Final = 600.0  # seconds

_BROKEN: Final = "the sender broke off, or something of it was refused, and the rest did not come again"
_RELEASE: Final = "Send the series again, or let it go on as it is: delineate gateway release."
_LATE: Final = "objects came after the series was worked on"


class Node:
    """Holds all parts of a node; `run` works until `stop` is called.

    server : where rules go that name none.

    Attributes
    ----------
    port : that it listens at.
    """

    def __init__(self, settings: NodeSettings, rules: Rules, server: Server | None, data: Path) -> None:
        self._settings = settings
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._is_changed = False
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_alone(data))
            self._spool = Spool(data)
            stack.callback(self._spool.close)
            self._holdings = Holdings(data)
            stack.callback(self._holdings.close)
            adopt(self._holdings, self._spool)
            self._completion = Completion(self._holdings, settings.quiet, settings.broken, changed=self.wake)
            self._work = Work(self._holdings, self._spool, settings, rules, server, self._ended)
            self._retention = Retention(self._holdings, self._spool, settings)
            store = Store(settings, self._holdings, self._spool, self._completion)
            self._listener = Listener(settings, Door(settings, store, self._work.commitments))
            stack.callback(self._listener.close)
            self.port = self._listener.port
            self._stack = stack.pop_all()
        self._hands = _Hands(settings.at_once, "gateway-job", self._work.carry, self.wake)
        self._carriers = _Hands(settings.at_once, "gateway-delivery", self._work.deliver, self.wake)

    def run(self) -> None:
        """Work until `stop`; then end what is begun, or leave it to the next start."""
        swept = 0.0
        try:
            while not self._ended.is_set():
                try:
                    self._turn()
                    if time.monotonic() - swept > _RETENTION or not swept:
                        swept = time.monotonic()
                        self._retention.sweep()
                except (StoreError, OSError) as error:
                    _say(error)
                self._sleep()
        finally:
            self._ended.set()
            self._listener.close()
            self._hands.close()
            self._carriers.close()
            self._stack.close()

    def stop(self) -> None:
        """End `run`; may be called from anywhere."""
        self._ended.set()
        self.wake()

    def use(self, rules: Rules) -> None:
        """Go by these rules from now on; may be called from anywhere."""
        self._work.use(rules)
        self.wake()

    def wake(self) -> None:
        """Something may be due."""
        with self._changed:
            self._is_changed = True
            self._changed.notify()

    def _sleep(self) -> None:
        pause = min(self._completion.pause(), self._work.rows.pause(), _LOOK)
        with self._changed:
            if not self._is_changed:
                self._changed.wait(max(pause, 0.01))
            self._is_changed = False

    def _turn(self) -> None:
        for row in self._holdings.rows("SELECT id FROM series WHERE is_released"):  # until it has a version, or more comes
            self._completion.release(row["id"])
        for whole in self._completion.take():
            try:
                self._complete(whole)
            except StoreError as error:
                _say(error)
                self._completion.put_back(whole)
        for row in self._work.rows.undecided():
            try:
                self._work.decide(row["series"], row["number"])
            except (StoreError, OSError) as error:  # it is undecided still
                _say(error)
        self._hands.take(self._work.rows.due_jobs)
        self._carriers.take(self._work.rows.due_deliveries)

    def _complete(self, whole: Whole) -> None:
        row = self._holdings.one("SELECT fresh, version FROM series WHERE id = ?", whole.series)
        if row is None:
            return
        if row["fresh"] == 0:
            self._holdings.nothing_new(whole.series)
        elif whole.is_broken:
            self._holdings.make_version(whole.series, "held", _BROKEN, _RELEASE)
        elif row["version"] and self._settings.late == "note":
            self._holdings.make_version(whole.series, "noted", _LATE, _RELEASE)
        else:
            self._holdings.make_version(whole.series, "whole")


def _say(error: StoreError | OSError) -> None:
    _LOG.error("%s", error.sentence() if isinstance(error, StoreError) else error.strerror)


class _Hands:
    """A few threads that do what is due, each item in one of them at a time."""

    def __init__(self, count: int, name: str, work: Callable[[int], None], done: Callable[[], None]) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, name)
        self._work, self._done = work, done
        self._busy: set[int] = set()
        self._lock = threading.Lock()

    def take(self, due: Callable[[set[int]], list[int]]) -> None:
        """Begin as much of what is due as there are free hands."""
        with self._lock:
            busy = set(self._busy)
        if len(busy) >= self._count:
            return
        for number in due(busy)[: self._count - len(busy)]:
            with self._lock:
                self._busy.add(number)
            self._pool.submit(self._do, number)

    def _do(self, number: int) -> None:
        try:
            self._work(number)
        finally:
            with self._lock:
                self._busy.discard(number)
            self._done()

    def close(self) -> None:
        """Wait for what is begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """One node for a data folder."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data / "node.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another node works on {data}", "Stop it, or name another folder with --data.") from None
        except OSError as error:
            raise SettingsError(f"{data} cannot be locked: {error.strerror}", "Name a folder on a local disk with --data.") from None
        yield
