"""A folder as a destination."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import FolderSettings
from delineate.gateway.objects import Object, objects_of
from delineate.gateway.spool import sync

_UID: Final = re.compile(r"[0-9.]{1,64}")
_NO_LINKS: Final = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES))


class FolderDestination:
    """Puts each file into the folder under its SOP Instance UID, whole or not at all; what is there is never overwritten."""

    def __init__(self, settings: FolderSettings) -> None:
        self.settings = settings

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """As `Destination.deliver`. The folder is made where the one above it is there; files are brought to the disk."""
        objects = objects_of(files)
        try:
            self.settings.path.mkdir(exist_ok=True)
            for item in objects:
                self._put(item)
            with contextlib.suppress(OSError):  # some shares cannot
                sync(self.settings.path)
        except OSError as error:
            advice = "It is tried again; check that the folder is there, has room, and may be written to."
            raise DeliveryError(f"{self.settings.name}: the folder cannot be written to: {error.strerror}", advice) from None

    def ask(self) -> None:
        """As `Destination.ask`."""
        path = self.settings.path if os.path.lexists(self.settings.path) else self.settings.path.parent
        if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            advice = "Make it, or let the node's user write to it."
            raise DeliveryError(f"{self.settings.name}: there is no folder that can be written to", advice)

    def _put(self, item: Object) -> None:
        if not _UID.fullmatch(item.uid) or not item.uid.strip("."):
            raise DeliveryError(f"{self.settings.name}: {item} has no UID that could be a file's name", "Run the rule again.", True)
        target = self.settings.path / f"{item.uid}.dcm"
        part = target.with_name(f".{target.name}.part")  # the same at each try: one that was killed leaves nothing for good
        part.unlink(missing_ok=True)  # not written over: it may be the target, by another name
        try:
            with item.path.open("rb") as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            _appear(part, target)
        except FileExistsError:
            if not filecmp.cmp(item.path, target, shallow=False):
                message = f"{self.settings.name}: another file of the name of {item} is there"
                raise DeliveryError(message, "Look at both, and move the one in the folder away if it is wrong.", True) from None
        finally:
            part.unlink(missing_ok=True)


def _appear(part: Path, target: Path) -> None:
    """Give a whole file its name; `FileExistsError` where something has it. Shares without links get a rename after a look."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError from None
        part.rename(target)
