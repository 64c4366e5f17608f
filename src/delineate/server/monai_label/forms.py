"""Forms with files, straight to where the files belong: several files, fields before and behind them, one pass.

The event loop receives and parses; what is to be done with the files is done in a thread, some megabytes at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from delineate.errors import ArchiveLimitError, InputError
from delineate.server.finishing import ended, to_the_end
from delineate.server.multipart import Multipart
from delineate.server.upload import BUFFER

FIELD_BYTES: Final = 4 << 20
"""Limit for all plain fields of a form together, and for a JSON body."""

PARTS: Final = 20_000
"""Limit for the parts of a form: a series is sent as one file for each slice."""

DEEPEST: Final = 64
"""Levels of a JSON body: what is only just read could be too deep to be written again, further down the stack."""

_FORM: Final = b"multipart/form-data"
_ENCODED: Final = b"application/x-www-form-urlencoded"
_JSON: Final = frozenset({b"application/json", b"text/plain", b""})
"""Some clients say nothing of the JSON they send, or that it is text."""

_UNNAMED: Final = "file.nii.gz"
"""What a file is taken for whose name is empty."""

Result = TypeVar("Result")


class Taker(Protocol):
    """Takes the files of a form, one after the other; called in threads, never by two at once."""

    def begin(self, field: str, filename: str) -> None:
        """A file comes. May raise `InputError` for a field or name that is not wanted."""

    def write(self, data: memoryview) -> None:
        """More of the file that began last."""

    def end(self) -> None:
        """That file is whole."""

    def discard(self) -> None:
        """Whatever was not put to use is to be removed; called in the end, always."""


class _Steps:
    """What is to be done with the files of a form, in the order in which they come."""

    def __init__(self, taker: Taker) -> None:
        self.waiting = 0  # bytes in the steps
        self.filenames: dict[str, str] = {}
        self._taker = taker
        self._steps: list[Callable[[], None]] = []
        self._unnamed: str | None = None  # the field of a file whose name is empty, while nothing of it came

    def take(self) -> list[Callable[[], None]]:
        steps, self._steps, self.waiting = self._steps, [], 0
        return steps

    def begin(self, field: str, filename: str | None) -> bool:
        if filename is None:
            return False
        self._unnamed = None if filename else field
        if filename:
            self._begin(field, filename)
        return True

    def _begin(self, field: str, filename: str) -> None:
        self.filenames[field] = filename
        self._steps.append(partial(self._taker.begin, field, filename))

    def add(self, data: memoryview) -> None:
        if not data:
            return
        if self._unnamed is not None:  # a browser sends one that was not chosen under an empty name, too, but nothing of it
            self._begin(self._unnamed, _UNNAMED)
            self._unnamed = None
        self._steps.append(partial(self._taker.write, data))
        self.waiting += len(data)

    def end(self) -> None:
        if self._unnamed is None:
            self._steps.append(self._taker.end)


class Form:
    """One request's form; leaving the context removes what its taker did not put to use.

    limit : bytes of the whole body. fields : the plain fields, once it was read.
    """

    def __init__(self, taker: Taker, threads: Executor, limit: int) -> None:
        self.fields: dict[str, str] = {}
        self._taker = taker
        self._threads = threads
        self._limit = limit
        self._steps = _Steps(taker)
        self._working: asyncio.Future[None] | None = None
        self._is_clean = False

    @property
    def filenames(self) -> Mapping[str, str]:
        """Of the files by their fields, as they were sent, once it was read."""
        return self._steps.filenames

    async def __aenter__(self) -> Form:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await ended(self._working)
        if not self._is_clean:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, self._taker.discard))

    async def read(self, request: Request) -> None:
        """Receive the whole body: a multipart form, an encoded one, or JSON, which counts as the field ``params``.

        Raises
        ------
        ArchiveLimitError
            More bytes than allowed, whether announced or not.
        InputError
            Another kind of body, a broken one, or a file that the taker does not want.
        ClientDisconnect
            The sender went away.
        """
        if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
            raise InputError("the request has a content encoding", "Send it as it is.")
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind == _FORM:
            await self._read_parts(request, options.get(b"boundary", b""))
        elif kind == _ENCODED:
            self.fields = dict(parse_qsl((await small_body(request)).decode("utf-8", "replace"), keep_blank_values=True))
        elif kind in _JSON:
            self.fields = {"params": (await small_body(request)).decode("utf-8", "replace")}
        elif await small_body(request):
            raise InputError("the request's body is no form", "Send multipart/form-data.")

    async def _read_parts(self, request: Request, boundary: bytes) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise self._too_large()
        form, received = Multipart(boundary, self._steps, field_bytes=FIELD_BYTES, parts=PARTS), 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > self._limit:
                raise self._too_large()
            form.write(chunk)
            if self._steps.waiting >= BUFFER:
                await self._hand_over()
        if received:
            form.finish()
        self.fields = form.fields

    async def _hand_over(self) -> None:
        """Give what waits to the thread once it is done with what it had: a slow disk slows the sender down."""
        if self._working is not None:
            await self._working
        self._working = asyncio.get_running_loop().run_in_executor(self._threads, _run, self._steps.take())

    async def finish(self, then: Callable[[], Result]) -> Result:
        """Do what is left, call `then`, and remove what it did not put to use, in one change of thread."""
        if self._working is not None:
            await self._working
        steps = self._steps.take()

        def complete() -> Result:
            try:
                _run(steps)
                return then()
            finally:
                self._taker.discard()
                self._is_clean = True

        return await to_the_end(self._threads, complete)

    def _too_large(self) -> ArchiveLimitError:
        return ArchiveLimitError(f"the upload is over the limit of {self._limit / 2**20:g} MiB (max_upload_mb)")


def _run(steps: list[Callable[[], None]]) -> None:
    for step in steps:
        step()


async def small_body(request: Request) -> bytes:
    """A body of at most `FIELD_BYTES`. Raises `ArchiveLimitError` or `ClientDisconnect`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FIELD_BYTES:
            raise ArchiveLimitError(f"the request's body exceeds {FIELD_BYTES >> 20} MiB")
    return bytes(body)


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object that a client sent; empty for nothing, and for null. Raises `InputError`."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
        # 1e999 becomes infinity, and half a surrogate pair no text: both would be taken, and could never be answered again.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InputError(f"{what} is not JSON", 'Send an object such as {"threshold": 300}.') from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{what} is JSON, but no object", 'Send an object such as {"threshold": 300}.')
    if _is_deeper(value, DEEPEST):
        raise InputError(f"{what} is nested deeper than {DEEPEST} levels", 'Send an object such as {"threshold": 300}.')
    return value


def with_flags(params: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Parameters of which some are true or false, which clients also write as text."""
    words = {"true": True, "false": False}
    return {
        name: words.get(value.strip().lower(), value) if name in names and isinstance(value, str) else value
        for name, value in params.items()
    }


def _is_deeper(value: Any, levels: int) -> bool:
    inner = [value]
    for _ in range(levels):
        inner = [
            one for outer in inner for one in (outer.values() if isinstance(outer, dict) else outer) if isinstance(one, (dict, list))
        ]  # fmt: skip
        if not inner:
            return False
    return True


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are not JSON
