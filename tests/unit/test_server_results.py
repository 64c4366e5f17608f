from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delineate.protocols.messages import Body, FileBody, JoinedBody
from delineate.server.results import SMALL, BodyResponse, HeldFileBody, OpenFile, part_of


def ask(body: Body, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes, int]:
    """Status, headers, body, and the size of the largest block."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing to receive")

    async def go() -> None:
        with ThreadPoolExecutor(1) as threads:
            answer = BodyResponse(body, tag="abc", media_type="application/zip", filename="result.zip", threads=threads)
            raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
            await answer({"type": "http", "method": method, "headers": raw}, receive, send)

    asyncio.run(go())
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    blocks = [message["body"] for message in sent[1:]]
    return sent[0]["status"], found, b"".join(blocks), max(map(len, blocks))


@pytest.fixture(params=["memory", "file", "joined", "large", "held"])
def body(request: pytest.FixtureRequest, tmp_path: Path) -> Body:
    data = os.urandom(3 * SMALL + 5 if request.param == "large" else 1000)
    path = tmp_path / "f"
    path.write_bytes(b"xx" + data + b"yy")
    if request.param == "memory":
        return Body(data)
    if request.param == "joined":
        return JoinedBody([Body(data[:10]), FileBody(str(path), 12, 500), JoinedBody([Body(data[510:900]), Body(b"")]), Body(data[900:])])
    if request.param == "held":
        return HeldFileBody(OpenFile(os.open(path, os.O_RDONLY)), 2, len(data))
    return FileBody(str(path), 2, len(data))


def test_a_file_that_is_held_is_the_one_that_was_opened(tmp_path: Path) -> None:
    path, data = tmp_path / "f", os.urandom(3 * SMALL)
    path.write_bytes(data)
    held = HeldFileBody(OpenFile(os.open(path, os.O_RDONLY)), 0, len(data))
    (tmp_path / "other").write_bytes(bytes(5))
    (tmp_path / "other").replace(path)
    assert ask(held)[2] == data
    path.unlink()
    descriptor = held.file.descriptor
    assert b"".join(part_of(held, 10, 20)) == data[10:20]
    del held
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_the_whole(body: Body) -> None:
    status, headers, data, _ = ask(body)
    assert (status, data) == (200, b"".join(body))
    assert headers["content-length"] == str(body.length)
    assert headers["etag"] == '"abc"'
    assert headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("text", "start", "end"), [("bytes=0-0", 0, 1), ("bytes=5-20", 5, 21), ("bytes=900-", 900, None), ("bytes=-7", -7, None)]
)
def test_ranges(body: Body, text: str, start: int, end: int | None) -> None:
    whole = b"".join(body)
    status, headers, data, _ = ask(body, range=text)
    assert (status, data) == (206, whole[start:end])
    first = start % len(whole)
    assert headers["content-range"] == f"bytes {first}-{first + len(data) - 1}/{len(whole)}"
    assert headers["content-length"] == str(len(data))


@pytest.mark.parametrize("text", ["bytes=99999999-", "bytes=-0"])
def test_ranges_that_cannot_be_satisfied(body: Body, text: str) -> None:
    status, headers, data, _ = ask(body, range=text)
    assert (status, data) == (416, b"")
    assert headers["content-range"] == f"bytes */{body.length}"


@pytest.mark.parametrize("text", ["bytes=", "bytes=-", "bytes=9-2", "items=0-1", "bytes=0-1,3-4", "bytes=a-b", "bytes=" + "9" * 30 + "-"])
def test_what_is_no_single_range_gets_the_whole(body: Body, text: str) -> None:
    status, _, data, _ = ask(body, range=text)
    assert (status, len(data)) == (200, body.length)


def test_if_range(body: Body) -> None:
    assert ask(body, range="bytes=0-3", if_range='"abc"')[0] == 206
    for other in ('"abd"', 'W/"abc"', "Sat, 21 Nov 2026 06:00:00 GMT"):
        assert ask(body, range="bytes=0-3", if_range=other)[0] == 200


def test_if_none_match(body: Body) -> None:
    status, headers, data, _ = ask(body, if_none_match='"x", "abc"')
    assert (status, data, headers) == (304, b"", {"etag": '"abc"'})


def test_head_has_the_headers_alone(body: Body) -> None:
    status, headers, data, _ = ask(body, "HEAD")
    assert (status, data) == (200, b"")
    assert headers["content-length"] == str(body.length)


def test_many_crumbs_are_sent_in_blocks() -> None:
    crumbs = JoinedBody([Body(bytes([i % 256]) * 700) for i in range(2000)])
    _, _, data, largest = ask(crumbs)
    assert data == b"".join(crumbs)
    assert SMALL <= largest < SMALL + 1000


def test_a_file_that_became_shorter_breaks_the_answer_off(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(2 * SMALL))
    body = FileBody(str(path))
    path.write_bytes(bytes(SMALL))
    with pytest.raises(OSError, match="shorter"):
        ask(body)


@given(st.lists(st.binary(max_size=8), max_size=6), st.integers(0, 50), st.integers(0, 50))
def test_part_of_joined_bodies_is_a_slice(parts: list[bytes], start: int, length: int) -> None:
    body = JoinedBody([Body(part) for part in parts])
    end = min(start + length, body.length)
    start = min(start, end)
    found = part_of(body, start, end)
    assert b"".join(found) == b"".join(parts)[start:end]
    assert found.length == end - start
