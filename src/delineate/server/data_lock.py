"""One data folder, one server."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from delineate.errors import SettingsError
from delineate.store.faults import storage_error
from delineate.worker.lock import note_holder


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    Raises
    ------
    SettingsError
        Another server holds it.
    StoreError
        The folder cannot be made or written.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, f"opening the data folder {data}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise SettingsError(
                f"another server (process {holder}) runs on the data folder {data}",
                "Stop it, or give this one another --data; more workers alone start with `delineate work`.",
            ) from None
        note_holder(descriptor)
        yield
    finally:
        os.close(descriptor)
