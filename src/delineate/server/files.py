"""Stored files as answers, read where it costs least: small ones at once, large ones in threads."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from delineate.errors import ArchiveError, BlobError
from delineate.protocols.archive import tar_view
from delineate.protocols.messages import Body, FileBody, JoinedBody
from delineate.server.results import SMALL, BodyResponse
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import Blob


class Files:
    """Makes answers from blobs and folders."""

    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    async def whole(self, blob: Blob, filename: str) -> BodyResponse:
        """A blob as it is. Raises `BlobError`."""
        return self._answer(await self._small_or_not(blob, self._file_body), blob.digest, filename)

    async def as_tar(self, blob: Blob, filename: str) -> BodyResponse:
        """A stored zip as a plain tar with flat names, re-framed while it is sent. Raises `BlobError`."""
        return self._answer(await self._small_or_not(blob, self._tar_body), f"{blob.digest}-tar", filename)

    async def folder_as_tar(self, folder: Path | None, tag: str, filename: str) -> BodyResponse:
        """All files of a folder as a plain tar."""
        return self._answer(await self._threads.run(partial(folder_tar, folder)), f"{tag}-tar", filename)

    async def _small_or_not(self, blob: Blob, make: Callable[[Blob], Body]) -> Body:
        # Opening and hashing some kilobytes takes less than changing threads twice.
        return make(blob) if blob.size <= SMALL else await self._threads.run(partial(make, blob))

    def _file_body(self, blob: Blob) -> Body:
        return FileBody(str(self._service.file(blob)))

    def _tar_body(self, blob: Blob) -> Body:
        try:
            return tar_view(self._service.file(blob), with_log=True)
        except ArchiveError as error:  # nobody's input: what lies here is no result of ours
            raise BlobError(f"the stored result cannot be read: {error.message}") from None

    def _answer(self, body: Body, tag: str, filename: str) -> BodyResponse:
        kind = "application/x-tar" if filename.endswith(".tar") else "application/zip"
        return BodyResponse(body, tag=tag, media_type=kind, filename=filename, threads=self._threads)


def folder_tar(folder: Path | None) -> Body:
    """The files of a folder as a plain tar that is read while it is sent; times and owners are left out."""
    parts: list[Body] = []
    for path in sorted(folder.rglob("*")) if folder else []:
        if not path.is_file() or path.is_symlink() or "__pycache__" in path.parts:
            continue
        body = FileBody(str(path))
        info = tarfile.TarInfo(path.relative_to(folder or path).as_posix())
        info.size, info.mode = body.length, 0o644
        parts += [Body(info.tobuf(tarfile.PAX_FORMAT)), body, Body(bytes(-body.length % tarfile.BLOCKSIZE))]
    parts.append(Body(bytes(2 * tarfile.BLOCKSIZE)))
    return JoinedBody(parts)
