"""Multipart bodies, as they come: plain fields are kept, the bytes of files go to whoever takes them.

The headers and the small parts are for the parser; what lies inside a file is only searched for the delimiter, with
the search of the interpreter, which is several times faster than a parser that looks for everything.
"""

from __future__ import annotations

from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from delineate.errors import ArchiveLimitError, InputError


class Files(Protocol):
    """What becomes of the files of a form."""

    def begin(self, field: str, filename: str | None) -> bool:
        """A part comes, under a file name or without: whether it is a file to be taken, or a plain field.

        May raise `InputError` for one that is not wanted.
        """

    def add(self, data: memoryview) -> None:
        """More of the file that began last; the memory stays as it is."""

    def end(self) -> None:
        """That file is whole."""


class Multipart:
    """One body of the type multipart/form-data.

    Parameters
    ----------
    boundary : of the content type; not empty.
    field_bytes : limit for all plain fields together.
    parts : limit for the parts: even an empty one costs time, and its name memory.
    """

    def __init__(self, boundary: bytes, files: Files, *, field_bytes: int, parts: int) -> None:
        if not boundary:
            raise InputError("the multipart body has no boundary", "Let the HTTP library set the content type.")
        self.fields: dict[str, str] = {}
        self.ended = False
        self._files = files
        self._field_bytes = field_bytes
        self._max_parts = parts
        self._parts = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._in_file = False
        self._is_searched = False  # in a file, and the parser waits for nothing
        self._plain = bytearray()
        self._plain_total = 0
        self._delimiter = b"\r\n--" + boundary
        self._held = b""  # may be the beginning of a delimiter; the parser has seen nothing of it
        self._parser = self._make_parser(boundary)

    def write(self, data: bytes) -> None:
        """The next bytes of the body.

        Raises
        ------
        ArchiveLimitError, InputError
            Over a limit; broken; or what `Files.begin` raises.
        """
        if self._held and len(data) < len(self._delimiter):
            data, self._held = self._held + data, b""
        if not self._is_searched or self._delimiter in data or self._delimiter in self._held + data[: len(self._delimiter)]:
            self._parse(data)
            return
        if self._held:
            self._files.add(memoryview(self._held))
        safe = self._before_partial(data)
        self._files.add(memoryview(data)[:safe])
        self._held = data[safe:]

    def finish(self) -> None:
        """The body is over. Raises `InputError` if it was cut off."""
        if not self.ended:
            raise InputError("the upload was cut off: the last boundary of the form is missing", "Send it again.")

    def _parse(self, data: bytes) -> None:
        data, self._held = self._held + data if self._held else data, b""
        safe = self._before_partial(data)
        try:
            self._parser.write(data[:safe])
            # From here on the file goes past the parser, if that cannot be within a delimiter or just behind one.
            behind = data[max(0, safe - len(self._delimiter) - 2) : safe]
            self._is_searched = self._in_file and len(behind) == len(self._delimiter) + 2 and b"\r" not in behind
            if self._is_searched:
                self._held = data[safe:]
            else:
                self._parser.write(data[safe:])
        except FormParserError as error:
            raise InputError(f"the multipart body is broken: {error}", "Encode it after RFC 7578.") from None

    def _before_partial(self, data: bytes) -> int:
        """Where a delimiter begins of which the rest may come; the length if none does. A boundary holds no CR."""
        start = data.rfind(b"\r", max(0, len(data) - len(self._delimiter) + 1))
        return start if start >= 0 and self._delimiter.startswith(data[start:]) else len(data)

    def _make_parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise ArchiveLimitError(f"the form has more than {self._max_parts} parts")
        self._disposition = b""

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options[b"filename"].decode("utf-8", "replace") if b"filename" in options else None
        self._plain.clear()
        self._in_file = self._files.begin(self._name, filename)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._files.add(memoryview(data)[start:end])
            return
        self._plain_total += end - start
        if self._plain_total > self._field_bytes:
            raise ArchiveLimitError(f"the fields of the form exceed {self._field_bytes / 2**20:g} MiB")
        self._plain += data[start:end]

    def _part_end(self) -> None:
        if self._in_file:
            self._in_file = False
            self._files.end()
        else:
            self.fields[self._name] = self._plain.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
