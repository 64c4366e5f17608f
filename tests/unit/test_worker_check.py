"""The geometry contract: what a model may answer, and what fails the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.segmentation import Segmentation, Structure
from delineate.volume import Volume
from delineate.worker.check import ExpectedGrid, check, present_labels

GRID = Geometry((7, 6, 5), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))
ELSEWHERE = Geometry((7, 6, 5))
AS_SENT = ExpectedGrid(image=GRID)
EXACT = ExpectedGrid(image=GRID, exact=True)
FINE = ExpectedGrid(image=GRID, factor=(2, 2, 1))
NAMELESS = Model(name="m", runner="toy")
DECLARED = Model(name="m", runner="toy", structures=(Structure("Heart", 1), Structure("Liver", 2)))


def labels(grid: Geometry = GRID, value: int = 1, dtype: Any = np.uint8) -> np.ndarray:
    array = np.zeros(grid.shape, dtype=dtype)
    array[1, 2, 3] = value
    return array


def write(folder: Path, name: str, array: np.ndarray, grid: Geometry = GRID, names: Any = None) -> None:
    path = folder / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write_labels(path, array, grid)
    if names is not None:
        (folder / f"{name}.json").write_text(names if isinstance(names, str) else json.dumps(names), encoding="utf-8")


def failure(result: Any, folder: Path, model: Model = NAMELESS, expected: ExpectedGrid = AS_SENT) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check(result, folder, model, expected)
    return caught.value


# What was returned


def test_a_segmentation_with_two_layers(tmp_path: Path) -> None:
    both = np.ones(GRID.shape, dtype=bool)
    answer = check(Segmentation.from_masks({"All": both, "Again": both}, GRID), tmp_path, NAMELESS, EXACT)
    assert [(layer.name, dict(layer.names)) for layer in answer.layers] == [("segmentation", {1: "All"}), ("segmentation_2", {2: "Again"})]
    assert not any(layer.fine for layer in answer.layers)


def test_a_boolean_layer_is_a_label_map(tmp_path: Path) -> None:
    mask = labels(dtype=bool)
    answer = check(Segmentation(GRID, (mask,), (Structure("A", 1),)), tmp_path, NAMELESS, AS_SENT)
    assert answer.layers[0].labels.dtype == np.uint8
    assert answer.layers[0].labels.sum() == 1


def test_declared_structures_may_be_empty(tmp_path: Path) -> None:
    answer = check(Segmentation.from_labels(np.zeros(GRID.shape, np.uint8), GRID, {}), tmp_path, DECLARED, EXACT)
    assert answer.layers[0].names == {}


def test_a_declared_name_serves_where_the_result_has_none(tmp_path: Path) -> None:
    answer = check(Segmentation(GRID, (labels(value=2),), ()), tmp_path, DECLARED, EXACT)
    assert answer.layers[0].names == {2: "Liver"}


def test_a_label_nobody_named(tmp_path: Path) -> None:
    error = failure(Segmentation.from_labels(labels(value=7), GRID, {1: "Heart"}), tmp_path, DECLARED)
    assert error.kind == "labels"
    assert "7" in error.message
    assert "1, 2" in error.message


@pytest.mark.parametrize("result", [np.zeros(3), Segmentation(GRID, (), ())])
def test_no_segmentation(result: Any, tmp_path: Path) -> None:
    assert failure(result, tmp_path).kind == "output"


def test_another_size_fails_with_both_grids(tmp_path: Path) -> None:
    larger = Geometry((8, 6, 5), GRID.spacing, GRID.origin)
    error = failure(Segmentation.from_labels(labels(larger), larger, {1: "A"}), tmp_path)
    assert error.kind == "grid"
    assert "8 x 6 x 5" in error.message
    assert "7 x 6 x 5" in error.message


def test_swapped_axes_are_another_grid(tmp_path: Path) -> None:
    swapped = Geometry((5, 6, 7))
    assert failure(Segmentation.from_labels(labels(swapped), swapped, {1: "A"}), tmp_path).kind == "grid"


def test_the_contour_grid_is_fine(tmp_path: Path) -> None:
    fine = GRID.refined((2, 2, 1))
    answer = check(Segmentation.from_labels(labels(fine), fine, {1: "A"}), tmp_path, NAMELESS, FINE)
    assert answer.layers[0].fine
    assert not check(Segmentation.from_labels(labels(), GRID, {1: "A"}), tmp_path, NAMELESS, FINE).layers[0].fine
    odd = GRID.refined((2, 1, 1))
    error = failure(Segmentation.from_labels(labels(odd), odd, {1: "A"}), tmp_path, expected=FINE)
    assert "for contours, 14 x 12 x 5" in error.message


def test_place_counts_only_where_the_model_declared_an_orientation(tmp_path: Path) -> None:
    result = Segmentation.from_labels(labels(ELSEWHERE), ELSEWHERE, {1: "A"})
    assert check(result, tmp_path, NAMELESS, AS_SENT).layers
    error = failure(result, tmp_path, expected=EXACT)
    assert error.kind == "grid"
    assert "spacing" in error.message


# What was written


def test_files_in_sub_folders_keep_their_paths(tmp_path: Path) -> None:
    write(tmp_path, "sub/folder/a", labels(), names={"1": "Herz", "0": "background"})
    write(tmp_path, "b", labels(), names={"1": "Leber"})
    answer = check(None, tmp_path, NAMELESS, AS_SENT)
    assert [(layer.name, dict(layer.names)) for layer in answer.layers] == [("b", {1: "Leber"}), ("sub/folder/a", {1: "Herz"})]
    assert answer.others == {}


def test_headers_of_files_count_only_where_the_model_declared_an_orientation(tmp_path: Path) -> None:
    write(tmp_path, "a", labels(ELSEWHERE), ELSEWHERE, names={"1": "A"})
    assert check(None, tmp_path, NAMELESS, AS_SENT).layers
    error = failure(None, tmp_path, expected=EXACT)
    assert error.kind == "grid"
    assert "a.nii.gz" in error.message


def test_names_come_from_the_model_where_no_file_has_them(tmp_path: Path) -> None:
    write(tmp_path, "a", labels())
    assert check(None, tmp_path, DECLARED, AS_SENT).layers[0].names == {1: "Heart", 2: "Liver"}
    assert failure(None, tmp_path, NAMELESS).kind == "labels"


def test_files_without_names_share_the_declared_ones(tmp_path: Path) -> None:
    write(tmp_path, "a", labels(value=1))
    write(tmp_path, "b", labels(value=2))
    assert [layer.names for layer in check(None, tmp_path, DECLARED, AS_SENT).layers] == [{1: "Heart"}, {2: "Liver"}]


def test_the_same_name_twice(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, name, labels(), names={"1": "Heart"})
    error = failure(None, tmp_path)
    assert error.kind == "labels"
    assert "Heart" in error.message


def test_whole_numbers_as_floats_are_labels(tmp_path: Path) -> None:
    nifti.write(tmp_path / "a.nii.gz", Volume(labels().astype(np.float64), GRID))
    assert check(None, tmp_path, DECLARED, AS_SENT).layers[0].labels.dtype.kind == "u"


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_other_values_are_no_labels(value: float, tmp_path: Path) -> None:
    array = labels().astype(np.float32)
    array[0, 0, 0] = value
    nifti.write(tmp_path / "a.nii.gz", Volume(array, GRID))
    error = failure(None, tmp_path, DECLARED)
    assert error.kind == "labels"
    assert "a.nii.gz" in error.message
    assert str(tmp_path) not in error.message


def test_an_output_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "a", labels(), names={"1": "A"})
    path = tmp_path / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    error = failure(None, tmp_path)
    assert error.kind == "output"
    assert str(tmp_path) not in error.message


@pytest.mark.parametrize("text", ["", "[]", '{"x": "A"}', '{"1": 5}', '{"1": ""}', '{"-1": "A"}', "\xff", "[" * 100_000], ids=len)
def test_names_that_make_no_sense(text: str, tmp_path: Path) -> None:
    write(tmp_path, "a", labels(), names=text)
    error = failure(None, tmp_path)
    assert error.kind == "labels"
    assert "a.json" in error.message


def test_nothing_written(tmp_path: Path) -> None:
    assert failure(None, tmp_path).kind == "output"
    (tmp_path / "report.pdf").write_bytes(b"x")
    error = failure(None, tmp_path)
    assert error.kind == "output"
    assert "report.pdf" in error.message


def test_other_files_go_along_but_a_stray_json_is_renamed(tmp_path: Path) -> None:
    write(tmp_path, "a", labels(), names={"1": "A"})
    for name in ("report.pdf", "scores.json", "sub/more.JSON"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    answer = check(None, tmp_path, NAMELESS, AS_SENT)
    assert sorted(answer.others) == ["report.pdf", "scores.json.txt", "sub/more.JSON.txt"]
    assert any("scores.json" in note for note in answer.notes)


def test_links_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("x")
    folder = tmp_path / "out"
    write(folder, "a", labels(), names={"1": "A"})
    (folder / "key.txt").symlink_to(secret / "key.txt")
    (folder / "secrets").symlink_to(secret)
    answer = check(None, folder, NAMELESS, AS_SENT)
    assert answer.others == {}
    assert len(answer.notes) == 2
    (folder / "b.nii.gz").symlink_to(folder / "a.nii.gz")
    assert len(check(None, folder, NAMELESS, AS_SENT).layers) == 1


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    write(tmp_path, "a", labels(), names={"1": "A"})
    write(tmp_path, "A", labels(), names={"1": "B"})
    assert failure(None, tmp_path).kind == "output"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_present_labels(dtype: Any) -> None:
    array = np.zeros((4, 3, 2), dtype=dtype)
    array[1, 2, 1], array[3, 0, 0] = 200, 3
    assert present_labels(array) == [3, 200]
    assert present_labels(np.zeros((2, 2, 2), dtype=dtype)) == []
    assert present_labels(np.ones((2, 2, 2), dtype=dtype)) == [1]


def test_present_labels_of_very_large_numbers() -> None:
    array = np.zeros((4, 3, 2), dtype=np.uint32)
    array[0, 0, 0], array[1, 1, 1] = 1 << 31, 5
    assert present_labels(array) == [5, 1 << 31]
