"""What a node finds that was ended between two steps, and where no second one may begin."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom")

from delineate.dicom.parts import pydicom
from delineate.errors import SettingsError
from delineate.gateway.adoption import adopt
from delineate.gateway.destination_settings import FolderSettings
from delineate.gateway.destinations import make
from delineate.gateway.holdings import Holdings
from delineate.gateway.node import Node
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.rules import Rules
from delineate.gateway.spool import Spool
from delineate.gateway.watching import release
from delineate.testing.gateway import RULES, write_small
from delineate.testing.pacs import SEG


@pytest.fixture
def holdings(tmp_path: Path) -> Iterator[Holdings]:
    found = Holdings(tmp_path)
    yield found
    found.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    found = Spool(tmp_path)
    yield found
    found.close()


def test_a_delivery_that_was_ended_between_two_names_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pydicom()
    data = library.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = SEG, "1.2.3"
    data.file_meta = library.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    library.dcmwrite(tmp_path / "result.dcm", data, enforce_file_format=True)
    place = make(FolderSettings(name="kept", path=tmp_path / "kept"))
    place.deliver([tmp_path / "result.dcm"])
    target = tmp_path / "kept" / "1.2.3.dcm"
    (tmp_path / "kept" / ".1.2.3.dcm.part").hardlink_to(target)
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda _: sizes.append(target.stat().st_size))
    written = target.stat().st_ino
    place.deliver([tmp_path / "result.dcm"])
    assert target.stat().st_ino == written and target.read_bytes() == (tmp_path / "result.dcm").read_bytes()
    assert target.stat().st_nlink == 1
    assert set(sizes) == {target.stat().st_size}


def test_a_person_s_word_counts_until_the_series_has_a_version_or_more_comes(holdings: Holdings) -> None:
    series = holdings.series("1.1", "CT", "CT")

    def is_released() -> bool:
        return bool(holdings.rows("SELECT is_released FROM series")[0]["is_released"])

    holdings.add(series, "1.2", "a.dcm", 10)
    assert release(holdings, series) and is_released()
    holdings.add(series, "1.3", "b.dcm", 10)  # nobody has seen this one
    assert not is_released()
    assert release(holdings, series) and is_released()
    holdings.make_version(series, "whole")
    assert not is_released()


def test_what_was_being_removed_goes_at_the_next_start(holdings: Holdings, spool: Spool, tmp_path: Path) -> None:
    write_small(tmp_path / "source", 5, 2)
    one, other = (holdings.series(uid, "CT", "CT") for uid in ("1.1", "1.2"))
    parts = {}
    for number, path in ((one, "00000.dcm"), (other, "00001.dcm")):
        with contextlib.closing(spool.part((tmp_path / "source" / path).read_bytes(), 1 << 20)) as part:
            parts[number] = part.keep(spool.series(number))
        holdings.add(number, f"1.2.{number}", parts[number].name, 10)
        spool.version(number, 1, [parts[number].name])
    for job in (7, 8):
        (spool.job(job) / "results").mkdir()
    (spool.aside / f"{one}-x.dcm").write_bytes(b"")  # no row says so
    with holdings.change() as line:
        line.execute("INSERT INTO jobs (id, series, version, rule, state, due, changed) VALUES (8, ?, 1, 'r', 'done', 0, 0)", (other,))
        line.execute("DELETE FROM series WHERE id = ?", (one,))
    assert adopt(holdings, spool) == 0
    left = sorted(
        str(path.relative_to(tmp_path)) for name in ("series", "versions", "jobs", "aside") for path in (tmp_path / name).glob("*")
    )
    assert left == ["jobs/8", f"series/{other}", f"versions/{other}-1"]
    assert parts[other].exists()


def test_a_file_that_is_copied_for_a_version_appears_whole(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no links."""

    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def breaks_off(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"be")
        raise OSError(errno.EIO, "Input/output error")

    (spool.series(1) / "a.dcm").write_bytes(b"begin and end")
    monkeypatch.setattr(os, "link", no_links)
    with monkeypatch.context() as broken:
        broken.setattr("shutil.copyfile", breaks_off)
        with pytest.raises(OSError, match="Input/output"):
            spool.version(1, 1, ["a.dcm"])
    assert (spool.version(1, 1, ["a.dcm"]) / "a.dcm").read_bytes() == b"begin and end"


def test_a_second_node_does_not_start_beside_one_that_runs_or_stands_still(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    words = ["gateway", "serve", "--rules", "rules.toml", "--data", "node", "--server", "http://127.0.0.1:1"]
    command = [sys.executable, "-m", "delineate.cli", *words]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    try:
        assert first.stdout.readline().startswith("listening")
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert second.returncode != 0 and "another node works on node" in second.stderr and "Stop it" in second.stderr
        assert second.stderr.count("\n") < 4
    finally:
        first.kill()  # whatever it is doing, also nothing
        first.communicate(timeout=30)
    third = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert third.stdout is not None
    assert third.stdout.readline().startswith("listening")
    third.kill()
    third.communicate(timeout=30)


def test_a_folder_that_cannot_be_locked_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(SettingsError, match="cannot be locked: No locks available"):
        Node(NodeSettings(port=0), Rules(rules=()), None, tmp_path / "node")
