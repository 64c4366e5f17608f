"""The folders of one worker: made once, emptied after each task."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

LOG_NAME = "task.log"


def desks_folder(data: Path) -> Path:
    """Where the folders of all workers are, each under its worker's name, in the server's data folder."""
    return data / "work"


class Desk:
    """Folders below the worker's scratch folder.

    Making and removing folders is among the dearest things a file system does, so those every task needs stay.

    Parameters
    ----------
    folder : of this worker alone; made here. The log in it outlives the worker until the engine has read it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input = folder / "in"
        self.output = folder / "out"
        self.declared = folder / "declared"
        self.temporary = folder / "tmp"
        self.result = folder / "result.zip"
        self.log = folder / LOG_NAME
        for part in (self.input, self.output, self.declared, self.temporary):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what the task left, what it could not be kept from making included."""
        for part in (self.input, self.output, self.declared, self.temporary):
            _empty(part)
        self.result.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # the model removed it
        folder.mkdir(mode=0o700, parents=True)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)  # noqa: PTH108 - an entry has its path at hand
