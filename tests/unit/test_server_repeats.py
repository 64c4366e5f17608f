"""What comes twice is done once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from delineate.server.monai_label import repeats
from delineate.server.monai_label.repeats import Repeats


class Work:
    def __init__(self, *failures: bool) -> None:
        self.count = 0
        self._failures = list(failures)

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.count += 1
        if self._failures and self._failures.pop(0):
            raise ValueError("not this time")
        return {"n": self.count}


def test_the_same_key_gets_the_same_answer() -> None:
    async def ask() -> list[Any]:
        known, work = Repeats(), Work()
        asked = (
            ("a", "me", "k"),
            ("a", "me", "k"),
            ("a", "you", "k"),
            ("b", "me", "k"),
            ("a", "me", "other"),
            ("a", "me", None),
            ("a", "me", None),
        )
        return [(await known.once(*one, work))["n"] for one in asked]

    assert asyncio.run(ask()) == [1, 1, 2, 3, 4, 5, 6]


def test_two_at_once_are_one() -> None:
    async def ask() -> tuple[list[Any], int]:
        known, work = Repeats(), Work()
        return list(await asyncio.gather(*(known.once("a", "me", "k", work) for _ in range(5)))), work.count

    assert asyncio.run(ask()) == ([{"n": 1}] * 5, 1)


def test_what_failed_is_tried_again() -> None:
    async def ask() -> Any:
        known, work = Repeats(), Work(True)
        with pytest.raises(ValueError, match="not this time"):
            await known.once("a", "me", "k", work)
        return await known.once("a", "me", "k", work)

    assert asyncio.run(ask()) == {"n": 2}


def test_they_are_forgotten_after_a_while_and_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST", 3)
    now = 0.0

    async def ask() -> list[int]:
        nonlocal now
        known, work = Repeats(lambda: now), Work()
        found = []
        for key, then in (("a", 0.0), ("b", 1.0), ("c", 1.0), ("d", 1.0), ("a", 2.0), ("d", 3.0), ("d", 700.0)):
            now = then
            found.append((await known.once("x", "me", key, work))["n"])
        return found

    assert asyncio.run(ask()) == [1, 2, 3, 4, 5, 4, 6]
