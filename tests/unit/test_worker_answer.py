"""The file of an answer as the client wants it, and what is said beside it."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from delineate.errors import BlobError, InputError, ModelError
from delineate.geometry import Geometry
from delineate.protocols.archive import ResultWriter, read_result
from delineate.protocols.infer_result import NAME, StoredResult, read_infer_result
from delineate.worker.answer import Layer, add_answer
from delineate.worker.wanted import DTYPES, EXTENSIONS, Wanted, read_wanted

GRID = Geometry((4, 3, 2), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0), (0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, -1))
LABELS = np.arange(24, dtype=np.uint8).reshape(GRID.shape) % 3
ONE: list[Layer] = [("segmentation", LABELS, GRID, {1: "Liver", 2: "Spleen"})]
OTHER = np.where(np.arange(24).reshape(GRID.shape) < 4, 1, 0).astype(np.uint8)
TWO: list[Layer] = [*ONE, ("segmentation_2", OTHER, GRID, {1: "Tumour"})]


def answered(folder: Path, layers: list[Layer], params: Mapping[str, Any], findings: Mapping[str, Any] | None = None) -> StoredResult:
    path = folder / "r.zip"
    with ResultWriter(path) as writer:
        for layer in layers:
            writer.add_layer(*layer)
        add_answer(writer, layers, findings or {}, read_wanted(params), folder)
    stored = read_infer_result(path)
    assert stored is not None
    return stored


def image_of(stored: StoredResult, folder: Path) -> Any:
    assert stored.file is not None and stored.filename is not None
    path = folder / stored.filename
    path.write_bytes(b"".join(stored.file))
    assert path.stat().st_size == stored.file.length
    return SimpleITK.ReadImage(str(path))


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", ["", "uint16"])
def test_every_kind_of_file_is_read_by_others(tmp_path: Path, extension: str, dtype: str) -> None:
    stored = answered(tmp_path, ONE, {"result_extension": extension, "result_dtype": dtype})
    image = image_of(stored, tmp_path)
    assert stored.filename == f"answer{extension}"
    assert stored.params == {"label_names": {"Liver": 1, "Spleen": 2}}
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), LABELS)
    found = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    assert not found.difference(GRID)
    if extension != ".seg.nrrd":
        assert image.GetPixelIDTypeAsString() == ("16-bit unsigned integer" if dtype else "8-bit unsigned integer")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_voxels(tmp_path: Path, dtype: str) -> None:
    stored = answered(tmp_path, ONE, {"result_extension": ".nrrd", "result_dtype": dtype})
    assert SimpleITK.GetArrayFromImage(image_of(stored, tmp_path)).dtype == dtype


def test_nrrd_raw_or_packed(tmp_path: Path) -> None:
    raw = answered(tmp_path, ONE, {"result_extension": ".nrrd", "result_compress": False}).file
    assert raw is not None
    head, _, voxels = b"".join(raw).partition(b"\n\n")
    assert b"encoding: raw" in head
    assert voxels == LABELS.tobytes()
    packed = answered(tmp_path, ONE, {"result_extension": ".nrrd"}).file
    assert packed is not None
    assert gzip.decompress(b"".join(packed).partition(b"\n\n")[2]) == LABELS.tobytes()


def test_a_label_map_that_is_there_is_not_written_twice(tmp_path: Path) -> None:
    stored = answered(tmp_path, ONE, {})
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert archive.namelist() == ["segmentation.nii.gz", "segmentation.json", NAME]
    image_of(stored, tmp_path)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "answer.nii.gz").dataobj).T, LABELS)


def test_old_clients_of_archives_read_it_as_before(tmp_path: Path) -> None:
    answered(tmp_path, TWO, {"result_extension": ".nii"}, {"volume": 1.5})
    assert read_result(tmp_path / "r.zip").names == ["Liver", "Spleen", "Tumour"]


def test_layers_become_one_map_with_labels_of_their_own(tmp_path: Path) -> None:
    stored = answered(tmp_path, TWO, {"result_extension": ".nrrd"})
    assert stored.params == {"label_names": {"Liver": 1, "Spleen": 2, "Tumour": 3}, "overlapping_voxels": 2}
    expected = np.where((OTHER == 1) & (LABELS == 0), 3, LABELS)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image_of(stored, tmp_path)), expected)


def test_slicers_own_format_keeps_overlapping_structures(tmp_path: Path) -> None:
    stored = answered(tmp_path, TWO, {"result_extension": ".seg.nrrd"})
    image = image_of(stored, tmp_path)
    assert image.GetNumberOfComponentsPerPixel() == 2
    assert {image.GetMetaData(f"Segment{i}_Name") for i in range(3)} == {"Liver", "Spleen", "Tumour"}


def test_labels_counted_from_one(tmp_path: Path) -> None:
    layers: list[Layer] = [("s", LABELS * 100, GRID, {100: "Liver", 200: "Spleen"})]
    kept = answered(tmp_path, layers, {"result_extension": ".nrrd"})
    assert kept.params["label_names"] == {"Liver": 100, "Spleen": 200}
    counted = answered(tmp_path, layers, {"result_extension": ".nrrd", "restore_label_idx": False})
    assert counted.params["label_names"] == {"Liver": 1, "Spleen": 2}
    assert np.array_equal(SimpleITK.GetArrayFromImage(image_of(counted, tmp_path)), LABELS)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    layers: list[Layer] = [("s", LABELS.astype(np.uint16) * 200, GRID, {200: "Liver", 400: "Spleen"})]
    with pytest.raises(ModelError, match="label 400 does not fit into uint8") as caught:
        answered(tmp_path, layers, {"result_dtype": "uint8"})
    assert caught.value.kind == "input"
    for dtype, highest in (("int8", 127), ("uint16", 65535), ("float32", 1 << 24)):
        Wanted(dtype=dtype).require_fitting([highest])
        with pytest.raises(InputError):
            Wanted(dtype=dtype).require_fitting([highest + 1])


@pytest.mark.parametrize("extension", [".json", "none"])
def test_no_file(tmp_path: Path, extension: str) -> None:
    stored = answered(tmp_path, ONE, {"result_extension": extension}, {"score": 0.5})
    assert (stored.file, stored.filename) == (None, None)
    assert stored.params == {"label_names": {"Liver": 1, "Spleen": 2}, "score": 0.5}


def test_findings_alone(tmp_path: Path) -> None:
    assert answered(tmp_path, [], {}, {"prediction": [{"label": "normal", "score": 0.9}]}).params == {
        "prediction": [{"label": "normal", "score": 0.9}]
    }


@pytest.mark.parametrize("findings", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}, {"x": "y" * (17 << 20)}])
def test_findings_that_are_not_json(tmp_path: Path, findings: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        answered(tmp_path, [], {}, findings)
    assert caught.value.kind == "output"


@pytest.mark.parametrize(
    "params",
    [
        {"result_extension": ".exe"},
        {"result_extension": "../x.nii"},
        {"result_dtype": "uint7"},
        {"result_compress": "yes"},
        {"result_extension": ["x"]},
    ],
)
def test_wishes_that_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read_wanted(params)


def test_the_image_says_which_file_is_usual() -> None:
    assert [read_wanted({}, suffix).extension for suffix in (".nrrd", ".nii", ".dcm", "", ".png")] == [".nrrd", ".nii", *[".nii.gz"] * 3]


def test_the_same_answer_gives_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        answered(tmp_path, TWO, {"result_extension": ".mha"}, {"b": 1, "a": 2})
        found.append((tmp_path / "r.zip").read_bytes())
    assert found[0] == found[1]


def test_results_without_an_answer_and_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    with ResultWriter(path) as writer:
        writer.add_layer(*ONE[0])
    assert read_infer_result(path) is None
    for content in (b"{}", b"nonsense", json.dumps({"params": {}, "image": "gone.nrrd", "filename": "x"}).encode()):
        with ResultWriter(path) as writer:
            writer.add_bytes(NAME, content)
        with pytest.raises(BlobError):
            read_infer_result(path)
    path.write_bytes(b"no archive")
    with pytest.raises(BlobError):
        read_infer_result(path)
