"""What becomes of answers on their way through to a viewer, whatever blocks they come in."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable

import pytest

from delineate.errors import InputError
from delineate.server.monai_label.proxy_answers import first_part, readdressed
from delineate.server.monai_label.wado_uri import retrieval_of

OURS = "https://ours.example/x/proxy/dicom/wado"
UIDS = {"studyUID": "1.2", "seriesUID": "1.2.3", "objectUID": "1.2.3.4"}


def through(change: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]], data: bytes, size: int) -> bytes:
    async def blocks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    async def all_of_it() -> bytes:
        return b"".join([block async for block in change(blocks())])

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("size", [*range(1, 40), 4096])
def test_addresses_are_ours_and_all_else_is_as_it_was(size: int) -> None:
    theirs = "http://127.0.0.1:8042/dicom-web"
    given = [
        {"00081190": {"vr": "UR", "Value": [f"{theirs}/studies/1.2/series/1.2.3"]}},
        {"7FE00010": {"vr": "OW", "BulkDataURI": f"{theirs}/studies/1.2/series/1.2.3/instances/4/bulk/7fe00010"}},
        {"00081030": {"vr": "LO", "Value": ['see "http://x/studies/1" or http://x/studies/2', "http", 'ends in "http', ""]}},
        {"bulk": "../bulk/7", "other": "https://bucket.example/a/studies/1?signature=x", "more": "http://x/patients/1"},
    ]
    found = json.loads(through(lambda blocks: readdressed(blocks, OURS), json.dumps(given, indent=1).encode(), size))
    assert found[0]["00081190"]["Value"] == [f"{OURS}/studies/1.2/series/1.2.3"]
    assert found[1]["7FE00010"]["BulkDataURI"] == f"{OURS}/studies/1.2/series/1.2.3/instances/4/bulk/7fe00010"
    assert found[2:] == given[2:]


def test_slashes_may_have_a_backslash() -> None:
    given = rb'{"a":"https:\/\/pacs:8443\/aets\/X\/rs\/studies\/1.2"}'
    assert json.loads(through(lambda blocks: readdressed(blocks, OURS), given, 7)) == {"a": f"{OURS}/studies/1.2"}


def test_a_text_made_to_be_slow_is_not() -> None:
    # By the square of its length it would take longer than any test may.
    given = b'["' + b'"http://x/' * 20_000 + b'","http://x' + b"/studies" * 100_000 + b' "]'
    assert through(lambda blocks: readdressed(blocks, OURS), given, 65_536) == given


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 1000])
def test_one_part_out_of_an_answer(size: int) -> None:
    content = bytes(range(256)) + b"\r\n--wrong\r\n\r\n--" + bytes(100)
    given = b"preamble\r\n--b1\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b1--\r\n"
    assert through(lambda blocks: first_part(blocks, b"b1"), given, size) == content
    with pytest.raises(ValueError, match="no whole part"):
        through(lambda blocks: first_part(blocks, b"b1"), given[:200], size)
    with pytest.raises(ValueError, match="no whole part"):
        through(lambda blocks: first_part(blocks, b"b2"), given * 100, size)


def test_wado_uri_is_wado_rs() -> None:
    place = "studies/1.2/series/1.2.3/instances/1.2.3.4"
    whole = retrieval_of({"requestType": "WADO", **UIDS, "contentType": "application/dicom", "transferSyntax": "*"})
    assert (whole.path, whole.accept) == (place, 'multipart/related; type="application/dicom"; transfer-syntax=*')
    picture = retrieval_of({"requestType": "WADO", **UIDS, "frameNumber": "3"})
    assert (picture.path, picture.accept) == (f"{place}/frames/3/rendered", "image/jpeg")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"requestType": "x"}, "no request"), ({"studyUID": ""}, "studyUID"), ({"objectUID": "../1"}, "objectUID"),
        ({"seriesUID": ".."}, "seriesUID"),
        ({"contentType": "text/html"}, "contentType"), ({"frameNumber": "1/../.."}, "frameNumber"),
        ({"contentType": "application/dicom", "transferSyntax": '1"'}, "transferSyntax"),
    ],
)  # fmt: skip
def test_what_is_no_wado_uri(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        retrieval_of({"requestType": "WADO", **UIDS, **wrong})
