"""OHIF: its files, as a browser asks for them, and what its pages ask for then, as it was recorded with OHIF 3 in Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from delineate.dicom.parts import pydicom
from delineate.dicom.reader import read
from delineate.dicom.seg import read_seg
from delineate.errors import SettingsError
from delineate.geometry import Geometry
from delineate.server.settings import Settings
from delineate.testing.dicom import ROOT, stack_of, write_series
from delineate.testing.dicomweb import Behaviour, DicomWebServer

Start = Callable[..., Any]

INSIDE = "http://pacs.internal:8042/dicom-web"
GRIDS = {
    1: Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0)),
    2: Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0), (1, 0, 0, 0, 1, 0, 0, 0, -1)),  # head first in the file names
    3: Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0), (0, 0, -1, 1, 0, 0, 0, -1, 0)),  # sagittal
}
METADATA = 'application/dicom+json, multipart/related; type="application/octet-stream"; transfer-syntax="*"'
FRAME = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
XHR = {"accept": "application/json,multipart/form-data"}
LIST = "limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060"


def voxels() -> np.ndarray:
    found = np.full((6, 8, 10), 24, np.int16)
    found[1:3, 2:5, 3:7] = 1724
    found[3, 2, 3] = 1300
    return found


# The files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return viewer_in(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, label_server_class: Any) -> Iterator[Any]:
    folder = viewer_in(tmp_path_factory.mktemp("viewer"))
    made = label_server_class(tmp_path_factory.mktemp("server"), ("a.nii.gz",), ohif=folder)
    yield made
    made.stop()


def viewer_in(tmp_path: Path) -> Path:
    made = tmp_path / "ohif"
    (made / "assets").mkdir(parents=True)
    for name, text in {
        "index.html": "<html>the page</html>", "app-config.js": "window.config = {wadoRoot: '/proxy/dicom/wado'};", "sw.js": "//",
        "app.bundle.0123456789abcdef0123.js": "code", "codec.wasm": "\0asm", "app.css": "body{}", "assets/icon.svg": "<svg/>",
        "manifest.json": "{}", "odd.xyz": "?", ".htpasswd": "secret",
    }.items():  # fmt: skip
        (made / name).write_text(text)
    (tmp_path / "secret.json").write_text("secret")
    (made / "out.json").symlink_to(tmp_path / "secret.json")
    (made / "up").symlink_to(tmp_path)
    return made


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("app.bundle.0123456789abcdef0123.js", "text/javascript; charset=utf-8"), ("codec.wasm", "application/wasm"),
        ("app.css", "text/css; charset=utf-8"), ("assets/icon.svg", "image/svg+xml"), ("manifest.json", "application/json"),
        ("odd.xyz", "application/octet-stream"), ("", "text/html; charset=utf-8"),
    ],
)  # fmt: skip
def test_files_have_their_types(served: Any, path: str, kind: str) -> None:
    server, folder = served, served.settings.ohif
    answer = server.http.get(f"/ohif/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.content == (folder / (path or "index.html")).read_bytes()
    head = server.http.head(f"/ohif/{path}")
    assert (head.headers["content-length"], head.content) == (str(len(answer.content)), b"")
    keep = "private, max-age=31536000, immutable" if "bundle" in path else "no-cache"
    assert answer.headers["cache-control"] == keep
    again = server.http.get(f"/ohif/{path}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, keep)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "connect-src 'self' blob: data:;" in policy and "frame-ancestors 'none'" in policy


def test_an_address_within_the_viewer_is_its_page(served: Any) -> None:
    server = served
    for path in ("viewer?StudyInstanceUIDs=1.2.840.1", "monai-label/dicomweb?StudyInstanceUIDs=1.2", "viewer/1.2.840.113619", "local"):
        answer = server.http.get(f"/ohif/{path}")
        assert (answer.status_code, answer.text) == (200, "<html>the page</html>"), path
    assert server.http.get("/ohif").headers["location"] == "ohif/"
    gone = server.http.get("/ohif/other.bundle.0123456789abcdef.js")
    assert gone.status_code == 404 and "text/html" not in gone.headers["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.json", "..%2fsecret.json", "%2e%2e/secret.json", "assets/../../secret.json", "assets/..%2f..%2fsecret.json", "out.json",
        "up/secret.json", "/secret.json", "%2f%2fetc/passwd.json", ".htpasswd", "..%5csecret.json", "x%00.json", "C:/secret.json",
        f"{'a' * 300}.json", f"{'a/' * 3000}b.json",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(served: Any, path: str) -> None:
    answer = served.http.send(httpx.Request("GET", f"{served.url}/ohif/{path}"))
    assert answer.status_code == 404, answer.text
    assert "secret" not in answer.text and str(served.settings.ohif) not in answer.text


def test_the_folders_own_configuration_counts_where_it_leads_through_us(label_server: Start, folder: Path) -> None:
    with DicomWebServer() as peer:
        server = label_server(has_studies=False, dicomweb=peer.url, ohif=folder, root_path="/d")
        own = server.http.get("/ohif/app-config.js").text
        assert own.startswith("window.config = {wadoRoot: '/proxy/dicom/wado'};")
        assert "escape(window.location.origin + '/d/')" in own
        (folder / "app-config.js").write_text("window.config = {wadoRoot: 'https://demo.example/dicomweb'};")
        answer = server.http.get("/ohif/app-config.js")
        assert "qidoRoot: '/d/proxy/dicom/qido'" in answer.text and "routerBasename: '/d/ohif/'" in answer.text
        assert "demo.example" not in answer.text + answer.headers["content-security-policy"]
        (folder / "app-config.js").unlink()
        assert "qidoRoot: '/d/proxy/dicom/qido'" in server.http.get("/ohif/app-config.js").text
    (folder / "app-config.js").write_text("window.config = {wadoRoot: 'https://pacs.example:8443/dicomweb'};")
    server = label_server("a.nii.gz", ohif=folder)  # nothing behind it that ours could lead to
    answer = server.http.get("/ohif/app-config.js")
    assert "https://pacs.example:8443/dicomweb" in answer.text
    assert "connect-src 'self' blob: data: https://pacs.example:8443;" in answer.headers["content-security-policy"]


def test_without_a_viewer_it_is_said_how_to_get_one(label_server: Start, tmp_path: Path) -> None:
    answer = label_server("a.nii.gz").http.get("/ohif/viewer")
    assert answer.status_code == 404 and "setting ohif" in answer.json()["detail"]
    with pytest.raises(SettingsError, match=r"index\.html"):
        label_server("a.nii.gz", ohif=tmp_path)
    assert Settings.load(environment={"DELINEATE_OHIF": "/opt/ohif"}).ohif == Path("/opt/ohif")


def test_users_may(label_server: Start, folder: Path) -> None:
    server = label_server("a.nii.gz", ohif=folder, tokens={"u": "user-token"}, token_roles={"u": "user"})
    assert server.http.get("/ohif/").status_code == 401
    assert server.http.get("/ohif/app.css", headers={"authorization": "Bearer user-token"}).status_code == 200


# What its pages ask for


@dataclass
class Viewer:
    """A browser's side of the exchange."""

    http: httpx.Client
    url: str

    def get(self, path: str, accept: str) -> httpx.Response:
        answer = self.http.get(path, headers={"accept": accept, "accept-encoding": "gzip, deflate, br, zstd"})
        assert answer.status_code == 200, answer.text
        return answer

    def shown(self, study: int) -> np.ndarray:
        """The voxels of a study as the viewer has them: frames by their distance along the slices' normal."""
        metadata = self.get(f"/proxy/dicom/wado/studies/{ROOT}.{study}/metadata", METADATA).json()
        metadata = [one for one in metadata if one["00080060"]["Value"] == ["CT"]]
        row, column = np.reshape(metadata[0]["00200037"]["Value"], (2, 3))
        metadata.sort(key=lambda one: float(np.dot(np.cross(row, column), one["00200032"]["Value"])))
        planes = []
        for one in metadata:
            place = f"series/{one['0020000E']['Value'][0]}/instances/{one['00080018']['Value'][0]}"
            answer = self.get(f"/proxy/dicom/wado/studies/{ROOT}.{study}/{place}/frames/1", FRAME)
            pixels = answer.content.split(b"\r\n\r\n", 1)[1].split(b"\r\n--")[0]
            planes.append(np.frombuffer(pixels, "<i2").reshape(one["00280010"]["Value"][0], one["00280011"]["Value"][0]))
            assert one["7FE00010"]["BulkDataURI"] == f"{self.url}/proxy/dicom/wado/studies/{ROOT}.{study}/{place}/bulk/7FE00010"
        bulk = self.get(metadata[0]["7FE00010"]["BulkDataURI"], "*/*")
        assert planes[0].tobytes() in bulk.content
        return np.stack(planes)

    def infer(self, model: str, series: str, **params: Any) -> np.ndarray:
        """A mask as its reader of NRRD has it: bytes behind a header, in the order of the voxels."""
        given = {**params, "result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
        answer = self.http.post(
            f"/infer/{model}?image={series}&output=image", files={"params": (None, json.dumps(given))}, headers={**XHR, "origin": self.url}
        )
        assert answer.status_code == 200, answer.text
        head, _, body = answer.content.partition(b"\n\n")
        assert b"encoding: raw" in head and re.search(rb"type: (unsigned char|uint8|uchar)", head)
        sizes = [int(size) for size in re.search(rb"sizes: (.*)", head)[1].split()]  # type: ignore[index]
        return np.frombuffer(body, np.uint8).reshape(sizes[::-1])


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DicomWebServer]:
    with DicomWebServer(Behaviour(believes=INSIDE)) as server:
        for number, grid in GRIDS.items():
            folder = tmp_path_factory.mktemp("series")
            server.add(write_series(folder, stack_of(voxels(), grid, series=number, study=number)))
        yield server


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory, label_server_class: Any, peer: DicomWebServer) -> Iterator[Viewer]:
    made = label_server_class(
        tmp_path_factory.mktemp("server"), has_studies=False, workers=1, dicomweb=peer.url, dicomweb_interval=0.2
    )  # fmt: skip
    yield Viewer(made.http, made.url)
    made.stop()


def test_the_list_of_studies(viewer: Viewer, peer: DicomWebServer) -> None:
    answer = viewer.get(f"/proxy/dicom/qido/studies?{LIST}", "application/dicom+json")
    assert answer.headers["content-type"] == "application/dicom+json"
    assert {one["0020000D"]["Value"][0] for one in answer.json()} >= {f"{ROOT}.{number}" for number in GRIDS}
    one = viewer.get(f"/proxy/dicom/qido/studies?{LIST}&StudyInstanceUID={ROOT}.2", "application/dicom+json").json()
    assert [shown["00081190"]["Value"] for shown in one] == [[f"{viewer.url}/proxy/dicom/wado/studies/{ROOT}.2/series/{ROOT}.2.2"]]


def test_the_panel_connects(viewer: Viewer) -> None:
    info = viewer.get("/info/", "application/json, text/plain, */*").json()
    assert isinstance(info["labels"], list)  # the panel adds to it
    assert {"segmentation", "deepgrow"} <= {model["type"] for model in info["models"].values()}
    assert info["models"]["region"]["labels"] and info["strategies"]["first"] and info["datastore"]["total"]
    assert viewer.http.get("/train/?check_if_running=true").status_code == 404


@pytest.mark.parametrize("study", GRIDS)
def test_masks_are_on_the_voxels_that_are_shown(viewer: Viewer, study: int) -> None:
    shown = viewer.shown(study)
    assert np.array_equal(viewer.infer("threshold", f"{ROOT}.{study}.{study}") > 0, shown >= 1124)
    if study == 2:  # the order of planes in its files is the other one
        z, y, x = (int(index) for index in np.argwhere(shown == 1724)[0])
        found = viewer.infer("region", f"{ROOT}.{study}.{study}", foreground=[[x, y, z]], background=[[9, 7, 5]])
        assert found[z, y, x] and not found[5, 7, 9]


def test_what_is_drawn_is_stored(viewer: Viewer, peer: DicomWebServer, tmp_path: Path) -> None:
    sample = viewer.http.post("/activelearning/first", json={}, headers={**XHR, "origin": viewer.url}).json()
    assert sample["id"] == f"{ROOT}.1.1" and sample["StudyInstanceUID"] == f"{ROOT}.1"
    mask = (viewer.shown(1) >= 1124).astype(np.uint8)
    parts = {"params": (None, json.dumps({"label_info": [{"name": "Bone", "idx": 1}]})), "label": ("label.bin", mask.tobytes())}
    saved = viewer.http.put("/datastore/label", params={"image": sample["id"]}, files=parts, headers={**XHR, "origin": viewer.url})
    assert saved.status_code == 200, saved.text
    [seg] = _until(lambda: [one for same in peer.series("SEG").values() for one in same])
    path = f"/proxy/dicom/wado/studies/{ROOT}.1/series/{seg.uid('SeriesInstanceUID')}/instances/{seg.uid('SOPInstanceUID')}"
    part = viewer.get(path, 'multipart/related; type="application/dicom"')
    assert seg.content in part.content
    (tmp_path / "seg.dcm").write_bytes(seg.content)
    for number, one in enumerate(peer.series("CT")[f"{ROOT}.1.1"]):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / f"{number}.dcm").write_bytes(one.content)
    assert np.array_equal(read_seg(tmp_path / "seg.dcm", read(tmp_path / "source").series).mask("Bone"), mask > 0)


def test_it_stores_where_it_retrieves(viewer: Viewer, peer: DicomWebServer, tmp_path: Path) -> None:
    path = write_series(tmp_path / "more", stack_of(voxels()[:1], Geometry((10, 8, 1)), series=9, study=9, modality="OT"))[0]
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--x--\r\n"
    headers = {"content-type": 'multipart/related; type="application/dicom"; boundary=x', "origin": viewer.url}
    assert viewer.http.post("/proxy/dicom/wado/studies", content=body, headers=headers).status_code == 200
    assert str(pydicom().dcmread(path).SOPInstanceUID) in peer.stored
    assert viewer.http.post("/proxy/dicom/wado/series", content=body, headers=headers).status_code == 404


def test_wado_uri(viewer: Viewer, peer: DicomWebServer) -> None:
    one = peer.series()[f"{ROOT}.1.1"][0]
    query = {
        "requestType": "WADO", "studyUID": one.uid("StudyInstanceUID"), "seriesUID": one.uid("SeriesInstanceUID"),
        "objectUID": one.uid("SOPInstanceUID"), "contentType": "application/dicom",
    }  # fmt: skip
    answer = viewer.http.get("/proxy/dicom/wado", params=query)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/dicom", one.content)
    assert viewer.http.get("/proxy/dicom/wado", params={**query, "objectUID": "1.2.3"}).status_code == 404
    assert viewer.http.get("/proxy/dicom/wado", params={**query, "studyUID": "../x"}).status_code == 422


def test_a_kept_connection_that_is_closed_just_then_is_no_failure(viewer: Viewer, peer: DicomWebServer) -> None:
    viewer.get("/proxy/dicom/qido/studies", "application/dicom+json")
    peer.behaviour.hangs_up = 1
    viewer.get("/proxy/dicom/qido/studies", "application/dicom+json")


def _until(found: Callable[[], list[Any]]) -> list[Any]:
    import time

    end = time.monotonic() + 60
    while not (there := found()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return there
