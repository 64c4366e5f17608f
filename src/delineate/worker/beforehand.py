"""Images that are read before a task names them: while they still come, or when a session was made of them.

Receiving a large image takes a third of the time that unpacking it takes, on another core: the server names the file that it
writes to, and a thread reads along. Only what has the digest, or is the file, that a task names is used, so that nothing
depends on what was said in between; and whatever goes wrong here is for the task to find, which reads the image itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final, cast

import numpy as np
from blake3 import blake3

from delineate import ahead, nifti
from delineate.protocols.dicom_request import DicomAsked
from delineate.protocols.reference import Place
from delineate.worker.channel import READ, READ_ALONG, WHOLE
from delineate.worker.images import WarmImages, as_read
from delineate.worker.referred import Files
from delineate.worker.series import ReadImage, read_image

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # s between two looks at whether more has come
_WAIT: Final = 0.05  # s between two looks at whether the task was cancelled
_PACKED: Final = 4  # times its size, to which a file unpacks as a rule


class ReadBeforehand:
    """One image at a time. The engine's words come from the channel's thread, all else from the main one.

    Parameters
    ----------
    files : finds what is there, and what still comes.
    warm : gets what was read.
    scratch : a folder for files of the moment.
    budget : bytes of voxels, above which an image is left to its task.
    """

    def __init__(self, files: Files, warm: WarmImages, scratch: Path, budget: int) -> None:
        self._files = files
        self._warm = warm
        self._scratch = scratch
        self._budget = budget
        self._lock = threading.Lock()
        self._reading: _Reading | None = None

    def hear(self, said: Mapping[str, Any]) -> None:
        """A command about images, see `delineate.worker.channel`."""
        command, file = said["command"], str(said.get("file", ""))
        with self._lock:
            if command == READ:
                place = Place.from_json(said["place"])
                if place.size * _PACKED <= self._budget:
                    self._begin(_LyingImage(place, self._files, self._scratch, self._budget))
            elif command == READ_ALONG:
                self._begin(_ComingImage(self._files.coming(file), self._budget))
            elif self._reading is not None and self._reading.file == file:
                if command == WHOLE:
                    self._reading.whole(str(said["blob"]))
                else:
                    self._give_up()

    def settle(self, needed: frozenset[str], checkpoint: Callable[[], None]) -> None:
        """A task begins on these images, by `Place.key`: one that is being read for it is waited for.

        What was read is warm then. An image that is not needed, and not read yet, is given up: the task may need the memory.
        `checkpoint` may raise.
        """
        with self._lock:
            reading = self._reading
            if reading is None or not (reading.image in needed or reading.ended.is_set()):
                self._give_up()
                return
            self._reading = None
        try:
            while not reading.ended.wait(_WAIT):
                checkpoint()
        except BaseException:
            reading.give_up()
            raise
        if reading.found is not None:
            volume, series, _ = reading.found
            self._warm.forget_gone()
            self._warm.keep(as_read(reading.image, DicomAsked()), volume, volume.geometry, series, reading.path)

    def _begin(self, reading: _Reading) -> None:
        self._give_up()
        self._reading = reading
        threading.Thread(target=reading.run, name="reading beforehand", daemon=True).start()

    def _give_up(self) -> None:
        if self._reading is not None:
            self._reading.give_up()
        self._reading = None


class _GivenUpError(Exception):
    """Nobody wants the image any more."""


class _Reading:
    """One image, which `run` reads in a thread of its own.

    image : `Place.key` of what it should be, empty while nobody knows; found : what is in it, once it `ended` and is just that;
    file : the name of one that comes; path : of one that lies there.
    """

    def __init__(self, file: str = "", image: str = "", path: str = "") -> None:
        self.file = file
        self.image = image
        self.path = path
        self.found: ReadImage | None = None
        self.ended = threading.Event()
        self._is_given_up = False

    def run(self) -> None:
        try:
            found = self._read()
            self.found = None if self._is_given_up else found
        except _GivenUpError:
            pass
        except Exception as error:  # a stranger's file: whatever it was, the task will find and tell it
            _log.debug("an image could not be read beforehand: %s", type(error).__name__)
        finally:
            self.ended.set()

    def _read(self) -> ReadImage | None:
        raise NotImplementedError

    def whole(self, blob: str) -> None:
        """It is this blob, and all of it came."""

    def give_up(self) -> None:
        self._is_given_up = True
        self.found = None


class _LyingImage(_Reading):
    """A file or folder of the server."""

    def __init__(self, place: Place, files: Files, scratch: Path, budget: int) -> None:
        super().__init__(image=place.key, path=place.path)
        self._place = place
        self._files = files
        self._scratch = scratch
        self._budget = budget

    def _read(self) -> ReadImage | None:
        with TemporaryDirectory(dir=self._scratch, ignore_cleanup_errors=True) as scratch, self._files.reading(self._place) as path:
            found = read_image(path, DicomAsked(), Path(scratch), self._place.name)
        return found if found.volume.voxels.nbytes <= self._budget else None


class _ComingImage(_Reading):
    """A NIfTI file that is still written to."""

    def __init__(self, path: Path, budget: int) -> None:
        super().__init__(file=path.name)
        self._path = path
        self._budget = budget
        self._changed = threading.Condition()
        self._blob = ""

    def whole(self, blob: str) -> None:
        with self._changed:
            self.image, self._blob = Place(blob=blob).key, blob
            self._changed.notify()

    def give_up(self) -> None:
        with self._changed:
            super().give_up()
            self._changed.notify()

    def _read(self) -> ReadImage | None:
        with self._path.open("rb", buffering=0) as file:
            coming = _ComingFile(file, self._is_at_end)
            volume = nifti.read(cast("BinaryIO", coming), self._empty)
            while coming.read(1 << 20):  # what follows the image belongs to the file
                pass
        return ReadImage(volume) if coming.digest == self._blob else None

    def _is_at_end(self, pause: float) -> bool:
        """Whether nothing more comes; waits for `pause` seconds, or until that changes. 0: does not wait."""
        with self._changed:
            if pause and not (self._blob or self._is_given_up):
                self._changed.wait(pause)
            if self._is_given_up:
                raise _GivenUpError
            return bool(self._blob)

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
