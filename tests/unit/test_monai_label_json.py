"""JSON that a client sent: what is taken can be kept, and answered again."""

from __future__ import annotations

import json

import pytest

from delineate.errors import InputError
from delineate.server.monai_label.forms import DEEPEST, json_object


@pytest.mark.parametrize(
    "text",
    [
        '{"x": NaN}',
        '{"x": -Infinity}',
        '{"x": 1e999}',
        '{"x": [{"y": -1e400}]}',
        r'{"x": "\ud800"}',
        r'{"\udfff": 1}',
        '{"x": ' + "9" * 5000 + "}",
        '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"x": ' + "[" * 900 + "]" * 900 + "}",
        '{"x": ' + "[" * DEEPEST + "]" * DEEPEST + "}",
        '{"x":',
        "[]",
        "1",
        b"\xff",
    ],
)
def test_what_cannot_be_answered_again_is_not_taken(text: str | bytes) -> None:
    with pytest.raises(InputError, match="the request"):
        json_object(text, "the request")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        r'{"x": "\ud83d\ude00", "\u00e4": "\u0000"}',
        '{"x": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}",
        '{"x": [1e308, -0.0]}',
    ],
)
def test_everything_else_is(text: str) -> None:
    assert json_object(text, "the request") == json.loads(text)


def test_nothing_is_an_empty_object() -> None:
    assert json_object(" \n", "the request") == {}
