"""What must not happen to series and results, whatever senders and receivers do: by rows and a clock of our own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom import DataElement, Dataset

from delineate.dicom.header import DEFLATED, IMPLICIT
from delineate.errors import ImageError, StoreError
from delineate.gateway.association import Association, Link
from delineate.gateway.commitment import COMMITMENT, transaction_of
from delineate.gateway.completion import Completion, Whole
from delineate.gateway.dimse import NO_TRANSACTION, SUCCESS, Command
from delineate.gateway.holdings import Holdings
from delineate.gateway.node_settings import Limits, NodeSettings
from delineate.gateway.retention import Retention
from delineate.gateway.rules_attributes import attributes_in
from delineate.gateway.scp import Door
from delineate.gateway.spool import Spool, meta
from delineate.gateway.store import Store
from delineate.gateway.survival import survived
from delineate.gateway.upper_layer import Answered, Proposed, Request
from delineate.gateway.watching import release
from delineate.gateway.work_rows import WorkRows
from delineate.geometry import Geometry
from delineate.testing.dicom import CT, EXPLICIT, stack_of, write_series


@pytest.fixture
def holdings(tmp_path: Path) -> Iterator[Holdings]:
    found = Holdings(tmp_path)
    yield found
    found.close()


def states(holdings: Holdings, table: str) -> list[str]:
    order = "number" if table == "versions" else "id"
    return [row["state"] for row in holdings.rows(f"SELECT state FROM {table} ORDER BY {order}")]


def written(holdings: Holdings, rows: WorkRows) -> int:
    """A series whose results wait for two receivers; its number."""
    series = holdings.series("1.1", "CT", "CT")
    holdings.add(series, "1.2", "a.dcm", 10)
    version = holdings.make_version(series, "whole")
    rows.decided(series, version, ["lungs"])
    (job,) = rows.due_jobs(())
    rows.sent(job, "task")
    rows.written(job, ["pacs", "archive"], [])
    return series


def test_results_of_an_older_version_never_leave(holdings: Holdings) -> None:
    rows = WorkRows(holdings, attempts=5, pause=0.0, longest=0.0)
    series = written(holdings, rows)
    first, second = rows.due_deliveries(())
    rows.not_delivered(first, "it is away", "", is_final=False)
    holdings.add(series, "1.3", "b.dcm", 10)
    holdings.make_version(series, "whole")
    assert rows.due_deliveries(()) == []
    assert states(holdings, "deliveries") == ["replaced", "replaced"]
    rows.not_delivered(second, "it broke off", "", is_final=False)  # which was under way
    assert rows.due_deliveries(()) == []
    rows.delivered(second, [])
    assert states(holdings, "deliveries") == ["replaced", "done"]
    assert states(holdings, "jobs") == ["replaced"] and states(holdings, "versions") == ["replaced", "whole"]


def test_late_objects_that_are_released_end_what_waits_of_the_older_version(holdings: Holdings) -> None:
    rows = WorkRows(holdings, attempts=5, pause=0.0, longest=0.0)
    series = written(holdings, rows)
    holdings.add(series, "1.3", "b.dcm", 10)
    holdings.make_version(series, "noted", "objects came late")
    assert len(rows.due_deliveries(())) == 2
    assert release(holdings, series)
    assert rows.due_deliveries(()) == [] and states(holdings, "versions") == ["replaced", "whole"]


def test_a_break_is_not_mended_by_what_came_beside_it(holdings: Holdings) -> None:
    now = 100.0
    found = Completion(holdings, quiet=10, broken=60, clock=lambda: now)
    one, beside, again = Link("CT", "::1"), Link("CT", "::1"), Link("CT", "::1")
    series = holdings.series("1.1", "CT", "CT")
    for number, link in enumerate((one, beside)):
        found.arrived(series, link)
        holdings.add(series, f"1.2.{number}", f"{number}.dcm", 10)
        now += 1
    found.ended(one, is_whole=False)
    now += 1
    found.ended(beside, is_whole=True)  # it brought its own half
    now += 59
    assert found.take() == [] and [row["is_open"] for row in holdings.arriving()] == [1]
    found.arrived(series, again)  # this one may have brought the rest
    holdings.add(series, "1.2.2", "2.dcm", 10)
    found.ended(again, is_whole=True)
    now += 11
    assert found.take() == [Whole(series, is_broken=False)]


def test_an_object_that_broke_off_in_the_middle_is_missing_until_it_comes(holdings: Holdings, tmp_path: Path) -> None:
    now = 100.0
    found = Completion(holdings, quiet=10, broken=60, clock=lambda: now)
    spool = Spool(tmp_path)
    store = Store(NodeSettings(spare=0), holdings, spool, found)
    first, second = Link("CT", "::1"), Link("CT", "::1")  # a sender that has an association for each object
    series = holdings.series("1.1", "CT", "CT")
    command = Command({0x0002: CT.encode(), 0x1000: b"1.2.1"})
    arrival = store.begin(first, Answered(1, CT, EXPLICIT), command)
    arrival.write(memoryview(b"\x08\x00\x60\x00"))
    arrival.discard()
    store.ended(first, is_whole=False)
    now += 1
    found.arrived(series, second)
    holdings.add(series, "1.2.2", "2.dcm", 10)
    store.ended(second, is_whole=True)
    now += 59
    assert found.take() == [] and not list(spool.coming.iterdir())
    now += 2
    assert found.take() == [Whole(series, is_broken=True)]
    spool.close()


def test_attributes_for_rules_are_names_as_they_are_and_never_nested_items(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.PatientName, data.ImageType = "PHANTOM^QA", ["ORIGINAL", "PRIMARY"]
        item = data
        for _ in range(5):
            inner = Dataset()
            inner.StudyDescription = "x"
            item.add_new("ReferencedStudySequence", "SQ", [inner])
            item = inner
        data["AccessionNumber"] = DataElement("AccessionNumber", "SQ", data.ReferencedStudySequence)

    path = write_series(tmp_path, stack_of(np.zeros((1, 2, 2), np.int16), Geometry((2, 2, 1)), change=change))[0]
    found = attributes_in(path, ["PatientName", "ImageType", "AccessionNumber", "Modality"])
    assert found == {"PatientName": "PHANTOM^QA", "ImageType": "ORIGINAL\\PRIMARY", "Modality": "CT"}


def test_what_something_came_of_is_not_removed(holdings: Holdings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = WorkRows(holdings, attempts=5, pause=0.0, longest=0.0)
    series = written(holdings, rows)
    for delivery in rows.due_deliveries(()):
        rows.delivered(delivery, [])
    spool = Spool(tmp_path)
    retention = Retention(holdings, spool, NodeSettings(keep=-1.0))
    ask = holdings.rows

    def rows_then_arrival(statement: str, *values: Any) -> Any:
        found = ask(statement, *values)
        if "FROM jobs WHERE series" in statement:  # the sweep has decided; an object comes
            holdings.add(series, "1.9", "late.dcm", 10)
        return found

    monkeypatch.setattr(holdings, "rows", rows_then_arrival)
    assert retention.sweep() == 0
    monkeypatch.undo()
    assert len(holdings.rows("SELECT * FROM instances")) == 2
    holdings.nothing_new(series)
    assert retention.sweep() == 1
    spool.close()


def test_a_series_that_ends_the_process_is_held_after_three_times(tmp_path: Path) -> None:
    words = "import os, pathlib, sys\nfrom delineate.gateway.survival import survived\n"
    words += "with survived(pathlib.Path(sys.argv[1])):\n    os._exit(9)\n"
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", words, str(tmp_path)], check=False).returncode == 9
    with pytest.raises(ImageError, match="ended 3 times"), survived(tmp_path):
        pass
    for _ in range(5):  # a person had it tried again; what fails otherwise is no end
        with pytest.raises(StoreError), survived(tmp_path):
            raise StoreError("full", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("said", [b"", b"\1\0"])
def test_who_says_nothing_does_not_keep_others_out(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.gateway.association._FIRST", 0.1)
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    thread = threading.Thread(target=Association(ours, "::1", None, Limits()).run)  # type: ignore[arg-type]
    thread.start()
    theirs.sendall(said)
    assert theirs.recv(10)[:1] == b"\7"  # an abort
    theirs.close()
    thread.join(5)
    assert not thread.is_alive()


def a_class(uid: str, *syntaxes: str) -> Answered:
    door = Door(NodeSettings(), cast(Store, None))
    (answered,) = door.answers(Request(called="", calling="", application="", contexts=(Proposed(1, uid, syntaxes),)))[0]
    return answered


def test_what_is_no_uid_is_not_agreed_upon() -> None:
    assert a_class(CT, "1.2.840.10008.1.2.4.70").result == 0
    assert a_class(CT, "1.2.840.10008.1.2.\n<b>").result == 4
    assert a_class("1.3.6.1.4.1.5962.301.9", EXPLICIT).result == 0
    assert a_class("no uid", EXPLICIT).result == 3


def test_a_header_is_read_without_what_is_long_in_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    part = spool.part(meta(CT, "1.2.1", EXPLICIT, "CT"), 1 << 30)
    part.write(memoryview(b"\x08\x00\x18\x00UI\x06\x001.2.1\x00\x09\x00\x10\x10OB\x00\x00" + (3 << 20).to_bytes(4, "little")))
    for _ in range(3):
        part.write(memoryview(bytes(1 << 20)))
    part.write(memoryview(b"\x20\x00\x0e\x00UI\x04\x001.2\x00"))
    tracemalloc.start()
    try:
        assert part.header().text("SeriesInstanceUID") == "1.2"
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
    part.discard()
    spool.close()


def test_what_inflates_without_end_is_refused_and_its_elements_are_not_counted_out(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(80 << 20)) + packer.flush()
    spool = Spool(tmp_path)
    part = spool.part(meta(CT, "1.2.1", DEFLATED, "CT"), 1 << 30)
    part.write(memoryview(packed))
    with pytest.raises(ImageError):
        part.header()
    part.discard()
    spool.close()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_report_of_which_nobody_knows_is_not_decoded(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    class Known:
        def expects(self, uid: str) -> bool:
            return uid == "1.2.3"

        def heard(self, dataset: Any) -> None:
            heard.append(dataset)

    def sink(uid: bytes) -> tuple[int, str]:
        door = Door(NodeSettings(), cast(Store, None), Known())
        found = door.begin(Link("PACS", "::1"), Answered(1, COMMITMENT, syntax), Command({0x0100: b"\x00\x01"}))
        assert found is not None
        size = len(uid).to_bytes(4, "little") if syntax == IMPLICIT else b"UI" + len(uid).to_bytes(2, "little")
        found.write(memoryview(b"\x08\x00\x95\x11" + size + uid))
        if uid != b"1.2.3\0":
            for _ in range(100):
                found.write(memoryview(b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 10_000))
            assert len(found._data) == 0  # type: ignore[attr-defined]
        return found.end()

    assert sink(b"1.2.3\0")[0] == SUCCESS and str(heard[0].TransactionUID) == "1.2.3"
    monkeypatch.setattr("delineate.gateway.scp.pydicom", None)  # it is not asked
    assert sink(b"1.2.4\0")[0] == NO_TRANSACTION
    assert transaction_of(b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff", False) == transaction_of(b"", True) == ""


def test_a_clock_that_is_set_back_makes_nothing_wait(holdings: Holdings) -> None:
    now = 1e9
    holdings.clock = lambda: now
    rows = WorkRows(holdings, attempts=5, pause=5.0, longest=600.0)
    series = written(holdings, rows)
    first, second = rows.due_deliveries(())
    rows.not_delivered(first, "it is away", "", is_final=False)
    rows.delivered(second, [])
    assert series and rows.due_deliveries(()) == []
    now -= 86400
    assert rows.due_deliveries(()) == [first]


def test_a_clock_that_is_set_ahead_removes_nothing(holdings: Holdings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 1e9
    holdings.clock = lambda: now
    rows = WorkRows(holdings, attempts=5, pause=0.0, longest=0.0)
    written(holdings, rows)
    for delivery in rows.due_deliveries(()):
        rows.delivered(delivery, [])
    spool = Spool(tmp_path)
    retention = Retention(holdings, spool, NodeSettings(keep=86400.0))
    now += 10 * 365 * 86400
    assert retention.sweep() == 0 and "the clock was set" in caplog.text
    assert Retention(holdings, spool, NodeSettings(keep=86400.0)).sweep() == 1
    spool.close()


@pytest.mark.parametrize(("written", "shown"), [(b"CT", "CT"), (b"\x1b[31mDOE^JANE", "?"), (b"", "")])
def test_a_modality_is_shown_where_it_is_one(holdings: Holdings, tmp_path: Path, written: bytes, shown: str) -> None:
    spool = Spool(tmp_path)
    store = Store(NodeSettings(spare=0), holdings, spool, Completion(holdings, quiet=10, broken=60))
    command = Command({0x0002: CT.encode(), 0x1000: b"1.2.1"})
    arrival = store.begin(Link("CT", "::1"), Answered(1, CT, IMPLICIT), command)
    for element, value in ((0x160008, CT.encode()), (0x180008, b"1.2.1"), (0x600008, written), (0xE0020, b"1.2")):
        value += b"\0" * (len(value) % 2)
        arrival.write(memoryview(element.to_bytes(4, "little") + len(value).to_bytes(4, "little") + value))
    assert arrival.end()[0] == SUCCESS
    assert holdings.rows("SELECT modality FROM series")[0]["modality"] == shown
    spool.close()
