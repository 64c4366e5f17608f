"""What a flow yields and receives. No I/O happens here; drivers do it.

A *flow* is a generator. It yields a `Request` and is sent the `Response`; it yields `Wait` to let
time pass; it yields `Progress` to tell a person how far it is. Transport errors are thrown into
it at the yield, mapped to the tree in `delineate.errors`. Its return value is the conversation's
result. Drivers: `delineate.client` (httpx, both kinds), the workstation extension
(``http.client``), tests (none).

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from typing import Any, BinaryIO, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from delineate.errors import AnswerError

BLOCK = 1 << 20  # bytes a body yields at once: large enough that the per-block cost vanishes


class Body:
    """Bytes of known length that can be iterated again for a retry. Base: bytes in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self.length = len(data)

    def __iter__(self) -> Iterator[bytes]:
        if self._data:
            yield self._data


class FileBody(Body):
    """A file, or `length` bytes of it from `offset` on, read in blocks."""

    def __init__(self, path: str, offset: int = 0, length: Optional[int] = None) -> None:
        super().__init__()
        self.path = str(path)
        self.offset = offset
        self.length = os.path.getsize(self.path) - offset if length is None else length

    def __iter__(self) -> Iterator[bytes]:
        left = self.length
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise OSError("%s became shorter while it was read" % self.path)
                left -= len(block)
                yield block


class JoinedBody(Body):
    """Several bodies, one after the other."""

    def __init__(self, parts: Iterable[Body]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.length = sum(part.length for part in self.parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            for block in part:
                yield block


class Part(NamedTuple):
    """One part of a multipart/form-data body. `filename` None makes it a plain field."""

    name: str
    body: Body
    filename: Optional[str] = None
    content_type: Optional[str] = None


def multipart(parts: Sequence[Part]) -> Tuple[str, Body]:
    """Encode parts as multipart/form-data (RFC 7578): (content type, body), streamed, of known length.

    ``Content-Type`` is the last header of each part and the boundary is unquoted: some clients parse by string search.
    """
    boundary = "delineate-" + secrets.token_hex(16)
    pieces: List[Body] = []
    for part in parts:
        head = '--%s\r\nContent-Disposition: form-data; name="%s"' % (boundary, _quoted(part.name))
        if part.filename is not None:
            head += '; filename="%s"' % _quoted(part.filename)
        if part.content_type:
            head += "\r\nContent-Type: " + part.content_type
        pieces += [Body((head + "\r\n\r\n").encode("utf-8")), part.body, Body(b"\r\n")]
    pieces.append(Body(("--%s--\r\n" % boundary).encode("ascii")))
    return "multipart/form-data; boundary=" + boundary, JoinedBody(pieces)


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


class Request(NamedTuple):
    """One HTTP request of a flow.

    path : joined to the server's URL, its prefix kept; `query` values are quoted by the driver.
    sink : an open, seekable binary file that receives the body of a 2xx answer, so that it is never whole in memory;
        the driver writes it from `body_start` on and cuts off what stood there before.
    timeout : seconds until the driver gives up on this one call, measured over all of it.
    peek : the body of a 2xx answer is not wanted; the driver may close the connection instead of reading it.
    """

    method: str
    path: str
    query: Tuple[Tuple[str, str], ...] = ()
    headers: Tuple[Tuple[str, str], ...] = ()
    body: Optional[Body] = None
    sink: Optional[BinaryIO] = None
    timeout: Optional[float] = None
    peek: bool = False


class Response(NamedTuple):
    """The answer: `headers` with lower-case names; `content` is empty where a sink took it."""

    status: int
    headers: Dict[str, str]
    content: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """Content type without parameters, lower case."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON; `AnswerError` where it is not."""
        try:
            return json.loads(self.content.decode("utf-8"))
        except (ValueError, RecursionError):  # a hostile answer nests without end
            raise AnswerError(
                "the server answered %d with something that is not JSON (%s)" % (self.status, self.media_type or "no content type"),
                status=self.status,
            ) from None


def body_start(status: int, headers: Dict[str, str]) -> int:
    """Where in a sink the body of an answer begins: 0, or the first byte of a 206 (RFC 9110, 14.4)."""
    if status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", headers.get("content-range", ""))
    if match is None:
        raise AnswerError("the server answered with a part of the result and does not say which", status=status)
    return int(match.group(1))


class Wait(NamedTuple):
    """Let this many seconds pass."""

    seconds: float


class Progress(NamedTuple):
    """How far it is: `fraction` 0 to 1 or None where unknown, and a phrase."""

    fraction: Optional[float]
    message: str


Result = TypeVar("Result")
Step = Union[Request, Wait, Progress]
Flow = Generator[Step, Optional[Response], Result]
