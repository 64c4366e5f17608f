"""Files of a MONAI Label client: what is sent, and where answers go."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Union

from delineate.errors import AnswerError, InputError
from delineate.protocols.messages import BLOCK
from delineate.protocols.monai_label_answers import LARGEST_JSON, AnswerPart, filename_of, read_infer_answer, read_json, suffix_of
from delineate.protocols.monai_label_flows import Received

LocalPath = Union[str, "PathLike[str]"]
LocalPaths = Union[LocalPath, Sequence[LocalPath]]  # noqa: UP007 - evaluated, on Python 3.9

_HEAD = 512  # bytes by which a file without a name is known


def file_to_send(path: LocalPath) -> str:
    """The path of a file that is there; `InputError` else, before anything is sent."""
    given = Path(path)
    if not given.is_file():
        raise InputError(f"{given.name} is not a file" if given.exists() else f"there is no file {given.name}", "Give the path of a file.")
    return str(given)


def files_to_send(paths: LocalPaths) -> list[str]:
    """One file, several, or the files of a folder in the order of their names; hidden ones are left out."""
    if not isinstance(paths, (str, PathLike)):
        return [file_to_send(path) for path in paths]
    given = Path(paths)
    if not given.is_dir():
        return [file_to_send(given)]
    found = sorted(str(entry) for entry in given.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if not found:
        raise InputError(f"the folder {given.name} holds no files", "Give a folder with the files of a series.")
    return found


class Arrival:
    """A file in `folder` that takes an answer, readable by this user alone; at the end of ``with`` it is gone unless it was kept.

    Its name is made here: what the server calls it decides about the suffix, never about the place.
    """

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix="delineate-", suffix=".part", dir=folder)
        self._path = Path(path)
        self.file: BinaryIO = os.fdopen(handle, "w+b")

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        self._path.unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes in it."""
        return self.file.seek(0, os.SEEK_END)

    def head(self, offset: int) -> bytes:
        """The first bytes from `offset` on."""
        self.file.seek(offset)
        return self.file.read(_HEAD)

    def cut(self, part: AnswerPart) -> None:
        """Leave only this part of what arrived: it moves to the front, block by block, and no second file is written."""
        for done in range(0, part.length if part.offset else 0, BLOCK):
            self.file.seek(part.offset + done)
            block = self.file.read(min(BLOCK, part.length - done))
            self.file.seek(done)
            self.file.write(block)
        self.file.truncate(part.length)

    def keep(self, suffix: str) -> str:
        """Give it its name; the path."""
        self.file.close()
        target = self._path.with_name(f"delineate-{secrets.token_hex(8)}{suffix}")
        self._path.replace(target)
        return str(target)


def keep_file(arrival: Arrival, received: Received) -> str:
    """Keep an image or a label that arrived; the path. `AnswerError` where it is empty or a page for people."""
    if "html" in received.content_type.lower():
        raise AnswerError("the server sent a page for people instead of a file")
    if not arrival.size():
        raise AnswerError("the server sent an empty file", "Check the file at the server.")
    return arrival.keep(suffix_of(filename_of(received.disposition), arrival.head(0)))


def keep_result(arrival: Arrival, received: Received) -> tuple[str | None, Any]:
    """Keep the result of an infer: its path, None where the answer has no file, and its JSON."""
    answer = read_infer_answer(arrival.file, received.content_type)
    part = answer.image
    if part is None:
        return None, answer.params
    suffix = suffix_of(part.filename or filename_of(received.disposition), arrival.head(part.offset))
    arrival.cut(part)
    return arrival.keep(suffix), answer.params


def slide_answer(arrival: Arrival, received: Received) -> Any:
    """The answer to an infer on a slide: JSON as an object, XML as the bytes that came."""
    size, kind = arrival.size(), received.content_type.split(";")[0].strip().lower()
    if "html" in kind:
        raise AnswerError("the server answered an infer with a page for people")
    if not size:
        raise AnswerError("the server answered an infer with nothing")
    if kind == "application/json":
        return read_json(arrival.file, 0, size)
    if size > LARGEST_JSON:
        raise AnswerError(f"the server answered with more than {LARGEST_JSON >> 20} MB")
    arrival.file.seek(0)
    return arrival.file.read()
