"""Answers from files: ranges, entity tags, blocks of a mebibyte; never more than one block in memory."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from delineate.protocols.messages import BLOCK, Body, FileBody, JoinedBody

SMALL: Final = 1 << 18
"""Bytes up to which an answer is read at once, without changing threads."""

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})\Z")


class OpenFile:
    """A descriptor that is closed when nobody holds it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


class HeldFileBody(Body):
    """A file that is open, or `length` bytes of it from `offset` on: what is sent is the file that was looked at, also where
    another takes its place, or it goes, while it is sent."""

    def __init__(self, file: OpenFile, offset: int, length: int) -> None:
        super().__init__()
        self.file = file
        self.offset = offset
        self.length = length

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        while done < self.length:
            block = os.pread(self.file.descriptor, min(BLOCK, self.length - done), self.offset + done)
            if not block:
                raise OSError("a file became shorter while it was sent")
            done += len(block)
            yield block


class BodyResponse(Response):
    """A `Body` with ``Range``, ``If-Range``, ``If-None-Match`` and ``HEAD``; several ranges at once are answered with the whole.

    Parameters
    ----------
    tag : strong entity tag without quotes, such as the digest of what is sent; empty for what is made anew each time, and is
        not sent in ranges.
    filename : empty for what is no file.
    headers : further ones.
    threads : where blocks are read.
    """

    def __init__(
        self, body: Body, *, tag: str = "", media_type: str, filename: str = "", threads: Executor, headers: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        super().__init__(media_type=media_type)
        self._content = body
        self._etag = f'"{tag}"' if tag else ""
        self._threads = threads
        self._more = dict(headers or {})
        self._fixed = {"etag": self._etag, "accept-ranges": "bytes"} if tag else {}
        if filename:
            self._fixed["content-disposition"] = disposition(filename)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        status, start, end = self._select(Headers(scope=scope))
        headers: Mapping[str, str] = self._head(status, start, end)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        last = b""
        if scope["method"] != "HEAD" and status in (200, 206):
            body = part_of(self._content, start, end)
            if body.length <= SMALL:
                last = b"".join(body)
            else:
                await self._send(body, send)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def _select(self, request: Headers) -> tuple[int, int, int]:
        """Status, first byte, and the one after the last."""
        total = self._content.length
        if not self._etag:
            return 200, 0, total
        if self._etag in (tag.strip() for tag in request.get("if-none-match", "").split(",")):
            return 304, 0, 0
        match = _RANGE.match(request.get("range", "").replace(" ", ""))
        if match is None or match.group(0) == "bytes=-" or request.get("if-range", self._etag) != self._etag:
            return 200, 0, total
        first, last = match.groups()
        if not first:
            start, end = max(0, total - int(last)), total
        else:
            start, end = int(first), min(total, int(last) + 1) if last else total
            if last and int(last) < start:
                return 200, 0, total  # no range after RFC 9110: as if it were not there
        return (206, start, end) if start < end else (416, 0, 0)

    def _head(self, status: int, start: int, end: int) -> dict[str, str]:
        if status == 304:
            return {"etag": self._etag, **self._more}
        total = self._content.length
        headers = {"content-length": str(end - start), "content-type": str(self.media_type), **self._fixed, **self._more}
        if status == 206:
            headers["content-range"] = f"bytes {start}-{end - 1}/{total}"
        elif status == 416:
            headers["content-range"] = f"bytes */{total}"
        return headers

    async def _send(self, body: Body, send: Send) -> None:
        loop = asyncio.get_running_loop()
        blocks = _grouped(body)
        coming = loop.run_in_executor(self._threads, next, blocks, None)
        try:
            while (block := await coming) is not None:
                # The next block is read while this one is sent.
                coming = loop.run_in_executor(self._threads, next, blocks, None)
                await send({"type": "http.response.body", "body": block, "more_body": True})
        finally:
            await asyncio.wait([coming])


def disposition(filename: str) -> str:
    """The header ``content-disposition`` of a file to keep (RFC 6266): a plain name for everybody, the true one beside it."""
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "_" for letter in filename)
    extended = "" if plain == filename else f"; filename*=utf-8''{quote(filename, safe='')}"
    return f'attachment; filename="{plain}"{extended}'


def part_of(body: Body, start: int, end: int) -> Body:
    """The bytes from `start` up to `end` of a body, without reading it."""
    if (start, end) == (0, body.length):
        return body
    if isinstance(body, JoinedBody):
        parts, offset = [], 0
        for part in body.parts:
            first, last = max(start - offset, 0), min(end - offset, part.length)
            if first < last:
                parts.append(part_of(part, first, last))
            offset += part.length
        return JoinedBody(parts)
    if isinstance(body, FileBody):
        return FileBody(body.path, body.offset + start, end - start)
    if isinstance(body, HeldFileBody):
        return HeldFileBody(body.file, body.offset + start, end - start)
    return Body(b"".join(body)[start:end])


def _grouped(body: Body) -> Iterator[bytes]:
    """The blocks of a body, small ones joined: a tar of many little files is not sent in crumbs."""
    few = bytearray()
    for block in body:
        if not few and len(block) >= SMALL:
            yield block
            continue
        few += block
        if len(few) >= SMALL:
            yield bytes(few)
            few.clear()
    if few:
        yield bytes(few)
