"""Messages: bodies of known length, multipart, JSON, where a body begins."""

from __future__ import annotations

import email.parser
import email.policy
import io
from pathlib import Path

import pytest

from delineate.errors import AnswerError, ConnectionFailedError, UnavailableError
from delineate.protocols.messages import (
    Backoff,
    Body,
    Deadline,
    Exchange,
    FileBody,
    Flow,
    JoinedBody,
    Part,
    Progress,
    Request,
    Response,
    Step,
    Wait,
    begin_body,
    drive,
    multipart,
)


def test_file_body_reads_its_range_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    body = FileBody(str(path), 10, 20)
    assert body.length == 20
    assert b"".join(body) == b"".join(body) == bytes(range(10, 30))
    assert b"".join(FileBody(str(path), 90)) == bytes(range(90, 100))


def test_file_body_that_became_shorter_says_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    body = FileBody(str(path))
    path.write_bytes(b"x" * 5)
    with pytest.raises(OSError, match="shorter"):
        list(body)


def test_joined_body_skips_nothing() -> None:
    body = JoinedBody([Body(b"ab"), Body(), Body(b"c")])
    assert (b"".join(body), body.length) == (b"abc", 3)


def test_multipart_is_read_by_an_independent_parser(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"\r\n--not a boundary\r\n\x00\xff")
    kind, body = multipart([Part("prompts", Body(b'{"a": 1}')), Part("zip_file", FileBody(str(path)), 'na"me\r\n.zip', "application/zip")])
    data = b"".join(body)
    assert len(data) == body.length
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + data)
    first, second = message.iter_parts()
    assert first.get_payload(decode=True) == b'{"a": 1}'
    assert first.get_filename() is None
    assert second.get_payload(decode=True) == path.read_bytes()
    assert second.get_content_type() == "application/zip"
    assert second.get_filename() == "na%22me%0D%0A.zip"


def test_content_type_is_the_last_header_of_a_part_and_the_boundary_is_unquoted() -> None:
    kind, body = multipart([Part("f", Body(b"x"), "n", "application/zip")])
    assert '"' not in kind
    assert b"\r\nContent-Type: application/zip\r\n\r\nx\r\n" in b"".join(body)


@pytest.mark.parametrize("content", [b"<html>", b"", b"\xff\xfe", b"{", b"[" * 100_000], ids=len)
def test_what_is_not_json_is_an_answer_error(content: bytes) -> None:
    with pytest.raises(AnswerError, match="not JSON"):
        Response(200, {"content-type": "text/html; charset=x"}, content).json()


@pytest.mark.parametrize("kind", ["a/b\r\n all is well", "a/\x1b[31m", "text/\u2028x", "x" * 60_000])
def test_a_media_type_that_is_none_is_not_shown(kind: str) -> None:
    assert Response(200, {"content-type": kind}).media_type == "?"


@pytest.mark.parametrize(("text", "seconds"), [("3", 3.0), ("9" * 5000, 60.0), ("\xb2", 0.0), ("-1", 0.0), ("nan", 0.0), ("1e9", 0.0)])
def test_what_a_server_says_of_trying_again(text: str, seconds: float) -> None:
    exchange = Exchange(lambda: 0.0, lambda answer, what: UnavailableError(what), Backoff(first=0.0))
    flow = exchange.send(Request("GET", "/"), Deadline(None, lambda: 0.0), "it")
    next(flow)
    assert flow.send(Response(503, {"retry-after": text})) == Wait(seconds)


def test_media_type_loses_its_parameters() -> None:
    assert Response(200, {"content-type": "Text/HTML; charset=x"}).media_type == "text/html"
    assert Response(200, {}).media_type == ""


@pytest.mark.parametrize(("status", "kept"), [(200, b""), (206, b"01234")])
def test_a_part_begins_where_it_says_and_all_else_at_the_begin(status: int, kept: bytes) -> None:
    sink = io.BytesIO(b"0123456789")
    begin_body(sink, status, {"content-range": "bytes 5-9/10"})
    assert (sink.tell(), sink.getvalue()) == (len(kept), kept)


@pytest.mark.parametrize(
    ("place", "words"),
    [({}, "which"), ({"content-range": "bytes " + "9" * 5000 + "-"}, "which"), ({"content-range": "bytes 11-12/13"}, "behind its end")],
)
def test_a_part_that_begins_nowhere(place: dict[str, str], words: str) -> None:
    sink = io.BytesIO(b"0123456789")
    with pytest.raises(AnswerError, match=words):
        begin_body(sink, 206, place)
    assert sink.getvalue() == b"0123456789"


def test_queries_are_quoted() -> None:
    assert Request("GET", "/p", (("a b", "ü/&=?"), ("c", "1"))).target == "/p?a%20b=%C3%BC%2F%26%3D%3F&c=1"
    assert Request("GET", "/p").target == "/p"


# ------------------------------------------------------------ driving


def test_errors_are_thrown_into_the_flow_at_their_step() -> None:
    seen: list[object] = []

    def flow() -> Flow[str]:
        yield Progress(None, "begins")
        try:
            yield Request("GET", "/one")
        except ConnectionFailedError as error:
            seen.append(error.message)
        answer = yield Request("GET", "/two")
        assert answer is not None
        return answer.content.decode()

    def perform(step: Step) -> Response | None:
        seen.append(step)
        if step == Request("GET", "/one"):
            raise ConnectionFailedError("gone")
        return Response(200, {}, b"two") if isinstance(step, Request) else None

    assert drive(flow(), perform) == "two"
    assert seen == [Progress(None, "begins"), Request("GET", "/one"), "gone", Request("GET", "/two")]


def test_an_interruption_closes_the_flow() -> None:
    ended = []

    def flow() -> Flow[None]:
        try:
            yield Wait(1.0)
        finally:
            ended.append(True)

    def perform(step: Step) -> Response | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(flow(), perform)
    assert ended == [True]
