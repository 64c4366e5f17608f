"""Right is right, everywhere: a phantom with a ball at each of three sides goes in through every door and comes out of every door.

Where its voxels are then is said by `delineate.testing.witness`, which shares nothing with our readers.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from delineate.cli.main import cli
from delineate.client import AsyncClient, Client
from delineate.testing.ball_phantom import (
    CENTRE,
    NAMES,
    ROOT,
    Scan,
    scan_of,
    values_at,
    write_frames,
    write_models,
    write_nifti,
    write_nrrd,
    write_slices,
)  # fmt: skip
from delineate.testing.dicomweb import DicomWebServer
from delineate.testing.gateway import RULES, running_node
from delineate.testing.witness import differences, file_points, rtstruct_points, seg_points

OLD = 1_700_000_000
X, Y, Z = np.eye(3)
SIGNS = list(itertools.product((1, -1), repeat=3))


def turn(degrees: float, axis: Sequence[float]) -> np.ndarray:
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(degrees)
    found: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return found


SKEW = turn(17, (1, 2, 3))
SAGITTAL, CORONAL, OBLIQUE = scan_of(Y, -Z, -1), scan_of(-X, Z, number=2), scan_of(SKEW @ X, SKEW @ Y, -1, number=3)


@dataclass
class Server:
    """A server of its own process, with a worker."""

    url: str
    http: httpx.Client
    models: Path
    studies: Path

    def task(self, archive: bytes, model: str, folder: Path, **dicom: Any) -> Path | httpx.Response:
        """The unpacked result; the answer where there is none."""
        query = {"model_human_readable_id": model, "output": "rtstruct,seg"}
        data = {"prompts": json.dumps({"dicom": dicom})} if dicom else {}
        uid = self.http.post("/api/tasks/", params=query, files={"zip_file": ("study.zip", archive)}, data=data).raise_for_status().json()
        answer = self.http.get(f"/api/tasks/{uid}", params={"wait": "50"})
        if answer.status_code != 200:
            return answer
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(folder)
        return folder

    def infer(self, model: str, params: dict[str, Any], files: dict[str, Any] | None = None, **query: str) -> httpx.Response:
        parts = {"params": (None, json.dumps(params)), **(files or {})}
        return self.http.post(f"/infer/{model}", params=query, files=parts)


@contextlib.contextmanager
def serving(folder: Path, studies: str, *more: str) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    models = write_models(folder / "models")
    command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(folder / "data"), "--workers", "1"]
    command += ["--models", str(models), "--studies", studies, *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DELINEATE_")} | {"DELINEATE_GRACE": "0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("delineate: ready at "), (folder / "log").read_text()
        url = line.rsplit(" ", 1)[1].strip()
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Server(url, http, models, Path(studies))
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its datastore has the phantom as two series, as NIfTI, as NRRD, and once more to be replaced."""
    folder = tmp_path_factory.mktemp("sides")
    studies = folder / "studies"
    write_slices(SAGITTAL, studies / "sagittal")
    write_slices(CORONAL, studies / "coronal")
    steps, first, size = SAGITTAL.grid
    write_nifti(studies / "nifti.nii.gz", on_grid(steps, first, size), steps, first)
    write_nrrd(studies / "nrrd.nrrd", on_grid(steps, first, size), steps, first)
    write_nrrd(studies / "replaced.nrrd", on_grid(steps, first, size), steps, first)
    for path in [*studies.rglob("*"), studies]:
        os.utime(path, (OLD, OLD))  # what was written just now may not be whole yet
    with serving(folder / "server", str(studies)) as made:
        yield made


STORED = {"sagittal": SAGITTAL, "coronal": CORONAL, "nifti": SAGITTAL, "nrrd": SAGITTAL}


def on_grid(steps: np.ndarray, first: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Values of the phantom, shape (z, y, x)."""
    indices = np.moveaxis(np.indices(size[::-1]), 0, -1)[..., ::-1]
    return values_at(indices @ steps.T + first)


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.writestr(path.relative_to(folder).as_posix(), path.read_bytes())
    return buffer.getvalue()


def elsewhere(path: Path, scan: Scan, **more: Any) -> list[str]:
    """What of a file is not where it belongs."""
    if path.suffix != ".dcm":
        return differences(file_points(path), scan.truth)
    read = seg_points if pydicom.dcmread(path).Modality == "SEG" else rtstruct_points
    return differences(read(path, scan, **more), scan.truth)


def all_elsewhere(folder: Path, scan: Scan, **more: Any) -> dict[str, list[str]]:
    paths = [path for path in sorted(folder.iterdir()) if path.name.endswith((".dcm", ".nii.gz", ".nrrd"))]
    assert paths
    return {path.name: words for path in paths if (words := elsewhere(path, scan, **more))}


def written(answer: httpx.Response, path: Path) -> Path:
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    return path


# ------------------------------------------------------------ series, as a task


@pytest.mark.parametrize("axes", ["axial", "sagittal", "coronal", "oblique", "half"])
def test_every_sign_of_every_plane(server: Server, axes: str, tmp_path: Path) -> None:
    skew = turn(45, (1, 1, 0)) if axes == "half" else SKEW if axes == "oblique" else np.eye(3)
    along, down = {"sagittal": (Y, Z), "coronal": (X, Z)}.get(axes, (X, Y))
    for signs in SIGNS if axes in ("axial", "sagittal", "coronal") else ((1, -1, 1), (-1, -1, -1)):
        scan = scan_of(signs[0] * skew @ along, signs[1] * skew @ down, signs[2])
        archive = packed(write_slices(scan, tmp_path / f"in{signs}"))
        found = server.task(archive, "balls-lps", tmp_path / f"out{signs}")
        assert isinstance(found, Path), found
        assert all_elsewhere(found, scan) == {}, signs


def changed(**attributes: Any) -> dict[str, Any]:
    def change(data: Any, number: int) -> None:
        for name, value in attributes.items():
            setattr(data, name, value(number) if callable(value) else value)

    return {"change": change}


AXIAL = scan_of(X, Y)
ODD: dict[str, tuple[Scan, dict[str, Any]]] = {
    "feet first": (scan_of(X, Y, -1), changed(PatientPosition="FFS")),
    "prone": (scan_of(-X, -Y), changed(PatientPosition="HFP")),
    "decubitus": (scan_of(Y, -X), changed(PatientPosition="FFDR")),
    "instances reversed": (AXIAL, changed(InstanceNumber=lambda number: 13 - number)),
    "location lies": (AXIAL, changed(SliceLocation=lambda number: -number, SpacingBetweenSlices=-3, SliceThickness=5)),
    "unsigned": (AXIAL, {"kind": np.uint16}),
    "scales differ": (AXIAL, {"scale": lambda number: (0.5 + number / 10, -500.0 - number)}),
    "negative slope": (AXIAL, {"scale": lambda number: (-1.0, 1000.0)}),
    "inverted display": (AXIAL, changed(PhotometricInterpretation="MONOCHROME1")),
    "rounded cosines": (AXIAL, changed(ImageOrientationPatient=lambda number: [1, 1e-5 * number, 0, -1e-5 * number, 1, 0])),
    "tilted": (scan_of(X, Y, shear=0.3), {}),
    "tilted back, from above": (scan_of(X, Y, -1, shear=-0.2), {}),
    "few": (scan_of(X, -Y, -1, steps=(3.0,)), {}),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_about_a_series_moves_nothing(server: Server, name: str, tmp_path: Path) -> None:
    scan, how = ODD[name]
    found = server.task(packed(write_slices(scan, tmp_path / "in", **how)), "balls", tmp_path / "out")
    assert isinstance(found, Path), found
    wrong = all_elsewhere(found, scan)
    if "tilted" in name:  # the label map is on the grid of what was interpolated
        assert "interpolated onto a regular grid" in (found / "container.log").read_text()
        wrong.pop("segmentation.nii.gz", None)
    assert wrong == {}


def test_uneven_slices_have_their_own_contours(server: Server, tmp_path: Path) -> None:
    scan = scan_of(Y, Z, -1, steps=(3, 3, 2.5, 3, 3, 3, 3, 3, 3, 3, 3.4, 3))
    found = server.task(packed(write_slices(scan, tmp_path / "in")), "balls", tmp_path / "out")
    assert isinstance(found, Path), found
    for path, read in ((found / "seg.dcm", seg_points), (found / "rtstruct.dcm", rtstruct_points)):
        points = read(path, scan)
        for name, truth in scan.truth.items():
            assert np.linalg.norm(points[name].mean(0) - truth.mean(0)) < 0.3 and abs(len(points[name]) / len(truth) - 1) < 0.15, name


def test_frames_in_no_order(server: Server, tmp_path: Path) -> None:
    frames = write_frames(SAGITTAL, tmp_path / "in" / "image")
    found = server.task(packed(tmp_path / "in"), "balls-pir", tmp_path / "out")
    assert isinstance(found, Path), found
    assert all_elsewhere(found, SAGITTAL, instance=lambda index: (f"{SAGITTAL.uid}.1", frames[index])) == {}


def without(*names: str) -> Callable[[Any, int], None]:
    def change(data: Any, number: int) -> None:
        for name in names if number == 6 else ():
            del data[name]

    return change


def mirrored(data: Any, number: int) -> None:
    if number == 6:
        data.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("RescaleSlope", "RescaleIntercept"), "missing in some slices"),
        (without("RescaleIntercept"), "missing in some slices"),
        (without("ImagePositionPatient"), "nobody knows where it is"),
        (mirrored, "holds 2 images"),
        (lambda data, number: setattr(data, "TemporalPositionIdentifier", number % 2), ""),  # a stack all the same
    ],
)
def test_what_cannot_be_known_is_refused(server: Server, change: Any, words: str, tmp_path: Path) -> None:
    found = server.task(packed(write_slices(AXIAL, tmp_path / "in", change=change)), "balls", tmp_path / "out")
    if words:
        assert isinstance(found, httpx.Response) and found.status_code == 552
        assert words in found.json()["message"]
    else:
        assert isinstance(found, Path) and all_elsewhere(found, AXIAL) == {}


def test_a_slice_that_is_there_twice_is_a_choice(server: Server, tmp_path: Path) -> None:
    folder = write_slices(AXIAL, tmp_path / "in")
    twin = pydicom.dcmread(next(path for path in folder.iterdir() if pydicom.dcmread(path).InstanceNumber == 7))
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.77"
    twin.PixelData = bytes(len(twin.PixelData))
    twin.save_as(folder / "g")
    refused = server.task(packed(folder), "balls", tmp_path / "refused")
    assert isinstance(refused, httpx.Response) and "at one place" in refused.json()["message"]
    found = server.task(packed(folder), "balls", tmp_path / "out", doubled="first")
    assert isinstance(found, Path) and all_elsewhere(found, AXIAL) == {}


def test_two_users_with_the_same_names_of_files(server: Server, tmp_path: Path) -> None:
    scans = [SAGITTAL, CORONAL, OBLIQUE] * 2
    archives = [packed(write_slices(scan, tmp_path / f"in{number}")) for number, scan in enumerate(scans)]
    with ThreadPoolExecutor(len(scans)) as threads:
        found = list(threads.map(lambda number: server.task(archives[number], "balls", tmp_path / f"out{number}"), range(len(scans))))
    for folder, scan in zip(found, scans, strict=True):
        assert isinstance(folder, Path) and all_elsewhere(folder, scan) == {}


# ------------------------------------------------------------ other doors


@pytest.mark.parametrize("signs", SIGNS)
def test_files_whose_axes_lie_anyhow(server: Server, signs: tuple[int, int, int], tmp_path: Path) -> None:
    for order, skew in (((0, 1, 2), np.eye(3)), ((1, 2, 0), np.eye(3)), ((2, 1, 0), SKEW)):
        steps = (skew @ np.eye(3)[:, order]) * np.array(signs) * [0.7, 1.3, 3.0]
        size = np.array([53, 29, 13])
        first = CENTRE - steps @ (size - 1) / 2
        values = on_grid(steps, first, size)
        scan = Scan(first + np.outer(np.arange(13), steps[:, 2]), steps[:, 0] / 0.7, steps[:, 1] / 1.3)
        files = [
            write_nifti(tmp_path / "s.nii.gz", values, steps, first),
            write_nifti(tmp_path / "q.nii", values, steps, first, quaternion=True),
            write_nrrd(tmp_path / "l.nrrd", values, steps, first, "left-anterior-superior"),
        ]
        for path, suffix in zip(files, (".seg.nrrd", ".nii.gz", ".nrrd"), strict=True):
            sent = {"file": (path.name, path.read_bytes())}
            answer = server.infer("balls-lps", {"result_extension": suffix}, sent, output="image")
            assert elsewhere(written(answer, tmp_path / f"answer{suffix}"), scan) == [], path.name


def test_the_command_line(server: Server, tmp_path: Path) -> None:
    folder, outputs = server.studies, ["--to", "rtstruct", "--to", "seg", "--to", "nifti", "--to", "nrrd"]
    write_frames(OBLIQUE, tmp_path / "frames.dcm")
    (tmp_path / "study.zip").write_bytes(packed(folder / "coronal"))

    def run(*arguments: object) -> None:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    for path, scan in ((folder / "sagittal", SAGITTAL), (tmp_path / "study.zip", CORONAL)):
        run("segment", path, "-m", "balls", "-o", tmp_path / path.stem, "--server", server.url, *outputs, "--no-picture")
        assert all_elsewhere(tmp_path / path.stem, scan) == {}
    for path in (folder / "nifti.nii.gz", folder / "nrrd.nrrd"):
        run("segment", path, "-m", "balls-lps", "-o", tmp_path / f"{path.stem}.seg.nrrd", "--server", server.url, "--no-picture")
        assert elsewhere(tmp_path / f"{path.stem}.seg.nrrd", SAGITTAL) == []
    for name in ("balls.seg.dcm", "balls.rtstruct.dcm", "balls.nrrd"):
        for target in ("a.nii.gz", "a.seg.nrrd"):
            run("convert", tmp_path / "sagittal" / name, tmp_path / target, "--source", folder / "sagittal")
            assert elsewhere(tmp_path / target, SAGITTAL) == [], (name, target)


def test_without_the_patient_and_back(server: Server, tmp_path: Path) -> None:
    def run(*arguments: object) -> None:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    run("deidentify", write_slices(OBLIQUE, tmp_path / "in"), "-o", tmp_path / "out", "--map", tmp_path / "map")
    to = ["--to", "rtstruct", "--to", "seg", "--no-picture", "--deidentify", "required"]
    run("segment", tmp_path / "out", "-m", "balls", "-o", tmp_path / "found", "--server", server.url, *to)
    run("reidentify", *(tmp_path / "found").glob("*.dcm"), "-o", tmp_path / "back", "--map", tmp_path / "map")
    assert all_elsewhere(tmp_path / "back", OBLIQUE) == {}


def test_the_clients_in_python(server: Server, tmp_path: Path) -> None:
    folder = server.studies / "sagittal"
    with Client(server.url) as client:
        client.segment(folder, "balls-lps", to="rtstruct", output=tmp_path / "rs.dcm")

    async def calls() -> None:
        async with AsyncClient(server.url) as twin:
            await twin.segment(folder, "balls-pir", to="seg", output=tmp_path / "seg.dcm")
            await twin.segment(folder, "balls-pir", output=tmp_path / "labels.nii.gz")

    anyio.run(calls)
    assert all_elsewhere(tmp_path, SAGITTAL) == {}


@pytest.mark.parametrize("image", STORED)
def test_images_of_the_datastore_and_their_labels(server: Server, image: str, tmp_path: Path) -> None:
    scan = STORED[image]
    for output in ("dicom_seg", "rtstruct") if image in ("sagittal", "coronal") else ():
        assert elsewhere(written(server.infer("balls-lps", {}, image=image, output=output), tmp_path / "a.dcm"), scan) == []
    answer = written(server.infer("balls-pir", {"result_extension": ".nii.gz"}, image=image, output="image"), tmp_path / "a.nii.gz")
    assert elsewhere(answer, scan) == []
    info = {"label_info": [{"name": name, "idx": value // 100} for value, name in NAMES.items()]}
    parts = {"params": (None, json.dumps(info)), "label": ("a.nii.gz", answer.read_bytes())}
    server.http.put("/datastore/label", params={"image": image, "tag": "kept"}, files=parts).raise_for_status()
    back = server.http.get("/datastore/label", params={"label": image, "tag": "kept"})
    assert elsewhere(written(back, tmp_path / "back.nii.gz"), scan) == []


@pytest.mark.parametrize("model", ["balls", "balls-lps", "balls-pir"])
@pytest.mark.parametrize("image", ["sagittal", "coronal", "nifti"])
def test_what_is_pointed_at(server: Server, image: str, model: str, tmp_path: Path) -> None:
    """By indices and by millimetres, as a click, a box and a label map whose axes lie otherwise."""
    steps, first, size = STORED[image].grid

    def answered(params: dict[str, Any], files: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        answer = server.infer(model, {"result_extension": ".nrrd", **params}, files, image=image, output="image")
        return file_points(written(answer, tmp_path / "a.nrrd"))

    place = steps @ [10, 7, 3] + first
    low, high = steps @ np.array([4.6, 5.6, 1.6]) + first, steps @ np.array([19.4, 14.4, 8.4]) + first
    box = np.moveaxis(np.mgrid[5:20, 6:15, 2:9], 0, -1).reshape(-1, 3) @ steps.T + first
    for space, signs in (("lps", np.array([1, 1, 1])), ("ras", np.array([-1, -1, 1]))):
        there = {"prompt_space": space}
        assert differences(answered({**there, "foreground": [(place * signs).tolist()]}), {"Anterior": place[None]}) == []
        corners = np.stack([np.minimum(low * signs, high * signs), np.maximum(low * signs, high * signs)], axis=1)
        assert differences(answered({**there, "roi": corners.ravel().tolist()}), {"Right": box}) == []
    assert differences(answered({"foreground": [[10, 7, 3]]}), {"Anterior": place[None]}) == []
    assert differences(answered({"roi": [5, 20, 6, 15, 2, 9]}), {"Right": box}) == []
    turned = steps[:, [2, 0, 1]] * [1, -1, 1]
    corner = first + steps[:, 0] * (size[0] - 1)
    labels = on_grid(turned, corner, (size[2], size[0], size[1])) / 100
    drawn = write_nrrd(tmp_path / "label.nrrd", labels, turned, corner, "right-anterior-superior")
    assert differences(answered({}, {"label": (drawn.name, drawn.read_bytes())}), STORED[image].truth) == []


@pytest.mark.parametrize("how", [{"shear": 0.3}, {"steps": (3, 3, 2.5, 3, 3, 3, 3, 3, 3, 3, 3.4, 3)}], ids=["tilted", "uneven"])
def test_a_point_in_slices_on_no_grid_is_in_millimetres(server: Server, how: dict[str, Any], tmp_path: Path) -> None:
    scan = scan_of(X, Y, **how)
    sent = {"file": ("study.zip", packed(write_slices(scan, tmp_path / "in")))}
    for prompts in ({"foreground": [[10, 7, 3]]}, {"roi": [5, 20, 6, 15, 2, 9]}):
        answer = server.infer("balls", prompts, sent, output="dicom_seg")
        assert answer.status_code == 422, answer.text
        assert "indices do not say where a point is" in answer.json()["message"]
    place = scan.points[6, 7, 10]
    answer = server.infer("balls", {"foreground": [place.tolist()], "prompt_space": "lps"}, sent, output="dicom_seg")
    found = seg_points(written(answer, tmp_path / "seg.dcm"), scan)["Anterior"]
    assert 1 <= len(found) <= 2 and np.abs(found - place).max() <= 3.5  # within a slice of it: by interpolation it may be on two


def test_an_image_that_is_replaced_while_a_model_is_at_work_gets_no_label(server: Server, tmp_path: Path) -> None:
    path, folder = server.studies / "replaced.nrrd", server.models / "balls-waits"
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(server.infer, "balls-waits", {"save_label": True, "label_tag": "found"}, image="replaced", output="image")
        until(lambda: (folder / "began").exists())
        steps, first, size = CORONAL.grid
        os.replace(write_nrrd(tmp_path / "other", on_grid(steps, first, size), steps, first), path)
        (folder / "go").touch()
        answer = asked.result(60)
    assert answer.status_code == 422, answer.text
    assert "changed" in answer.json()["detail"]
    assert server.http.get("/datastore/label", params={"label": "replaced", "tag": "found"}).status_code == 404


def until(holds: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_series_of_a_dicomweb_server(tmp_path: Path) -> None:
    scans = (SAGITTAL, CORONAL, OBLIQUE)
    with DicomWebServer() as peer:
        for scan in scans:
            peer.add(sorted(write_slices(scan, tmp_path / f"in{scan.number}").iterdir()))
        with serving(tmp_path / "server", peer.url) as server:
            until(lambda: server.http.get("/datastore/").json()["total"] == len(scans))
            for scan in scans:
                for output, name in (("dicom_seg", "a.dcm"), ("rtstruct", "b.dcm"), ("image", "c.nii.gz")):
                    answer = server.infer("balls-lps", {"result_extension": ".nii.gz"}, image=scan.uid, output=output)
                    assert elsewhere(written(answer, tmp_path / name), scan) == []


@pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed (.ci/run does)")
def test_through_the_node(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    scans = {scan.number: scan for scan in (SAGITTAL, CORONAL, OBLIQUE, scan_of(X, Y, -1, shear=0.2, number=4))}
    with running_node(tmp_path, RULES.replace('"threshold"', '"balls-lps"'), server.url) as node:
        for number, scan in scans.items():
            folder = write_slices(scan, tmp_path / f"in{number}", **changed(InstanceNumber=lambda index: 13 - index))
            command = ["storescu", "-aec", "DELINEATE", "+sd", "127.0.0.1", str(node.port), str(folder)]
            subprocess.run(command, check=True, capture_output=True, timeout=60, env={**os.environ, "TCP_NODELAY": "1"})
        node.until(lambda: all(node.state(series + 1) == "done" for series in range(len(scans))))
        paths = sorted((tmp_path / "results").rglob("*.dcm"))
        assert len(paths) == 2 * len(scans)
        for path in paths:
            number = int(pydicom.dcmread(path).StudyInstanceUID.rsplit(".", 1)[1])
            assert elsewhere(path, scans[number]) == [], path.name
