"""Results of all makes become masks on the contour grid, one at a time."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delineate import nifti, nifti_codec
from delineate.errors import ArchiveError, GeometryError
from delineate.geometry import Geometry
from delineate.mim.task_input import ImageGrid
from delineate.mim.task_output import MOST, TaskOutput, _pieces
from delineate.model import Model
from delineate.protocols.archive import ResultWriter
from delineate.protocols.archive_entries import StoredZipWriter
from delineate.segmentation import Segmentation
from delineate.volume import Volume
from delineate.worker.publish import publish

IMAGE = Geometry((7, 5, 4), (1.5, 2.0, 3.0), (-10.0, 20.0, 30.0))
GRID = ImageGrid(IMAGE, (2, 3, 1))


def _result(path: Path, labels: np.ndarray, names: dict[int, str], *more: tuple[np.ndarray, dict[int, str]]) -> str:
    with ResultWriter(path) as writer:
        for array, texts in ((labels, names), *more):
            writer.add_layer("labels", array, Geometry(array.shape[::-1]), texts)
    return str(path)


def _stranger(path: Path, labels: np.ndarray, names: dict[str, str]) -> str:
    """A result that our own writer would not write."""
    with StoredZipWriter(path) as writer, writer.entry("labels.nii.gz", 2 * labels.nbytes + 1000) as file:
        nifti_codec.write(nifti_codec.blocks(nifti_codec.Image(labels, Geometry(labels.shape[::-1]))), file)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.json", json.dumps(names))
    return str(path)


def _random_labels(shape: tuple[int, ...], highest: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, highest + 1, shape).astype(np.uint8)


@pytest.mark.parametrize("highest", [1, 3, 40])
def test_masks_on_the_contour_grid_are_the_labels(tmp_path: Path, highest: int) -> None:
    labels = _random_labels(GRID.contours.shape, highest)
    names = {label: f"S{label}" for label in range(1, highest + 1)}
    masks = TaskOutput(_result(tmp_path / "r.zip", labels, names), GRID).get_output_as_label_array_dict()
    assert list(masks) == list(names.values())
    for label, name in names.items():
        assert masks[name].dtype == bool
        assert np.array_equal(masks[name], labels == label)


def test_a_block_of_rows_and_a_run_over_the_end_of_a_row(tmp_path: Path) -> None:
    labels = np.zeros(GRID.contours.shape, np.uint8)
    labels[1, 2:9, 3:6] = 1
    labels[2, 4, 10:] = 2
    labels[2, 5, :3] = 2  # in memory the two parts are one run
    labels[3] = 3
    masks = TaskOutput(_result(tmp_path / "r.zip", labels, {1: "A", 2: "B", 3: "C"}), GRID).get_output_as_label_array_dict()
    for label, name in ((1, "A"), (2, "B"), (3, "C")):
        assert np.array_equal(masks[name], labels == label)


def test_a_result_on_the_image_grid_is_replicated_in_blocks(tmp_path: Path) -> None:
    labels = _random_labels(IMAGE.shape, 3)
    masks = TaskOutput(_result(tmp_path / "r.zip", labels, {1: "A", 2: "B", 3: "C"}), GRID).get_output_as_label_array_dict()
    wanted = Segmentation.from_labels(labels, IMAGE, {1: "A", 2: "B", 3: "C"}).refined(GRID.multiplier)
    for name in "ABC":
        assert np.array_equal(masks[name], wanted.mask(name))


def test_another_grid_is_refused_with_all_sizes(tmp_path: Path) -> None:
    path = _result(tmp_path / "r.zip", np.ones((4, 5, 8), np.uint8), {1: "A"})
    with pytest.raises(GeometryError) as caught:
        TaskOutput(path, GRID)
    for size in ("8 x 5 x 4", "7 x 5 x 4", "14 x 15 x 4"):
        assert size in str(caught.value)
    output = TaskOutput(path)  # and without a grid as soon as there is one
    with pytest.raises(GeometryError):
        output.fit(GRID)
    assert output.grid is None


def test_swapped_axes_are_another_grid(tmp_path: Path) -> None:
    with pytest.raises(GeometryError):
        TaskOutput(_result(tmp_path / "r.zip", np.ones(GRID.contours.size, np.uint8), {1: "A"}), GRID)


def test_a_result_that_says_it_is_of_another_image_is_refused(tmp_path: Path) -> None:
    def result(place: Geometry) -> str:
        labels = ("labels", np.ones(IMAGE.shape, np.uint8), Geometry(IMAGE.size), {1: "A"})
        publish(tmp_path / "r.zip", [labels], {}, b"", Model(name="m", runner="toy"), place=place)
        return str(tmp_path / "r.zip")

    assert TaskOutput(result(IMAGE), GRID).grid is GRID
    for other in (replace(IMAGE, origin=(-10.0, 20.0, 35.0)), replace(IMAGE, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))):
        with pytest.raises(GeometryError, match="another image") as caught:
            TaskOutput(result(other), GRID)
        assert "sent" in caught.value.advice
        assert list(TaskOutput(result(other)).get_output_as_label_array_dict()) == ["A"], "without an image there is nothing to compare"


@pytest.mark.parametrize(
    "line", ["image: ", "image: {", "image: []", 'image: {"size": "x"}', 'image: {"size": [0, 1, 2]}', "image: " + "[" * 100_000]
)
def test_what_does_not_say_of_which_image_it_is_is_matched_by_size(tmp_path: Path, line: str) -> None:
    with ResultWriter(tmp_path / "r.zip") as writer:
        writer.add_layer("labels", np.ones(IMAGE.shape, np.uint8), IMAGE, {1: "A"})
        writer.add_text("provenance.txt", line + "\n")
    assert TaskOutput(str(tmp_path / "r.zip"), GRID).grid is GRID


def test_without_a_grid_masks_are_on_the_results_own(tmp_path: Path) -> None:
    labels = _random_labels((3, 4, 5), 1)
    masks = TaskOutput(_result(tmp_path / "r.zip", labels, {1: "A"})).get_output_as_label_array_dict()
    assert np.array_equal(masks["A"], labels == 1)


def test_each_look_up_makes_a_mask_of_its_own(tmp_path: Path) -> None:
    labels = _random_labels(IMAGE.shape, 1)
    masks = TaskOutput(_result(tmp_path / "r.zip", labels, {1: "A"}), ImageGrid(IMAGE)).get_output_as_label_array_dict()
    masks["A"][...] = True
    assert np.array_equal(masks["A"], labels == 1)


def test_structures_may_overlap(tmp_path: Path) -> None:
    first, second = _random_labels(IMAGE.shape, 1, 1), _random_labels(IMAGE.shape, 1, 2)
    assert (first & second).any()
    path = _result(tmp_path / "r.zip", first, {1: "A"}, (second, {1: "B"}))
    masks = TaskOutput(path, ImageGrid(IMAGE)).get_output_as_label_array_dict()
    assert np.array_equal(masks["A"], first == 1)
    assert np.array_equal(masks["B"], second == 1)


def test_labels_nobody_declared_are_noted(tmp_path: Path) -> None:
    labels = np.zeros(IMAGE.shape, np.uint8)
    labels[0], labels[1] = 1, 9
    output = TaskOutput(_result(tmp_path / "r.zip", labels, {1: "A"}), ImageGrid(IMAGE))
    assert list(output.get_output_as_label_array_dict()) == ["A"]
    assert any("9" in note for note in output.notes)


def test_declared_and_not_found(tmp_path: Path) -> None:
    labels = np.zeros(IMAGE.shape, np.uint8)
    labels[0] = 1
    masks = TaskOutput(_result(tmp_path / "r.zip", labels, {1: "A", 2: "B"}), ImageGrid(IMAGE)).get_output_as_label_array_dict()
    assert (masks.is_empty("A"), masks.is_empty("B")) == (False, True)
    assert not masks["B"].any()


def test_values_of_upscalers_are_rounded(tmp_path: Path) -> None:
    values = _random_labels(IMAGE.shape, 2).astype(np.float64) + 1e-5
    nifti.write(tmp_path / "x.nii.gz", Volume(values, Geometry(IMAGE.size)))
    (tmp_path / "x.json").write_text('{"1": "A", "2": "B"}')
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        for name in ("x.nii.gz", "x.json"):
            archive.write(tmp_path / name, name)
    masks = TaskOutput(str(tmp_path / "r.zip"), ImageGrid(IMAGE)).get_output_as_label_array_dict()
    assert np.array_equal(masks["B"], np.rint(values) == 2)


def test_names_are_composed_and_trimmed(tmp_path: Path) -> None:
    labels = _random_labels(IMAGE.shape, 2)
    output = TaskOutput(_result(tmp_path / "r.zip", labels, {1: " Bru\u0308cke\n", 2: "肺"}), ImageGrid(IMAGE))
    assert list(output.get_output_as_label_array_dict()) == ["Br\u00fccke", "肺"]


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    path = _result(tmp_path / "r.zip", _random_labels(IMAGE.shape, 2), {1: "A", 2: "A "})
    with pytest.raises(ArchiveError, match="twice"):
        TaskOutput(path, ImageGrid(IMAGE))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("A\u202eB", "A B"),
        ("\u200bA\ufeff", "A"),
        ("A\u2028\x1b[31mB", "A  [31mB"),
        ("A\ud800", "A"),
        ("\u0645\u06cc\u200c\u0634", "\u0645\u06cc\u200c\u0634"),  # joiners belong to some scripts
    ],
)
def test_names_hold_nothing_that_misleads_or_cannot_be_shown(tmp_path: Path, given: str, name: str) -> None:
    path = _stranger(tmp_path / "r.zip", np.ones((2, 3, 4), np.uint8), {"1": given})
    assert list(TaskOutput(path).get_output_as_label_array_dict()) == [name]


def test_more_structures_than_a_person_looks_at_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((4, 50, 50), np.uint16)
    path = _stranger(tmp_path / "r.zip", labels, {str(n): f"s{n}" for n in range(1, MOST + 1)})
    assert len(TaskOutput(path).get_output_as_label_array_dict()) == MOST
    path = _stranger(tmp_path / "r.zip", labels, {str(n): f"s{n}" for n in range(1, MOST + 2)})
    with pytest.raises(ArchiveError, match="more than 2000 structures"):
        TaskOutput(path)
    with pytest.raises(ArchiveError, match="256 characters"):
        TaskOutput(_stranger(tmp_path / "r.zip", labels, {"1": "x" * 257}))


def test_a_result_of_another_size_is_refused_before_there_is_memory_for_it(tmp_path: Path) -> None:
    """64 MB of background are some kilobytes on the line."""
    path = _stranger(tmp_path / "r.zip", np.zeros((400, 400, 400), np.uint8), {"1": "A"})
    tracemalloc.start()
    try:
        with pytest.raises(GeometryError, match="400 x 400 x 400"):
            TaskOutput(path, GRID)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_labels_without_a_name_cost_nothing(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 50_000, (4, 256, 256)).astype(np.uint16)
    found = _pieces(labels, {7: "A"})
    assert list(found) == [7]
    mask = TaskOutput(_stranger(tmp_path / "r.zip", labels, {"7": "A"})).get_output_as_label_array_dict()["A"]
    assert np.array_equal(mask, labels == 7)


def test_an_archive_without_names_is_an_error(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "r.zip") as writer:
        writer.add_bytes("container.log", b"")
    with pytest.raises(ArchiveError, match="no label map"):
        TaskOutput(str(tmp_path / "r.zip"), GRID)


def test_the_archive_is_not_needed_afterwards(tmp_path: Path) -> None:
    labels = _random_labels(IMAGE.shape, 1)
    path = _result(tmp_path / "r.zip", labels, {1: "A"})
    output = TaskOutput(path, ImageGrid(IMAGE))
    Path(path).unlink()
    assert np.array_equal(output.get_output_as_label_array_dict()["A"], labels == 1)


def test_strewn_labels_take_no_more_than_their_layer() -> None:
    labels = _random_labels((12, 64, 64), 250)
    pieces = [piece for found in _pieces(labels, range(251)).values() for piece in found]
    # Views of the layer cost nothing beside it; bits stop once they are as much as it.
    packed = sum(piece.bits.nbytes for piece in pieces if piece.bits.base is None)
    assert packed < 2 * labels.nbytes + 251 * 64 * 64
    for label in (1, 77, 250):
        mask = np.zeros(labels.shape, bool)
        for piece in _pieces(labels, range(251))[label]:
            mask[piece.z, piece.y : piece.y + piece.shape[0], piece.x : piece.x + piece.shape[1]] = piece.inside()
        assert np.array_equal(mask, labels == label)


def test_memory_is_one_mask_however_many_structures(tmp_path: Path) -> None:
    shape = (48, 512, 512)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, 31):
        labels[label : label + 10, 8 * label : 8 * label + 16, 60:200] = label
    path = _result(tmp_path / "r.zip", labels, {label: f"S{label}" for label in range(1, 31)})
    mask_bytes = labels.nbytes
    del labels
    tracemalloc.start()
    try:
        masks = TaskOutput(path, ImageGrid(Geometry(shape[::-1]))).get_output_as_label_array_dict()
        held = tracemalloc.get_traced_memory()[0]
        for name in masks:
            assert masks[name].any()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < mask_bytes / 4
    assert peak < 1.35 * mask_bytes


def test_memory_is_one_label_map_however_many_overlap(tmp_path: Path) -> None:
    shape = (48, 512, 512)
    labels = np.zeros(shape, np.uint8)
    labels[10:20, 100:300, 100:300] = 1
    path = _result(tmp_path / "r.zip", labels, {1: "S0"}, *((labels, {1: f"S{n}"}) for n in range(1, 8)))
    layer_bytes = labels.nbytes
    del labels
    tracemalloc.start()
    try:
        output = TaskOutput(path, ImageGrid(Geometry(shape[::-1])))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(output.get_output_as_label_array_dict()) == 8
    assert peak < 1.35 * layer_bytes


def test_json_of_names_is_all_that_is_said_of_structures(tmp_path: Path) -> None:
    """A stray ``.json`` does not cost the result."""
    labels = _random_labels(IMAGE.shape, 1)
    nifti.write_labels(tmp_path / "x.nii.gz", labels, Geometry(IMAGE.size))
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.write(tmp_path / "x.nii.gz", "x.nii.gz")
        archive.writestr("x.json", json.dumps({"1": "A"}))
        archive.writestr("stats.json", json.dumps({"dice": 1.0}))
    output = TaskOutput(str(tmp_path / "r.zip"), ImageGrid(IMAGE))
    assert list(output.get_output_as_label_array_dict()) == ["A"]
    assert any("stats.json" in note for note in output.notes)
