"""Batches whose labels are DICOM: files beside a folder's images, or series beside those of a PACS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.datastore.dicomweb_labels import unsent
from delineate.dicom.reader import read
from delineate.dicom.rtstruct import read_rtstruct
from delineate.dicom.seg import read_seg
from delineate.geometry import Geometry
from delineate.testing.dicom import ROOT, stack_of, write_series
from delineate.testing.dicomweb import DicomWebServer

Start = Callable[..., Any]

GRID = Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0))
ONE, TWO = f"{ROOT}.1.1", f"{ROOT}.2.2"
READERS = {"dicom_seg": read_seg, "rtstruct": read_rtstruct}


def voxels() -> np.ndarray:
    found = np.full(GRID.shape, 24, np.int16)
    found[1:3, 2:5, 3:7] = 1724
    return found


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.mark.parametrize("output", READERS)
def test_labels_of_a_folder_are_files_in_dicom(label_server: Start, tmp_path: Path, output: str) -> None:
    folder = tmp_path / "server" / "studies" / "chest"
    write_series(folder, stack_of(voxels(), GRID))
    for path in (*folder.iterdir(), folder):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    server = label_server("plain.nii.gz", folder=tmp_path / "server", workers=1)
    until(lambda: server.http.get("/datastore/").json()["total"] == 2)
    done = server.http.post("/batch/infer/threshold", params={"run_sync": True, "output": output}, json={"label_tag": "mine"})
    assert set(done.json()) == {"chest"}, done.text
    ended = server.http.get("/batch/infer").json()
    assert ended["status"] == "ERROR" and ended["request"]["output"] == output
    assert any("plain: the image did not come from DICOM" in line for line in ended["details"])
    path = tmp_path / "label.dcm"
    path.write_bytes(server.http.get("/datastore/label", params={"label": "chest", "tag": "mine"}).content)
    found = READERS[output](path, read(folder).series)
    assert found.names == ["Bright"] and np.array_equal(found.mask("Bright"), voxels() > 1000)
    assert server.http.post("/batch/infer/threshold", params={"output": "nifti"}).status_code == 422


def test_labels_of_a_pacs_go_back_whatever_their_tag(label_server: Start, tmp_path: Path) -> None:
    with DicomWebServer() as peer:
        peer.add(write_series(tmp_path / "one", stack_of(voxels(), GRID, series=1)))
        peer.add(write_series(tmp_path / "two", stack_of(voxels(), GRID, series=2, study=2)))
        server = label_server(has_studies=False, workers=1, dicomweb=peer.url, dicomweb_interval=0.2, dicomweb_labels=())
        until(lambda: server.http.get("/datastore/").json()["total"] == 2)
        done = server.http.post("/batch/infer/threshold", params={"run_sync": True, "output": "rtstruct"})
        assert set(done.json()) == {ONE, TWO}, done.text
        until(lambda: len(peer.series("RTSTRUCT")) == 2)
        assert not peer.series("SEG")
        stored = [one for same in peer.series("RTSTRUCT").values() for one in same]
        (mine,) = (one for one in stored if one.uid("StudyInstanceUID") == f"{ROOT}.1")
        (tmp_path / "label.dcm").write_bytes(mine.content)
        found = read_rtstruct(tmp_path / "label.dcm", read(tmp_path / "one").series)
        assert found.names == ["Bright"] and np.array_equal(found.mask("Bright"), voxels() > 1000)
        label = {"label": ONE, "tag": "original"}
        until(lambda: "sent" in server.http.get("/datastore/label/info", params=label).json()["dicomweb"])
        assert server.http.get("/datastore/label", params=label).content[:2] == b"\x1f\x8b", "a label map, for training and scores"
        server.http.post("/batch/infer/threshold", params={"run_sync": True, "images": "all"}, json={"label_tag": "other"})
        assert unsent(server.app.state.labels.annotation.web, ()) == [], "who does not ask sends nothing"
