"""A server over Orthanc's DICOMweb plugin: a real peer, on loopback, with a configuration and a store of its own."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.dicom.reader import read
from delineate.dicom.rtstruct import read_rtstruct
from delineate.dicom.seg import read_seg
from delineate.geometry import Geometry
from delineate.testing.dicom import ROOT, stack_of, write_series
from delineate.testing.orthanc import Orthanc, orthanc, orthanc_program

pytestmark = pytest.mark.skipif(orthanc_program() is None, reason="Orthanc is not installed (.ci/run does)")

GRID = Geometry((40, 32, 20), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0))
ONE = f"{ROOT}.1.1"


def voxels() -> np.ndarray:
    found = np.full(GRID.shape, 24, np.int16)
    found[3:12, 5:20, 8:30] = 1724
    return found


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc(folder / "peer") as started:
        started.upload(write_series(folder / "one", stack_of(voxels(), GRID, series=1)))
        for series in range(2, 8):
            small = Geometry((8, 8, 3), (1.0, 1.0, 2.0))
            stack = stack_of(np.full(small.shape, series, np.int16), small, series=series, study=series, modality="MR")
            started.upload(write_series(folder / str(series), stack))
        yield started


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def test_its_series_are_inferred_labelled_and_get_their_labels_back(
    label_server: Callable[..., Any], peer: Orthanc, tmp_path: Path
) -> None:
    server = label_server(
        has_studies=False, workers=1, dicomweb=peer.dicomweb, dicomweb_interval=0.5, dicomweb_labels=("seg", "rtstruct")
    )  # fmt: skip
    until(lambda: server.http.get("/datastore/").json()["total"] == 7)
    sample = server.http.post("/activelearning/first", json={}).json()
    assert sample["id"] == sample["SeriesInstanceUID"] == ONE
    assert (sample["StudyInstanceUID"], sample["PatientID"], sample["Modality"]) == (f"{ROOT}.1", "phantom", "CT")
    assert sample["RetrieveURL"].endswith(f"/studies/{ROOT}.1/series/{ONE}")
    params = {"params": (None, json.dumps({"result_extension": ".nii.gz", "result_dtype": "uint8", "level": 100}))}
    answer = server.http.post("/infer/threshold", params={"image": ONE, "output": "image"}, files=params)
    assert answer.status_code == 200, answer.text
    path = tmp_path / "answer.nii.gz"
    path.write_bytes(answer.content)
    labels, grid = nifti.read_labels(path)
    assert grid.matches(GRID) and np.array_equal(labels, voxels() > 1000)
    raw = {"params": (None, json.dumps({"label_info": [{"name": "liver", "idx": 1}]})), "label": ("label.bin", labels.tobytes())}
    assert server.http.put("/datastore/label", params={"image": ONE}, files=raw).status_code == 200
    until(lambda: bool(peer.instances("SEG")) and bool(peer.instances("RTSTRUCT")))
    source_folder = tmp_path / "source"
    source_folder.mkdir()
    for number, instance in enumerate(peer.instances("CT").values()):
        peer.fetch(instance, source_folder / f"{number}.dcm")
    source = read(source_folder).series
    for modality, reader in (("SEG", read_seg), ("RTSTRUCT", read_rtstruct)):
        (instance,) = peer.instances(modality).values()
        found = reader(peer.fetch(instance, tmp_path / f"{modality}.dcm"), source)
        assert found.names == ["liver"]
        assert np.array_equal(found.mask("liver"), voxels() > 1000)
    server.stop()
    other = label_server(has_studies=False, dicomweb=peer.dicomweb, dicomweb_interval=0.5)
    until(lambda: other.http.get("/datastore/").json()["label_tags"].get("final") == 1)
    assert other.http.get("/datastore/label", params={"label": ONE, "tag": "final"}).content[128:132] == b"DICM"
    assert other.http.get("/datastore/").json()["total"] == 7


def test_its_pages_are_all_read_and_viewers_reach_it(label_server: Callable[..., Any], peer: Orthanc) -> None:
    server = label_server(has_studies=False, dicomweb=peer.dicomweb)
    until(lambda: server.http.get("/datastore/").json()["total"] == 7)
    web = server.app.state.labels.annotation.web.web
    assert len({one.uid for one in web.series("MR")}) == 6
    wado = f"/proxy/dicom/wado/studies/{ROOT}.1/series/{ONE}"
    found = server.http.get("/proxy/dicom/qido/studies", params={"limit": "3"})
    assert found.status_code == 200 and len(found.json()) == 3
    assert len(server.http.get(f"{wado}/metadata").json()) == GRID.size[2]
    frame = server.http.get(f"{wado}/instances/{ONE}.4/frames/1", headers={"accept": 'multipart/related; type="application/octet-stream"'})
    assert frame.status_code == 200
    assert voxels()[3].tobytes() in frame.content
    buffer = io.BytesIO(server.http.get("/datastore/image", params={"image": ONE}).content)
    assert len(buffer.getvalue()) > voxels().nbytes
