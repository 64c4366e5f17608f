"""The node as senders meet it: what it takes, what it refuses, what it never loses."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.geometry import Geometry
from delineate.testing.dicom import ROOT, stack_of, write_series
from delineate.testing.gateway import RULES, RunningNode, read, running_node, send, write_small

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: senders are made of it")

NO_STORESCU = "storescu is not installed; Debian: apt-get install dcmtk"
GEOMETRY = Geometry((24, 20, 8), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
NO_RULE = RULES.replace('Modality = "CT"', 'Modality = "MR"')
STRANGE = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x01\x00\xff\xff\xff\xff",
    b"\x01\x00\x00\x00\x00\x44" + bytes(68),
    b"\x04\x00\x00\x00\x00\x01\x00",
    b"\x01",
)
TWO_RULES = (
    RULES.replace('name = "bones"', 'name = "bones"\npriority = 1')
    + """
[[rules]]
name = "others"
priority = 1
model = "threshold"
match = { Modality = "CT" }
destinations = ["kept"]
outputs = ["seg"]
"""
)


def slices(folder: Path, **more: Any) -> list[Any]:
    """A CT with a block in it, as data sets."""
    voxels = np.full(GEOMETRY.shape, 24, np.int16)
    voxels[2:6, 5:15, 6:18] = 1800
    return read(write_series(folder, stack_of(voxels, GEOMETRY, **more)))


@pytest.fixture
def objects(tmp_path: Path) -> list[Any]:
    return slices(tmp_path / "source")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path, NO_RULE) as running:
        yield running


def with_settings(settings: str, rules: str = NO_RULE) -> str:
    return rules.replace("[node]\n", f"[node]\n{settings}\n")


def storescu(port: int, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """One association of DCMTK's sender, without its wait of 40 ms for each object."""
    command = ["storescu", "-aec", "DELINEATE", *more, "+sd", "127.0.0.1", str(port), str(folder)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_what_is_taken_is_on_the_disk_as_it_came(node: RunningNode, objects: list[Any]) -> None:
    assert send(node.port, objects) == [0] * len(objects)
    assert node.count("instances") == len(node.files()) == len(objects)
    kept = {item.SOPInstanceUID: item for item in read(node.files())}
    for item in objects:
        same = kept[item.SOPInstanceUID]
        assert same == item
        assert same.file_meta.TransferSyntaxUID == item.file_meta.TransferSyntaxUID
        assert same.file_meta.SourceApplicationEntityTitle == "SENDER"


def test_the_disk_can_be_waited_for_once_for_an_association(tmp_path: Path, objects: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(number: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        real(number)

    monkeypatch.setattr("delineate.gateway.spool.os.fsync", fsync)
    with running_node(tmp_path, with_settings('wait_for_disk = "association"')) as node:
        from pynetdicom import AE

        entity = AE(ae_title="SENDER")
        entity.add_requested_context(objects[0].SOPClassUID, "1.2.840.10008.1.2.1")
        link = entity.associate("127.0.0.1", node.port, ae_title="DELINEATE")
        assert [link.send_c_store(item).Status for item in objects] == [0] * len(objects)
        assert not [name for name in synced if name.endswith(".dcm")]
        link.release()
        entity.shutdown()
        assert {str(path) for path in node.files()} <= set(synced)
        assert str(node.files()[0].parent) in synced


def test_echo(node: RunningNode) -> None:
    from pynetdicom import AE

    entity = AE()
    entity.add_requested_context("1.2.840.10008.1.1")
    link = entity.associate("127.0.0.1", node.port, ae_title="DELINEATE")
    assert link.is_established
    assert link.send_c_echo().Status == 0
    link.release()
    entity.shutdown()


def test_a_rule_that_matches_nothing_holds_the_series_with_the_reason(node: RunningNode, objects: list[Any]) -> None:
    send(node.port, objects)
    node.until(lambda: node.state() == "held")
    reason = node.holdings.rows("SELECT reason FROM versions")[0]["reason"]
    assert "no rule matches" in reason
    assert "Modality" in reason


def test_two_rules_at_odds_hold_the_series(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, TWO_RULES) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        assert "same priority" in node.holdings.rows("SELECT reason FROM versions")[0]["reason"]


def test_the_same_again_is_nothing_new_and_other_bytes_are_kept_aside(node: RunningNode, objects: list[Any]) -> None:
    send(node.port, objects)
    node.until(lambda: node.state() == "held")
    assert send(node.port, objects) == [0] * len(objects)
    node.until(lambda: node.count("events", "words LIKE '%nothing was new%'") == 1)
    objects[0].SeriesDescription = "another content"
    for _ in range(2):  # the second time it is aside already
        assert send(node.port, objects[:1]) == [0xB000]
    assert node.count("instances") == len(node.files()) == len(objects)
    assert node.count("aside") == len(list((node.data / "aside").iterdir())) == 1
    assert node.count("versions") == 1


def test_objects_that_do_not_fit_are_refused(node: RunningNode, objects: list[Any]) -> None:
    from pydicom.uid import MRImageStorage

    from delineate.testing.dicom import CT

    wrong = objects[0]
    wrong.SOPClassUID = CT
    statuses = send(node.port, objects[1:2])
    assert statuses == [0]
    del objects[2].SeriesInstanceUID
    assert send(node.port, objects[2:3]) == [0xA900]
    from pynetdicom import AE

    entity = AE(ae_title="SENDER")
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    link = entity.associate("127.0.0.1", node.port, ae_title="DELINEATE")
    assert _asked(link, _store_command(MRImageStorage, objects[3])) == 0xA900
    link.release()
    entity.shutdown()


def _asked(link: Any, message: Any) -> int:
    """The status of the answer; the sender's own thread must not take it first."""
    link._reactor_checkpoint.clear()
    while not link._is_paused:
        time.sleep(0.001)
    link.dimse.send_msg(message, link.accepted_contexts[0].context_id)
    _, answer = link.dimse.get_msg(block=True)
    link._reactor_checkpoint.set()
    return int(answer.Status)


def _store_command(sop_class: str, item: Any, data: bytes | None = None) -> Any:
    """A C-STORE that announces another class than its data set has, or has other bytes."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    message = C_STORE()
    message.MessageID = 1
    message.AffectedSOPClassUID = sop_class
    message.AffectedSOPInstanceUID = item.SOPInstanceUID
    message.Priority = 2
    message.DataSet = BytesIO(encode(item, False, True) if data is None else data)
    return message


def test_bytes_that_are_no_data_set_are_refused(node: RunningNode, objects: list[Any]) -> None:
    from pynetdicom import AE
    from pynetdicom.dsutils import encode

    item = objects[0]
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(item.SOPClassUID, "1.2.840.10008.1.2.1")
    link = entity.associate("127.0.0.1", node.port, ae_title="DELINEATE")
    whole = encode(item, False, True)
    assert whole is not None
    for data in (b"nonsense" * 40, whole[:-100]):
        assert _asked(link, _store_command(item.SOPClassUID, item, data)) == 0xC000
    link.release()
    entity.shutdown()
    assert node.count("instances") == 0
    assert not node.files()


def test_unknown_titles_and_addresses_are_rejected(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, with_settings('callers = ["CT1"]')) as node:
        assert send(node.port, objects[:1], calling="CT1") == [0]
        with pytest.raises(ConnectionError, match="rejected"):
            send(node.port, objects[:1], calling="CT2")
        with pytest.raises(ConnectionError, match="rejected"):
            send(node.port, objects[:1], calling="CT1", called="OTHER")
    with running_node(tmp_path, with_settings('networks = ["10.0.0.0/8"]')) as node:
        with pytest.raises(ConnectionError, match="rejected"):
            send(node.port, objects[:1], calling="CT1")


@pytest.mark.skipif(shutil.which("echoscu") is None, reason=NO_STORESCU)
def test_the_reason_of_a_rejection_is_the_right_one(tmp_path: Path) -> None:
    with running_node(tmp_path, with_settings('callers = ["CT1"]')) as node:
        for titles, words in ((("CT2", "DELINEATE"), "Calling AE Title Not Recognized"), (("CT1", "X"), "Called AE Title Not Recognized")):
            done = subprocess.run(
                ["echoscu", "-aet", titles[0], "-aec", titles[1], "127.0.0.1", str(node.port)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            assert words in done.stderr


def test_more_associations_than_allowed_are_told_so(tmp_path: Path, objects: list[Any]) -> None:
    from pynetdicom import AE

    with running_node(tmp_path, NO_RULE + "\n[node.limits]\nassociations = 1\n") as node:
        entity = AE(ae_title="FIRST")
        entity.add_requested_context("1.2.840.10008.1.1")
        link = entity.associate("127.0.0.1", node.port, ae_title="DELINEATE")
        assert link.is_established
        with pytest.raises(ConnectionError, match="rejected"):
            send(node.port, objects[:1])
        link.release()
        entity.shutdown()
        assert send(node.port, objects[:1]) == [0]


def test_an_object_over_the_limit_is_refused_and_the_next_is_taken(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, NO_RULE + "\n[node.limits]\ninstance_megabytes = 1\n") as node:
        large = slices(tmp_path / "large", series=2)[0]
        large.Rows = large.Columns = 1000
        large.PixelData = bytes(2_000_000)
        assert send(node.port, [large, objects[0]]) == [0xA700, 0]
        assert len(node.files()) == node.count("instances") == 1
        assert not list((node.data / "coming").iterdir())


def test_a_full_disk_is_said_and_nothing_is_left(node: RunningNode, objects: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("delineate.gateway.spool.os.write", full)
        assert send(node.port, objects[:2]) == [0xA700] * 2
    with monkeypatch.context() as patch:
        patch.setattr("delineate.gateway.spool.os.fsync", full)
        assert send(node.port, objects[:2]) == [0xA700] * 2
    assert node.count("instances") == 0
    assert not node.files()
    assert not list((node.data / "coming").iterdir())
    assert send(node.port, objects) == [0] * len(objects)


def test_a_series_of_which_something_was_refused_is_not_taken_for_whole(
    tmp_path: Path, objects: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with running_node(tmp_path, NO_RULE) as node:
        assert send(node.port, objects[:6]) == [0] * 6
        with monkeypatch.context() as patch:
            patch.setattr("delineate.gateway.spool.os.write", full)
            assert send(node.port, objects[4:]) == [0xA700] * 4
        node.until(lambda: node.state() == "held")
        assert "refused" in node.holdings.rows("SELECT reason FROM versions")[0]["reason"]


def test_the_limit_on_the_disk_is_said(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, with_settings("most_gigabytes = 0.000001")) as node:
        assert send(node.port, objects[:3]) == [0, 0xA700, 0xA700]


def test_tls_with_and_without_a_clients_certificate(tmp_path: Path, objects: list[Any]) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed: certificates are made by it")
    authority = trustme.CA()
    ours, theirs = authority.issue_cert("localhost"), authority.issue_cert("ct1.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    theirs.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ct1.pem")
    tls = '\n[node.tls]\ncertificate_file = "node.pem"\nca_file = "ca.pem"\nclients = "required"\n'
    with running_node(tmp_path, NO_RULE + tls) as node:
        known, stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.pem")), ssl.create_default_context()
        known.load_cert_chain(tmp_path / "ct1.pem")
        stranger.load_verify_locations(tmp_path / "ca.pem")
        assert send(node.port, objects[:2], tls=known) == [0, 0]
        with pytest.raises(ConnectionError):
            send(node.port, objects[:1], tls=stranger)
        with pytest.raises(ConnectionError):
            send(node.port, objects[:1])


def test_strangers_and_slow_ones_do_no_harm(
    tmp_path: Path, objects: list[Any], while_the_clock_is_steady: Callable[[Callable[[], None]], None]
) -> None:
    limits = "\n[node.limits]\nidle_seconds = 0.3\nunit_seconds = 0.3\n"
    with running_node(tmp_path, NO_RULE + limits) as node:
        for first in STRANGE:
            with socket.create_connection(("127.0.0.1", node.port), timeout=10) as line:
                line.sendall(first)
                while line.recv(4096):
                    pass  # an abort, and the end

        def attempt() -> None:
            assert send(node.port, objects[:1]) == [0]

        while_the_clock_is_steady(attempt)


def test_a_sender_that_breaks_off_and_sends_again(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, with_settings("", NO_RULE).replace("broken_seconds = 0.6", "broken_seconds = 30")) as node:
        broken_off(node.port, objects, 3)
        node.until(lambda: node.count("events", "words LIKE '%broke off%'") == 1)
        assert node.count("instances") == 3
        assert send(node.port, objects) == [0] * len(objects)
        node.until(lambda: node.state() == "held")  # for want of a rule
        assert [row["instances"] for row in node.holdings.rows("SELECT instances FROM versions")] == [len(objects)]


def test_a_sender_that_breaks_off_for_good_is_not_taken_for_whole(tmp_path: Path, objects: list[Any]) -> None:
    from delineate.gateway.watching import release

    with running_node(tmp_path, NO_RULE) as node:
        broken_off(node.port, objects, 3)
        node.until(lambda: node.state() == "held")
        assert "broke off" in node.holdings.rows("SELECT reason FROM versions")[0]["reason"]
        assert release(node.holdings, 1)
        node.until(lambda: "no rule" in node.holdings.rows("SELECT reason FROM versions")[0]["reason"])


def broken_off(port: int, objects: list[Any], count: int) -> None:
    from pynetdicom import AE

    entity = AE(ae_title="SENDER")
    entity.add_requested_context(objects[0].SOPClassUID, "1.2.840.10008.1.2.1")
    link = entity.associate("127.0.0.1", port, ae_title="DELINEATE")
    for item in objects[:count]:
        assert link.send_c_store(item).Status == 0
    link.abort()
    entity.shutdown()


def test_late_arrivals_make_another_version(node: RunningNode, objects: list[Any]) -> None:
    send(node.port, objects[:5])
    node.until(lambda: node.state() == "held")
    send(node.port, objects[5:])
    node.until(lambda: node.count("versions") == 2 and node.state() == "held")
    assert [tuple(row) for row in node.holdings.rows("SELECT instances, state FROM versions")] == [(5, "replaced"), (8, "held")]


def test_late_arrivals_can_be_noted_only(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, with_settings('late = "note"')) as node:
        send(node.port, objects[:5])
        node.until(lambda: node.state() == "held")
        send(node.port, objects[5:])
        node.until(lambda: node.state() == "noted")


def test_series_of_two_senders_are_two(node: RunningNode, objects: list[Any]) -> None:
    send(node.port, objects[:2], calling="CT1")
    send(node.port, objects[:2], calling="CT2")
    assert node.count("series") == 2
    assert node.count("instances") == 4


def test_twenty_associations_at_once(node: RunningNode, tmp_path: Path) -> None:
    """With senders of two makes: one series for each, and one that all send at once."""
    count = 20
    shared = slices(tmp_path / "shared", series=77)
    barrier = threading.Barrier(count)

    def sender(number: int) -> list[int]:
        mine = slices(tmp_path / f"s{number}", series=100 + number)
        barrier.wait(30)
        return send(node.port, [*mine, *shared])

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(sender, range(count)))
    assert found == [[0] * 16] * count
    assert node.count("instances") == len(node.files()) == count * 8 + 8


@pytest.mark.skipif(shutil.which("storescu") is None, reason=NO_STORESCU)
def test_five_thousand_objects_by_twenty_associations_none_lost_none_doubled(node: RunningNode, tmp_path: Path) -> None:
    for number in range(20):
        write_small(tmp_path / f"small{number}", 1000 + number, 250)
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda number: storescu(node.port, tmp_path / f"small{number}", "-aet", f"CT{number % 3}"), range(20)))
    assert [item.returncode for item in done] == [0] * 20, done[0].stderr
    rows = node.holdings.rows("SELECT series.uid AS series, instances.uid AS uid, file FROM instances JOIN series ON series.id = series")
    assert {row["uid"] for row in rows} == {f"{ROOT}.{1000 + number}.{index + 1}" for number in range(20) for index in range(250)}
    assert len(rows) == len(node.files()) == len({row["file"] for row in rows}) == 5000
    node.until(lambda: node.count("versions") == 20)
    assert {row["instances"] for row in node.holdings.rows("SELECT instances FROM versions")} == {250}


@pytest.mark.skipif(shutil.which("storescu") is None, reason=NO_STORESCU)
def test_every_encoding_comes_as_it_is(node: RunningNode, tmp_path: Path) -> None:
    syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
    for series, (syntax, option) in enumerate(zip(syntaxes, ("-xi", "-xe"), strict=True), 1):
        folder = tmp_path / option
        slices(folder, series=series, syntax=syntax)
        assert storescu(node.port, folder, option).returncode == 0
    assert {item.file_meta.TransferSyntaxUID for item in read(node.files())} == set(syntaxes)


def test_compressed_objects_and_large_ones_come_as_they_are(node: RunningNode, objects: list[Any]) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

    packed, deflated, large = objects[:3]
    packed.compress(RLELossless, generate_instance_uid=False)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    large.Rows, large.Columns = 1024, 1600
    large.PixelData = np.random.default_rng(1).integers(0, 255, 2 * 1024 * 1600, dtype=np.uint8).tobytes()
    assert send(node.port, [packed, deflated, large]) == [0, 0, 0]
    kept = {item.SOPInstanceUID: item for item in read(node.files())}
    for item in (packed, deflated, large):
        assert kept[item.SOPInstanceUID].PixelData == item.PixelData
        assert kept[item.SOPInstanceUID].file_meta.TransferSyntaxUID == item.file_meta.TransferSyntaxUID


def test_logs_name_nobody(tmp_path: Path, objects: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="delineate")
    with running_node(tmp_path, NO_RULE) as node:
        send(node.port, objects)
        objects[0].SeriesDescription = "another content"
        assert send(node.port, objects[:1]) == [0xB000]
        broken_off(node.port, objects[1:], 1)
        node.until(lambda: node.state() == "held")
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("delineate"))
    assert "kept aside" in said
    assert "series 1: began to arrive" in said
    for word in ("Phantom", "phantom", ROOT):
        assert word not in said


def test_serving_needs_a_server_for_rules_that_name_none(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from delineate.cli.main import cli

    (tmp_path / "rules.toml").write_text(RULES, encoding="utf-8")
    done = CliRunner().invoke(
        cli, ["gateway", "serve", "--rules", str(tmp_path / "rules.toml"), "--data", str(tmp_path / "node")], env={"DELINEATE_SERVER": ""}
    )
    assert "without a server" in str(done.exception)
    assert not (tmp_path / "node").exists()


def test_a_file_without_its_row_is_found_again_and_a_broken_one_is_not(tmp_path: Path, objects: list[Any]) -> None:
    """As after a loss of power: the row's transaction is lost, and of a file that nobody was told of only a part is there."""
    with running_node(tmp_path, NO_RULE) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        with node.holdings.change() as line:
            line.execute("DELETE FROM instances WHERE uid = ?", (objects[0].SOPInstanceUID,))
        whole = node.files()[0]
    part = whole.with_name("0123456789abcdef-5000-01234567.dcm")
    part.write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "node" / "coming" / "left").write_bytes(b"some")
    with running_node(tmp_path, NO_RULE) as node:
        assert node.count("instances") == len(node.files()) == len(objects)
        assert not part.exists()
        assert not list((node.data / "coming").iterdir())


def start_process(folder: Path, rules: str, server: str = "http://127.0.0.1:1") -> tuple[subprocess.Popen[str], int]:
    (folder / "rules.toml").write_text(rules, encoding="utf-8")
    command = [sys.executable, "-m", "delineate.cli", "gateway", "serve", "--rules", "rules.toml", "--data", "node", "--server", server]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening as DELINEATE at 127.0.0.1:"), line
    return process, int(line.rsplit(":", 1)[1])


@pytest.mark.skipif(shutil.which("storescu") is None, reason=NO_STORESCU)
def test_killed_in_the_middle_what_was_answered_is_there_and_the_rest_comes_again(tmp_path: Path) -> None:
    from delineate.gateway.holdings import Holdings

    write_small(tmp_path / "small", 5, 400)
    process, port = start_process(tmp_path, NO_RULE)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(storescu, port, tmp_path / "small", "-v")
        while len(list((tmp_path / "node" / "series").rglob("*.dcm"))) < 50:
            assert not sending.done()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        done = sending.result(60)
    assert done.returncode != 0
    answered = (done.stdout + done.stderr).count("Success")
    assert answered >= 45
    process, port = start_process(tmp_path, NO_RULE)
    try:
        holdings = Holdings(tmp_path / "node")
        count = holdings.rows("SELECT count(*) FROM instances")[0][0]
        assert answered <= count <= answered + 1
        assert storescu(port, tmp_path / "small").returncode == 0
        files = list((tmp_path / "node" / "series").rglob("*.dcm"))
        assert holdings.rows("SELECT count(*) FROM instances")[0][0] == len(files) == 400
        holdings.close()
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_two_nodes_do_not_work_on_one_folder(node: RunningNode, tmp_path: Path) -> None:
    from delineate.errors import SettingsError

    with pytest.raises(SettingsError, match="another node"):
        with running_node(tmp_path, NO_RULE):
            pass
    assert node.count("series") == 0


def test_a_series_goes_by_its_rule_and_its_results_arrive(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    from delineate.dicom.reader import read as read_series
    from delineate.dicom.rtstruct import read_rtstruct
    from delineate.dicom.seg import read_seg

    server = label_server(workers=1)
    with running_node(tmp_path, RULES, server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.state() in ("done", "held"))
        assert node.state() == "done", [dict(row) for row in node.holdings.rows("SELECT * FROM versions")]
    image = read_series(tmp_path / "source")
    found = sorted((tmp_path / "results").rglob("*.dcm"))
    assert len(found) == 2
    kinds = {read([path])[0].Modality: path for path in found}
    expected = image.volume.voxels > 1000
    for segmentation in (read_rtstruct(kinds["RTSTRUCT"], image.series), read_seg(kinds["SEG"], image.series)):
        assert np.array_equal(np.any([layer > 0 for layer in segmentation.layers], axis=0), expected)
