"""A server over a DICOMweb server: every route of MONAI Label on its series, labels that go back, and the way through for viewers."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from delineate import nifti
from delineate.datastore.local import LocalDatastore
from delineate.dicom.parts import pydicom
from delineate.dicom.reader import read
from delineate.dicom.rtstruct import read_rtstruct
from delineate.dicom.seg import read_seg
from delineate.errors import StoreError
from delineate.geometry import Geometry
from delineate.testing.dicom import ROOT, stack_of, write_series
from delineate.testing.dicomweb import Behaviour, DicomWebServer

Start = Callable[..., Any]

GRID = Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0))
ONE, TWO = f"{ROOT}.1.1", f"{ROOT}.2.2"


def voxels() -> np.ndarray:
    """Air with a block of bone in it, as stored: 1024 above what it means."""
    found = np.full(GRID.shape, 24, np.int16)
    found[1:3, 2:5, 3:7] = 1724
    return found


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[DicomWebServer]:
    with DicomWebServer() as server:
        server.add(write_series(tmp_path / "one", stack_of(voxels(), GRID, series=1)))
        server.add(write_series(tmp_path / "two", stack_of(voxels(), GRID, series=2, study=2)))
        yield server


Serving = Callable[..., Any]


@pytest.fixture(scope="module")
def shared(label_server_class: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, DicomWebServer]]:
    """A server that looks at its peer once, and the peer: for tests that change nothing."""
    with DicomWebServer() as peer:
        peer.add(write_series(tmp_path_factory.mktemp("one"), stack_of(voxels(), GRID, series=1)))
        server = label_server_class(tmp_path_factory.mktemp("server"), has_studies=False, dicomweb=peer.url, dicomweb_interval=600.0)
        until(lambda: server.http.get("/datastore/").json()["total"] == 1)
        yield server, peer
        server.stop()


@pytest.fixture
def serving(label_server: Start, peer: DicomWebServer) -> Serving:
    """Starts servers over it, and waits until they know its series."""

    def start(images: int = 2, **settings: Any) -> Any:
        server = label_server(has_studies=False, **{"dicomweb": peer.url, "dicomweb_interval": 0.2, **settings})
        until(lambda: server.http.get("/datastore/").json()["total"] == images)
        return server

    return start


def until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def mask(grid: Geometry = GRID) -> bytes:
    buffer = io.BytesIO()
    nifti.write_labels(buffer, (voxels() > 1000).astype(np.uint8), grid)
    return buffer.getvalue()


def save(server: Any, image: str, data: bytes, name: str = "l.nii.gz", params: Any = None, **query: str) -> httpx.Response:
    parts = {"params": (None, json.dumps(params or {})), "label": (name, data)}
    found: httpx.Response = server.http.put("/datastore/label", params={"image": image, **query}, files=parts)
    return found


def arrived(peer: DicomWebServer, modality: str) -> list[bytes]:
    return [one.content for same in peer.series(modality).values() for one in same]


def test_the_next_sample_says_what_a_viewer_opens(serving: Serving, peer: DicomWebServer) -> None:
    sample = serving().http.post("/activelearning/first", json={}).json()
    assert {name: sample[name] for name in ("id", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "RetrieveURL")} == {
        "id": ONE, "StudyInstanceUID": f"{ROOT}.1", "SeriesInstanceUID": ONE, "PatientID": "phantom", "Modality": "CT",
        "RetrieveURL": f"{peer.url}/studies/{ROOT}.1/series/{ONE}",
    }  # fmt: skip


def test_infer_by_series_answers_a_mask_and_its_label_goes_back(serving: Serving, peer: DicomWebServer, tmp_path: Path) -> None:
    server = serving(workers=1, dicomweb_labels=("seg", "rtstruct"), dicomweb_label_tags=("original",))
    given = {"params": (None, json.dumps({"result_extension": ".nii.gz", "result_dtype": "uint8", "save_label": True, "level": 100}))}
    answer = server.http.post("/infer/threshold", params={"image": ONE, "output": "image"}, files=given)
    assert answer.status_code == 200, answer.text
    (tmp_path / "answer.nii.gz").write_bytes(answer.content)
    labels, grid = nifti.read_labels(tmp_path / "answer.nii.gz")
    assert grid.matches(GRID) and np.array_equal(labels, voxels() > 1000)
    until(lambda: bool(arrived(peer, "SEG")) and bool(arrived(peer, "RTSTRUCT")))
    series = read(tmp_path / "one").series
    for modality, reader in (("SEG", read_seg), ("RTSTRUCT", read_rtstruct)):
        path = tmp_path / f"{modality}.dcm"
        path.write_bytes(arrived(peer, modality)[0])
        found = reader(path, series)
        assert found.names == ["Bright"]
        assert np.array_equal(found.mask("Bright"), voxels() > 1000)
    data = pydicom().dcmread(tmp_path / "SEG.dcm")
    assert (data.PatientID, data.StudyInstanceUID) == ("phantom", f"{ROOT}.1")


def test_a_viewer_gets_a_raw_nrrd_of_a_series_that_came_a_moment_ago(serving: Serving, peer: DicomWebServer, tmp_path: Path) -> None:
    server = serving(workers=1, dicomweb_interval=600.0)
    peer.add(write_series(tmp_path / "three", stack_of(voxels(), GRID, series=3, study=3)))
    given = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False, "level": 100}
    answer = server.http.post(
        "/infer/threshold", params={"image": f"{ROOT}.3.3", "output": "image"}, files={"params": (None, json.dumps(given))}
    )
    assert answer.status_code == 200, answer.text
    head, _, body = answer.content.partition(b"\n\n")
    assert head.startswith(b"NRRD") and b"encoding: raw" in head
    assert body == (voxels() > 1000).astype(np.uint8).tobytes()
    assert server.http.post("/infer/threshold", params={"image": "1.2.3"}).status_code == 404
    assert server.http.get("/datastore/").json()["total"] == 3


def test_a_label_is_sent_once_and_a_new_version_again(serving: Serving, peer: DicomWebServer) -> None:
    server = serving(workers=1)
    assert save(server, ONE, mask(), params={"label_info": [{"name": "liver", "idx": 1}]}).status_code == 200
    until(lambda: len(arrived(peer, "SEG")) == 1)
    info = lambda: server.http.get("/datastore/label/info", params={"label": ONE, "tag": "final"}).json()  # noqa: E731
    until(lambda: "sent" in info().get("dicomweb", {}))
    server.http.put("/datastore/updatelabelinfo", params={"label": ONE, "tag": "final"}, data={"params": json.dumps({"a": 1})})
    assert save(server, ONE, mask()).status_code == 200
    until(lambda: info().get("dicomweb", {}).get("version") == 2)
    assert len(arrived(peer, "SEG")) == 2
    assert not [task for task in server.service.tasks.work("dicom-label", limit=10)]


def test_a_label_waits_for_a_server_that_is_away_and_outlives_ours(serving: Serving, peer: DicomWebServer, tmp_path: Path) -> None:
    server = serving(workers=1, folder=tmp_path / "kept")
    server.http.get("/datastore/image", params={"image": ONE})
    peer.behaviour.refuses = True
    assert save(server, ONE, mask()).status_code == 200
    until(lambda: any(line.startswith("POST") for line in peer.requests))
    server.stop()
    peer.behaviour.refuses = False
    assert arrived(peer, "SEG") == []
    serving(workers=1, folder=tmp_path / "kept")
    until(lambda: len(arrived(peer, "SEG")) == 1)


def test_a_label_that_was_stored_but_not_noted_is_there_once(
    serving: Serving, peer: DicomWebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server is killed between the two."""
    server = serving(workers=1, folder=tmp_path / "kept")

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(LocalDatastore, "update_label_info", fail)
        assert save(server, ONE, mask()).status_code == 200
        until(lambda: any(line.startswith("POST") for line in peer.requests))
        server.stop()
    first = dict(peer.stored)
    serving(workers=1, folder=tmp_path / "kept")
    until(lambda: len([line for line in peer.requests if line.startswith("POST")]) == 2)
    until(lambda: bool(arrived(peer, "SEG")))
    assert peer.stored.keys() == first.keys()
    assert len(peer.series("SEG")) == 1


def test_a_label_that_cannot_be_written_says_so_and_is_let_be(serving: Serving, peer: DicomWebServer) -> None:
    """One without a structure has nothing to be written."""
    server = serving(workers=1)
    empty = io.BytesIO()
    nifti.write_labels(empty, np.zeros(GRID.shape, np.uint8), GRID)
    assert save(server, ONE, empty.getvalue()).status_code == 200
    info = lambda: server.http.get("/datastore/label/info", params={"label": ONE, "tag": "final"}).json()  # noqa: E731
    until(lambda: "failed" in info().get("dicomweb", {}))
    assert arrived(peer, "SEG") == []
    assert save(server, ONE, mask()).status_code == 200
    until(lambda: len(arrived(peer, "SEG")) == 1)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_labels_that_lie_there_are_found_with_their_tag_the_newest_first(
    serving: Serving, peer: DicomWebServer, tmp_path: Path, kind: str
) -> None:
    tags, modality = ("final", "second reader"), kind.upper()
    first = serving(workers=1, folder=tmp_path / "first", dicomweb_label_tags=tags, dicomweb_labels=(kind,))
    save(first, ONE, mask())
    save(first, ONE, mask(), tag="second reader")
    until(lambda: len(arrived(peer, modality)) == 2)
    first.stop()
    other = serving(folder=tmp_path / "other")
    until(lambda: other.http.get("/datastore/").json()["label_tags"] == {"final": 1, "second reader": 1})
    answer = other.http.get("/datastore/label", params={"label": ONE, "tag": "second reader"})
    assert answer.content in arrived(peer, modality)
    info = other.http.get("/datastore/label/info", params={"label": ONE, "tag": "final"}).json()
    assert info["dicomweb"]["modality"] == modality
    assert "failed" not in info["dicomweb"]
    other.http.delete("/datastore/label", params={"id": ONE, "tag": "final"})
    asked = len(peer.requests)
    until(lambda: len([line for line in peer.requests[asked:] if "/series?" in line]) >= 3)
    assert other.http.get("/datastore/").json()["label_tags"] == {"second reader": 1}  # what was removed here does not come back


def test_nothing_in_the_logs_names_a_patient_or_a_study(serving: Serving, peer: DicomWebServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = serving(workers=1)
    save(server, ONE, mask())
    until(lambda: bool(arrived(peer, "SEG")))
    empty = io.BytesIO()
    nifti.write_labels(empty, np.zeros(GRID.shape, np.uint8), GRID)
    save(server, TWO, empty.getvalue())
    until(lambda: "cannot be written" in caplog.text)
    server.http.get("/proxy/dicom/qido/studies", params={"PatientID": "phantom"})
    server.http.get(f"/proxy/dicom/wado/studies/{ROOT}.1/series/{ONE}/metadata")
    ours = [
        record
        for record in caplog.records
        if not (record.name.startswith(("httpx", "httpcore")) and server.url[-5:] in record.getMessage())
    ]
    shown = [record.getMessage() for record in ours if record.threadName != threading.main_thread().name]
    assert shown
    assert not [line for line in shown if ROOT in line or "phantom" in line]


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_a_label_that_was_found_becomes_a_label_map_once_its_image_is_here(
    serving: Serving, peer: DicomWebServer, tmp_path: Path, kind: str
) -> None:
    first = serving(workers=1, folder=tmp_path / "first", dicomweb_labels=(kind,))
    save(first, ONE, mask(), params={"label_info": [{"name": "liver", "idx": 1}]})
    until(lambda: len(arrived(peer, kind.upper())) == 1)
    first.stop()
    other = serving(workers=1, folder=tmp_path / "other")
    asked = {"label": ONE, "tag": "final"}
    until(lambda: other.http.get("/datastore/label", params=asked).content[128:132] == b"DICM")
    other.http.get("/datastore/image", params={"image": ONE})
    until(lambda: other.http.get("/datastore/label", params=asked).content[:2] == b"\x1f\x8b")
    path = tmp_path / "found.nii.gz"
    path.write_bytes(other.http.get("/datastore/label", params=asked).content)
    labels, grid = nifti.read_labels(path)
    assert grid.matches(GRID) and np.array_equal(labels, voxels() > 1000)
    info = other.http.get("/datastore/label/info", params=asked).json()
    assert info["label_names"] == {"liver": 1}
    until(lambda: not other.service.tasks.work("dicom-label-read", limit=10))
    assert len(arrived(peer, kind.upper())) == 1  # it is not sent back to where it came from
    started = other.http.post("/train/voxel-forest", json={"label_tag": "final"})
    assert started.status_code == 200, started.text
    other.http.delete("/train/")


def test_an_image_is_a_zip_of_its_files_and_a_raw_label_lies_on_its_grid(serving: Serving) -> None:
    server = serving()
    archive = zipfile.ZipFile(io.BytesIO(server.http.get("/datastore/image", params={"image": ONE}).content))
    assert len(archive.namelist()) == 6
    assert save(server, ONE, (voxels() > 1000).astype(np.uint8).tobytes(), "label.bin").status_code == 200
    assert save(server, TWO, mask(Geometry(GRID.size, (0.6, 0.75, 2.0))), "label.nii.gz").status_code == 409
    dataset = zipfile.ZipFile(io.BytesIO(server.http.get("/datastore/dataset").content))
    assert len([name for name in dataset.namelist() if name.startswith(f"image/{ONE}/")]) == 6


def test_what_the_server_behind_fails_at_is_its_fault(serving: Serving, peer: DicomWebServer) -> None:
    server = serving(workers=1)
    peer.behaviour = Behaviour(lost=3)
    answer = server.http.post("/infer/threshold", params={"image": ONE})
    assert answer.status_code == 502
    assert "3 instances of a series of 6" in answer.text
    assert server.http.delete("/datastore/image", params={"id": ONE}).status_code == 422
    assert server.http.post("/infer/threshold", params={"image": "1.2.3"}).status_code == 404


def test_waiting_for_a_slow_server_stops_nobody_else(serving: Serving, peer: DicomWebServer) -> None:
    server = serving(dicomweb_interval=600.0)
    peer.behaviour.slow = 600.0
    with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as other:
        threads = [
            threading.Thread(target=other.get, args=("/datastore/image",), kwargs={"params": {"image": image}}) for image in (ONE, TWO) * 12
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                assert server.http.get("/info/", timeout=20).status_code == 200
            assert all(thread.is_alive() for thread in threads)
        finally:
            peer.behaviour.slow = 0.0
            peer.stopping.set()  # whoever waits is answered now
            for thread in threads:
                thread.join()


# The way through


def test_viewers_search_and_retrieve_through_us(serving: Serving, peer: DicomWebServer) -> None:
    server = serving()
    found = server.http.get("/proxy/dicom/qido/series", params={"limit": "1", "offset": "1"})
    assert found.headers["content-type"] == "application/dicom+json"
    assert [one["0020000E"]["Value"] for one in found.json()] == [[TWO]]
    kind = 'multipart/related; type="application/dicom"'
    direct = httpx.get(f"{peer.url}/studies/{ROOT}.1/series/{ONE}/metadata", trust_env=False)
    assert server.http.get(f"/proxy/dicom/wado/studies/{ROOT}.1/series/{ONE}/metadata").content == direct.content
    parts = server.http.get(f"/proxy/dicom/wado/studies/{ROOT}.1/series/{ONE}", headers={"accept": kind})
    assert parts.headers["content-type"].startswith("multipart/related") and parts.content.count(b"DICM") == 6
    missing = server.http.get("/proxy/dicom/wado/studies/1.2.3/series/1.2.3")
    assert missing.status_code == 404


def test_instances_are_stored_through_us(serving: Serving, peer: DicomWebServer, tmp_path: Path) -> None:
    server = serving()
    path = write_series(tmp_path / "three", stack_of(voxels()[:1], Geometry((10, 8, 1)), series=3, study=3))[0]
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--x--\r\n"
    headers = {"content-type": 'multipart/related; type="application/dicom"; boundary=x'}
    answer = server.http.post("/proxy/dicom/stow/studies", content=body, headers=headers)
    assert answer.status_code == 200 and f"{ROOT}.3.3.1" in answer.text
    until(lambda: server.http.get("/datastore/").json()["total"] == 3)


@pytest.mark.parametrize(
    "path",
    [
        "wado", "wado/", "qido", "qido/patients", "wado/../system", "wado/studies/../../system", "wado/studies/%2e%2e/%2e%2e/system",
        "wado/%2fsystem", "qido/studies//x", "qido/@evil.example/", "wado/studies/1.2.3%0d%0aX:%20y", "qido/studies%3Fx",
        "wado/studies/...", "qido/studies/%5c%5cevil",
    ],
)  # fmt: skip
def test_nothing_but_dicomweb_is_handed_on(shared: tuple[Any, DicomWebServer], path: str) -> None:
    server, peer = shared
    before = len(peer.requests)
    answer = server.http.send(httpx.Request("GET", f"{server.url}/proxy/dicom/{path}"))
    assert answer.status_code in (404, 422), answer.text
    assert len(peer.requests) == before


def test_what_we_are_known_by_stays_here_and_nobodys_token_goes_on(label_server: Start, peer: DicomWebServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    peer.behaviour.authorization = "Bearer secret"
    server = label_server(has_studies=False, dicomweb=peer.url, dicomweb_token_file=token, token="ours", dicomweb_interval=0.2)
    assert server.http.get("/proxy/dicom/qido/series").status_code == 401
    known = {"authorization": "Bearer ours"}
    answer = server.http.get("/proxy/dicom/qido/series", headers=known)
    assert answer.status_code == 200 and len(answer.json()) == 2
    peer.behaviour.authorization = "Bearer other"
    refused = server.http.get("/proxy/dicom/qido/series", headers=known)
    assert refused.status_code == 502 and "secret" not in refused.text  # not 401: our own login holds
    peer.behaviour = Behaviour(moved="http://127.0.0.1:1/x")
    assert server.http.get("/proxy/dicom/qido/series", headers=known).status_code == 502


def test_roles_hold_for_the_way_through(label_server: Start, peer: DicomWebServer) -> None:
    server = label_server(has_studies=False, dicomweb=peer.url, tokens={"u": "user-token"}, token_roles={"u": "user"})
    known = {"authorization": "Bearer user-token"}
    assert server.http.get("/proxy/dicom/qido/series", headers=known).status_code == 200
    assert server.http.post("/proxy/dicom/stow/studies", headers=known, content=b"x").status_code == 403


def test_an_upload_has_a_limit_and_a_server_that_is_away_is_said_to_be(label_server: Start, peer: DicomWebServer) -> None:
    server = label_server(has_studies=False, dicomweb=peer.url, max_upload_mb=1)
    headers = {"content-type": "multipart/related; boundary=x"}
    assert server.http.post("/proxy/dicom/stow/studies", content=bytes(2 << 20), headers=headers).status_code == 413
    assert server.http.post("/proxy/dicom/stow/../x", content=b"", headers=headers).status_code == 404
    away = label_server(has_studies=False, dicomweb="http://127.0.0.1:9/dicom-web")
    answer = away.http.get("/proxy/dicom/qido/studies")
    assert answer.status_code == 502 and "cannot be reached" in answer.text
    assert away.http.get("/datastore/").json()["total"] == 0


def test_without_a_dicomweb_server_there_is_no_way_through(label_server: Start) -> None:
    server = label_server("a.nii.gz")
    answer = server.http.get("/proxy/dicom/qido/studies")
    assert answer.status_code == 404 and "--studies" in answer.text
