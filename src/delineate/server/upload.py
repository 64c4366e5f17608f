"""Uploads straight into the blob store: one pass, no spooling, no second copy.

The event loop receives and parses; full buffers go to a thread that hashes and writes them while the loop fills the
next one. The loop hands a buffer over only when the one before is written: a slow disk slows the sender down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import Final, Generic, Protocol, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from delineate.errors import ArchiveError, ArchiveLimitError, InputError
from delineate.server.finishing import ended, to_the_end
from delineate.server.multipart import Multipart

BUFFER: Final = 1 << 20
"""Bytes handed to the writing thread at once: large, so that the interpreter lock changes hands rarely."""

SWITCH_SECONDS: Final = 0.0005
"""The interpreter's switch interval for a process that receives: with the usual 5 ms a thread that comes back from
hashing or writing waits most of its time for its turn, and the event loop for a thread that computes in Python."""

_PIECE: Final = 1 << 18  # a buffer always has room for one more piece of what came

FIELD_BYTES: Final = 1 << 18
"""Limit for all plain fields of a form together; prompts are the largest."""

PARTS: Final = 256
"""Limit for the parts of a form."""

RAW_TYPES: Final = frozenset(
    {
        "application/zip",
        "application/x-zip-compressed",
        "application/x-tar",
        "application/x-gtar",
        "application/gzip",
        "application/x-gzip",
        "application/octet-stream",
    }
)

Result = TypeVar("Result")


class Writer(Protocol):
    """What an upload is written to; `delineate.store.writer.BlobWriter` is one."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def write(self, data: memoryview, /) -> int:
        """Append."""

    def discard(self) -> None:
        """Remove the file unless it was placed."""


W = TypeVar("W", bound=Writer)


def _listed(names: frozenset[str]) -> str:
    return " or ".join(sorted(names, reverse=True))


class _Buffer:
    """A block of memory that is used again and again: growing a new one each time costs more than hashing it."""

    def __init__(self, size: int) -> None:
        self._view = memoryview(bytearray(size))
        self.filled = 0

    def add(self, data: memoryview) -> None:
        end = self.filled + len(data)
        if end > len(self._view):
            raise InputError("the body is longer than announced", "Send it with the right Content-Length.")
        self._view[self.filled : end] = data
        self.filled = end

    def take(self) -> memoryview:
        """What is in it; to be used before anything is added again."""
        full, self.filled = self._view[: self.filled], 0
        return full


class _Archive:
    """The one file of a form, into the buffer that is filled."""

    def __init__(self, fields: frozenset[str], data: _Buffer) -> None:
        self.data = data
        self.field = ""
        self._fields = fields

    def begin(self, field: str, filename: str | None) -> bool:
        if field in self._fields:
            if self.field:
                raise InputError("the form has more than one file", "Send one archive.")
            self.field = field
            return True
        if filename is not None:
            raise InputError(f"the file is in the form field {field[:64]!r}", f"Send it in {_listed(self._fields)}.")
        return False

    def add(self, data: memoryview) -> None:
        self.data.add(data)

    def end(self) -> None:
        """There is no second one to be told from it."""


def _pieces(chunk: bytes) -> Iterator[bytes]:
    if len(chunk) <= _PIECE:
        yield chunk
    else:
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start : start + _PIECE]


class Upload(Generic[W]):
    """One request's body on its way to a file; leaving the context removes the file unless it was placed.

    Parameters
    ----------
    create : makes the writer; called in a thread, and not at all when nothing arrives.
    threads : where writing and `finish` run.
    limit : bytes of the whole body.
    files : form fields that may hold the archive.
    """

    def __init__(self, create: Callable[[], W], threads: Executor, limit: int, files: frozenset[str]) -> None:
        self._create = create
        self._threads = threads
        self._limit = limit
        self._files = files
        self._buffer = _Buffer(0)
        self._spare: _Buffer | None = None
        self._writer: W | None = None
        self._writing: asyncio.Future[None] | None = None
        self.fields: Mapping[str, str] = {}
        self.file_field = ""

    async def __aenter__(self) -> Upload[W]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await ended(self._writing)
        if self._writer is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._writer.discard)

    async def read(self, request: Request) -> None:
        """Receive the whole body.

        Raises
        ------
        ArchiveLimitError
            More bytes than allowed, whether announced or not.
        InputError
            Not a form with the archive in one of its fields, nor an archive as the body itself; or cut off.
        ClientDisconnect
            The sender went away.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise self._too_large()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise InputError("the request has a content encoding", "Send the archive as it is.")
        # A small body gets a small buffer; whoever sends more than announced is stopped by the HTTP parser.
        small = announced.isdecimal() and int(announced) < BUFFER
        self._buffer = _Buffer(int(announced) if small else BUFFER + _PIECE)
        media_type, options = parse_options_header(request.headers.get("content-type", ""))
        if media_type == b"multipart/form-data":
            await self._read_form(request, options.get(b"boundary", b""))
        elif media_type.decode("latin-1") in RAW_TYPES:
            await self._read_raw(request)
        else:
            raise self._no_file()

    async def _read_form(self, request: Request, boundary: bytes) -> None:
        archive = _Archive(self._files, self._buffer)
        form = Multipart(boundary, archive, field_bytes=FIELD_BYTES, parts=PARTS)
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > self._limit:
                raise self._too_large()
            for piece in _pieces(chunk):
                form.write(piece)
                if self._buffer.filled >= BUFFER:
                    archive.data = await self._hand_over()
        if received:
            form.finish()
        if not archive.field:
            raise self._no_file()
        self.fields, self.file_field = form.fields, archive.field
        self._require_bytes()

    async def _read_raw(self, request: Request) -> None:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > self._limit:
                raise self._too_large()
            for piece in _pieces(chunk):
                self._buffer.add(memoryview(piece))
                if self._buffer.filled >= BUFFER:
                    await self._hand_over()
        self._require_bytes()

    def _require_bytes(self) -> None:
        if self._writing is None and not self._buffer.filled:
            raise ArchiveError("the archive is empty: no bytes came")

    def _too_large(self) -> ArchiveLimitError:
        return ArchiveLimitError(f"the upload is over the limit of {self._limit / 2**20:g} MiB (max_upload_mb)")

    def _no_file(self) -> InputError:
        advice = f"Send a form with the archive in the field {_listed(self._files)}, or the archive as the body."
        return InputError("the request holds no file", advice)

    async def _hand_over(self) -> _Buffer:
        """Give the full buffer to the thread once the one before is written; the other, empty one."""
        if self._writing is not None:
            await self._writing
        full, self._buffer = self._buffer, self._spare or _Buffer(BUFFER + _PIECE)
        self._spare = full
        self._writing = asyncio.get_running_loop().run_in_executor(self._threads, self._write, full.take())
        return self._buffer

    def _write(self, data: memoryview) -> None:
        if self._writer is None:
            self._writer = self._create()
        if data:
            self._writer.write(data)

    async def finish(self, then: Callable[[W], Result]) -> Result:
        """Write what is left and call `then` with the writer, all in one thread hop."""
        if self._writing is not None:
            await self._writing
        rest = self._buffer.take()
        return await to_the_end(self._threads, partial(self._complete, rest, then))

    def _complete(self, rest: memoryview, then: Callable[[W], Result]) -> Result:
        self._write(rest)
        writer, self._writer = self._writer, None
        assert writer is not None
        try:
            return then(writer)
        finally:
            writer.discard()  # here, not at the end of the context: that would cost one more change of thread
