"""What is old goes, whatever happened to what else is old."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from delineate.errors import StorageFullError
from delineate.server import app


@pytest.mark.parametrize("error", [StorageFullError("no space"), OSError(5, "Input/output error")])
def test_sessions_go_also_where_tasks_cannot(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    swept: list[str] = []

    def purge(_before: float) -> int:
        raise error

    async def run(remove: Callable[[], int]) -> int:
        return remove()

    def sweep() -> int:
        swept.append("swept")
        if len(swept) == 2:
            raise asyncio.CancelledError
        return 1

    monkeypatch.setattr(app, "RETENTION_INTERVAL", 0.0)
    given: tuple[Any, ...] = (SimpleNamespace(purge=purge), SimpleNamespace(sweep=sweep), SimpleNamespace(run=run))
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(app._purge_now_and_then(*cast("Any", given)))
    assert len(swept) == 2
