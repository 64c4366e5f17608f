"""Every bad input fails with kind ``input``, the reason, and the file's name as the sender knows it."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.errors import MissingPartError, ModelError
from delineate.geometry import Geometry
from delineate.model import Model, ModelInput
from delineate.protocols.archive import Limits
from delineate.volume import Volume
from delineate.worker.channel import Cancelled
from delineate.worker.stage import Sent, stage
from delineate.worker.staged import from_archive

GRID = Geometry((7, 6, 5), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))
OTHER = Geometry((7, 6, 5), (1.0, 2.0, 3.5), (-10.0, 20.0, 30.0))
MODEL = Model(name="m", runner="toy")
TWO = Model(name="m", runner="toy", inputs=(ModelInput(), ModelInput()))


def image(grid: Geometry = GRID, dtype: Any = np.int16, value: float | None = None) -> bytes:
    voxels = np.arange(np.prod(grid.size)).reshape(grid.shape).astype(dtype)
    if value is not None:
        voxels[...] = value
    buffer = io.BytesIO()
    nifti.write(buffer, Volume(voxels, grid))
    return buffer.getvalue()


def altered(offset: int, content: bytes) -> bytes:
    """An image with other bytes in its header (offsets after the NIfTI-1 header file, nifti1.h)."""
    import gzip

    data = bytearray(gzip.decompress(image()))
    data[offset : offset + len(content)] = content
    return gzip.compress(bytes(data))


@pytest.fixture
def staged(tmp_path: Path) -> Callable[..., Sent]:
    def run(entries: Mapping[str, bytes], model: Model = MODEL, limits: Limits | None = None, checkpoint: Any = lambda: None) -> Sent:
        path = tmp_path / "request.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        return stage(path, tmp_path / "in", model, limits or Limits(), checkpoint)

    return run


def refused(staged: Callable[..., Sent], tmp_path: Path, entries: Mapping[str, bytes], model: Model = MODEL, **more: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        staged(entries, model, **more)
    assert caught.value.kind == "input"
    assert caught.value.advice
    assert str(tmp_path) not in caught.value.message
    return caught.value


def test_what_is_sent_is_kept_byte_for_byte(staged: Callable[..., Sent]) -> None:
    data = image()
    sent = staged({"tmp_0000.nii.gz": data, "notes.txt": b"x"})
    assert (sent.folder / "tmp_0000.nii.gz").read_bytes() == data
    assert (sent.folder / "notes.txt").read_bytes() == b"x"
    assert sent.header.matches(GRID)
    given = from_archive(sent, MODEL)
    assert given.grids == (sent.images[0].geometry,)
    assert (given.factor, given.contours) == ((1, 1, 1), sent.header)


def test_an_archive_with_one_top_folder(staged: Callable[..., Sent]) -> None:
    sent = staged({"top/tmp_0000.nii.gz": image(), "top/tmp_0000.meta.json": b'{"scaling_factor": [2, 2, 1]}'})
    assert sent.folder.name == "top"
    assert sent.factor == (2, 2, 1)
    assert from_archive(sent, MODEL).contours.size == (14, 12, 5)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", ""),
        (b"no image at all", ""),
        (image()[:80], ""),
        (altered(40, np.array([4, 7, 6, 1, 5], "<i2").tobytes()), "4"),
        (altered(42, np.array([0], "<i2").tobytes()), ""),
        (altered(70, np.array([32, 64], "<i2").tobytes()), "complex"),
        (image(dtype=np.float32, value=np.nan), "NaN"),
    ],
    ids=["empty", "no-image", "cut-off", "4-D", "zero-size", "complex", "nan-only"],
)
def test_a_bad_image_is_named(data: bytes, word: str, staged: Callable[..., Sent], tmp_path: Path) -> None:
    error = refused(staged, tmp_path, {"tmp_0000.nii.gz": image(), "tmp_0001.nii.gz": data})
    assert "tmp_0001.nii.gz" in error.message
    assert "tmp_0000" not in error.message
    assert word in error.message


def test_grids_that_differ(staged: Callable[..., Sent], tmp_path: Path) -> None:
    entries = {"tmp_0000.nii.gz": image(), "tmp_0001.nii.gz": image(OTHER)}
    error = refused(staged, tmp_path, entries)
    assert "tmp_0001.nii.gz" in error.message
    assert "3.5" in error.message


def test_images_of_one_size_at_different_places(staged: Callable[..., Sent], tmp_path: Path) -> None:
    here, there = ({"true_origin": [0, 0, z], "true_direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]} for z in (0, 50))
    flat = image(Geometry(GRID.size, GRID.spacing))  # as workstations write them, without a place
    entries = {"tmp_0000.nii.gz": flat, "tmp_0001.nii.gz": flat}
    error = refused(
        staged, tmp_path, {**entries, "tmp_0000.meta.json": json.dumps(here).encode(), "tmp_0001.meta.json": json.dumps(there).encode()}
    )
    assert "tmp_0001.nii.gz" in error.message
    assert "origin (0, 0, 50) against (0, 0, 0) mm" in error.message


def test_places_are_compared_only_where_all_are_known(staged: Callable[..., Sent]) -> None:
    flat, place = image(Geometry(GRID.size, GRID.spacing)), {"true_origin": [0, 0, 9], "true_direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    sent = staged({"tmp_0000.nii.gz": flat, "tmp_0001.nii.gz": flat, "tmp_0000.meta.json": json.dumps(place).encode()}, TWO)
    assert sent.place == Geometry(GRID.size, GRID.spacing, (0, 0, 9))
    assert len(sent.images) == 2


def test_grids_may_differ_where_the_model_says_so(staged: Callable[..., Sent]) -> None:
    entries = {"tmp_0000.nii.gz": image(), "tmp_0001.nii.gz": image(OTHER)}
    assert len(staged(entries, Model(name="m", runner="toy", one_grid=False)).images) == 2


def test_too_few_images(staged: Callable[..., Sent], tmp_path: Path) -> None:
    assert "2 images" in refused(staged, tmp_path, {"tmp_0000.nii.gz": image()}, TWO).message


@pytest.mark.parametrize("entries", [{}, {"notes.txt": b"x"}, {"../tmp_0000.nii.gz": b"x"}])
def test_a_bad_archive(entries: dict[str, bytes], staged: Callable[..., Sent], tmp_path: Path) -> None:
    assert refused(staged, tmp_path, entries).message


def test_limits_are_named(staged: Callable[..., Sent], tmp_path: Path) -> None:
    entries = {f"tmp_000{number}.nii.gz": image() for number in range(3)}
    assert "2" in refused(staged, tmp_path, entries, limits=Limits(entries=2)).message


@pytest.mark.parametrize("meta", [b"", b"[]", b'{"scaling_factor": [1.5, 1, 1]}', b'{"scaling_factor": "2"}'])
def test_metadata_that_makes_no_sense(meta: bytes, staged: Callable[..., Sent], tmp_path: Path) -> None:
    assert "meta.json" in refused(staged, tmp_path, {"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": meta}).message


def test_rescaling_comes_from_the_metadata_where_the_header_has_none(staged: Callable[..., Sent]) -> None:
    meta = {"rescale_slope": 2.0, "rescale_intercept": -1024.0, "units": "HU", "modality": "CT"}
    sent = staged({"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": json.dumps(meta).encode()})
    (volume,) = sent.images
    assert (volume.slope, volume.intercept, volume.units, volume.modality) == (2.0, -1024.0, "HU", "CT")
    assert volume.voxels.max() == 209, "the stored values are as sent"


def test_the_true_place_counts_for_a_model_that_declares_an_orientation(staged: Callable[..., Sent], tmp_path: Path) -> None:
    """A workstation's NIfTI has no direction; what our clients know of it stands in the metadata."""
    meta = {"true_origin": [1, 2, 3], "true_direction": [0, 1, 0, 1, 0, 0, 0, 0, -1]}
    entries = {"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": json.dumps(meta).encode()}
    sent = staged(entries, Model(name="m", runner="toy", orientation="LPS"))
    assert sent.images[0].geometry.axis_codes == "PLI"
    assert sent.images[0].geometry.origin == (1.0, 2.0, 3.0)
    assert sent.header.matches(GRID), "the result has the header of what was sent"
    meta["true_origin"] = [1, 2]
    entries["tmp_0000.meta.json"] = json.dumps(meta).encode()
    (tmp_path / "in").rename(tmp_path / "first")
    assert "true_origin" in refused(staged, tmp_path, entries, Model(name="m", runner="toy", orientation="LPS")).message


def test_a_cancelled_task_is_not_staged_to_the_end(staged: Callable[..., Sent]) -> None:
    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        staged({"tmp_0000.nii.gz": image()}, checkpoint=stop)


def test_a_tar_is_as_good(tmp_path: Path) -> None:
    path = tmp_path / "request.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("tmp_0000.nii.gz")
        data = image()
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    assert stage(path, tmp_path / "in", MODEL, Limits(), lambda: None).header.matches(GRID)


def test_what_describes_an_image_is_small(staged: Callable[..., Sent], tmp_path: Path) -> None:
    """A description of any size would be read into memory at once."""
    error = refused(staged, tmp_path, {"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": b"{" + b" " * (1 << 20) + b"}"})
    assert "tmp_0000.meta.json is larger than 1048576 bytes" in error.message


def test_dicom_without_its_reader_names_the_part(staged: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise MissingPartError("the reader of DICOM files (pydicom)", "dicom")

    monkeypatch.setattr("delineate.worker.stage.read_image", missing)
    with pytest.raises(ModelError) as caught:
        staged({"IM0": b"\0" * 128 + b"DICM"})
    assert caught.value.kind == "missing"
    assert caught.value.message == "the archive: the reader of DICOM files (pydicom) is not installed"
    assert "delineate[dicom]" in caught.value.advice
