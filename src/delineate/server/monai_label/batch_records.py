"""What was asked for in a batch, on the disk: whoever starts the server again goes on with it. Its tasks are in the store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from delineate.store.faults import storage_error

KEPT: Final = 100
"""Records that are kept."""

_NAME: Final = re.compile(r"\d{20}-[0-9a-f]{16}\.json\Z")


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """One batch.

    images : ids, as chosen when it began; tag : of the labels that are saved, empty to save none.
    most : images at once, 0 for as many as the workers take.
    output : what is made of each image in DICOM, of `delineate.protocols.dicom_request.OUTPUTS`; empty for nothing.
    request : as it was sent; started, ended : Unix seconds, `ended` None while it runs or is to go on.
    state : one of the states of the API, as of its end; details : the last lines that are to be said of it.
    """

    id: str
    model: str
    images: tuple[str, ...]
    tag: str
    params: Mapping[str, Any]
    request: Mapping[str, Any]
    owner: str
    started: float
    ended: float | None = None
    state: str = "RUNNING"
    details: tuple[str, ...] = field(default=())
    output: str = ""
    most: int = 0


class BatchRecords:
    """The records in a folder of their own, named by when they began. Blocks. Raises `StoreError` and its kin."""

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._folder = folder
        self._sync = sync

    def new_id(self) -> str:
        """An id."""
        return secrets.token_hex(8)

    def save(self, record: BatchRecord) -> None:
        """Write a record, new or in the place of the old; the oldest go when there are too many."""
        path = self._folder / f"{int(record.started * 1e6):020d}-{record.id}.json"
        other = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with other.open("w", encoding="utf-8") as file:
                json.dump(asdict(record), file)
                file.flush()
                if self._sync:
                    os.fsync(file.fileno())
            other.replace(path)
        except OSError as error:
            raise storage_error(error, "storing a batch") from error
        for old in self._paths()[:-KEPT]:
            old.unlink(missing_ok=True)

    def all(self) -> list[BatchRecord]:
        """Every record, oldest first; what cannot be read is left out."""
        found = []
        for path in self._paths():
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                values = json.loads(path.read_text(encoding="utf-8"))
                values.update({name: tuple(values[name]) for name in ("images", "details")})
                found.append(BatchRecord(**values))
        return found

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if _NAME.match(path.name))
        except FileNotFoundError:
            return []
