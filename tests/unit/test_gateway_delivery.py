"""Results to receivers that take them, refuse them, break off, keep silent, or drop what they took."""

from __future__ import annotations

import errno
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")

import trustme

from delineate.cli.main import main
from delineate.dicom.header import EXPLICIT, IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.errors import SettingsError
from delineate.gateway.commitment import COMMITMENT, Commitments
from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import DicomSettings, FolderSettings
from delineate.gateway.destinations import make
from delineate.gateway.parts import pynetdicom
from delineate.testing.pacs import RTSTRUCT, SEG, Pacs, relay, serving, silent_port
from delineate.testing.ports import free_port


def made(folder: Path, sop_class: str = RTSTRUCT, number: int = 1, syntax: str = EXPLICIT) -> Path:
    """A small object."""
    library = pydicom()
    data = library.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = sop_class, f"1.2.3.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = "1.2", f"1.2.3{number}", "phantom"
    data.file_meta = library.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    path = folder / f"{number}.dcm"
    library.dcmwrite(path, data, enforce_file_format=True, implicit_vr=syntax == IMPLICIT, little_endian=True)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [made(tmp_path, RTSTRUCT, 1, IMPLICIT), made(tmp_path, SEG, 2)]


def settings(pacs: Pacs, **other: Any) -> DicomSettings:
    return DicomSettings(**{"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae": pacs.title, "timeout": 30.0, **other})


def failure(pacs: Pacs, files: list[Path], **other: Any) -> DeliveryError:
    with pacs.running(), pytest.raises(DeliveryError) as caught:
        make(settings(pacs, **other)).deliver(files)
    assert caught.value.advice and "1.2.3." not in caught.value.sentence()
    return caught.value


def test_what_is_sent_arrives_as_it_is(files: list[Path]) -> None:
    with Pacs().running() as pacs:
        notes: list[str] = []
        make(settings(pacs)).deliver(files, notes)
    assert sorted(pacs.objects) == ["1.2.3.1", "1.2.3.2"] and not notes
    assert [pacs.objects[uid].file_meta.TransferSyntaxUID for uid in sorted(pacs.objects)] == [IMPLICIT, EXPLICIT]


def test_another_encoding_is_used_where_the_receiver_wants_it(files: list[Path]) -> None:
    with Pacs(syntaxes=[EXPLICIT]).running() as pacs:
        make(settings(pacs)).deliver(files)
    assert {item.file_meta.TransferSyntaxUID for item in pacs.objects.values()} == {EXPLICIT}


@pytest.mark.filterwarnings("ignore:The value for the data element:UserWarning")  # that it becomes UN, as PS3.5, 6.2.2 wants
def test_contours_longer_than_64_kb_arrive_also_where_they_are_not_at_home(tmp_path: Path) -> None:
    library = pydicom()
    path = made(tmp_path, RTSTRUCT, 1, IMPLICIT)
    data = library.dcmread(path)
    data.ContourData = [f"{number}.5" for number in range(20_000)]
    data.save_as(path)
    with Pacs(syntaxes=[EXPLICIT]).running() as pacs:
        make(settings(pacs)).deliver([path])
    (there,) = pacs.objects.values()
    value = there["ContourData"].value
    text = value.decode() if isinstance(value, bytes) else "\\".join(map(str, value))
    assert text.rstrip().split("\\") == [f"{number}.5" for number in range(20_000)]


def test_warnings_are_kept_and_what_was_sent_before_is_there(files: list[Path]) -> None:
    with Pacs(statuses={RTSTRUCT: 0xB000, SEG: 0x0111}).running() as pacs:
        notes: list[str] = []
        make(settings(pacs)).deliver(files, notes)
    assert len(notes) == 2 and "RT Structure Set with a warning: attributes were changed (0xB000)" in notes[0]
    assert "it is there already" in notes[1]


@pytest.mark.parametrize(
    ("status", "is_final"),
    [(0xA700, False), (0xA702, False), (0x0110, False), (0xA900, True), (0xC000, True), (0xC123, True), (0x0122, True), (0x0124, True)],
)
def test_every_status_is_looked_at_and_the_other_objects_are_sent(files: list[Path], status: int, is_final: bool) -> None:
    pacs = Pacs(statuses={RTSTRUCT: status})
    error = failure(pacs, files)
    assert error.is_final is is_final and f"0x{status:04X}" in error.message and "RT Structure Set was refused" in error.message
    assert list(pacs.objects) == ["1.2.3.2"]


def test_one_refusal_that_may_pass_makes_another_try_worth_it(files: list[Path]) -> None:
    assert not failure(Pacs(statuses={RTSTRUCT: 0xC000, SEG: 0xA700}), files).is_final


def test_a_class_that_is_not_taken_is_final(files: list[Path]) -> None:
    pacs = Pacs(classes=[RTSTRUCT])
    error = failure(pacs, files)
    assert error.is_final and "Segmentation is not taken" in error.message and list(pacs.objects) == ["1.2.3.1"]
    error = failure(Pacs(classes=[]), files)
    assert error.is_final and "takes none of RT Structure Set Storage, Segmentation Storage" in error.message


def test_an_association_that_breaks_off_is_tried_again(files: list[Path]) -> None:
    error = failure(Pacs(breaks=1), files)
    assert not error.is_final and "broke off" in error.message


def large(folder: Path) -> Path:
    """12 MB: more than the buffers on the way hold."""
    library = pydicom()
    path = made(folder, SEG, 3)
    data = library.dcmread(path)
    data.add_new("PixelData", "OB", bytes(12_000_000))
    data.save_as(path)
    return path


def test_a_receiver_that_takes_no_more_is_given_up(tmp_path: Path) -> None:
    with Pacs().running() as pacs, relay(pacs.port, stops_after=1_000_000) as port:
        with pytest.raises(DeliveryError, match="broke off") as caught:
            make(settings(pacs, port=port, timeout=0.5)).deliver([large(tmp_path)])
    assert not caught.value.is_final and not pacs.objects


def test_a_way_that_takes_longer_than_a_step_may_is_none_too_slow(
    tmp_path: Path, while_the_clock_is_steady: Callable[[Callable[[], None]], None]
) -> None:
    path = large(tmp_path)

    def attempt() -> None:
        with Pacs().running() as pacs, relay(pacs.port, pause=0.02) as port:
            begin = time.monotonic()
            make(settings(pacs, port=port, timeout=0.5)).deliver([path])
            assert time.monotonic() - begin > 0.5 and list(pacs.objects) == ["1.2.3.3"]

    while_the_clock_is_steady(attempt)


def test_unknown_titles_are_named(files: list[Path]) -> None:
    error = failure(Pacs(requires_title=True), files, ae="OTHER")
    assert not error.is_final and "has no AE title OTHER" in error.message
    error = failure(Pacs(titles=["SOMEBODY"]), files, calling="ME")
    assert not error.is_final and "does not know our AE title ME" in error.message


def test_a_receiver_that_is_not_there(files: list[Path]) -> None:
    away = DicomSettings(name="pacs", host="127.0.0.1", port=free_port(), ae="PACS", timeout=1.0)
    with pytest.raises(DeliveryError, match="nothing listens there") as caught:
        make(away).deliver(files)
    assert not caught.value.is_final
    with silent_port() as port, pytest.raises(DeliveryError, match="but no association within") as caught:
        make(DicomSettings(name="pacs", host="127.0.0.1", port=port, ae="PACS", timeout=0.5)).deliver(files)
    assert not caught.value.is_final


def test_a_name_that_cannot_be_resolved(files: list[Path]) -> None:
    with pytest.raises(DeliveryError, match="cannot be resolved") as caught:
        make(DicomSettings(name="pacs", host="pacs.invalid", port=104, ae="PACS", timeout=1.0)).deliver(files)
    assert not caught.value.is_final


def test_a_result_that_is_gone_or_damaged_is_final(tmp_path: Path) -> None:
    place = make(DicomSettings(name="pacs", host="127.0.0.1", port=1, ae="PACS"))
    (tmp_path / "text.dcm").write_text("no DICOM")
    for path in (tmp_path / "none.dcm", tmp_path / "text.dcm"):
        with pytest.raises(DeliveryError) as caught:
            place.deliver([path])
        assert caught.value.is_final


def test_a_commitment_on_the_same_association(files: list[Path]) -> None:
    with Pacs(commits="same").running() as pacs:
        make(settings(pacs, commitment=True, commitment_timeout=60.0)).deliver(files)
    assert len(pacs.objects) == 2


def test_a_commitment_on_another_association(files: list[Path]) -> None:
    library, commitments = pynetdicom(), Commitments()
    node = library.AE(ae_title="DELINEATE")
    node.add_supported_context(COMMITMENT, scu_role=False, scp_role=True)
    with (
        serving(node, [(library.evt.EVT_N_EVENT_REPORT, commitments.handle)]) as port,
        Pacs(commits="other", reports_to=port).running() as pacs,
    ):
        make(settings(pacs, commitment=True, commitment_timeout=60.0), commitments).deliver(files)
    assert len(pacs.objects) == 2


@pytest.mark.parametrize(
    ("commits", "words", "is_final"),
    [
        ("fails", "was taken and is not kept: no such object is there (0x0112)", False),
        ("partly", "Segmentation was taken, and the commitment says nothing of it", False),
        ("never", "took 2 objects, but did not commit to them within 0.3 s", False),
        ("refuses", "refused the request for storage commitment", False),
        (None, "does not take requests for storage commitment", True),
    ],
)
def test_a_receiver_that_accepts_and_drops_is_found_out(files: list[Path], commits: Any, words: str, is_final: bool) -> None:
    pacs = Pacs(keeps=False, commits=commits)
    error = failure(pacs, files, commitment=True, commitment_timeout=0.3 if commits == "never" else 60.0)
    assert words in error.message and error.is_final is is_final
    assert len(pacs.came) == 2 and not pacs.objects


def test_an_answer_that_nobody_asked_for_or_that_is_damaged_changes_nothing() -> None:
    library = pydicom()
    commitments = Commitments()
    stray = library.Dataset()
    stray.TransactionUID = "1.2.3"
    assert not commitments.heard(stray)
    with commitments.transaction() as uid:
        stray.TransactionUID = uid
        assert commitments.wait(uid, 0.0) is None
        assert commitments.heard(stray) and commitments.heard(stray)
        answer = commitments.wait(uid, 0.0)
        assert answer is not None and not answer.kept and not answer.failed
    assert not commitments.heard(stray)


def test_tls_is_verified(files: list[Path], tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with Pacs(tls=context).running() as pacs:
        make(settings(pacs, tls=True, ca_file=trusted)).deliver(files)
        assert len(pacs.objects) == 2
        with pytest.raises(DeliveryError, match="certificate could not be verified") as caught:
            make(settings(pacs, tls=True)).deliver(files)
        assert not caught.value.is_final
    with pytest.raises(SettingsError, match="cannot be used"):
        make(settings(pacs, tls=True, ca_file=tmp_path / "none.pem"))


def test_a_certificate_of_ours_is_shown_where_it_is_wanted(files: list[Path], tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted, certificate, key = tmp_path / "ca.pem", tmp_path / "node.pem", tmp_path / "node.key"
    authority.cert_pem.write_to_path(str(trusted))
    ours = authority.issue_cert("node")
    ours.cert_chain_pems[0].write_to_path(str(certificate))
    ours.private_key_pem.write_to_path(str(key))
    with Pacs(tls=context).running() as pacs:
        make(settings(pacs, tls=True, ca_file=trusted, certificate_file=certificate, key_file=key)).deliver(files)
        assert len(pacs.objects) == 2
        with pytest.raises(DeliveryError) as caught:
            make(settings(pacs, tls=True, ca_file=trusted, timeout=0.5)).deliver(files)
        assert not caught.value.is_final


def test_a_receiver_that_does_not_speak_tls_or_wants_it(files: list[Path]) -> None:
    error = failure(Pacs(), files, tls=True, timeout=0.5)
    assert not error.is_final and "TLS" in error.sentence()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    error = failure(Pacs(tls=context), files, timeout=0.5)
    assert not error.is_final and "Perhaps it wants TLS" in error.advice


def test_a_folder_gets_each_file_once_and_keeps_what_is_there(files: list[Path], tmp_path: Path) -> None:
    place = make(FolderSettings(name="copies", path=tmp_path / "out"))
    for _ in range(2):
        place.deliver(files)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.2.3.1.dcm", "1.2.3.2.dcm"]
    assert (tmp_path / "out" / "1.2.3.1.dcm").read_bytes() == files[0].read_bytes()
    (tmp_path / "out" / "1.2.3.1.dcm").write_bytes(b"somebody's")
    with pytest.raises(DeliveryError, match="another file of the name") as caught:
        place.deliver(files)
    assert caught.value.is_final and (tmp_path / "out" / "1.2.3.1.dcm").read_bytes() == b"somebody's"


def test_a_folder_that_is_not_there_is_tried_again(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="cannot be written to") as caught:
        make(FolderSettings(name="copies", path=tmp_path / "none" / "out")).deliver(files)
    assert not caught.value.is_final


def test_a_folder_that_is_full_is_tried_again(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = make(FolderSettings(name="copies", path=tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(DeliveryError, match="No space left") as caught:
            place.deliver(files)
    assert not caught.value.is_final and not list((tmp_path / "out").iterdir())
    place.deliver(files)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_uid_that_is_a_path_is_refused(tmp_path: Path) -> None:
    library = pydicom()
    path = made(tmp_path)
    data = library.dcmread(path)
    data.SOPInstanceUID = "../x"
    data.save_as(path)
    with pytest.raises(DeliveryError, match="no UID that could be a file's name"):
        make(FolderSettings(name="copies", path=tmp_path / "out")).deliver([path])


def test_a_node_does_not_start_with_a_destination_that_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = 'kind = "dicom"\nhost = "x"\nport = 104\nae = "PACS"\ntls = true\nca_file = "none.pem"\n'
    rule = '[[rules]]\nname = "a"\nmodel = "m"\ndestinations = ["pacs"]\n'
    (tmp_path / "rules.toml").write_text(f"[destinations.pacs]\n{table}{rule}")
    given = [
        "gateway",
        "serve",
        "--rules",
        str(tmp_path / "rules.toml"),
        "--data",
        str(tmp_path / "node"),
        "--server",
        "http://127.0.0.1:1",
    ]
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2 and "the files for TLS of destination pacs cannot be used" in capsys.readouterr().err
