"""A DICOMweb server as datastore: what it has is listed, fetched when it is needed, kept within limits; and what goes wrong there."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.client.related_parts import PartsError, Splitter, boundary_of
from delineate.datastore.dicomweb import DicomWebDatastore
from delineate.datastore.dicomweb_client import Access, DicomWeb
from delineate.datastore.dicomweb_grid import grid_of
from delineate.datastore.dicomweb_json import is_uid, series_of
from delineate.datastore.dicomweb_labels import NOTE, instance_uid, unsent
from delineate.datastore.faults import DicomWebError, GridMismatchError
from delineate.dicom.parts import pydicom
from delineate.dicom.reader import read
from delineate.errors import InputError, SettingsError, StorageFullError
from delineate.geometry import Geometry
from delineate.server.main import warn_if_open
from delineate.server.monai_label.errands import Reading
from delineate.server.settings import Settings
from delineate.store.database import Database
from delineate.testing.dicom import ROOT, sheared, stack_of, write_series
from delineate.testing.dicomweb import Behaviour, DicomWebServer, Stored

GRID = Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0))


def voxels(shape: tuple[int, int, int] = GRID.shape) -> np.ndarray:
    return (np.arange(int(np.prod(shape))) % 900).astype(np.int16).reshape(shape)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[DicomWebServer]:
    with DicomWebServer() as server:
        server.add(write_series(tmp_path / "one", stack_of(voxels(), GRID, series=1)))
        server.add(write_series(tmp_path / "two", stack_of(voxels(), GRID, series=2, study=2, modality="MR")))
        yield server


Opened = Callable[..., DicomWebDatastore]
ONE, TWO = f"{ROOT}.1.1", f"{ROOT}.2.2"


@pytest.fixture
def opened(tmp_path: Path, peer: DicomWebServer) -> Iterator[Opened]:
    """Opens the datastore, as often as asked."""
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    stores: list[DicomWebDatastore] = []

    def again(page: int = 1000, idle: float = 5.0, longest: float = 60.0, **options: Any) -> DicomWebDatastore:
        web = DicomWeb(Access(url=peer.url, page=page, idle=idle, longest=longest), pause=lambda _: None)
        given = {"interval": 0.0, "settle": 0.0, "every": 0.0, "sync": False} | options
        stores.append(DicomWebDatastore(tmp_path / "mirror", database, web, **given))
        return stores[-1]

    yield again
    for store in stores:
        store.close()
    database.close()


@pytest.fixture
def store(opened: Opened) -> DicomWebDatastore:
    found = opened()
    found.synchronise()
    return found


Asking = Callable[..., DicomWeb]


@pytest.fixture
def asking(peer: DicomWebServer) -> Iterator[Asking]:
    """Clients of the server."""
    made: list[DicomWeb] = []

    def make(**access: Any) -> DicomWeb:
        made.append(DicomWeb(Access(url=peer.url, **access), pause=lambda _: None))
        return made[-1]

    yield make
    for web in made:
        web.close()


def label(store: DicomWebDatastore, image: str, grid: Geometry = GRID, name: str = "l.nii.gz") -> Any:
    buffer = io.BytesIO()
    nifti.write_labels(buffer, np.ones(grid.shape, np.uint8), grid)
    buffer.seek(0)
    return store.save_label(image, "final", store.received(buffer, name), who="ann")


def pretend(peer: DicomWebServer, number: int, modality: str) -> None:
    """Let the server list a series that it has not."""
    data = pydicom().Dataset()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", f"1.2.3.{number + 1}", modality
    peer.stored[f"1.2.3.4.{number}"] = Stored(data, b"")


def test_series_are_images_by_their_uid_with_what_viewers_need(store: DicomWebDatastore, peer: DicomWebServer) -> None:
    assert [image.id for image in store.images()] == [ONE, TWO]
    info = store.image(ONE).info
    told = {name: info[name] for name in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "RetrieveURL")}
    assert told == {
        "StudyInstanceUID": f"{ROOT}.1", "SeriesInstanceUID": ONE, "PatientID": "phantom", "Modality": "CT",
        "RetrieveURL": f"{peer.url}/studies/{ROOT}.1/series/{ONE}",
    }  # fmt: skip
    assert not store.is_here(store.image(ONE))
    assert not [line for line in peer.requests if "/studies/" in line]  # nothing is fetched before it is needed


def test_a_fetched_series_reads_as_the_image_it_is(store: DicomWebDatastore, peer: DicomWebServer) -> None:
    record = store.fetch(ONE)
    image = read(record.path)
    assert np.array_equal(image.volume.voxels, voxels())
    grid = store.grid(ONE)
    assert grid is not None and grid.matches(image.volume.geometry)
    before = len(peer.requests)
    assert store.fetch(ONE) == record
    assert len(peer.requests) == before


def test_a_series_is_the_same_file_by_file_when_it_comes_again(opened: Opened, peer: DicomWebServer) -> None:
    """A worker that decoded it before need not again, and a task that waits finds what it was given."""
    store = opened(cache_bytes=9_000, in_use=0.0)
    store.synchronise()

    def stamps() -> list[tuple[str, int, int]]:
        path = store.fetch(ONE).path
        return [(item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in [*sorted(path.iterdir()), path]][:-1]

    first = stamps()
    store.fetch(TWO)
    assert not store.is_here(store.image(ONE))  # there is room for one
    assert stamps() == first


def test_what_is_in_use_is_not_taken_out(opened: Opened) -> None:
    store = opened(cache_bytes=9_000, patience=0.1)
    store.synchronise()
    store.fetch(ONE)
    with pytest.raises(StorageFullError):
        store.fetch(TWO)
    assert store.is_here(store.image(ONE))


def test_a_series_waits_for_room_until_others_are_not_in_use(opened: Opened) -> None:
    store = opened(cache_bytes=9_000, in_use=0.3, patience=30.0)
    store.synchronise()
    store.fetch(ONE)
    store.fetch(TWO)
    assert not store.is_here(store.image(ONE))


def test_a_series_that_is_larger_than_all_the_room_does_not_wait(opened: Opened, tmp_path: Path) -> None:
    store = opened(cache_bytes=3_000)
    store.synchronise()
    with pytest.raises(StorageFullError, match="does not fit"):
        store.fetch(ONE)
    assert list((tmp_path / "mirror" / ".delineate" / "web" / "incoming").iterdir()) == []


def test_what_was_fetched_is_there_after_a_restart_and_what_is_half_is_not(opened: Opened, tmp_path: Path) -> None:
    first = opened()
    first.synchronise()
    path = first.fetch(ONE).path
    first.fetch(TWO)
    first.close()
    (tmp_path / "mirror" / "images" / "1.2.3").mkdir()  # a leftover of an interrupted moment
    next(path.iterdir()).write_bytes(b"")  # what a power cut leaves
    second = opened()
    assert [image.id for image in second.images()] == [ONE, TWO]  # without asking
    assert not (tmp_path / "mirror" / "images" / "1.2.3").exists()
    assert second.is_here(second.image(TWO))
    assert np.array_equal(read(second.fetch(ONE).path).volume.voxels, voxels())


def test_labels_are_compared_with_the_grid_and_raw_ones_lie_on_it(store: DicomWebDatastore) -> None:
    with pytest.raises(GridMismatchError):
        label(store, ONE, Geometry(GRID.size, (0.6, 0.75, 2.0), GRID.origin))
    assert label(store, ONE).version == 1
    raw = store.save_label(TWO, "final", store.received(io.BytesIO(voxels().astype(np.uint8).tobytes()), "label.bin"))
    assert raw.path is not None
    labels, grid = nifti.read_labels(raw.path)
    assert grid.matches(GRID) and np.array_equal(labels, voxels().astype(np.uint8))
    assert store.statistics().completed == 2


def test_labels_stay_when_the_server_is_away_and_when_it_comes_back(opened: Opened, peer: DicomWebServer) -> None:
    store = opened()
    store.synchronise()
    label(store, ONE)
    peer.behaviour.statuses = [500] * 50
    with pytest.raises(DicomWebError):
        store.synchronise()
    assert store.look() == 0
    assert store.statistics().completed == 1
    peer.behaviour.statuses = []
    store.synchronise()
    assert store.statistics().completed == 1


def test_a_series_that_is_gone_there_is_gone_here_when_it_was_missing_twice(store: DicomWebDatastore, peer: DicomWebServer) -> None:
    kept = dict(peer.stored)
    store.fetch(ONE)
    peer.stored = {uid: one for uid, one in kept.items() if one.uid("SeriesInstanceUID") != ONE}
    store.synchronise()
    assert len(store.images()) == 2
    store.synchronise()
    assert [image.id for image in store.images()] == [TWO]
    peer.stored = kept
    store.synchronise()
    assert {image.id for image in store.images()} == {ONE, TWO}


def test_a_series_that_grew_is_a_new_version_and_fetched_anew(store: DicomWebDatastore, peer: DicomWebServer, tmp_path: Path) -> None:
    store.fetch(ONE)
    longer = Geometry((10, 8, 7), GRID.spacing, GRID.origin)
    peer.add(write_series(tmp_path / "more", stack_of(voxels(longer.shape), longer, series=1)))
    store.synchronise()
    assert store.image(ONE).version == 1  # it may be just coming
    store.synchronise()
    assert store.image(ONE).version == 2
    assert not store.is_here(store.image(ONE))
    assert read(store.fetch(ONE).path).volume.geometry.size == (10, 8, 7)
    grid = store.grid(ONE)
    assert grid is not None and grid.size == (10, 8, 7)


@pytest.mark.parametrize(("most", "page"), [(1, 1000), (7, 5), (1000, 1000), (1000, 3)])
def test_all_pages_are_read_whatever_limits_the_server_has(opened: Opened, peer: DicomWebServer, most: int, page: int) -> None:
    peer.behaviour.most = most
    store = opened(page=page)
    store.synchronise()
    assert len(store.images()) == 2


def test_a_server_that_refuses_large_pages_is_asked_for_small_ones(opened: Opened, peer: DicomWebServer) -> None:
    peer.behaviour.largest = 100
    for number in range(250):
        pretend(peer, number, "CT")
    store = opened()
    store.synchronise()
    assert len(store.images()) == 252


def test_a_thousand_series_and_a_server_that_knows_no_offset(opened: Opened, asking: Asking, peer: DicomWebServer) -> None:
    for number in range(1200):
        pretend(peer, number, "CT")
    store = opened(page=100)
    store.synchronise()
    assert len(store.images()) == 1202
    peer.behaviour.keeps_offset = False
    assert len(asking(page=1000).series()) == 1000  # its own limit; the same page again is the end


def test_a_list_that_never_ends_is_given_up(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    web = asking()
    monkeypatch.setattr("delineate.datastore.dicomweb_client._MOST_SERIES", 50)
    asked: list[int] = []

    def page(path: str, query: dict[str, str]) -> list[Any]:
        asked.append(int(query["offset"]))
        return [{"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [f"1.2.{query['offset']}.{number}"]}} for number in range(1, 11)]

    monkeypatch.setattr(web, "json", page)
    with pytest.raises(DicomWebError, match="has no end"):
        web.series()
    assert asked == [0, 10, 20, 30, 40, 50]


def test_no_modality_is_left_out_but_those_without_an_image(opened: Opened, peer: DicomWebServer) -> None:
    for number, modality in enumerate(["SEG", "RTSTRUCT", "SR", "PT", "US", ""], 1):
        pretend(peer, number, modality)
    store = opened()
    store.synchronise()
    assert {image.info.get("Modality", "") for image in store.images()} == {"CT", "MR", "PT", "US", ""}


def test_a_setting_may_name_modalities(opened: Opened) -> None:
    store = opened(modalities=("MR",))
    store.synchronise()
    assert [image.id for image in store.images()] == [TWO]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Behaviour(cut=3000, cuts=99), "broke"),
        (Behaviour(length=40), "breaks off"),
        (Behaviour(length=1 << 20), "broke off"),
        (Behaviour(lost=2), "4 instances of a series of 6"),
        (Behaviour(claimed=9), "6 instances of a series of 9"),
        (Behaviour(statuses=[503] * 9), "status 503"),
        (Behaviour(statuses=[404] * 2), "404"),
        (Behaviour(moved="http://127.0.0.1:1/"), "redirect"),
        (Behaviour(authorization="Bearer x"), "does not let us in"),
    ],
)
def test_a_series_that_does_not_come_whole_is_an_error_and_leaves_nothing(
    opened: Opened, peer: DicomWebServer, tmp_path: Path, fault: Behaviour, words: str
) -> None:
    store = opened()
    peer.behaviour.claimed = fault.claimed
    store.synchronise()
    peer.behaviour = fault
    with pytest.raises(DicomWebError, match=words) as caught:
        store.fetch(ONE)
    assert caught.value.advice
    assert list((tmp_path / "mirror" / "images").iterdir()) == []
    assert list((tmp_path / "mirror" / ".delineate" / "web" / "incoming").iterdir()) == []
    peer.behaviour = Behaviour()
    store.synchronise()
    store.synchronise()
    assert store.fetch(ONE).path.is_dir()


def test_a_server_that_sends_another_image_is_found_out(store: DicomWebDatastore, peer: DicomWebServer) -> None:
    by_series = peer.series()
    one, other = by_series[ONE][2], by_series[TWO][0]
    peer.stored[one.uid("SOPInstanceUID")] = replace(one, content=other.content)
    with pytest.raises(DicomWebError, match="of another series"):
        store.fetch(ONE)
    assert not store.is_here(store.image(ONE)) and store.fetch(TWO).path.is_dir()


def test_what_passes_is_tried_again(store: DicomWebDatastore, peer: DicomWebServer) -> None:
    peer.behaviour = Behaviour(cut=3000, cuts=2)
    assert np.array_equal(read(store.fetch(ONE).path).volume.voxels, voxels())
    peer.behaviour = Behaviour(statuses=[503, 429])
    store.fetch(TWO)


def test_a_server_that_is_slow_costs_the_time_limit_and_no_more(opened: Opened, peer: DicomWebServer) -> None:
    store = opened(idle=0.2)
    store.synchronise()
    peer.behaviour.slow = 30.0
    with pytest.raises(DicomWebError, match="in time"):
        store.fetch(ONE)


def test_one_series_for_many_at_once_is_fetched_once(store: DicomWebDatastore, peer: DicomWebServer) -> None:
    peer.behaviour.slow = 0.1
    threads = [threading.Thread(target=store.fetch, args=(ONE,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in peer.requests if line.endswith(f"/series/{ONE}")]) == 1


def test_images_are_changed_there_not_here(store: DicomWebDatastore) -> None:
    with pytest.raises(InputError, match="DICOMweb"):
        store.add_image(store.received(io.BytesIO(b"x"), "a.nii.gz"))
    with pytest.raises(InputError, match="DICOMweb"):
        store.remove_image(ONE)
    assert len(store.images()) == 2


def test_the_data_set_of_labelled_images_has_their_files(store: DicomWebDatastore) -> None:
    label(store, ONE)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(store.dataset())))
    names = archive.namelist()
    assert len([name for name in names if name.startswith(f"image/{ONE}/")]) == 6
    assert f"label/{ONE}.nii.gz" in names


@pytest.mark.parametrize(
    "given",
    [
        {"studies": "http://u:p@pacs.example/dicom-web"}, {"studies": "https://"}, {"studies": "https://pacs.example/x?y=1"},
        {"studies": "https://pacs.example", "dicomweb_labels": "nifti"}, {"dicomweb": "ftp://pacs.example"},
        {"studies": Path("/data"), "dicomweb": "https://pacs.example"},
        {"studies": "https://pacs.example", "dicomweb_token_file": "a", "dicomweb_password_file": "b"},
        {"studies": "https://pacs.example", "dicomweb_cache_mb": 0},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="the setting"):
        Settings.load(environment={}, **given)


@pytest.mark.parametrize(("url", "warns"), [("http://pacs.example", True), ("https://pacs.example", False), ("http://127.0.0.1:1", False)])
def test_a_secret_that_goes_without_tls_is_warned_of(url: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_open(Settings(dicomweb=url, dicomweb_token_file=tmp_path / "token"))
    assert ("without TLS" in caplog.text) == warns


def test_studies_is_a_folder_or_an_address(tmp_path: Path) -> None:
    web = Settings.load(environment={"DELINEATE_STUDIES": "https://pacs.example/dicom-web"})
    assert (web.dicomweb, web.studies) == ("https://pacs.example/dicom-web", None)
    assert Settings.load(environment={}, studies=str(tmp_path)).studies == tmp_path


def test_a_file_that_is_written_again_is_the_same_instance(store: DicomWebDatastore) -> None:
    """What was sent before a kill, and is sent again after it, is there once."""
    saved = label(store, ONE)
    assert instance_uid(store.uid, saved, "seg") == instance_uid(store.uid, store.label(ONE, "final"), "seg")
    uids = {instance_uid(store.uid, saved, "seg"), instance_uid(store.uid, saved, "rtstruct"), instance_uid("x", saved, "seg")}
    uids.add(instance_uid(store.uid, label(store, ONE), "seg"))
    assert len(uids) == 4
    assert all(is_uid(uid) for uid in uids)
    assert [found.version for _, found in unsent(store, ("final",))] == [2]
    store.update_label_info(ONE, "final", {NOTE: {"version": 1}})
    assert len(unsent(store, ("final",))) == 1  # of the one before
    store.update_label_info(ONE, "final", {NOTE: {"version": 2}})
    assert unsent(store, ("final",)) == []


def test_who_asks_is_read_from_a_file_each_time(asking: Asking, peer: DicomWebServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    web = asking(token_file=token)
    with pytest.raises(SettingsError, match="cannot be read"):
        web.series()
    for word in ("one", "two"):
        token.write_text(f"{word}\n")
        peer.behaviour.authorization = f"Bearer {word}"
        assert len(web.series()) == 2
    token.write_text("ann:secret")
    peer.behaviour.authorization = "Basic YW5uOnNlY3JldA=="
    assert len(asking(password_file=token).series()) == 2


def test_stow_says_whether_all_of_it_is_there(asking: Asking, peer: DicomWebServer, tmp_path: Path) -> None:
    web = asking()
    files = write_series(tmp_path / "three", stack_of(voxels(), GRID, series=3, study=3))
    web.store(f"{ROOT}.3", files)
    web.store(f"{ROOT}.3", files)  # again does no harm
    assert len(peer.series()[f"{ROOT}.3.3"]) == 6
    assert peer.stored[f"{ROOT}.3.3.1"].content == next(path for path in files if path.name.endswith("0000.dcm")).read_bytes()
    peer.behaviour.refuses = True
    with pytest.raises(DicomWebError, match="0xa700"):
        web.store(f"{ROOT}.3", files)


@pytest.mark.parametrize("value", [None, "x", float("nan"), float("inf"), 1e300, -1, 0, [], 10**400])
def test_metadata_that_make_no_sense_have_no_grid(value: Any) -> None:
    whole = {"00200032": [0, 0, 0], "00200037": [1, 0, 0, 0, 1, 0], "00280030": [1, 1], "00280010": [5], "00280011": [6]}
    for tag, values in whole.items():
        data = {**whole, tag: [value, *values[1:]]}
        found = grid_of([{name: {"Value": each} for name, each in data.items()}])
        assert found is None or (tag in ("00200032", "00200037") and value in (-1, 0))


@pytest.mark.parametrize("uid", ["", "..", "1.2/../3", "1.2.03", "a", "1." * 40 + "1", "1.2\n"])
def test_what_is_no_uid_becomes_neither_path_nor_address(uid: str, asking: Asking) -> None:
    data = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}, "0020000E": {"vr": "UI", "Value": [uid]}}
    assert series_of(data, "http://x", 0) is None or uid == "1.2\n"
    with pytest.raises(DicomWebError, match="no UID"):
        asking().metadata("1.2.3", uid)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_parts_are_found_whatever_the_blocks(size: int) -> None:
    body = (
        b"preamble\r\n--b0\r\nContent-Type: a/b\r\n\r\none\r\n--b\r\n\r\n--b0  \r\n\r\n\r\n--b0\r\nX: y\r\n\r\n"
        + b"z" * 5000
        + b"\r\n--b0--\r\nrest"
    )
    sink = _Parts()
    splitter = Splitter(b"b0", sink)
    for start in range(0, len(body), size):
        splitter.feed(body[start : start + size])
    splitter.close()
    assert sink.found == [b"one\r\n--b\r\n", b"", b"z" * 5000]
    assert sink.ended == 3


@pytest.mark.parametrize(
    "body", [b"", b"--b0", b"--b0\r\n\r\nhalf", b"--b0\r\nX: y\r\n\r\nhalf\r\n--b0", b"--b0\r\n\r\nx\r\n--b1--", b"--b0--"[:5]]
)
def test_a_body_without_its_end_is_not_whole(body: bytes) -> None:
    splitter = Splitter(b"b0", _Parts())
    splitter.feed(body)
    with pytest.raises(PartsError, match="breaks off"):
        splitter.close()


def test_boundaries_are_quoted_or_not_or_missing() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    assert boundary_of("multipart/related;boundary=x;type=y") == b"x"
    with pytest.raises(PartsError):
        boundary_of("multipart/related")


def test_grids_of_metadata_are_those_of_the_reader_and_uneven_ones_are_none(tmp_path: Path, asking: Asking, peer: DicomWebServer) -> None:
    turned = Geometry((10, 8, 6), (0.5, 0.75, 2.0), (1.0, 2.0, 3.0), (0, 0, -1.0, 1.0, 0, 0, 0, -1.0, 0))
    stack = stack_of(voxels(), turned, series=7, study=7)
    tilted = stack_of(voxels(), GRID, series=8, study=8)
    tilted = type(tilted)(**{**tilted.__dict__, "positions": sheared(tilted, 12.0)})
    peer.add(write_series(tmp_path / "seven", stack))
    peer.add(write_series(tmp_path / "eight", tilted))
    web = asking()
    found = grid_of(web.metadata(f"{ROOT}.7", f"{ROOT}.7.7"))
    assert found is not None and found.matches(read(tmp_path / "seven").volume.geometry)
    assert grid_of(web.metadata(f"{ROOT}.8", f"{ROOT}.8.8")) is None
    assert grid_of([]) is None
    assert grid_of([{"00200032": {"Value": ["a"]}}]) is None


class _Parts:
    def __init__(self) -> None:
        self.found: list[bytes] = []
        self.ended = 0

    def begin(self) -> None:
        self.found.append(b"")

    def write(self, data: memoryview) -> None:
        self.found[-1] += bytes(data)

    def end(self) -> None:
        self.ended += 1


def test_the_process_that_serves_imports_no_reader_of_dicom(peer: DicomWebServer, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from delineate.datastore.dicomweb import DicomWebDatastore
from delineate.datastore.dicomweb_client import Access, DicomWeb
from delineate.store.database import Database
import delineate.server.monai_label.api
database = Database("sqlite:///{tmp_path}/other.db", sync=False)
database.migrate()
with DicomWebDatastore(Path("{tmp_path}/other"), database, DicomWeb(Access(url="{peer.url}")), every=0, interval=0) as store:
    store.synchronise()
    store.fetch("{ONE}")
database.close()
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"pydicom", "scipy", "SimpleITK"}}), "delineate.dicom" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[] False"


def test_what_becomes_of_an_older_version_is_not_said_of_a_newer_one(opened: Opened) -> None:
    """Somebody saves a label over one that was found there, while a worker reads that."""
    store = opened()
    store.synchronise()

    def save(info: dict[str, Any]) -> None:
        with store.incoming("label.nii.gz") as writer:
            nifti.write_labels(buffer := io.BytesIO(), np.ones(GRID.shape, np.uint8), GRID)
            writer.write(buffer.getvalue())
            store.save_label(ONE, "final", writer, info=info)

    save({NOTE: {"found": "1.2.3"}})
    found = store.label(ONE, "final")
    assert unsent(store, ("final",)) == []
    save({})
    Reading(store).give_up(found, "its file is gone")
    assert [label.version for _, label in unsent(store, ("final",))] == [2]
    assert NOTE not in store.label(ONE, "final").info
