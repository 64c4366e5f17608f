"""DICOM in, DICOM out, over real sockets and workers: a series is posted, structures come back on its very voxels."""

from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from delineate import nifti
from delineate.client import AsyncClient, Client
from delineate.dicom import rtstruct, seg
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.stack import labels_on_planes
from delineate.errors import InputError
from delineate.files import read_segmentation, write_volume
from delineate.geometry import Geometry
from delineate.protocols import dicom_request
from delineate.protocols.archive import ArchiveReader, read_result
from delineate.segmentation import Segmentation
from delineate.task import TaskState
from delineate.testing.dicom import stack_of, write_frames, write_series
from delineate.testing.dicomweb import DicomWebServer
from delineate.testing.roundtrips import differing, places, shapes
from delineate.volume import Volume

GRID = Geometry((29, 23, 10), (0.9765, 1.7, 2.5), (-131.25, 214.4, -1000.0))
NAMES = {label: f"Organ {label}" for label in range(1, 32)}
PARAMETERS = '[parameters]\nclass = "labelled:Labelled"\n'
STRUCTURES = "".join(f'[[structures]]\nname = "{name}"\nlabel = {label}\n' for label, name in NAMES.items())
CODE = """
import time
import numpy as np
from delineate.segmentation import Segmentation

class Labelled:
    def __init__(self, parameters, folder):
        self.seconds = parameters.get("seconds", 0.0)

    def segment(self, job):
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            job.report(0.5, "looking")
            time.sleep(0.02)
        job.log(f"prompts: {sorted(job.prompts)}")
        values = job.images[0].values()
        labels = np.where((values > 0) & (values < 32), np.rint(values), 0).astype(np.uint8)
        return Segmentation.from_labels(labels, job.images[0].geometry, {label: f"Organ {label}" for label in range(1, 32)})
"""
DATA = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
PLACES = {place.name: place for place in places()}
STRAIGHT = [name for name in PLACES if name.endswith(" at 0")]
UNEVEN = [name for name in PLACES if name.startswith(("tilted", "uneven"))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose labels are the image's own values: as sent, turned upright before, and slowly."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in {"labelled": "", "upright": 'orientation = "LPS"\n', "slow": ""}.items():
        (folder / name).mkdir()
        (folder / name / "labelled.py").write_text(CODE)
        parameters = PARAMETERS + ("seconds = 1.5\n" if name == "slow" else "")
        (folder / name / "model.toml").write_text(f'name = "{name}"\nrunner = "python"\n{more}{parameters}{STRUCTURES}')
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, label_server_class: Any, models: Path) -> Iterator[Any]:
    """One for all tests that leave nothing behind; the datastore holds a series and a NIfTI image."""
    folder = tmp_path_factory.mktemp("server")
    write_series(folder / "studies" / "chest", stack_of(stored(labels_of(GRID.shape)), GRID, series=7))
    for path in (folder / "studies" / "chest").iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    os.utime(folder / "studies" / "chest", (1_700_000_000, 1_700_000_000))
    made = label_server_class(folder, ("plain.nii.gz",), workers=1, models=(models,))
    yield made
    made.stop()


def labels_of(shape: Sequence[int]) -> np.ndarray:
    """Thirty organs without gaps, noise around them, no two mirror images the same."""
    drawn = shapes(shape)
    labels: np.ndarray = np.where(drawn["30 organs"] > 0, drawn["30 organs"], drawn["random mask"] * 31).astype(np.uint8)
    return labels


def stored(labels: np.ndarray) -> np.ndarray:
    """Voxels whose real values are the labels: stored ones are 1024 above them."""
    voxels: np.ndarray = labels.astype(np.int16) + 1024
    return voxels


def packed(folder: Path, prefix: str = "") -> bytes:
    """The files of a folder as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.writestr(zipfile.ZipInfo(prefix + path.relative_to(folder).as_posix()), path.read_bytes())
    return buffer.getvalue()


def posted(server: Any, archive: bytes, model: str = "labelled", prompts: Any = None, **query: str) -> httpx.Response:
    data = {} if prompts is None else {"prompts": json.dumps(prompts)}
    answer: httpx.Response = server.http.post(
        "/api/tasks/", params={"model_human_readable_id": model, **query}, files={"zip_file": ("study.zip", archive)}, data=data
    )
    return answer


def result(server: Any, archive: bytes, tmp_path: Path, model: str = "labelled", prompts: Any = None, **query: str) -> Path:
    """The unpacked result of a task."""
    answer = posted(server, archive, model, prompts, **query)
    assert answer.status_code == 200, answer.text
    return fetched(server, answer.json(), tmp_path / "result")


def fetched(server: Any, uid: str, folder: Path) -> Path:
    answer = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert answer.status_code == 200, answer.text
    (folder.parent / "result.zip").write_bytes(answer.content)
    ArchiveReader(folder.parent / "result.zip").extract(folder)
    return folder


def of_mask(image: DicomImage, labels: np.ndarray, place: Geometry) -> Segmentation:
    """What is true: the labels on the grid that the series was written from."""
    present = sorted(set(labels.ravel().tolist()) - {0})
    return Segmentation.from_labels(labels, place, {label: NAMES[label] for label in present})


# ------------------------------------------------------------ the protocol of tasks


@pytest.mark.parametrize("name", STRAIGHT)
def test_every_order_and_flip_of_axes_comes_back_on_its_voxels(server: Any, name: str, tmp_path: Path) -> None:
    place = PLACES[name]
    labels = labels_of(place.geometry.shape)
    write_series(tmp_path / "in", stack_of(stored(labels), place.geometry))
    found = result(server, packed(tmp_path / "in"), tmp_path, "upright", output="rtstruct,seg")
    image = read(tmp_path / "in")
    truth = of_mask(image, labels, place.geometry)
    assert not any(differing(seg.read_seg(found / "seg.dcm", image.series), truth).values())
    assert not any(differing(rtstruct.read_rtstruct(found / "rtstruct.dcm", image.series), truth).values())
    assert not any(differing(read_segmentation(found / "segmentation.nii.gz"), truth).values())


@pytest.mark.parametrize("name", UNEVEN)
def test_slices_on_no_grid_get_what_the_label_map_says_of_each(server: Any, name: str, tmp_path: Path) -> None:
    place = PLACES[name]
    assert place.positions is not None
    stack = stack_of(stored(labels_of(place.geometry.shape)), place.geometry)
    write_series(tmp_path / "in", replace(stack, positions=place.positions))
    found = result(
        server, packed(tmp_path / "in"), tmp_path, output="seg,rtstruct", prompts={"dicom": {"holes": "xor", "kind": "labelmap"}}
    )
    series = read(tmp_path / "in").series
    assert series.planes.geometry is None
    answered = read_segmentation(found / "segmentation.nii.gz")
    (truth,) = labels_on_planes(series.planes, answered)
    assert np.count_nonzero(truth) > 1000
    for layers, structures in (
        seg.read_on_planes(found / "seg.dcm", series),
        rtstruct.read_on_planes(found / "rtstruct.dcm", series),
    ):
        there = {structure.name: layers[structure.layer] == structure.label for structure in structures}
        for label, name in NAMES.items():
            mask = truth == label
            assert np.count_nonzero(there.get(name, np.zeros_like(mask)) != mask) == 0, name


def test_one_file_with_frames_and_short_names(server: Any, tmp_path: Path) -> None:
    labels = labels_of(GRID.shape)
    write_frames(tmp_path / "in" / "IM0", stack_of(stored(labels), GRID))
    found = result(server, packed(tmp_path / "in"), tmp_path, output="rtstruct", prompts={"dicom": {"short_names": True}})
    image = read(tmp_path / "in")
    assert not any(differing(rtstruct.read_rtstruct(found / "rtstruct.dcm", image.series), of_mask(image, labels, GRID)).values())
    assert not (found / "seg.dcm").exists()
    data = pydicom.dcmread(found / "rtstruct.dcm")
    assert data.StudyInstanceUID == image.series.study_uid
    assert data.SeriesDescription == data.StructureSetDescription == data.StructureSetLabel == "labelled"


def test_who_does_not_ask_gets_what_there_always_was(server: Any, tmp_path: Path) -> None:
    """Label map, names, log, provenance, true place; readers of results find nothing odd in answers with DICOM either."""
    labels = labels_of(GRID.shape)
    write_series(tmp_path / "in", stack_of(stored(labels), GRID))
    archive = packed(tmp_path / "in", "study/series/")
    found = result(server, archive, tmp_path)
    names = {"segmentation.nii.gz", "segmentation.json", "container.log", "provenance.txt"}
    assert {path.name for path in found.iterdir()} == names
    assert "image: " in (found / "provenance.txt").read_text()
    (tmp_path / "second").mkdir()
    result(server, archive, tmp_path / "second", output="seg")
    notes: list[str] = []
    answered = read_result(tmp_path / "second" / "result.zip", GRID, notes=notes)
    assert not any(differing(answered, of_mask(read(tmp_path / "in"), labels, GRID)).values())
    assert {path.name for path in (tmp_path / "second" / "result").iterdir()} == names | {"seg.dcm"}


def test_where_nothing_is_found_there_are_no_contours(server: Any, tmp_path: Path) -> None:
    """The standard has no structure set without a structure; a SEG may have segments without frames."""
    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape) * 0), GRID))
    archive = packed(tmp_path / "in")
    found = result(server, archive, tmp_path, output="rtstruct,seg")
    assert not (found / "rtstruct.dcm").exists()
    assert not seg.read_seg(found / "seg.dcm", read(tmp_path / "in").series).layers[0].any()
    assert "rtstruct.dcm: no structure has voxels" in (found / "container.log").read_text()
    answer = infer(server, "rtstruct", files={"file": ("study.zip", archive)})
    assert answer.status_code == 500, answer.text
    assert "no structure has voxels" in answer.json()["message"]


def test_the_model_hears_nothing_of_dicom(server: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    found = result(server, packed(tmp_path / "in"), tmp_path, prompts={"level": 3, "dicom": {"output": ["seg"]}})
    assert "prompts: ['level']" in (found / "container.log").read_text()
    assert (found / "seg.dcm").is_file()


def test_several_images_are_folders(server: Any, tmp_path: Path) -> None:
    labels = labels_of(GRID.shape)
    write_series(tmp_path / "in" / "top" / "tmp_0000", stack_of(stored(labels), GRID))
    (tmp_path / "in" / "top" / "tmp_0000" / "DICOMDIR.nii").write_bytes(b"no image of the request: it lies among slices")
    write_volume(tmp_path / "in" / "top" / "tmp_0001.nii.gz", Volume(labels.astype(np.int16), GRID))
    found = result(server, packed(tmp_path / "in"), tmp_path, output="seg")
    image = read(tmp_path / "in" / "top" / "tmp_0000")
    assert not any(differing(seg.read_seg(found / "seg.dcm", image.series), of_mask(image, labels, GRID)).values())


def test_the_dialect_of_tars(server: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    answer = server.http.post(
        "/api/tasks/", params={"human_readable_id": "labelled", "output": "seg"}, files={"tar_file": ("a.zip", packed(tmp_path / "in"))}
    )
    uid = answer.json()["uid"]
    tar = server.http.get("/api/tasks/outputs/", params={"uid": uid, "wait": "50"})
    (tmp_path / "result.tar").write_bytes(tar.content)
    assert "seg.dcm" in ArchiveReader(tmp_path / "result.tar").names()


def test_two_series_are_a_choice(server: Any, tmp_path: Path) -> None:
    labels = labels_of(GRID.shape)
    write_series(tmp_path / "in", stack_of(stored(labels), GRID, series=1))
    write_series(tmp_path / "in", stack_of(stored(np.zeros_like(labels)), GRID, series=2))
    archive = packed(tmp_path / "in")
    uid = posted(server, archive, output="seg").json()
    told = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert told.status_code == 552
    assert "the archive holds 2 images: (1) CT, 29 x 23, 10 slices, series number 1; (2)" in told.json()["message"]
    found = result(server, archive, tmp_path, prompts={"dicom": {"series": 1, "output": "seg"}})
    image = read(tmp_path / "in", choice="1")
    assert not any(differing(seg.read_seg(found / "seg.dcm", image.series), of_mask(image, labels, GRID)).values())


def test_gaps_and_doubled_slices_are_choices(server: Any, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    paths[4].unlink()
    uid = posted(server, packed(tmp_path / "in")).json()
    told = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert told.status_code == 552
    assert "slices are missing" in told.json()["message"]
    found = result(server, packed(tmp_path / "in"), tmp_path, prompts={"dicom": {"gaps": "fill", "output": ["rtstruct"]}})
    series = read(tmp_path / "in", gaps="fill").series
    assert len(rtstruct.read_rtstruct(found / "rtstruct.dcm", series).names) > 20


@pytest.mark.parametrize(
    ("query", "prompts", "words"),
    [
        ({"output": "rtstruct"}, None, "the image did not come from DICOM"),
        ({}, {"dicom": {"output": ["seg"]}}, "the image did not come from DICOM"),
        ({"output": "pdf"}, None, "'pdf' is no output in DICOM"),
        ({}, {"dicom": {"outputs": ["seg"]}}, "the prompt dicom has no 'outputs'"),
        ({}, {"dicom": ["seg"]}, "the prompt dicom is no JSON object"),
        ({}, {"dicom": {"gaps": "close"}}, "dicom.gaps is none of refuse, fill"),
        ({}, {"dicom": {"series": ""}}, "dicom.series is neither"),
        ({}, {"dicom": {"short_names": 1}}, "dicom.short_names is not true or false"),
        ({"output": "seg"}, {"dicom": 3}, "the prompt dicom is no JSON object"),
        ({}, {"dicom": {"output": [3]}}, "no list of names"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_work_begins(
    server: Any, tmp_path: Path, query: dict[str, str], prompts: Any, words: str
) -> None:
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "tmp_0000.nii.gz", Volume(np.zeros((3, 4, 5), np.int16), Geometry((5, 4, 3))))
    for parameter in ("model_human_readable_id", "human_readable_id"):
        data = {} if prompts is None else {"prompts": json.dumps(prompts)}
        answer = server.http.post(
            "/api/tasks/", params={parameter: "labelled", **query}, files={"zip_file": ("a.zip", packed(tmp_path / "in"))}, data=data
        )
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["message"]
        assert answer.json()["advice"]


def test_an_archive_without_any_image_says_so(server: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slice.dcm").write_bytes(b"x" * 400)
    answer = posted(server, packed(tmp_path / "in"))
    assert answer.status_code == 422
    assert "the archive has no image in it" in answer.json()["message"]


def test_an_image_to_which_nothing_can_refer_fails_before_the_model_runs(server: Any, tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.FrameOfReferenceUID = ""

    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID, change=change))
    uid = posted(server, packed(tmp_path / "in"), output="rtstruct").json()
    told = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert told.status_code == 552
    assert told.json()["kind"] == "input"
    assert "it has no FrameOfReferenceUID" in told.json()["message"]
    assert server.http.get(f"/api/tasks/{uid}/log").text == ""
    assert (result(server, packed(tmp_path / "in"), tmp_path) / "segmentation.nii.gz").is_file()


def test_damaged_slices_are_told_of(server: Any, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    paths[3].write_bytes(paths[3].read_bytes()[:700])
    uid = posted(server, packed(tmp_path / "in")).json()
    told = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert told.status_code == 552
    assert paths[3].name in told.json()["message"]
    assert str(server.settings.data) not in told.text


def test_limits_of_archives_hold_for_series_too(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.service, "_limits", replace(server.service._limits, entries=9))
    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    answer = posted(server, packed(tmp_path / "in"))
    assert answer.status_code == 413
    assert "more than 9 entries" in answer.json()["message"]


def test_a_kill_changes_no_byte(tmp_path: Path, label_server: Callable[..., Any], models: Path) -> None:
    """The worker is killed in the middle; what its successor makes, and what a third one makes later, is the same file."""
    server = label_server(workers=1, models=(models,))
    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    uid = posted(server, packed(tmp_path / "in"), "slow", output="rtstruct,seg").json()
    until(lambda: server.service.tasks.get(uid).message == "looking")
    (worker,) = server.engine.status()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    first = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert first.status_code == 200, first.text
    assert server.service.tasks.get(uid).lost == 1
    server.service.tasks.set_state(server.service.tasks.get(uid).id, TaskState.PENDING, "test")
    server.service.ring()
    again = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert again.content == first.content
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        assert {"seg.dcm", "rtstruct.dcm"} <= set(archive.namelist())
        uids = {pydicom.dcmread(io.BytesIO(archive.read(name))).SOPInstanceUID for name in ("seg.dcm", "rtstruct.dcm")}
    assert len(uids) == 2
    assert uid not in str(uids)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_without_its_reader_dicom_is_refused_with_the_name_of_the_part(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_request.importlib.util, "find_spec", lambda name: None)
    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID))
    answers = [
        posted(server, packed(tmp_path / "in")),
        server.http.post("/infer/labelled", params={"image": "chest"}),
        server.http.post("/infer/labelled", params={"image": "chest", "output": "dicom_seg"}),
    ]
    for answer in answers:
        assert answer.status_code == 501, answer.text
        assert 'pip install "delineate[dicom]"' in answer.json()["advice"]


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "S04_ct_chest64_dicom_nrrd_lungs/dicom_rle_DERIVED",  # compressed
        "S09_enhanced_mr_xa30_multiframe/dicom",  # one file with frames
        "S14_ct_head_tilt_study_scout_and_colour_sc",  # tilted, among a scout and captures
    ],
)
def test_real_studies_as_they_are_exported(server: Any, name: str, tmp_path: Path) -> None:
    if not (DATA / name).is_dir():
        pytest.skip("the real images are not here")
    found = result(server, packed(DATA / name), tmp_path, "threshold", output="rtstruct,seg")
    series = read(DATA / name).series
    (truth,) = labels_on_planes(series.planes, read_segmentation(found / "segmentation.nii.gz"))
    assert np.count_nonzero(truth) > 1000
    for layers, structures in (
        seg.read_on_planes(found / "seg.dcm", series),
        rtstruct.read_on_planes(found / "rtstruct.dcm", series),
    ):
        assert [structure.name for structure in structures] == ["Bright"]
        assert np.array_equal(layers[0] == structures[0].label, truth == 1)


@pytest.mark.shared
def test_a_real_image_without_uids_is_read_and_not_referred_to(server: Any, tmp_path: Path) -> None:
    folder = DATA / "S02_ct_upper_abdomen_dicom_j2k_seg" / "dicom"
    if not folder.is_dir():
        pytest.skip("the real images are not here")
    uid = posted(server, packed(folder), "threshold", output="rtstruct").json()
    told = server.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
    assert told.status_code == 552
    assert "it has no StudyInstanceUID" in told.json()["message"]
    assert (result(server, packed(folder), tmp_path, "threshold") / "segmentation.nii.gz").is_file()


# ------------------------------------------------------------ the API for annotation


def infer(
    server: Any, output: str, image: str = "", params: Any = None, files: dict[str, Any] | None = None, **query: str
) -> httpx.Response:
    parts = {"params": (None, json.dumps(params or {})), **(files or {})}
    answer: httpx.Response = server.http.post("/infer/labelled", params={"image": image, "output": output, **query}, files=parts)
    return answer


def in_dicom(answer: httpx.Response, folder: Path, kind: str) -> Path:
    """The file of an answer, which is one file in DICOM."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["content-disposition"] == f'attachment; filename="{kind}.dcm"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    path = folder / f"{kind}.dcm"
    path.write_bytes(answer.content)
    return path


def differ(path: Path, series: Any, truth: Segmentation) -> int:
    read_file = rtstruct.read_rtstruct if path.name == "rtstruct.dcm" else seg.read_seg
    return sum(differing(read_file(path, series), truth).values())


def truth_of(folder: Path) -> tuple[DicomImage, Segmentation]:
    image = read(folder)
    return image, of_mask(image, labels_of(GRID.shape), GRID)


OUTPUTS = [("dicom_seg", "seg"), ("rtstruct", "rtstruct")]


@pytest.mark.parametrize(("output", "kind"), OUTPUTS)
def test_a_series_of_the_datastore(server: Any, output: str, kind: str, tmp_path: Path) -> None:
    image, truth = truth_of(server.studies / "chest")
    for _ in range(2):  # the second time it is warm in the worker
        assert differ(in_dicom(infer(server, output, "chest"), tmp_path, kind), image.series, truth) == 0


@pytest.mark.parametrize(("output", "kind"), OUTPUTS)
@pytest.mark.parametrize("how", ["slices", "unpacked", "zip", "frames"])
def test_a_session_of_a_series(server: Any, how: str, output: str, kind: str, tmp_path: Path) -> None:
    stack = stack_of(stored(labels_of(GRID.shape)), GRID)
    if how == "frames":
        sent = [("files", ("image.dcm", write_frames(tmp_path / "in" / "image.dcm", stack).read_bytes()))]
    else:
        paths = write_series(tmp_path / "in", stack)
        sent = [("files", (path.name, path.read_bytes())) for path in paths]
        if how != "slices":
            sent = [("files", ("study.zip", packed(tmp_path / "in")))]
    answer = server.http.put("/session/", params={"uncompress": str(how == "unpacked").lower()}, files=sent)
    assert answer.status_code == 200, answer.text
    image, truth = truth_of(tmp_path / "in")
    found = infer(server, output, session_id=answer.json()["session_id"])
    assert differ(in_dicom(found, tmp_path, kind), image.series, truth) == 0


@pytest.mark.parametrize(("output", "kind"), OUTPUTS)
@pytest.mark.parametrize("frames", [False, True])
def test_a_series_that_comes_along(server: Any, output: str, kind: str, frames: bool, tmp_path: Path) -> None:
    stack = stack_of(stored(labels_of(GRID.shape)), GRID)
    if frames:
        path = write_frames(tmp_path / "in" / "image.dcm", stack)
        sent = {"file": (path.name, path.read_bytes())}
    else:
        write_series(tmp_path / "in", stack)
        sent = {"file": ("study.zip", packed(tmp_path / "in"))}
    image, truth = truth_of(tmp_path / "in")
    found = infer(server, output, params={"dicom": {"holes": "xor"}}, files=sent)
    assert differ(in_dicom(found, tmp_path, kind), image.series, truth) == 0


@pytest.mark.parametrize(("output", "kind"), OUTPUTS)
def test_a_series_of_a_dicomweb_server(
    label_server: Callable[..., Any], models: Path, output: str, kind: str, tmp_path: Path
) -> None:  # fmt: skip
    with DicomWebServer() as peer:
        stack = stack_of(stored(labels_of(GRID.shape)), GRID, series=7)
        peer.add(write_series(tmp_path / "in", stack))
        server = label_server(has_studies=False, workers=1, models=(models,), dicomweb=peer.url, dicomweb_interval=0.2)
        until(lambda: server.http.get("/datastore/").json()["total"] == 1)
        image, truth = truth_of(tmp_path / "in")
        assert differ(in_dicom(infer(server, output, stack.uid), tmp_path, kind), image.series, truth) == 0


def test_other_answers_to_a_series_are_as_ever(server: Any, tmp_path: Path) -> None:
    _, truth = truth_of(server.studies / "chest")
    answer = infer(server, "image", "chest", {"result_extension": ".nii.gz"})
    (tmp_path / "answer.nii.gz").write_bytes(answer.content)
    (tmp_path / "answer.json").write_text(json.dumps({str(label): name for label, name in NAMES.items()}))
    assert not any(differing(read_segmentation(tmp_path / "answer.nii.gz"), truth).values())
    assert infer(server, "json", "chest").json()["label_names"]["Organ 3"] == 3


def test_an_answer_in_dicom_may_be_saved_as_a_label_too(server: Any, tmp_path: Path) -> None:
    image, truth = truth_of(server.studies / "chest")
    answer = infer(server, "dicom_seg", "chest", {"save_label": True, "label_tag": "kept", "result_extension": ".nii.gz"})
    assert differ(in_dicom(answer, tmp_path, "seg"), image.series, truth) == 0
    label = server.http.get("/datastore/label", params={"label": "chest", "tag": "kept"})
    assert label.content[:2] == b"\x1f\x8b"


def test_a_bare_array_is_a_label_on_a_series(server: Any, tmp_path: Path) -> None:
    """The grid of a series is the worker's to know: what does not fit is told of all the same."""
    count = int(np.prod(GRID.size))
    good = infer(server, "json", "chest", files={"label": ("label.bin", bytes(count))})
    assert good.status_code == 200, good.text
    bad = infer(server, "json", "chest", files={"label": ("label.bin", bytes(count + 1))})
    assert bad.status_code == 422
    assert "which are not the" in bad.json()["message"]


@pytest.mark.parametrize("output", ["dicom_seg", "rtstruct"])
def test_what_did_not_come_from_dicom_is_refused(label_server: Callable[..., Any], output: str, tmp_path: Path) -> None:
    """Before work begins: nobody works here."""
    idle = label_server("plain.nii.gz")
    write_volume(tmp_path / "image.nii.gz", Volume(np.zeros((3, 4, 5), np.int16), Geometry((5, 4, 3))))
    nifti = ("image.nii.gz", (tmp_path / "image.nii.gz").read_bytes())
    session = idle.http.put("/session/", files={"files": nifti}).json()["session_id"]

    def ask(**more: Any) -> httpx.Response:
        files = more.pop("files", {})
        params = {"output": output, **more}
        return idle.http.post("/infer/threshold", params=params, files={"params": (None, "{}"), **files})  # type: ignore[no-any-return]

    for answer in (ask(image="plain"), ask(session_id=session), ask(files={"file": nifti})):
        assert answer.status_code == 422, answer.text
        assert "did not come from DICOM" in answer.json()["message"]
    for name in ("a.zip", "a.dcm"):
        content = packed(tmp_path) if name == "a.zip" else b"x" * 500
        answer = ask(files={"file": (name, content)})
        assert answer.status_code == 422
        assert "holds no DICOM" in answer.json()["message"]


def test_an_image_with_empty_uids_is_told_of(server: Any, tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.FrameOfReferenceUID = ""

    write_series(tmp_path / "in", stack_of(stored(labels_of(GRID.shape)), GRID, change=change))
    answer = infer(server, "rtstruct", files={"file": ("study.zip", packed(tmp_path / "in"))})
    assert answer.status_code == 422
    assert "FrameOfReferenceUID" in answer.json()["message"]


# ------------------------------------------------------------ the clients in Python


@pytest.mark.parametrize("to", ["rtstruct", "seg"])
@pytest.mark.parametrize("twin", [False, True], ids=["blocking", "asynchronous"])
def test_the_clients_give_files_in_dicom(server: Any, to: str, twin: bool, tmp_path: Path) -> None:
    """By their own hand: any server will do, and what is sent is the image alone."""
    folder, uids = server.studies / "chest", list[str]()
    image, truth = truth_of(folder)
    target, again = tmp_path / f"{to}.dcm", tmp_path / "again" / f"{to}.dcm"
    again.parent.mkdir()

    async def calls() -> Segmentation:
        async with AsyncClient(server.url) as client:
            segmentation = await client.segment(folder, "labelled", to=to, output=target, submitted=uids.append)
            await client.fetch(uids[0], to=to, output=again, source=folder)
            return segmentation

    if twin:
        found = anyio.run(calls)
    else:
        with Client(server.url) as client:
            found = client.segment(folder, "labelled", to=to, output=target, submitted=uids.append)
            client.fetch(uids[0], to=to, output=again, source=folder)
    assert not any(differing(found, truth).values())
    assert differ(target, image.series, truth) == 0
    assert differ(again, image.series, truth) == 0
    assert pydicom.dcmread(target).SeriesDescription == "labelled"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [target.name]


def test_the_clients_write_label_maps_by_name_and_say_what_they_left_out(server: Any, tmp_path: Path) -> None:
    with Client(server.url) as client:
        client.segment(server.studies / "plain.nii.gz", "threshold", output=tmp_path / "bright.nii.gz")
        assert read_segmentation(tmp_path / "bright.nii.gz").names == ["Bright"]
        write_series(tmp_path / "in", stack_of(stored(np.zeros(GRID.shape, np.uint8)), GRID))
        with pytest.raises(InputError, match="no structure has voxels"):
            client.segment(tmp_path / "in", "threshold", to="rtstruct", output=tmp_path / "rs.dcm")
        assert not (tmp_path / "rs.dcm").exists()
        labels = labels_of(GRID.shape)
        write_series(tmp_path / "one", stack_of(stored(np.where(labels == labels.max(), labels, 0)), GRID))
        client.segment(tmp_path / "one", "labelled", to="rtstruct", output=tmp_path / "rs.dcm")
        assert client.notes and all("has no voxels: left out" in note for note in client.notes)


@pytest.mark.parametrize("twin", [False, True], ids=["blocking", "asynchronous"])
def test_the_clients_choose_among_several_series(server: Any, twin: bool, tmp_path: Path) -> None:
    folder, target = tmp_path / "in", tmp_path / "seg.dcm"
    write_series(folder, stack_of(stored(labels_of(GRID.shape)), GRID, series=4))
    write_series(folder, stack_of(stored(np.zeros(GRID.shape, np.uint8)), GRID, series=5))
    series = read(folder, choice="1").series
    truth = of_mask(read(folder, choice="1"), labels_of(GRID.shape), GRID)

    async def calls() -> Segmentation:
        async with AsyncClient(server.url) as client:
            await client.segment(folder, "labelled", to="seg", output=target, series=series.series_uid)
            return await client.segment(folder, "labelled", series="1")

    if twin:
        found = anyio.run(calls)
    else:
        with Client(server.url) as client:
            client.segment(folder, "labelled", to="seg", output=target, series="1")
            found = client.segment(folder, "labelled", series=series.series_uid)
            with pytest.raises(InputError, match="holds 2 images"):
                client.segment(folder, "labelled")
    assert differ(target, series, truth) == 0
    assert not any(differing(found, truth).values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"series": "2"}, "one of several series in DICOM is chosen, and there is none"),
        ({"to": "rtstruct"}, "its path is not given"),
        ({"to": "pdf", "output": "a.dcm"}, "cannot be written as 'pdf'"),
        ({"to": "seg", "output": "a.dcm"}, "there is none"),
        ({"output": "a.txt"}, "is not the name of an image file"),
    ],
)
def test_a_wrong_wish_costs_no_segmentation(server: Any, options: dict[str, str], words: str) -> None:
    with Client("http://127.0.0.1:9") as client:  # nobody is asked
        with pytest.raises(InputError, match=words):
            client.segment(server.studies / "plain.nii.gz", "threshold", **options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=words):
            client.fetch("A" * 43, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------ labels that are bare arrays


def save_raw(server: Any, image: str, data: bytes) -> httpx.Response:
    answer: httpx.Response = server.http.put(
        "/datastore/label", params={"image": image, "tag": "raw"}, files={"label": ("label.bin", data)}
    )
    return answer


def test_a_bare_array_is_saved_on_the_grid_of_a_series(server: Any, tmp_path: Path) -> None:
    """As viewers in a browser send it, which know columns, rows and slices alone."""
    image = read(server.studies / "chest")
    labels = np.zeros(image.volume.geometry.shape, np.uint8)
    labels[2:5, 3:9, 4:20] = 2
    assert save_raw(server, "chest", labels.tobytes()).status_code == 200
    found = server.http.get("/datastore/label", params={"label": "chest", "tag": "raw"})
    (tmp_path / "label.nii.gz").write_bytes(found.content)
    back = read_segmentation(tmp_path / "label.nii.gz")
    assert np.array_equal(back.layers[0], labels)
    assert back.geometry.matches(image.volume.geometry)
    told = save_raw(server, "chest", labels.tobytes() + b"x")
    assert told.status_code == 422
    assert "voxels" in told.json()["message"]


def test_a_label_of_a_series_on_another_grid_is_a_conflict(server: Any, tmp_path: Path) -> None:
    """Mirrored, it would be the other side."""
    grid = read(server.studies / "chest").volume.geometry
    mirrored = replace(grid, direction=(-grid.direction[0], *grid.direction[1:]))
    for geometry, status in ((grid, 200), (mirrored, 409), (grid, 200)):
        path = tmp_path / "label.nii.gz"
        nifti.write_labels(path, np.ones(geometry.shape, np.uint8), geometry)
        answer = server.http.put(
            "/datastore/label", params={"image": "chest", "tag": "mirror"}, files={"label": ("l.nii.gz", path.read_bytes())}
        )
        assert answer.status_code == status, answer.text


def test_a_bare_array_on_slices_that_are_on_no_grid(label_server: Callable[..., Any], tmp_path: Path) -> None:
    place = PLACES[UNEVEN[0]]
    stack = replace(stack_of(np.zeros(place.geometry.shape, np.int16), place.geometry), positions=place.positions)
    folder = tmp_path / "server0" / "studies" / "tilted"
    for path in write_series(folder, stack):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    os.utime(folder, (1_700_000_000, 1_700_000_000))
    server = label_server(workers=1)
    told = save_raw(server, "tilted", bytes(int(np.prod(place.geometry.size))))
    assert told.status_code == 422
    assert save_raw(server, "nobody", b"x").status_code == 404
