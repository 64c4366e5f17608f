"""An image that is read while it still comes: decoded by the time that a task names it.

Receiving a large image takes a third of the time that unpacking it takes, on another core. The server names the file that it
writes to; a thread reads along and digests what it reads. Only what has the digest that the task names is used, so that
nothing depends on what was said in between, and whatever goes wrong here is for the task to find, which reads the file itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from blake3 import blake3

from delineate import ahead, nifti
from delineate.volume import Volume

_log = logging.getLogger(__name__)

READ_ALONG, WHOLE, FORGET = "read along", "whole", "forget"
"""What the engine says of a file: it begins to come; all of it came, and is a blob; no task will name it."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # s between two looks at whether more has come
_WAIT: Final = 0.05  # s between two looks at whether the task was cancelled


class IncomingImages:
    """One NIfTI file at a time. The engine's words come from the channel's thread, all else from the main one.

    Parameters
    ----------
    find : where a file of that name is written to.
    budget : bytes of voxels, above which a file is left to its task.
    """

    def __init__(self, find: Callable[[str], Path], budget: int) -> None:
        self._find = find
        self._budget = budget
        self._lock = threading.Lock()
        self._reading: _Reading | None = None

    def hear(self, said: Mapping[str, Any]) -> None:
        """One of the words above: ``command``, ``file`` (its name), and ``blob`` (its digest) of one that is whole."""
        name = str(said["file"])
        with self._lock:
            reading = self._reading
            if said["command"] == READ_ALONG:
                if reading is not None:
                    reading.give_up()
                self._reading = _Reading(self._find(name), self._budget)
            elif reading is not None and reading.name == name:
                if said["command"] == WHOLE:
                    reading.whole(str(said["blob"]))
                else:
                    reading.give_up()
                    self._reading = None

    def keep_only(self, blobs: frozenset[str]) -> None:
        """Give up what is not among these: a task on something else begins, which may need the memory."""
        with self._lock:
            if self._reading is not None and self._reading.blob not in blobs:
                self._reading.give_up()
                self._reading = None

    def take(self, blob: str, checkpoint: Callable[[], None]) -> Volume | None:
        """The image of a blob, once it is read; None where it was not read along, or could not be. `checkpoint` may raise."""
        with self._lock:
            reading = self._reading
            if reading is None or not blob or reading.blob != blob:
                return None
            self._reading = None
        try:
            while not reading.ended.wait(_WAIT):
                checkpoint()
        except BaseException:
            reading.give_up()
            raise
        return reading.volume


class _GivenUpError(Exception):
    """Nobody wants the image any more."""


class _Reading:
    """One file, in a thread of its own.

    blob : the digest that it should have, empty while it comes; volume : what is in it, once it `ended` with that digest.
    """

    def __init__(self, path: Path, budget: int) -> None:
        self.name = path.name
        self.blob = ""
        self.volume: Volume | None = None
        self.ended = threading.Event()
        self._budget = budget
        self._changed = threading.Condition()
        self._is_whole = self._is_given_up = False
        threading.Thread(target=self._run, args=(path,), name="reading along", daemon=True).start()

    def whole(self, blob: str) -> None:
        with self._changed:
            self.blob, self._is_whole = blob, True
            self._changed.notify()

    def give_up(self) -> None:
        with self._changed:
            self._is_given_up = True
            self._changed.notify()

    def _run(self, path: Path) -> None:
        try:
            with path.open("rb", buffering=0) as file:
                coming = _ComingFile(file, self._is_at_end)
                volume = nifti.read(cast("BinaryIO", coming), self._empty)
                while coming.read(1 << 20):  # what follows the image belongs to the file
                    pass
            if coming.digest == self.blob:
                self.volume = volume
        except _GivenUpError:
            pass
        except Exception as error:  # a stranger's file: whatever it was, the task will find and tell it
            _log.debug("an image could not be read while it came: %s", type(error).__name__)
        finally:
            self.ended.set()

    def _is_at_end(self, pause: float) -> bool:
        """Whether nothing more comes; waits for `pause` seconds, or until that changes. 0: does not wait."""
        with self._changed:
            if pause and not (self._is_whole or self._is_given_up):
                self._changed.wait(pause)
            if self._is_given_up:
                raise _GivenUpError
            return self._is_whole

    def _empty(self, shape: Any, dtype: Any) -> np.ndarray:
        if int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize > self._budget:
            raise MemoryError
        return ahead.empty(shape, dtype)


class _ComingFile:
    """A file that still grows, as one that is read to its end: reading waits."""

    def __init__(self, file: Any, is_at_end: Callable[[float], bool]) -> None:
        self._file = file
        self._is_at_end = is_at_end
        self._digest = blake3()

    @property
    def digest(self) -> str:
        """BLAKE3 of what was read, in hex."""
        return self._digest.hexdigest()

    def read(self, count: int) -> bytes:
        data = bytearray(count)
        return bytes(data[: self.readinto(memoryview(data))])

    def readinto(self, view: memoryview) -> int:
        pause = 0.0
        while True:
            is_at_end = self._is_at_end(pause)
            count: int = self._file.readinto(view)
            if count or is_at_end:
                self._digest.update(view[:count])
                return count
            pause = min(_LONGEST_PAUSE, pause * 2 or _FIRST_PAUSE)
