"""Images of the workstation become a request that old models and our server both understand."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti, nifti_codec
from delineate.errors import DelineateError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.mim.task_input import TaskInput, image_grid
from delineate.model import Model
from delineate.protocols.archive import ArchiveReader, Limits, request_images
from delineate.testing.mimhost import CHOICES, GEOMETRY, MULTIPLIERS, PATIENT, Host, HostImage, JavaError, leaks, tilted
from delineate.volume import Volume
from delineate.worker.stage import stage

FLIPPED = Geometry(GEOMETRY.size, GEOMETRY.spacing, (30.0, -20.0, 400.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
SAGITTAL = Geometry(GEOMETRY.size, GEOMETRY.spacing, (3.0, -2.0, 4.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
PLACES = {"upright": GEOMETRY, "flipped": FLIPPED, "sagittal": SAGITTAL, "oblique": tilted(GEOMETRY)}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host
        assert host.misuses == []


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def _packed(host: Host, *images: HostImage, **options: Any) -> dict[str, bytes]:
    """The request's entries."""
    task = TaskInput.of(host.session, [image.handle for image in images], "lungs-ct", **options)
    with task.archive() as path, zipfile.ZipFile(path) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        return {name: archive.read(name) for name in archive.namelist()}


def _volume(data: bytes) -> Volume:
    return nifti.read(io.BytesIO(data))


# ------------------------------------------------------------ images


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [1, 4])
def test_images_are_stored_values_on_their_spacing(host: Host, count: int, place: str, multiplier: tuple[int, int, int]) -> None:
    images = [host.image(PLACES[place], multiplier=multiplier) for _ in range(count)]
    entries = _packed(host, *images)
    names = [f"tmp_{n:04d}" for n in range(count)]
    assert set(entries) == {"meta.json", *(f"{n}.nii.gz" for n in names), *(f"{n}.meta.json" for n in names)}
    assert json.loads(entries["meta.json"]) == {"scaling_factor": list(multiplier), "spacing": [1.2, 0.9, 3.3]}
    for name, image in zip(names, images, strict=True):
        volume = _volume(entries[f"{name}.nii.gz"])
        assert volume.voxels.dtype == np.int16
        assert np.array_equal(volume.voxels, image.volume.voxels)
        assert not volume.is_rescaled
        assert volume.geometry.matches(Geometry(GEOMETRY.size, GEOMETRY.spacing))  # identity, as workstations of this family write
        meta = json.loads(entries[f"{name}.meta.json"])
        assert meta["scaling_factor"] == list(multiplier)
        assert (meta["rescale_slope"], meta["rescale_intercept"], meta["units"], meta["modality"]) == (1.0, -1024.0, "HU", "CT")
        for origin, direction in (("true_origin", "true_direction"), ("origin", "direction")):
            assert Geometry(GEOMETRY.size, meta["spacing"], meta[origin], meta[direction]).matches(image.geometry)
    assert [image.contours for image in images] == [[]] * count


def test_images_of_different_grids_have_each_their_own(host: Host) -> None:
    images = [host.image(), host.image(Geometry((9, 8, 7), (2.0, 2.5, 4.0), (1.0, 2.0, 3.0)), modality="MR", multiplier=(1, 1, 1))]
    entries = _packed(host, *images)
    for number, image in enumerate(images):
        meta = json.loads(entries[f"tmp_{number:04d}.meta.json"])
        assert Geometry(image.geometry.size, meta["spacing"], meta["true_origin"], meta["true_direction"]).matches(image.geometry)
        assert (meta["scaling_factor"], meta["modality"]) == (list(image.multiplier), image.volume.modality)


@pytest.mark.parametrize(("option", "choice"), [(option, choice) for option, choices in CHOICES.items() for choice in choices])
def test_whatever_is_unknown_of_the_workstation(option: str, choice: str) -> None:
    with Host() as plain:
        wanted = _packed(plain, plain.image(FLIPPED))
    with Host(**{option: choice}) as host:
        assert _packed(host, host.image(FLIPPED)) == wanted


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "float32", "float64", ">i2"])
def test_the_type_of_the_voxels_is_kept(host: Host, dtype: str) -> None:
    voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    image = host.image_from_volume(Volume(voxels, Geometry((5, 4, 3))), dicom=None)
    volume = _volume(_packed(host, image)["tmp_0000.nii.gz"])
    assert volume.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(volume.voxels, voxels)


def test_values_that_nifti_has_not_are_refused(host: Host) -> None:
    image = host.image_from_volume(Volume(np.zeros((3, 4, 5), complex), Geometry((5, 4, 3)), modality="MR"))
    with pytest.raises(ImageError, match=r"the first image: .*complex"):
        _packed(host, image)


def test_the_server_sees_true_values_and_true_places(host: Host, tmp_path: Path) -> None:
    """What is packed here, staged as a worker does it for a model that declares an orientation."""
    image = host.image(tilted(FLIPPED))
    with TaskInput.of(host.session, [image.handle], "m").archive() as path:
        sent = stage(Path(path), tmp_path / "in", Model(name="m", runner="toy", orientation="LPS"), Limits(), lambda: None)
    assert sent.images[0].geometry.matches(image.geometry)
    assert np.array_equal(sent.images[0].values(), image.volume.values())
    assert sent.factor == (2, 2, 1)


@pytest.mark.parametrize("numbers", CHOICES["numbers"])
def test_a_stated_rescale_costs_no_copy(numbers: str) -> None:
    with Host(numbers=numbers) as host:
        meta = json.loads(_packed(host, host.image())["tmp_0000.meta.json"])
        assert (meta["rescale_slope"], meta["rescale_intercept"]) == (1.0, -1024.0)
        assert "XMimImage.getScaledData" not in host.calls


@pytest.mark.parametrize(
    ("dicom", "modality"),
    [
        ({0x00080060: "CT"}, "CT"),
        (None, "CT"),
        ({0x00281052: "x", 0x00281053: "1"}, "CT"),
        ({0x00281052: 0, 0x00281053: 0}, "CT"),
        ({0x00281052: "5", 0x00281053: "7"}, "PT"),
    ],
)
def test_a_rescale_that_is_not_stated_follows_from_the_values(host: Host, dicom: Any, modality: str) -> None:
    source = replace(host.image().volume, slope=0.37, intercept=-1000.5, modality=modality)
    image = host.image_from_volume(source, dicom=dicom)
    meta = json.loads(_packed(host, image)["tmp_0000.meta.json"])
    assert (meta["rescale_slope"], meta["rescale_intercept"]) == (0.37, -1000.5)
    assert meta.get("units", "") == ("HU" if modality == "CT" else "")


def test_an_mr_without_rescale_costs_no_copy(host: Host) -> None:
    image = host.image_from_volume(replace(host.image(modality="MR").volume), dicom={0x00080060: "MR"})
    meta = json.loads(_packed(host, image)["tmp_0000.meta.json"])
    assert not {"rescale_slope", "units"} & set(meta)
    assert "XMimImage.getScaledData" not in host.calls


def test_values_that_no_slope_explains_are_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    image = host.image(modality="PT")
    bent = image.volume.voxels.astype(np.float32) ** 2
    monkeypatch.setattr(Volume, "values", lambda self: bent)
    said: list[str] = []
    meta = json.loads(_packed(host, image, say=said.append)["tmp_0000.meta.json"])
    assert "rescale_slope" not in meta
    assert len(said) == 1
    assert "stored values" in said[0]


# ------------------------------------------------------------ geometry


@pytest.mark.parametrize("place", PLACES)
def test_the_grid_is_solved_from_points(host: Host, place: str) -> None:
    image = host.image(PLACES[place])
    grid = image_grid(host.session, image.handle)
    assert grid.geometry.matches(image.geometry)
    assert grid.contours.matches(image.contour_geometry)
    assert not {"XMimSpace.getDicomCenter", "XMimSpace.getIop", "XMimSpace.getNoxSize"} & set(host.calls)


def test_a_thin_image_far_away(host: Host) -> None:
    image = host.image(Geometry((512, 3, 1), (0.15, 0.7, 20.0), (4000.0, -3000.0, 2500.0), PLACES["oblique"].direction))
    assert image_grid(host.session, image.handle).geometry.matches(image.geometry)


@pytest.mark.parametrize(
    ("answer", "words"), [("nan", "do not tell"), ("flat", "do not tell"), ("scaled", "voxel size"), ("sheared", "axes")]
)
def test_points_that_do_not_solve(host: Host, monkeypatch: pytest.MonkeyPatch, answer: str, words: str) -> None:
    true = Geometry.to_index

    def index(self: Geometry, point: Any) -> np.ndarray:
        x, y, z = true(self, point)
        return np.array({"nan": (np.nan, y, z), "flat": (x, x, z), "scaled": (2 * x, y, z), "sheared": (x + y / 4, y, z)}[answer])

    monkeypatch.setattr(Geometry, "to_index", index)
    with pytest.raises(GeometryError, match=rf"the first image: .*{words}") as caught:
        _packed(host, host.image())
    assert "Resample" in caught.value.sentence()


def test_an_image_with_times_is_refused(host: Host) -> None:
    with pytest.raises(ImageError, match="the second image: the image has 4 dimensions"):
        _packed(host, host.image(), host.image(frames=3))
    assert "XMimImage.getRawData" not in host.calls  # nothing is read before all are looked at


def test_no_image_is_refused(host: Host) -> None:
    with pytest.raises(InputError, match="no image"):
        _packed(host)


# ------------------------------------------------------------ what leaves the workstation


def test_nothing_of_the_patient_leaves_unless_asked(host: Host, temporary: Path) -> None:
    images = [host.image(), host.image(modality="PT")]
    images[0].add_contour("Heart", np.ones(images[0].contour_geometry.shape, bool))
    task = TaskInput.of(host.session, [image.handle for image in images], "m", contour_names=[])
    with task.archive() as path:
        assert leaks(Path(path).read_bytes()) == []
        assert oct(os.stat(os.path.dirname(path)).st_mode)[-3:] == "700"


def test_dicom_attributes_leave_when_asked(host: Host) -> None:
    entries = _packed(host, host.image(), host.image(), with_dicom_info=True)
    info = json.loads(entries["tmp_0001.dicom_info.json"])
    assert info[str(0x00100010)] == PATIENT
    assert info[str(0x00080008)] == "ORIGINAL"
    assert all(isinstance(value, str) for value in info.values())
    assert "tmp_0000.dicom_info.json" in entries


def test_an_image_without_attributes(host: Host) -> None:
    image = host.image_from_volume(host.image().volume, dicom=None)
    assert _packed(host, image, with_dicom_info=True)["tmp_0000.dicom_info.json"] == b"{}"


# ------------------------------------------------------------ contours

NAMES = [
    "Heart", "heart", "a/b", "a:b", "a?b", "tmp_0000", "TMP_0001.meta", "meta", "con", "NUL.x", "..", ".hidden", "._x", "trailing. ",
    "肺の左", "Br\u00fccke", "x" * 300, "ü" * 200, "", "line\nbreak", 'q"<>|*\\', "__MACOSX", "GTV.nii.gz", "Heart",
]  # fmt: skip


def test_contours_of_any_name_are_exported(host: Host, tmp_path: Path) -> None:
    image = host.image()
    rng = np.random.default_rng(0)
    masks = [rng.random(image.contour_geometry.shape) < 0.3 for _ in NAMES]
    for name, mask in zip(NAMES, masks, strict=True):
        image.add_contour(name, mask)
    before = host.snapshot()
    task = TaskInput.of(host.session, [image.handle], "m", contour_names=[])
    with task.archive() as path:
        reader = ArchiveReader(path)  # which refuses what is unsafe anywhere
        assert request_images(reader) == ["tmp_0000.nii.gz"]
        names = reader.names()
        found = []
        for entry in [name for name in names if name.endswith(".nii.gz")][1:]:
            about = json.loads(reader.read(entry[: -len(".nii.gz")] + ".json"))
            found.append(about["name"])
            volume = _volume(reader.read(entry, 1 << 24))
            assert np.array_equal(volume.voxels, masks[len(found) - 1])
            assert about["dimensions"] == list(image.contour_geometry.size)
            assert about["multiplier"] == [2, 2, 1]
            place = Geometry(about["dimensions"], about["spacing"], about["origin"], about["direction"])
            assert place.matches(image.contour_geometry)
            assert volume.geometry.matches(Geometry(place.size, place.spacing))
        reader.extract(tmp_path / "unpacked")
    assert found == [name.strip() for name in NAMES]
    assert "肺の左.nii.gz" in names
    assert all(len(name.encode()) < 256 for name in names)
    assert host.snapshot() == before


def test_contours_are_chosen_by_name(host: Host) -> None:
    image = host.image()
    mask = np.ones(image.contour_geometry.shape, bool)
    for name in ("Heart", "Lung_L", "Br\u00fccke"):
        image.add_contour(name, mask)
    entries = _packed(host, image, contour_names=["Bru\u0308cke ", "Heart"])
    assert {name for name in entries if not name.startswith(("tmp_", "meta"))} == {
        "Heart.nii.gz", "Heart.json", "Br\u00fccke.nii.gz", "Br\u00fccke.json",
    }  # fmt: skip
    with pytest.raises(InputError, match="no contour 'Spine', 'Tumour'"):
        _packed(host, image, contour_names=["Tumour", "Heart", "Spine"])


def test_empty_contours_stay(host: Host) -> None:
    image = host.image()
    image.add_contour("Heart")
    said: list[str] = []
    entries = _packed(host, image, contour_names=[], say=said.append)
    assert len(entries) == 3
    assert said == ["Empty contours are not sent: Heart."]


def test_a_contour_of_another_resolution_is_sent_on_its_own_grid(host: Host) -> None:
    image = host.image()
    mask = np.zeros(image.geometry.refined((4, 4, 1)).shape, bool)
    mask[3, 5:9, 7:30] = True
    image.add_contour("Heart", mask, multiplier=(4, 4, 1))
    entries = _packed(host, image, contour_names=[])
    assert json.loads(entries["Heart.json"])["multiplier"] == [4, 4, 1]
    assert np.array_equal(_volume(entries["Heart.nii.gz"]).voxels, mask)


def test_three_hundred_contours(host: Host) -> None:
    image = host.image(Geometry((8, 7, 6)))
    for number in range(300):
        image.add_contour(f"a/{number % 3}", np.ones(image.contour_geometry.shape, bool))
    entries = _packed(host, image, contour_names=[])
    assert len(entries) == 3 + 600
    assert "a_2_100.nii.gz" in entries


# ------------------------------------------------------------ nothing is left, little is used


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_workstation_throws_at_every_call_in_turn(after: bool, temporary: Path) -> None:
    ended = 0
    for call in range(1, 1000):
        with Host() as host:
            images = [host.image(), host.image()]
            images[0].add_contour("Heart", np.ones(images[0].contour_geometry.shape, bool))
            before = host.snapshot()
            task = TaskInput.of(host.session, [i.handle for i in images], "m", with_dicom_info=True, contour_names=[])
            host.fail_on(call, after=after)
            try:
                with task.archive():
                    ended += 1
            except (JavaError, DelineateError):
                ended = 0
            assert list(temporary.iterdir()) == []
            assert before.changes(host.snapshot()) == [], f"call {call}, {host.calls[call - 1]}"
            if len(host.calls) < call:
                break
    assert call > 100
    assert ended


def test_the_archive_is_gone_whatever_happens_to_it(host: Host, temporary: Path) -> None:
    task = TaskInput.of(host.session, [host.image().handle], "m")
    with pytest.raises(ValueError, match="posting failed"), task.archive() as path:
        assert os.path.exists(path)
        raise ValueError("posting failed")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_workstation_left_goes_some_days_later(host: Host, temporary: Path) -> None:
    """Images of a patient are in it; what others have there, and what may be in use, stays."""
    names = ("delineate-mim-old", "delineate-mim-young", "other")
    for name in names:
        (temporary / name).mkdir()
        (temporary / name / "request.zip").write_bytes(b"image")
    (temporary / "delineate-mim-link").symlink_to(temporary / "other")
    (temporary / "delineate-mim-file").write_bytes(b"")
    for name in ("delineate-mim-old", "other", "delineate-mim-file"):
        os.utime(temporary / name, (0, 0))
    with TaskInput.of(host.session, [host.image().handle], "m").archive() as path:
        assert Path(path).exists()
    left = {entry.name for entry in temporary.iterdir()}
    assert left == {"delineate-mim-young", "other", "delineate-mim-link", "delineate-mim-file"}
    assert (temporary / "other" / "request.zip").exists()
    for name in left:
        shutil.rmtree(temporary / name) if name in names else (temporary / name).unlink()


def test_a_full_disk_is_an_error_and_leaves_nothing(host: Host, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti_codec, "write", full)
    with pytest.raises(OSError, match="No space"):
        _packed(host, host.image())


def test_packing_takes_one_image_of_memory_and_little_more_time_than_the_codec(host: Host, tmp_path: Path) -> None:
    geometry = Geometry((256, 256, 60), (0.9, 0.9, 1.5), (-100.0, -100.0, 50.0))
    images = [host.image(geometry) for _ in range(4)]
    for image in images:
        image.add_contour("Other")
    image_bytes = images[0].volume.voxels.nbytes
    ratios = []
    for _ in range(3):
        begin = time.process_time()
        for image in images:
            nifti.write(tmp_path / "x.nii.gz", image.volume)
        codec = time.process_time() - begin
        begin = time.process_time()
        with TaskInput.of(host.session, [image.handle for image in images], "m").archive():
            ratios.append((time.process_time() - begin) / codec)
    assert min(ratios) < 1.5
    host.forget()
    tracemalloc.start()
    try:
        with TaskInput.of(host.session, [image.handle for image in images], "m").archive():
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert host.ledger.peak == image_bytes
    assert peak < image_bytes + (12 << 20)
