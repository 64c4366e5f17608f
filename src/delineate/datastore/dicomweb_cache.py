"""Series of a DICOMweb server on this disk: whole or not there, the ones used longest ago out first.

::

    images/UID/000001.dcm …     a series, under its own name from one moment to the next
    .delineate/web/UID.json     what is known of it; without one the folder is a leftover
    .delineate/web/incoming/    what is just coming
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from delineate.client.related_parts import PartsError
from delineate.datastore.layout import Files
from delineate.errors import StorageFullError
from delineate.geometry import Geometry
from delineate.store.faults import storage_error

IN_USE: Final = 120.0
"""Seconds after its last use for which a series is not taken out: a task that was given its path may be waiting."""

PATIENCE: Final = 150.0
"""Seconds for which a series that is coming waits for room: those that are in use now are not then."""

_TURN: Final = 0.5  # s
_BUFFER: Final = 1 << 20
_PREAMBLE: Final = 132
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"  # the syntax in which no UID can be seen
_EPOCH: Final = 946_684_800  # s, the year 2000: a series that came again has the same times, so that who decoded it before need not again


@dataclass(frozen=True)
class Held:
    """A series that is here. version : of the image; size : bytes; count : files; grid : None where it has none."""

    version: int
    size: int
    count: int
    grid: Geometry | None = None


class SeriesCache:
    """For any thread of one process. `limit` in bytes, over what is here and what is coming."""

    def __init__(
        self, files: Files, limit: int, *, clock: Callable[[], float] = time.time, in_use: float = IN_USE, patience: float = PATIENCE
    ) -> None:  # fmt: skip
        self._files = files
        self._images = files.layout.images
        self._notes = files.layout.hidden / "web"
        self._incoming = self._notes / "incoming"
        self._limit = limit
        self._clock = clock
        self._in_use = in_use
        self._patience = patience
        self._lock = threading.Condition()
        self._is_closed = False
        self._held: OrderedDict[str, tuple[Held, float]] = OrderedDict()  # the last one was used last
        self._checked: set[str] = set()
        self._size = self._coming = 0
        try:
            shutil.rmtree(self._incoming, ignore_errors=True)
            self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._begin()
        except OSError as error:
            raise storage_error(error, "looking at the series that are here") from error

    @property
    def size(self) -> int:
        """Bytes that are here."""
        with self._lock:
            return self._size

    def _begin(self) -> None:
        notes = sorted((path.stat().st_mtime, path) for path in self._notes.glob("*.json"))
        for used, path in notes:
            held = _read(path)
            if held is None or not (self._images / path.stem).is_dir():
                path.unlink(missing_ok=True)
            else:
                self._held[path.stem] = held, used
                self._size += held.size
        for folder in self._images.iterdir():
            if folder.name not in self._held:
                self._remove(folder.name)

    def use(self, uid: str, version: int) -> Held | None:
        """A series that is here, and is not taken out for a while; None where it is not, or of another version."""
        now = self._clock()
        with self._lock:
            found = self._held.get(uid)
            if found is None or found[0].version != version:
                return None
            if uid not in self._checked and not self._is_whole(uid, found[0]):
                self._forget(uid)
                return None
            self._checked.add(uid)
            self._held[uid] = found[0], now
            self._held.move_to_end(uid)
        with contextlib.suppress(OSError):
            os.utime(self._notes / f"{uid}.json", (now, now))
        return found[0]

    def peek(self, uid: str, version: int) -> Held | None:
        """As `use`, without being a use."""
        with self._lock:
            found = self._held.get(uid)
        return found[0] if found is not None and found[0].version == version else None

    def _is_whole(self, uid: str, held: Held) -> bool:
        """Whether nothing of it was lost with the power: files are not brought to the disk one by one."""
        try:
            sizes = [entry.stat().st_size for entry in os.scandir(self._images / uid)]
        except OSError:
            return False
        return len(sizes) == held.count and sum(sizes) == held.size

    @contextlib.contextmanager
    def receiving(self, uid: str) -> Iterator[Receiver]:
        """Where the files of a series go; it is here after `Receiver.keep`. What was not kept is removed."""
        receiver = Receiver(self, self._incoming / secrets.token_hex(8), uid)
        try:
            yield receiver
        except OSError as error:
            raise storage_error(error, "keeping a series") from error
        finally:
            receiver.close()

    def close(self) -> None:
        """Nobody waits for room any more."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()

    def release(self, count: int) -> None:
        """Bytes that were to come do not."""
        with self._lock:
            self._coming -= count
            self._lock.notify_all()

    def reserve(self, count: int) -> None:
        """Make room for more bytes; waits while all that is here is in use. Raises `StorageFullError`."""
        end = self._clock() + self._patience
        with self._lock:
            while self._coming + count + self._size > self._limit:
                now = self._clock()
                uid, used = next(((uid, used) for uid, (_, used) in self._held.items()), ("", now))
                if uid and now - used >= self._in_use:
                    self._forget(uid)
                elif now >= end or self._is_closed or self._coming + count > self._limit:
                    raise StorageFullError(
                        f"the series does not fit into the {self._limit >> 20} MB for series of the DICOMweb server, beside those in use",
                        "Try again later, or raise dicomweb_cache_mb.",
                    )
                else:
                    self._lock.wait(_TURN)
            self._coming += count

    def admit(self, uid: str, folder: Path, held: Held) -> None:
        """Let a series that came be found under its name, in the place of an older version."""
        with self._lock:
            self._forget(uid)
            folder.rename(self._images / uid)
            self._files.write_whole(self._notes / f"{uid}.json", _written(held))
            self._held[uid] = held, self._clock()
            self._checked.add(uid)
            self._coming -= held.size
            self._size += held.size

    def _forget(self, uid: str) -> None:
        found = self._held.pop(uid, None)
        self._size -= 0 if found is None else found[0].size
        self._checked.discard(uid)
        (self._notes / f"{uid}.json").unlink(missing_ok=True)
        self._remove(uid)

    def _remove(self, name: str) -> None:
        aside = self._files.set_aside(self._images / name)
        if aside is not None:
            self._files.discard(aside)


class Receiver:
    """Takes the instances of one series, see `dicomweb_client.FreshSink`; one file each, named by their order."""

    def __init__(self, cache: SeriesCache, folder: Path, uid: str) -> None:
        self._cache = cache
        self._folder = folder
        self._uid = uid
        self._file: BinaryIO | None = None
        self._head = self._tail = b""
        self._is_own = False
        self.count = 0
        self.size = 0

    def restart(self) -> None:
        """Forget what came."""
        self.close()
        self._folder.mkdir(mode=0o700)

    def begin(self) -> None:
        """An instance begins."""
        self.count += 1
        self._head = self._tail = b""
        self._is_own = False
        self._file = (self._folder / f"{self.count:06d}.dcm").open("wb", buffering=_BUFFER)

    def write(self, data: memoryview) -> None:
        """More of it. Raises `StorageFullError`."""
        self._cache.reserve(len(data))
        self.size += len(data)
        if len(self._head) < _PREAMBLE:
            self._head += bytes(data[: _PREAMBLE - len(self._head)])
        if not self._is_own:  # its first block says so as a rule
            uid, seen = self._uid.encode("ascii"), self._tail + bytes(data)
            self._is_own = uid in seen or _DEFLATED in seen
            self._tail = seen[-max(len(uid), len(_DEFLATED)) :]
        if self._file is not None:
            self._file.write(data)

    def end(self) -> None:
        """It is whole. Raises `PartsError` where it is no DICOM file, or does not hold the series' UID: one of another image."""
        if self._file is not None:
            self._file.close()
        if self._head[128:] != b"DICM":
            raise PartsError("a part of it is no DICOM file")
        if not self._is_own:
            raise PartsError("a part of it is of another series")

    def keep(self, version: int, grid: Geometry | None) -> None:
        """Let it be found."""
        at = (_EPOCH + version) * 10**9
        for path in self._folder.iterdir():
            os.utime(path, ns=(at, at))
        os.utime(self._folder, ns=(at, at))
        self._folder.chmod(0o755)
        self._cache.admit(self._uid, self._folder, Held(version, self.size, self.count, grid))
        self.size = 0  # it counts as one that is here

    def close(self) -> None:
        """Remove what was not kept."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._cache.release(self.size)
        self._file, self.count, self.size = None, 0, 0


def _written(held: Held) -> bytes:
    return json.dumps(asdict(held)).encode("ascii")


def _read(path: Path) -> Held | None:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
        grid = value["grid"]
        return Held(int(value["version"]), int(value["size"]), int(value["count"]), Geometry(**grid) if grid else None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
