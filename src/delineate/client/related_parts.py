"""Bodies of parts, `multipart/related` (RFC 2387), as DICOMweb has them (PS3.18): files that go, and parts that come, a block at a time."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

_LONGEST_HEAD: Final = 1 << 16
_LONGEST_BOUNDARY: Final = 200
_PADDING: Final = 256
_BLOCK: Final = 1 << 20
_BOUNDARY: Final = re.compile(r';\s*boundary\s*=\s*(?:"([^"]+)"|([^\s;,]+))', re.IGNORECASE)


class PartsError(Exception):
    """An answer that is not what its head says; the text is for people."""


class Sink(Protocol):
    """Where parts go."""

    def begin(self) -> None:
        """A part begins."""

    def write(self, data: memoryview) -> None:
        """More of it; `data` is valid during the call alone."""

    def end(self) -> None:
        """It is whole."""


class FileParts:
    """Files as a body, each a part of the content type `kind`; read while they are sent, as often as they are.

    Attributes
    ----------
    headers : content type and length of the body
    """

    def __init__(self, files: Sequence[Path], kind: str) -> None:
        boundary = secrets.token_hex(16)
        self._files = files
        self._head = f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
        self._end = f"--{boundary}--\r\n".encode()
        length = sum(len(self._head) + path.stat().st_size + 2 for path in files) + len(self._end)
        self.headers = {"Content-Type": f'multipart/related; type="{kind}"; boundary={boundary}', "Content-Length": str(length)}

    def blocks(self) -> Iterator[bytes]:
        """The body."""
        for path in self._files:
            yield self._head
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
            yield b"\r\n"
        yield self._end


def boundary_of(content_type: str) -> bytes:
    """The boundary of a content type. Raises `PartsError` where there is none."""
    found = _BOUNDARY.search(content_type)
    text = (found[1] or found[2]) if found else ""
    if not 0 < len(text) <= _LONGEST_BOUNDARY or not text.isascii():
        raise PartsError("it names no boundary between its parts")
    return text.encode("ascii")


class Splitter:
    """Takes the blocks of a body in order. `close` says whether it was whole.

    What a part is made of never lies in memory: some blocks do.
    """

    def __init__(self, boundary: bytes, sink: Sink) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._sink = sink
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning
        self._step = self._preamble

    def feed(self, block: bytes) -> None:
        """More of the body. Raises `PartsError`."""
        self._buffer += block
        while self._step():
            pass

    def close(self) -> None:
        """The body has ended. Raises `PartsError` where its last delimiter is missing."""
        if self._step != self._epilogue:
            raise PartsError("it breaks off before its end")

    def _preamble(self) -> bool:
        return self._up_to_delimiter(is_part=False)

    def _body(self) -> bool:
        return self._up_to_delimiter(is_part=True)

    def _up_to_delimiter(self, *, is_part: bool) -> bool:
        found = self._buffer.find(self._delimiter)
        end = found if found >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if is_part and end:
            with memoryview(self._buffer) as whole, whole[:end] as part:
                self._sink.write(part)
        del self._buffer[: end + len(self._delimiter) if found >= 0 else end]
        if found < 0:
            return False
        if is_part:
            self._sink.end()
        self._step = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer.startswith(b"--"):
            self._step = self._epilogue
            return True
        end = self._buffer.find(b"\r\n")
        if end < 0 or self._buffer[:end].strip():
            if end >= 0 or len(self._buffer) > _PADDING:
                raise PartsError("a delimiter of its parts is damaged")
            return False
        del self._buffer[:end]  # the head's first line begins behind this line's end, or there is none
        self._step = self._head
        return True

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_HEAD:
                raise PartsError("the head of a part is too long")
            return False
        del self._buffer[: end + 4]
        self._sink.begin()
        self._step = self._body
        return True

    def _epilogue(self) -> bool:
        self._buffer.clear()
        return False
