"""Answers that come through from a DICOMweb server, changed while they are streamed: addresses in JSON, one part out of many."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

_STRING: Final = b'"http'
_LONGEST: Final = 4096  # bytes of an address
_RESOURCE: Final = re.compile(rb'"https?:(?:\\?/){2}[^"\\\s/?#]+(?:\\?/[^"\\\s/?#]+){0,16}?\\?/(studies(?:\\?/[A-Za-z0-9._,~-]+){1,40})"')
"""A JSON string that is the address of a study or of something in it. Slashes may have a backslash before them; so many, because
patterns without an end take the square of a string's length."""

_HEAD_END: Final = b"\r\n\r\n"
_LONGEST_HEAD: Final = 16_384  # bytes


async def readdressed(blocks: AsyncIterator[bytes], base: str) -> AsyncIterator[bytes]:
    """JSON whose addresses of studies, and of what is in them, are below `base`; what follows ``/studies`` stays as it is."""
    new = rb'"' + base.encode("ascii").replace(b"\\", b"\\\\") + rb"/\1" + b'"'
    held = b""
    async for block in blocks:
        held += block
        cut = _whole(held)
        if cut:
            yield _RESOURCE.sub(new, held[:cut])
            held = held[cut:]
    if held:
        yield _RESOURCE.sub(new, held)


def _whole(held: bytes) -> int:
    """Up to where no address can go on in what comes next."""
    start = held.rfind(_STRING)
    end = held.find(b'"', start + 1) + 1 if start >= 0 else 0
    if start >= 0 and not end and len(held) - start <= _LONGEST:
        return start
    return max(end, len(held) - len(_STRING) + 1)


async def first_part(blocks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[bytes]:
    """The content of the first part of a multipart answer.

    Raises
    ------
    ValueError
        It has none.
    """
    held, is_open, end = b"", False, b"\r\n--" + boundary
    async for block in blocks:
        held += block
        if not is_open:
            start = held.find(b"--" + boundary)
            head = held.find(_HEAD_END, start) if start >= 0 else -1
            if head < 0 and len(held) <= _LONGEST_HEAD:
                continue
            if head < 0:
                break
            held, is_open = held[head + len(_HEAD_END) :], True
        found = held.find(end)
        if found >= 0:
            yield held[:found]
            return
        if len(held) > len(end):
            yield held[: -len(end)]
            held = held[-len(end) :]
    raise ValueError("the answer has no whole part")
