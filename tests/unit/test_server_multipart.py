"""Forms cut at every place give what the parser alone gives: nothing of a file is lost, doubled or taken from a field."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from delineate.errors import ArchiveLimitError, InputError
from delineate.server.multipart import Multipart

BOUNDARY = b"--x-y"
DELIMITER = b"\r\n--" + BOUNDARY


class Kept:
    def __init__(self) -> None:
        self.files: list[tuple[str, str | None, bytes]] = []
        self.open = False

    def begin(self, field: str, filename: str | None) -> bool:
        assert not self.open
        self.open = filename is not None
        if self.open:
            self.files.append((field, filename, b""))
        return self.open

    def add(self, data: memoryview) -> None:
        assert self.open
        field, filename, before = self.files[-1]
        self.files[-1] = field, filename, before + bytes(data)

    def end(self) -> None:
        assert self.open
        self.open = False


def body(parts: list[tuple[str, str | None, bytes]]) -> bytes:
    out = b""
    for name, filename, content in parts:
        kind = f'; filename="{filename}"' if filename is not None else ""
        out += DELIMITER[2:] + f'\r\nContent-Disposition: form-data; name="{name}"{kind}\r\n\r\n'.encode() + content + b"\r\n"
    return out + DELIMITER[2:] + b"--\r\n"


def read(pieces: list[bytes]) -> tuple[Kept, dict[str, str]]:
    kept = Kept()
    form = Multipart(BOUNDARY, kept, field_bytes=1000, parts=20)
    for piece in pieces:
        form.write(piece)
    form.finish()
    assert not kept.open
    return kept, form.fields


NEARLY = [DELIMITER[:n] for n in range(len(DELIMITER))]
"""Beginnings of the delimiter, whole but for its last byte at most."""

PARTS = [
    ("before", None, b"1\r\n2"),
    ("a", "a.zip", b"".join(NEARLY) + b"\r\r\n\n" + b"".join(reversed(NEARLY))),
    ("between", None, b""),
    ("b", "b.zip", b""),
    ("c", "c.zip", b"\r\n--" + b"z" * 300 + b"\r"),
    ("behind", None, b"x" * 100),
]


def expected(parts: list[tuple[str, str | None, bytes]]) -> tuple[list[tuple[str, str | None, bytes]], dict[str, str]]:
    return [part for part in parts if part[1] is not None], {name: value.decode() for name, file, value in parts if file is None}


def assert_read(parts: list[tuple[str, str | None, bytes]], pieces: list[bytes]) -> None:
    kept, fields = read(pieces)
    assert (kept.files, fields) == expected(parts)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9, 10, 17, 64, 100_000])
def test_pieces_of_one_size(size: int) -> None:
    whole = body(PARTS)
    assert_read(PARTS, [whole[i : i + size] for i in range(0, len(whole), size)])


def test_cut_at_every_place_in_two() -> None:
    whole = body(PARTS)
    for cut in range(len(whole) + 1):
        assert_read(PARTS, [whole[:cut], whole[cut:]])


@pytest.mark.parametrize("seed", range(300))
def test_bytes_that_look_like_delimiters_in_pieces_of_any_size(seed: int) -> None:
    draw = random.Random(seed)
    parts: list[tuple[str, str | None, bytes]] = []
    for number in range(draw.randrange(1, 5)):
        content = b"".join(draw.choice([*NEARLY, b"\r", b"\n", b"-", b"plain text"]) for _ in range(draw.randrange(120)))
        while DELIMITER in content:
            content = content.replace(DELIMITER, b"")
        parts.append((f"p{number}", draw.choice([None, "f"]) if len(content) < 200 else "f", content))
    whole = body(parts)
    places = [0, *sorted(draw.randrange(len(whole)) for _ in range(draw.randrange(12))), len(whole)]
    assert_read(parts, [whole[a:b] for a, b in pairwise(places)])


def test_a_form_without_its_end_is_cut_off() -> None:
    whole = body(PARTS)
    for end in (len(whole) // 3, whole.rindex(b"x"), len(whole) - len(b"--\r\n") - 3):
        with pytest.raises(InputError, match="cut off"):
            read([whole[:end]])


def test_too_many_fields_and_parts_and_endless_headers() -> None:
    with pytest.raises(ArchiveLimitError, match="fields"):
        read([body([("f", None, b"x" * 1001)])])
    with pytest.raises(ArchiveLimitError, match="20 parts"):
        read([body([("f", None, b"")] * 21)])
    with pytest.raises(InputError, match="header size"):
        read([DELIMITER[2:] + b"\r\nX: " + b"x" * 5000])


def test_what_is_no_form_is_broken() -> None:
    with pytest.raises(InputError, match="broken"):
        read([b"x" * 100])
    with pytest.raises(InputError, match="boundary"):
        Multipart(b"", Kept(), field_bytes=1, parts=1)
