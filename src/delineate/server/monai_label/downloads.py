"""Images and labels as answers: streamed from where they lie, in ranges; a series as a zip that is made while it is sent."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from starlette.responses import Response, StreamingResponse

from delineate.datastore.dataset import zip_blocks
from delineate.errors import DelineateError
from delineate.server.results import BodyResponse, HeldFileBody, OpenFile, disposition
from delineate.server.threads import Threads

OCTETS = "application/octet-stream"

_TYPES: Final = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".tif": "image/tiff", ".tiff": "image/tiff",
    ".xml": "application/xml", ".json": "application/json",
}  # fmt: skip
"""By extension: pages show pictures by their type. All else are octets."""


class Downloads:
    """Makes answers from paths."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def whole(self, path: Path, stem: str, missing: DelineateError) -> Response:
        """A file under its own name, or a folder as ``STEM.zip``. Raises `missing` where it is gone."""
        try:
            file, status = await self._threads.run(lambda: _opened(path))
        except OSError:
            raise missing from None
        if stat.S_ISDIR(status.st_mode):
            return self.zipped(zip_blocks(_files_of(path)), f"{stem}.zip")
        if not stat.S_ISREG(status.st_mode):  # of a pipe reading never ends
            raise missing
        tag = f"{status.st_size:x}-{status.st_mtime_ns:x}"
        body = HeldFileBody(file, 0, status.st_size)
        kind = _TYPES.get(path.suffix.lower(), OCTETS)
        return BodyResponse(body, tag=tag, media_type=kind, filename=path.name, threads=self._threads)

    def zipped(self, blocks: Iterator[bytes], filename: str) -> Response:
        """A zip of unknown length."""
        return StreamingResponse(blocks, media_type=OCTETS, headers={"content-disposition": disposition(filename)})


def _opened(path: Path) -> tuple[OpenFile, os.stat_result]:
    file = OpenFile(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))  # to open a pipe waits for its writer otherwise
    return file, os.fstat(file.descriptor)


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path
