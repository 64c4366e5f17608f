"""Looks at a datastore's folder again and again, and writes MONAI Label's index when things have calmed down."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final, Protocol

from delineate.errors import DelineateError

_DEEP: Final = 15.0  # seconds between two looks at every file, and
_SHARE: Final = 50.0  # at least so many times as long as one takes
_LONGEST: Final = 10.0  # seconds after which the index is written though there is no calm

_log = logging.getLogger(__name__)


class Watched(Protocol):
    """What is looked at."""

    def look(self, *, deep: bool = True) -> int:
        """Take over what changed."""

    def write_manifest(self) -> bool:
        """Write the index if need be."""

    def state(self) -> object:
        """Another object after each change."""


class Watch:
    """The thread; it runs until it is stopped."""

    def __init__(self, datastore: Watched, interval: float) -> None:
        self._datastore = datastore
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="datastore-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        seen: object = None
        written = time.monotonic()
        deep = written + _DEEP
        trouble = ""
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            try:
                is_deep = now >= deep
                self._datastore.look(deep=is_deep)
                if is_deep:
                    deep = time.monotonic() + max(_DEEP, _SHARE * (time.monotonic() - now))
                state = self._datastore.state()
                if state is seen or now - written >= _LONGEST:
                    self._datastore.write_manifest()
                    written = now
                seen, trouble = state, ""
            except DelineateError as error:
                if error.message != trouble:  # once, not every second
                    _log.error("the datastore's folder: %s", error.sentence())
                trouble = error.message
            except Exception:
                _log.exception("the datastore's folder could not be looked at")
