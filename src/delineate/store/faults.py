"""Foreign errors, those of the operating system and of the database, in the words of `delineate.errors`."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from delineate.errors import StorageFullError, StoreBusyError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, over quota, over the process's file size limit


def is_full(error: OSError) -> bool:
    """Whether an error of the file system means that no space is left."""
    return error.errno in _FULL


def storage_error(error: OSError, doing: str) -> StoreError:
    """What to raise for an error of the file system that happened while `doing` something."""
    if is_full(error):
        return StorageFullError(f"there is no space left on the server's disk ({doing}: {error.strerror})")
    return StoreError(f"{doing} failed: {error.strerror or error}", "Check the server's data folder: disk, permissions, mount.")


@contextmanager
def translated(database: str) -> Iterator[None]:
    """Errors of the database driver inside become `StoreError` and its kin; `database` is named where that helps."""
    try:
        yield
    except exc.TimeoutError as error:
        raise StoreBusyError("all connections to the database are in use") from error
    except exc.DBAPIError as error:
        raise _database_error(error.orig or error, database) from error
    except sqlite3.Error as error:
        raise _database_error(error, database) from error


def _database_error(error: BaseException, database: str) -> StoreError:
    text = str(error)
    lower = text.lower()
    if "locked" in lower or "busy" in lower:
        return StoreBusyError("the database was locked by another process for too long")
    if "is full" in lower:
        return StorageFullError("there is no space left for the database")
    if "malformed" in lower or "not a database" in lower:
        return StoreError(
            f"the database {database} is damaged ({text})",
            "Stop the server, keep a copy of the file, restore a backup or run `sqlite3 FILE .recover`; then check the disk.",
        )
    if "readonly" in lower or "read-only" in lower:
        return StoreError(f"the database {database} cannot be written", "Check owner and permissions of the data folder, and its mount.")
    if "unable to open" in lower:
        return StoreError(f"the database {database} cannot be opened", "Check that the data folder exists and may be written.")
    if "disk i/o" in lower:
        return StoreError(f"reading or writing the database {database} failed ({text})", "Check the server's disk and its free space.")
    return StoreError(f"the database answered: {text}", "Look into the server's log.")
