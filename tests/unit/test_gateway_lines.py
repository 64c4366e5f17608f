"""Who keeps a place when there are more connections than there may be."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: senders are made of it")

from delineate.gateway.lines import Line, Lines, Sparing, places
from delineate.testing.dicom import ROOT
from delineate.testing.gateway import RULES, read, running_node, send, write_small

FEW = RULES + "\n[node.limits]\nassociations = 2\n"


@dataclass
class Spoken:
    """What is spoken on a line, as a test says."""

    is_open: bool = True
    is_idle: bool = False


@pytest.fixture
def pairs() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for line in found:
        line.close()


def line(pairs: list[socket.socket], address: str, talk: Spoken | None = None) -> Line:
    ours, theirs = socket.socketpair()
    pairs += ours, theirs
    made = Line(ours, address)
    made.talk = talk
    return made


def test_a_newcomer_takes_the_place_of_the_address_that_has_most(pairs: list[socket.socket]) -> None:
    lines = Lines(4)
    alone, first, second, used = (line(pairs, address) for address in ("1", "2", "2", "2"))
    used.talk = Spoken()
    newcomers = [line(pairs, "3") for _ in range(3)]
    assert [lines.take(item) for item in (alone, used, first, second)] == [True] * 4
    assert lines.take(newcomers[0])
    assert [item.is_dropped for item in (alone, first, second, used)] == [False, True, False, False]
    assert first.socket.recv(1) == b""  # whoever reads from it comes to an end
    lines.leave(first)
    assert lines.take(newcomers[1]) and alone.is_dropped and not newcomers[0].is_dropped
    assert lines.take(newcomers[2]) and len(lines) <= 8


def test_associations_that_are_used_keep_their_places(pairs: list[socket.socket]) -> None:
    lines = Lines(2)
    used, idle = line(pairs, "1", Spoken()), line(pairs, "1", Spoken(is_idle=True))
    assert lines.take(used) and lines.take(idle)
    assert lines.end_idle() and idle.is_dropped and not lines.end_idle()
    lines.leave(idle)
    assert lines.take(line(pairs, "2", Spoken())) and not lines.take(line(pairs, "2")) and not used.is_dropped


def test_those_on_their_way_out_are_counted_too(pairs: list[socket.socket]) -> None:
    lines = Lines(3)
    assert [lines.take(line(pairs, "1")) for _ in range(8)] == [True] * 6 + [False] * 2
    assert len(lines) == 6


def test_silent_connections_in_bulk_keep_nobody_out(tmp_path: Path) -> None:
    write_small(tmp_path / "source", 7, 3)
    with running_node(tmp_path, FEW) as node, contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
        assert send(node.port, read(sorted((tmp_path / "source").iterdir()))) == [0, 0, 0]
        assert node.count("instances") == 3


def test_idle_associations_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynetdicom import AE

    monkeypatch.setattr("delineate.gateway.association._PATIENCE", 0.0)
    write_small(tmp_path / "source", 7, 1)
    entity = AE()
    entity.add_requested_context("1.2.840.10008.1.1")
    with running_node(tmp_path, FEW) as node:
        idle = [entity.associate("127.0.0.1", node.port, ae_title="DELINEATE") for _ in range(2)]
        assert all(link.is_established for link in idle)
        assert send(node.port, read(sorted((tmp_path / "source").iterdir()))) == [0]
        node.until(lambda: any(link.is_aborted or not link.is_established for link in idle))
        entity.shutdown()


def test_the_log_says_a_few_lines_and_then_how_many(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = Sparing(lambda: now)
    with caplog.at_level(logging.WARNING, "delineate.gateway"):
        for number in range(500):
            log.warning("line %d", number)
        now = 11.0
        log.warning("line %s", ROOT)
    assert len(caplog.records) == 22
    assert caplog.messages[20].startswith("480 more lines") and caplog.messages[21] == f"line {ROOT}"


def test_connections_are_as_many_as_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr("delineate.gateway.lines.resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("delineate.gateway.lines.resource.setrlimit", lambda _, given: limits.append(given))
    assert places(66) == 66 and len(limits) == 1
    assert places(1016) == 1016 and limits[-1] == (2160, 4096)
    assert places(5000) == (4096 - 128) // 2
    limits.append((60, 60))
    assert places(66) == 15
