"""`delineate convert`, `delineate compare` and `delineate segment --to`: structures among all formats."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("SimpleITK")

import pydicom
from click.testing import CliRunner, Result

from delineate.cli.embedded import embedded_server
from delineate.cli.main import cli
from delineate.errors import DelineateError
from delineate.files import read_segmentation, read_volume, write_segmentation, write_volume
from delineate.geometry import Geometry
from delineate.scoring.paths import added_path_length
from delineate.segmentation import Segmentation
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.phantoms import chest_ct
from delineate.volume import Volume

GRID = Geometry((20, 16, 6), (1.0, 2.0, 3.0), (-10.0, 4.0, -50.0))


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(item) for item in arguments])
    if code:
        assert isinstance(result.exception, DelineateError), result.output
    else:
        assert result.exit_code == 0, (result.output, result.exception)
    return result


def wanted() -> Segmentation:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1:5, 3:9, 2:9] = 1
    labels[2:4, 5:7, 4:6] = 2
    labels[:, 10:14, 12:18] = 3
    return Segmentation.from_labels(labels, GRID, {1: "Liver", 2: "GTVp", 3: "Kidney_L"})


@pytest.fixture
def series(tmp_path: Path) -> Path:
    voxels = np.arange(np.prod(GRID.shape), dtype=np.int16).reshape(GRID.shape)
    write_series(tmp_path / "series", stack_of(voxels, GRID))
    return tmp_path / "series"


def test_around_all_formats(series: Path, tmp_path: Path) -> None:
    """One after the other, and the same voxels and names at the end."""
    write_segmentation(tmp_path / "first.nii.gz", wanted())
    steps = ["first.nii.gz", "rtstruct:a.dcm", "b.seg.nrrd", "seg:c.dcm", "d.mha", "rtstruct:e.dcm", "seg:f.dcm", "last.nii.gz"]
    for before, after in pairwise(steps):
        to, _, name = after.rpartition(":")
        more = ["--to", to] if to else []
        result = run("convert", tmp_path / before.split(":")[-1], tmp_path / name, "--source", series, *more)
        assert "3 structures: Liver, GTVp, Kidney_L" in result.output and (tmp_path / name).exists()
    found = read_segmentation(tmp_path / "last.nii.gz")
    assert found.geometry.matches(GRID) and found.names == wanted().names
    assert all(np.array_equal(found.mask(name), wanted().mask(name)) for name in wanted().names)
    run("convert", tmp_path / "f.dcm", tmp_path / "g.dcm", "--to", "seg", "--source", series, "--kind", "labelmap", "--packing", "rle")
    packed = pydicom.dcmread(tmp_path / "g.dcm")
    assert packed.file_meta.TransferSyntaxUID.name == "RLE Lossless" and packed.SegmentationType == "LABELMAP"
    told = run("convert", tmp_path / "f.dcm", tmp_path / "alone.nii.gz").output
    assert "grid over its own frames" in told and read_segmentation(tmp_path / "alone.nii.gz").names == wanted().names
    assert pydicom.dcmread(tmp_path / "e.dcm").Modality == "RTSTRUCT" and pydicom.dcmread(tmp_path / "f.dcm").Modality == "SEG"


def test_contours_as_a_planner_wants_them(series: Path, tmp_path: Path) -> None:
    ring = np.zeros(GRID.shape, np.uint8)
    ring[:, 2:14, 2:18] = 1
    ring[:, 6:10, 6:14] = 0
    write_segmentation(tmp_path / "a.nii.gz", Segmentation.from_labels(ring, GRID, {1: "A name of more than 16 letters"}))
    into = ["--to", "rtstruct", "--source", series]
    run("convert", tmp_path / "a.nii.gz", tmp_path / "usual.dcm", *into)
    usual = pydicom.dcmread(tmp_path / "usual.dcm")
    assert {item.ContourGeometricType for item in usual.ROIContourSequence[0].ContourSequence} == {"CLOSED_PLANAR"}
    assert "StructureSetDescription" not in usual
    told = run("convert", tmp_path / "a.nii.gz", tmp_path / "b.dcm", *into, "--short-names", "--holes", "xor", "--tolerance", "0.5").output
    made = pydicom.dcmread(tmp_path / "b.dcm")
    assert {item.ContourGeometricType for item in made.ROIContourSequence[0].ContourSequence} == {"CLOSEDPLANAR_XOR"}
    assert len(made.StructureSetROISequence[0].ROIName) <= 16
    assert made.StructureSetDescription == "contours simplified within 0.5 mm" and "within 0.5 mm: read back, voxels differ" in told


def test_images(series: Path, tmp_path: Path) -> None:
    run("convert", series, tmp_path / "out", "--to", "nrrd")
    assert read_volume(tmp_path / "out" / "series.nrrd").geometry.matches(GRID)
    run("convert", tmp_path / "out" / "series.nrrd", tmp_path / "image.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "image.nii.gz").values(), read_volume(series).values())


def test_what_cannot_be_converted_is_said(series: Path, tmp_path: Path) -> None:
    write_segmentation(tmp_path / "a.nii.gz", wanted())
    write_volume(tmp_path / "image.nii.gz", Volume(np.zeros(GRID.shape, np.int16), GRID))
    run("convert", tmp_path / "a.nii.gz", tmp_path / "rs.dcm", "--to", "rtstruct", "--source", series)
    for arguments, words in (
        (("a.nii.gz", "x.dcm"), "does not say a format"),
        (("a.nii.gz", "x.nrrd", "--to", "seg"), "not a name for seg"),
        (("a.nii.gz", "x.dcm", "--to", "seg"), "refer to a series"),
        (("a.nii.gz", "x.dcm", "--to", "rtstruct", "--source", str(tmp_path / "image.nii.gz")), "refer to a series"),
        (("rs.dcm", "x.nii.gz"), "on no grid"),
        (("a.nii.gz", ".", "--to", "nifti"), "is what is converted"),
    ):
        result = run("convert", tmp_path / arguments[0], tmp_path / arguments[1], *arguments[2:], code=2)
        assert words in str(result.exception)
    assert not list(tmp_path.glob("x.*"))


def test_compare_prints_and_draws(series: Path, tmp_path: Path) -> None:
    other = wanted()
    other.layers[0][other.layers[0] == 3] = 0
    other.layers[0][:, 10:14, 11:17] = 3
    write_segmentation(tmp_path / "a.nii.gz", wanted())
    write_segmentation(tmp_path / "b.nii.gz", other)
    run("convert", tmp_path / "b.nii.gz", tmp_path / "rs.dcm", "--to", "rtstruct", "--source", series)
    run("convert", tmp_path / "b.nii.gz", tmp_path / "seg.dcm", "--to", "seg", "--source", series)
    answers = []
    for b in ("b.nii.gz", "rs.dcm", "seg.dcm"):
        answers.append(json.loads(run("compare", tmp_path / "a.nii.gz", tmp_path / b, "--json").stdout))
    assert answers[0] == answers[1] == answers[2]
    liver, _, kidney = answers[0]["structures"]
    assert liver["dice"] == 1 and liver["added_path"] == 0 and kidney["dice"] == pytest.approx(5 / 6, abs=1e-4)
    # In each of six slices two sides of four rows, and of the two other sides one column each.
    assert kidney["added_path"] == pytest.approx(6 * (2 * 4 * 2.0 + 2 * 1 * 1.0)) and kidney["hausdorff"] == 1
    back = json.loads(run("compare", tmp_path / "rs.dcm", tmp_path / "a.nii.gz", "--json", "--structure", "Kidney_L").stdout)
    assert back["structures"][0]["dice"] == kidney["dice"]
    table = run("compare", tmp_path / "a.nii.gz", tmp_path / "rs.dcm", "--source", series, "-o", tmp_path / "picture.png").output
    assert "Kidney_L" in table and "0.8333" in table
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "no name is in both" not in table and "added path mm" in table
    plain = read_segmentation(tmp_path / "b.nii.gz")
    write_segmentation(tmp_path / "plain.nii.gz", plain)
    (tmp_path / "plain.json").unlink()
    assert "no name is in both" in run("compare", tmp_path / "a.nii.gz", tmp_path / "plain.nii.gz").output
    two = shutil.copytree(series, tmp_path / "two" / "a").parent
    write_series(two / "b", replace(stack_of(np.zeros(GRID.shape, np.int16), GRID), series=2))
    for series_of in ("1", "2"):
        found = run("preview", two, tmp_path / "a.nii.gz", "-o", tmp_path / f"{series_of}.png", "--series", series_of)
        assert "wrote" in found.output
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "2.png").read_bytes()
    result = run("compare", tmp_path / "rs.dcm", tmp_path / "rs.dcm", code=2)
    assert "on no grid" in str(result.exception)


def test_added_path_of_what_is_missing_and_of_what_is_too_much() -> None:
    inside = np.zeros((2, 6, 6), dtype=bool)
    inside[0, 2:4, 1:4] = True
    nothing = np.zeros_like(inside)
    assert added_path_length(nothing, inside, (1.0, 2.0)) == 2 * 3 * 1.0 + 2 * 2 * 2.0
    assert added_path_length(inside, nothing, (1.0, 2.0)) == 0
    assert added_path_length(inside, inside, (1.0, 2.0)) == 0


def test_segment_writes_dicom(tmp_path: Path) -> None:
    chest = chest_ct((86, 76, 56), (4.8, 5.0, 6.0)).volume
    write_series(tmp_path / "ct", stack_of((chest.voxels + 1024).astype(np.uint16), chest.geometry, stored=12))
    run("segment", tmp_path / "ct", "-m", "lungs-ct", "-o", tmp_path / "out", "--to", "rtstruct", "-q", "--tolerance", "0.001")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lungs-ct.png", "lungs-ct.rtstruct.dcm"]
    run("segment", tmp_path / "ct", "-m", "lungs-ct", "-o", tmp_path / "seg.dcm", "--to", "seg", "-q", "--no-picture")
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    assert made.SegmentSequence[0].SegmentAlgorithmName == made.SeriesDescription == "lungs-ct"
    contours = pydicom.dcmread(tmp_path / "out" / "lungs-ct.rtstruct.dcm")
    assert contours.StructureSetLabel == contours.SeriesDescription == "lungs-ct"
    assert contours.StructureSetDescription == "lungs-ct; contours simplified within 0.001 mm"
    rows = json.loads(
        run("compare", tmp_path / "out" / "lungs-ct.rtstruct.dcm", tmp_path / "seg.dcm", "--source", tmp_path / "ct", "--json").stdout
    )
    assert [(row["name"], row["dice"]) for row in rows["structures"]] == [("Lung_L", 1.0), ("Lung_R", 1.0)]
    picture = run("preview", tmp_path / "ct", tmp_path / "seg.dcm", "-o", tmp_path / "seg.png").output
    assert "seg.png" in picture and (tmp_path / "seg.png").read_bytes().startswith(b"\x89PNG")
    write_volume(tmp_path / "ct.nii.gz", chest)
    result = run("segment", tmp_path / "ct.nii.gz", "-m", "lungs-ct", "-o", tmp_path / "x", "--to", "seg", code=2)
    assert "not DICOM" in str(result.exception) and not (tmp_path / "x").exists()


def test_a_name_that_does_not_go_with_the_formats_is_refused_before_the_work(series: Path, tmp_path: Path) -> None:
    for name, formats, words in (
        ("x.dcm", (), "Say --to rtstruct or --to seg"),
        ("x.dcm", ("rtstruct", "seg"), "Give a folder"),
        ("x.nii.gz", ("seg",), "ends in .dcm, or a folder"),
        ("x.txt", ("seg",), "cannot be written as .txt"),
    ):
        more = [word for to in formats for word in ("--to", to)]
        result = run("segment", series, "-m", "lungs-ct", "-o", tmp_path / name, *more, code=2)
        assert isinstance(result.exception, DelineateError) and words in result.exception.sentence()
    assert not list(tmp_path.glob("x.*"))


def test_fetch_writes_dicom(tmp_path: Path) -> None:
    chest = chest_ct((86, 76, 56), (4.8, 5.0, 6.0)).volume
    write_series(tmp_path / "ct", stack_of((chest.voxels + 1024).astype(np.uint16), chest.geometry, stored=12))
    with embedded_server((), False) as url:
        uid = run("submit", tmp_path / "ct", "-m", "lungs-ct", "--server", url, "-q").output.strip()
        run("wait", uid, "--server", url, "-q")
        told = run("fetch", uid, "-o", tmp_path / "rs.dcm", "--to", "rtstruct", "--server", url, "-q", code=2)
        assert isinstance(told.exception, DelineateError) and "as --image" in told.exception.sentence()
        run("fetch", uid, "-o", tmp_path / "rs.dcm", "--to", "rtstruct", "--image", tmp_path / "ct", "--server", url, "-q")
        both = run("fetch", uid, "-o", tmp_path / "o", "--to", "rtstruct", "--to", "seg", "--image", tmp_path / "ct", "--server", url, "-q")
        run("fetch", uid, "-o", tmp_path / "labels.nii.gz", "--image", tmp_path / "ct", "--server", url, "-q")
    assert "structures.seg.dcm" in both.output
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["structures.png", "structures.rtstruct.dcm", "structures.seg.dcm"]
    rows = json.loads(run("compare", tmp_path / "rs.dcm", tmp_path / "labels.nii.gz", "--json").stdout)["structures"]
    assert [(row["name"], row["dice"]) for row in rows] == [("Lung_L", 1.0), ("Lung_R", 1.0)]


def test_where_nothing_is_found_the_formats_that_can_say_so_are_written(tmp_path: Path) -> None:
    nothing = np.full((6, 24, 20), 24, np.uint16)
    nothing[:, 6:18, 5:15] = 1024  # water in air
    write_series(tmp_path / "ct", stack_of(nothing, Geometry((20, 24, 6), (2.0, 2.0, 3.0)), stored=12))
    told = run("segment", tmp_path / "ct", "-m", "lungs-ct", "-o", tmp_path / "out", "--to", "rtstruct", "--to", "seg", "-q").output
    assert "no structure has voxels" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lungs-ct.png", "lungs-ct.seg.dcm"]
    alone = run("segment", tmp_path / "ct", "-m", "lungs-ct", "-o", tmp_path / "alone", "--to", "rtstruct", "-q", code=2)
    assert "no structure has voxels" in str(alone.exception) and not list((tmp_path / "alone").iterdir())
