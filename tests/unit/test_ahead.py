"""Memory that is laid out while it is filled: nothing of what is written is lost."""

from __future__ import annotations

import mmap
import sys
import threading

import numpy as np
import pytest

from delineate import ahead


def waited() -> None:
    for thread in threading.enumerate():
        if thread.name == "memory ahead":
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("size", [0, 5, (16 << 20) - 1, 16 << 20, (33 << 20) + 12345])
def test_what_is_written_meanwhile_stays(size: int) -> None:
    array = ahead.empty((size,), np.uint8)
    array[:] = np.arange(size, dtype=np.int64) * 7 % 251
    waited()
    assert (array == np.arange(size, dtype=np.int64) * 7 % 251).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_all_pages_within_are_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    space = mmap.mmap(-1, 20 << 20)
    array = np.frombuffer(space, np.uint8)[100:-100]
    laid = ahead._lay_out(array)
    assert laid == (20 << 20) - 2 * mmap.PAGESIZE
    monkeypatch.setattr(ahead, "_POPULATE_WRITE", 99999)  # as a kernel that does not know it
    assert ahead._lay_out(array) == 0


def test_large_claims_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(ahead, "_lay_out", started.append)
    monkeypatch.setattr(ahead, "_LARGEST", 20 << 20)
    assert ahead.empty((21 << 20,), np.uint8).nbytes == 21 << 20
    waited()
    assert started == []
    assert ahead.empty((17 << 20,), np.uint8).nbytes == 17 << 20
    waited()
    assert len(started) == 1
