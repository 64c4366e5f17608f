"""Answers with files: what is written can be read by string search and by ours, what is read may be anything."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delineate.errors import AnswerError
from delineate.protocols.messages import BLOCK, Body, FileBody, Part, multipart
from delineate.protocols.monai_label_answers import (
    base_name,
    filename_of,
    header_parameters,
    infer_answer,
    read_infer_answer,
    read_parts,
    suffix_of,
)

EDGE = "b1"
KIND = f"multipart/form-data; boundary={EDGE}"


def whole(*parts: tuple[str, bytes], end: bytes = b"\r\n", closing: bytes = b"--") -> io.BytesIO:
    pieces = [b"--b1" + end + head.replace("\n", end.decode()).encode() + end + end + content + end for head, content in parts]
    return io.BytesIO(b"".join(pieces) + b"--b1" + closing + end)


PARAMS = ('Content-Disposition: form-data; name="params"\nContent-Type: application/json', b'{"a": 1}')
IMAGE = ('Content-Disposition: form-data; name="image"; filename="x.nii.gz"\nContent-Type: application/octet-stream', b"\x00\r\n--b\xff")


def content(file: io.BytesIO, part: object) -> bytes:
    offset, length = part.offset, part.length  # type: ignore[attr-defined]
    return file.getvalue()[offset : offset + length]


def test_written_answers_keep_the_small_print_of_old_clients() -> None:
    kind, body = infer_answer({"label_names": {"bone": 1}}, Body(b"MASK"), 'a"b.nii.gz')
    boundary = kind.partition("boundary=")[2]
    assert kind == f"multipart/form-data; boundary={boundary}" and '"' not in boundary
    text = b"".join(body).decode()
    first, second = (part.split("\r\n\r\n")[0].split("\r\n") for part in text.split(f"--{boundary}\r\n")[1:])
    assert first == ['Content-Disposition: form-data; name="params"', "Content-Type: application/json"]
    assert second == [
        'Content-Disposition: form-data; name="image"; filename="a%22b.nii.gz"',
        "Content-Type: application/octet-stream",
    ]
    assert body.length == len(text) and text.endswith(f"\r\nMASK\r\n--{boundary}--\r\n")


def test_what_is_written_is_read_again() -> None:
    kind, body = infer_answer({"a": [1, None]}, Body(b"\r\n\r\n"), "m.nrrd")
    file = io.BytesIO(b"".join(body))
    answer = read_infer_answer(file, kind)
    assert answer.params == {"a": [1, None]}
    assert answer.image is not None and answer.image.filename == "m.nrrd"
    assert content(file, answer.image) == b"\r\n\r\n"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("kind", [KIND, 'Multipart/Form-Data;Boundary="b1";x=y'])
def test_line_ends_and_quotes_do_not_matter(end: bytes, kind: str) -> None:
    file = whole(PARAMS, IMAGE, end=end)
    answer = read_infer_answer(file, kind)
    assert answer.params == {"a": 1}
    assert content(file, answer.image) == IMAGE[1]


def test_text_around_the_parts_and_other_parts_do_not_matter() -> None:
    file = io.BytesIO(b"preamble\r\n" + whole(("X-Other: 1", b""), IMAGE, PARAMS).getvalue() + b"epilogue\r\n--b1")
    answer = read_infer_answer(file, KIND)
    assert answer.params == {"a": 1}
    assert content(file, answer.image) == IMAGE[1]


def test_empty_parts_are_empty() -> None:
    bare = io.BytesIO(b'--b1\r\nContent-Disposition: form-data; name="a"\r\n\r\n--b1--')
    assert [part.length for part in read_parts(bare, KIND)] == [0]
    assert [part.length for part in read_parts(whole((IMAGE[0], b"")), KIND)] == [0]


@pytest.mark.parametrize("offset", range(-8, 9))
def test_a_boundary_on_the_edge_of_a_block_is_found(offset: int) -> None:
    data = b"a" * (BLOCK + offset)
    file = whole((IMAGE[0], data), PARAMS)
    answer = read_infer_answer(file, KIND)
    assert answer.image is not None and answer.image.length == len(data)
    assert answer.params == {"a": 1}


@pytest.mark.parametrize("cut", [1, 5, 30, 60, 150, 200])
def test_an_answer_that_is_cut_off_is_refused(cut: int) -> None:
    file = whole(PARAMS, IMAGE).getvalue().rstrip(b"-\r\n")
    with pytest.raises(AnswerError):
        read_infer_answer(io.BytesIO(file[: len(file) - cut]), KIND)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "text/html"), (b"", "application/octet-stream"), (b"[", "application/json"), (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"), (b"--b1--", "multipart/form-data"), (b"--b1--", KIND),
        (b"--b1\r\n" + b"x" * 20_000, KIND), (whole(*[PARAMS] * 65).getvalue(), KIND), (whole((PARAMS[0], b"{")).getvalue(), KIND),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(AnswerError):
        read_infer_answer(io.BytesIO(body), kind)


def test_answers_without_parts() -> None:
    assert read_infer_answer(io.BytesIO(b'{"prediction": []}'), "application/json; charset=utf-8").params == {"prediction": []}
    image = read_infer_answer(io.BytesIO(b"NRRD0004"), "application/octet-stream").image
    assert image is not None and (image.offset, image.length, image.filename) == (0, 8, None)


def test_a_large_answer_is_never_whole_in_memory(tmp_path: Path) -> None:
    mask, path = tmp_path / "mask", tmp_path / "answer"
    with mask.open("wb") as file:
        file.truncate(64 << 20)
    kind, body = infer_answer({}, FileBody(str(mask)), "m.nii")
    with path.open("wb") as file:
        file.writelines(body)
    tracemalloc.start()
    with path.open("rb") as read:
        answer = read_infer_answer(read, kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.image is not None and answer.image.length == 64 << 20
    assert peak < 8 << 20


PIECES = st.sampled_from([b"--b1", b"\r\n", b"\n", b"--", b"\r", b"\x00", b"Content-Disposition: form-data; name=a", b"\r\n\r\n", b"x"])


@given(
    st.lists(st.binary() | PIECES, max_size=12).map(b"".join), st.sampled_from([KIND, "application/json", "multipart/x", "", "image/png"])
)
def test_no_answer_raises_anything_else(body: bytes, kind: str) -> None:
    try:
        answer = read_infer_answer(io.BytesIO(body), kind)
    except AnswerError:
        return
    if answer.image is not None:
        assert 0 <= answer.image.offset <= answer.image.offset + answer.image.length <= len(body)


@given(st.lists(st.lists(st.binary() | PIECES, max_size=6).map(b"".join), min_size=1, max_size=5))
def test_any_contents_are_read_as_they_were_written(contents: list[bytes]) -> None:
    kind, body = multipart([Part(str(number), Body(data), f"{number}.bin") for number, data in enumerate(contents)])
    file = io.BytesIO(b"".join(body))
    parts = read_parts(file, kind)
    assert [(part.name, content(file, part)) for part in parts] == [(str(number), data) for number, data in enumerate(contents)]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="ct_small.nii.gz"', "ct_small.nii.gz"), ("attachment; filename=a.nii", "a.nii"),
        ("attachment; filename*=utf-8''B%C3%A4r%20a.nrrd", "Bär a.nrrd"), ("attachment; filename*=iso-8859-1'de'B%E4r", "Bär"),
        ('attachment; FILENAME = "a;b\\"c.nii"', 'a;b"c.nii'), ("attachment", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_file_names_in_headers(disposition: str | None, name: str | None) -> None:
    assert filename_of(disposition) == name


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("pat.1.nii.gz", ".nii.gz"), ("x.NII.GZ", ".nii.gz"), ("a.seg.nrrd", ".seg.nrrd"), ("tmp.json", ".json"), ("s.ome.tif", ".ome.tif"),
        ("../../../etc/passwd", ""), ("/etc/cron.d/evil", ""), ("a.b/../../c", ""), ("x.nii.gz/../../.bashrc", ""), (".bashrc", ""),
        ("C:\\Windows\\system32.dll", ".dll"), ("x.a b", ""), ("x.", ""), ("x.\x00gz", ""), ("", ""), (None, ""), ("a." + "b" * 200, ""),
    ],
)  # fmt: skip
def test_of_a_hostile_name_a_plain_suffix_is_all_that_is_taken(name: str | None, suffix: str) -> None:
    assert suffix_of(name) == suffix


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"\x1f\x8b\x08", ".nii.gz"), (b"NRRD0004", ".nrrd"), (b"\x89PNG", ".png"), (bytes(344) + b"n+1\0", ".nii"),
        (bytes(128) + b"DICM", ".dcm"), (b"hello", ""),
    ],
)  # fmt: skip
def test_without_a_name_the_first_bytes_tell(head: bytes, suffix: str) -> None:
    assert suffix_of(None, head) == suffix


def test_parameters_and_base_names() -> None:
    assert header_parameters('multipart/form-data; a=1; A=2; b="x;y"') == {"a": "1", "b": "x;y"}
    assert [base_name(path) for path in ("/home/p/ct.nii.gz", "C:\\data\\ct.nii.gz", "ct.nii.gz", "/series/")] == ["ct.nii.gz"] * 3 + [
        "series"
    ]
