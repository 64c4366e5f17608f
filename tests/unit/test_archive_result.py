"""Results: what we write is the same bytes, what others write is matched by index and never silently lost."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from delineate import nifti
from delineate.errors import ArchiveError, ArchiveLimitError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.protocols.archive import ArchiveReader, Limits, ResultWriter, read_result, tar_view
from delineate.protocols.archive_walker import ArchiveWalker
from delineate.protocols.task_archive import read_layers
from delineate.segmentation import Segmentation, Structure
from delineate.volume import Volume

GRID = Geometry((5, 7, 9), (0.9, 1.1, 2.5), (-10.0, 20.0, 30.5))
NAMES = {1: "Heart", 2: "Lung_L"}


def labels(modulus: int = 3, grid: Geometry = GRID) -> np.ndarray:
    return (np.arange(np.prod(grid.shape)) % modulus).astype(np.uint8).reshape(grid.shape)


def nifti_bytes(array: np.ndarray, grid: Geometry | None = None) -> bytes:
    buffer = io.BytesIO()
    nifti.write(buffer, Volume(array, grid or Geometry(tuple(reversed(array.shape)))))
    return buffer.getvalue()


def foreign(path: Path, files: dict[str, bytes | dict[str, object]]) -> Path:
    """A result of somebody else: any entries, deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False))
    return path


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with ResultWriter(path) as writer:
        assert writer.add_layer("organs", labels(), GRID, NAMES) == "organs"
        writer.add_text("container.log", "done")
    result = read_result(path)
    assert result.geometry.matches(GRID)
    assert result.structures == (Structure("Heart", 1), Structure("Lung_L", 2))
    assert np.array_equal(result.layers[0], labels()) and result.layers[0].dtype == np.uint8
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["organs.nii.gz", "organs.json", "container.log"]
        assert json.loads(archive.read("organs.json")) == {"1": "Heart", "2": "Lung_L"}


def test_same_result_same_bytes(tmp_path: Path) -> None:
    for name, names in (("a.zip", {1: "Heart", 2: "Lung_L"}), ("b.zip", {2: "Lung_L", 1: "Heart"})):
        with ResultWriter(tmp_path / name) as writer:
            writer.add_layer("organs", labels(), GRID, names)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_layers_become_pairs(tmp_path: Path) -> None:
    masks = {"A": labels() > 0, "B": labels() > 1, "C": labels(5) > 1}
    segmentation = Segmentation.from_masks(masks, GRID)
    assert len(segmentation.layers) == 3
    with ResultWriter(tmp_path / "a.zip") as writer:
        assert writer.add_segmentation("seg", segmentation) == ["seg", "seg_2", "seg_3"]
    result = read_result(tmp_path / "a.zip", GRID)
    assert result.names == ["A", "B", "C"]
    assert all(np.array_equal(result.mask(name), mask) for name, mask in masks.items())


def test_names_in_any_script(tmp_path: Path) -> None:
    names = {1: "Größe ♥", 2: unicodedata.normalize("NFD", "é"), 300: 'quote " \\ '}
    array = np.zeros(GRID.shape, np.uint16)
    array[0, 0, :3] = (1, 2, 300)
    with ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("größe", array, GRID, names)
    assert ArchiveReader(tmp_path / "a.zip").read("größe.json").isascii(), "read alike in any encoding"
    result = read_result(tmp_path / "a.zip")
    assert result.names == ["Größe ♥", "é", 'quote " \\ ']
    assert result.mask('quote " \\ ').sum() == 1


@pytest.mark.parametrize("names", [{0: "Back"}, {-1: "X"}, {1: " "}, {1: "A", 2: "A"}, {1: "é", 2: "e\u0301"}])
def test_names_that_are_none_are_not_written(tmp_path: Path, names: dict[int, str]) -> None:
    with pytest.raises(InputError), ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("a", labels(), GRID, names)
    assert not (tmp_path / "a.zip").exists()


def test_one_name_in_two_layers_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"), ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("a", labels(), GRID, {1: "Heart"})
        writer.add_layer("b", labels(), GRID, {1: "Heart"})
    assert not (tmp_path / "a.zip").exists()


def test_a_wrong_grid_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(GeometryError), ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("a", labels()[:-1], GRID, NAMES)
    assert not (tmp_path / "a.zip").exists()


def test_never_a_json_alone(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"{}")
    with ResultWriter(tmp_path / "a.zip") as writer:
        for add in (
            lambda: writer.add_bytes("x.JSON", b"{}"),
            lambda: writer.add_text("x.json", ""),
            lambda: writer.add_file("x.json", tmp_path / "x"),
        ):
            with pytest.raises(InputError, match="without a label map"):
                add()
        writer.add_file("x.json.txt", tmp_path / "x")
    assert ArchiveReader(tmp_path / "a.zip").names() == ["x.json.txt"]


# ---- of others


def test_headers_of_strangers_do_not_count(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zip", {"out.nii.gz": nifti_bytes(labels()), "out.json": {"1": "Heart", "2": "Lung_L"}})
    result = read_result(path, GRID)
    assert result.geometry == GRID and np.array_equal(result.layers[0], labels())


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, np.int32])
def test_values_of_any_type(tmp_path: Path, dtype: type) -> None:
    array = labels().astype(dtype)
    if dtype is np.float64:
        array[array > 0] += 2e-4
    path = foreign(tmp_path / "a.zip", {"out.nii.gz": nifti_bytes(array), "out.json": {"1": "Heart", "2": "Lung_L"}})
    result = read_result(path, GRID)
    assert np.array_equal(result.layers[0], labels()) and result.layers[0].dtype == np.uint8


def test_the_contour_grid_or_the_image_grid(tmp_path: Path) -> None:
    fine = GRID.refined((2, 2, 1))
    grids = [fine, GRID]
    for grid in grids:
        path = foreign(tmp_path / "a.zip", {"o.nii.gz": nifti_bytes(labels(2, grid)), "o.json": {"1": "Heart"}})
        assert read_result(path, grids).geometry == grid
    with pytest.raises(GeometryError, match="5 x 7 x 9 voxels, not 10 x 14 x 9"):
        read_result(path, fine)


def test_axes_are_not_turned_to_fit(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zip", {"o.nii.gz": nifti_bytes(labels().transpose(2, 1, 0)), "o.json": {"1": "Heart"}})
    with pytest.raises(GeometryError, match="9 x 7 x 5 voxels, not 5 x 7 x 9"):
        read_result(path, GRID)


def test_strangers_are_ignored_and_told(tmp_path: Path) -> None:
    files = {
        "report.json": {"a": 1},
        "sub/out.nii.gz": nifti_bytes(labels()),
        "sub/OUT.json": {"0": "background", "1": "Heart"},
        "alone.nii.gz": b"",
        "run.log": b"x",
        "provenance.txt": b"x",
        "dose.nrrd": b"x",
        "__MACOSX/._out.json": b"x",
    }
    notes: list[str] = []
    result = read_result(foreign(tmp_path / "a.zip", dict(files)), GRID, notes=notes)
    assert result.names == ["Heart"]
    assert len(notes) == 4
    assert "report.json" in notes[0] and "without its .nii.gz" in notes[0]
    assert "alone.nii.gz" in notes[1] and "without a .json" in notes[1]
    assert "dose.nrrd" in notes[2], "logs and provenance belong to a result and are no strangers"
    assert "labels without a name: 2" in notes[3]


def test_a_result_as_a_tar(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("organs", labels(), GRID, NAMES)
    (tmp_path / "a.tar").write_bytes(b"".join(tar_view(tmp_path / "a.zip", with_log=True)))
    notes: list[str] = []
    assert read_result(tmp_path / "a.tar", notes=notes).names == ["Heart", "Lung_L"]
    assert notes == [], "the log is no stranger"
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive, zipfile.ZipFile(tmp_path / "a.zip") as source:
        for name in reversed(source.namelist()):  # the names before the label map
            info = tarfile.TarInfo("./" + name)
            info.size = source.getinfo(name).file_size
            archive.addfile(info, source.open(name))
    assert read_result(tmp_path / "b.tar.gz", GRID).names == ["Heart", "Lung_L"]


def test_what_a_client_carries_reads_zips_and_plain_tars(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("organs", labels(), GRID, {2: "Lung_L", 1: "Heart"})
        writer.add_layer("overlaps", labels(2), GRID, {1: "Lungs"})
    (tmp_path / "a.tar").write_bytes(b"".join(tar_view(tmp_path / "a.zip")))
    for name in ("a.zip", "a.tar"):
        layers = list(read_layers(ArchiveWalker(tmp_path / name), []))
        assert [list(layer.names.items()) for layer in layers] == [[(1, "Heart"), (2, "Lung_L")], [(1, "Lungs")]]
        assert np.array_equal(layers[0].labels, labels()) and np.array_equal(layers[1].labels, labels(2))
        assert all(layer.geometry.matches(GRID) for layer in layers)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ArchiveError, match="packed with gzip"):
        list(read_layers(ArchiveWalker(tmp_path / "a.tar.gz"), []))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no label map"),
        ({"a.nii.gz": b""}, "no label map"),
        ({"a.json": {"1": "A"}}, "no label map"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": b"{"}, "not JSON"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": b"[]"}, "not a JSON object"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": {"Heart": "1"}}, "no label"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": {"-1": "A"}}, "no label"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": {"1": 5}}, "no name for label 1"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": {"1": ""}}, "no name for label 1"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": {"1": "A", "1.0": "B"}}, "label 1 twice"),
        ({"a.nii.gz": nifti_bytes(labels()), "a.json": {"1": "A", "2": "A"}}, "twice: in 'a.nii.gz'"),
        (
            {"a.nii.gz": nifti_bytes(labels()), "a.json": {"1": "A"}, "b.nii.gz": nifti_bytes(labels()), "b.json": {"1": "A"}},
            "twice: in 'a.nii.gz' and in 'b.nii.gz'",
        ),
    ],
)
def test_results_that_would_lose_a_structure(tmp_path: Path, files: dict[str, bytes | dict[str, object]], words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        read_result(foreign(tmp_path / "a.zip", files), GRID)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no image", "too short|cut off|NIfTI"),
        (nifti_bytes(labels())[:-20], "cut off"),
        (nifti_bytes(labels().astype(np.float32) + 0.5), "whole numbers"),
        (nifti_bytes(labels().astype(np.int16) - 1), "negative"),
    ],
)
def test_label_maps_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_result(foreign(tmp_path / "a.zip", {"a.nii.gz": content, "a.json": {"1": "A"}}), GRID)
    assert "'a.nii.gz' in the result" in caught.value.message


def test_layers_on_two_grids(tmp_path: Path) -> None:
    files = {"a.nii.gz": nifti_bytes(labels()), "a.json": {"1": "A"}, "b.nii.gz": nifti_bytes(labels()[1:]), "b.json": {"1": "B"}}
    with pytest.raises(GeometryError, match="different grids"):
        read_result(foreign(tmp_path / "a.zip", dict(files)), None)


def test_differing_headers_are_told(tmp_path: Path) -> None:
    files = {"a.nii.gz": nifti_bytes(labels(), GRID), "a.json": {"1": "A"}, "b.nii.gz": nifti_bytes(labels()), "b.json": {"1": "B"}}
    notes: list[str] = []
    result = read_result(foreign(tmp_path / "a.zip", dict(files)), notes=notes)
    assert result.geometry.matches(GRID) and any("header of 'b.nii.gz' differs" in note for note in notes)


def test_limits_hold_for_results_too(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "a.zip") as writer:
        writer.add_layer("organs", labels(), GRID, NAMES)
    with pytest.raises(ArchiveLimitError, match="entries"):
        read_result(tmp_path / "a.zip", limits=Limits(entries=1))
