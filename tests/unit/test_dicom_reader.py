"""A series of DICOM files as an image: the same voxels at the same places, or a sentence on why not."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from delineate import files
from delineate.client.packing import loaded, packed
from delineate.dicom.header import read_header
from delineate.dicom.reader import looked_at, read
from delineate.dicom.stack import labels_on_planes
from delineate.errors import ArchiveError, ImageError, MissingPartError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.protocols.archive_reader import ArchiveReader
from delineate.segmentation import Segmentation
from delineate.testing.dicom import BIG_ENDIAN, PT, Stack, orientations, sheared, stack_of, write_frames, write_series
from delineate.volume import Volume

SIZE, SPACING, ORIGIN = (7, 6, 5), (1.5, 2.25, 3.0), (-10.5, 20.25, 30.0)
GRID = Geometry(SIZE, SPACING, ORIGIN)
VOXELS = (np.arange(210, dtype=np.int16).reshape(GRID.shape) * 3) % 251
IMPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_2000, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"


def stack(**other: Any) -> Stack:
    return stack_of(VOXELS, GRID, **other)


def at(along: Sequence[float], **other: Any) -> Stack:
    """The planes at other places along the normal."""
    positions = np.array([[*ORIGIN[:2], place] for place in along])
    return replace(stack_of(VOXELS[: len(along)], replace(GRID, size=(7, 6, len(along))), **other), positions=positions)


def refused(path: Path, **choices: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read(path, **choices)
    assert caught.value.advice
    return caught.value.message


# ---- places


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_all_orders_and_flips_of_axes(degrees: float, tmp_path: Path) -> None:
    for number, matrix in enumerate(orientations(degrees)):
        grid = Geometry(SIZE, SPACING, ORIGIN, tuple(matrix.ravel()))
        volume = read(write_series(tmp_path / str(number), stack_of(VOXELS, grid))[0].parent).volume
        turned = volume.mapped(reorientation(volume.geometry, grid.axis_codes))
        assert not turned.geometry.difference(grid), number
        np.testing.assert_array_equal(turned.voxels, VOXELS)


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_frames_in_all_orders_and_flips(degrees: float, tmp_path: Path) -> None:
    for number, matrix in enumerate(orientations(degrees)):
        grid = Geometry(SIZE, SPACING, ORIGIN, tuple(matrix.ravel()))
        image = read(write_frames(tmp_path / f"{number}.dcm", stack_of(VOXELS, grid)))
        turned = image.volume.mapped(reorientation(image.volume.geometry, grid.axis_codes))
        assert not turned.geometry.difference(grid), number
        np.testing.assert_array_equal(turned.values(), VOXELS - 1024)
        assert sorted(item.frame for item in image.series.instances) == [1, 2, 3, 4, 5]


def test_frames_in_any_order_keep_their_number(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    mixed = stack()
    mixed = replace(mixed, voxels=VOXELS[order], positions=mixed.positions[order])
    image = read(write_frames(tmp_path / "a.dcm", mixed))
    np.testing.assert_array_equal(image.volume.voxels, VOXELS)
    assert [item.frame for item in image.series.instances] == [order.index(i) + 1 for i in range(5)]


def test_what_refers_to_the_image_is_kept_by_slice(tmp_path: Path) -> None:
    write_series(tmp_path, stack())
    series = read(tmp_path).series
    assert [item.sop_instance.rsplit(".", 1)[1] for item in series.instances] == ["1", "2", "3", "4", "5"]
    assert {item.frame for item in series.instances} == {0}
    assert series.missing_uids == []
    np.testing.assert_allclose(series.planes.places[:, 2], [30, 33, 36, 39, 42])
    assert series.attributes.PatientID == "phantom"
    assert "phantom" not in repr(series)
    assert series.planes.geometry is not None and series.planes.geometry.matches(GRID)


def test_one_slice_is_an_image(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        data.SliceThickness = 4.5

    path = write_series(tmp_path, at((30.0,), change=change))[0]
    assert read(path).volume.geometry == Geometry((7, 6, 1), (1.5, 2.25, 4.5), ORIGIN)


# ---- slices missing, doubled, uneven, tilted


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, at((30, 33, 36, 42, 45)))
    message = refused(tmp_path)
    assert "missing" in message and "between 36 mm" in message and "and 42 mm" in message and "s1-" in message


def test_gaps_are_filled_when_asked(tmp_path: Path) -> None:
    write_series(tmp_path, at((30, 33, 36, 42, 45)))
    image = read(tmp_path, gaps="fill")
    assert image.volume.geometry.size == (7, 6, 6) and image.is_resampled
    np.testing.assert_array_equal(image.volume.voxels[[0, 1, 2, 4, 5]], VOXELS)
    np.testing.assert_array_equal(image.volume.voxels[3], np.floor((VOXELS[2] + VOXELS[3]) / 2 + 0.5))
    assert "interpolated" in " ".join(image.notes)


def test_many_missing_slices_are_no_rule(tmp_path: Path) -> None:
    write_series(tmp_path, at((30, 33, 39, 45, 48)))
    assert refused(tmp_path).count("between") == 2


def test_doubled_slices_are_named_or_chosen(tmp_path: Path) -> None:
    write_series(tmp_path, at((30, 33, 33, 36, 39)))
    message = refused(tmp_path)
    assert "at one place" in message and "at 33 mm" in message and message.count("s1-") == 2
    first, last = read(tmp_path, doubled="first").volume, read(tmp_path, doubled="last").volume
    assert first.geometry.size == last.geometry.size == (7, 6, 4)
    assert {tuple(first.voxels[1].ravel()), tuple(last.voxels[1].ravel())} == {tuple(VOXELS[1].ravel()), tuple(VOXELS[2].ravel())}


def test_the_same_file_twice_is_one(tmp_path: Path) -> None:
    path = write_series(tmp_path, stack())[2]
    shutil.copy(path, tmp_path / "copy")
    with looked_at(tmp_path) as found:
        assert [(item.name, "a copy of" in item.reason) for item in found.skipped] == [(path.name, True)]
    assert read(tmp_path).volume.geometry.matches(GRID)


def test_uneven_slices_keep_their_places_and_are_interpolated(tmp_path: Path) -> None:
    along = np.array([30.0, 33.0, 36.5, 39.5, 43.0])
    ramp = np.broadcast_to((along * 10).astype(np.int16)[:, None, None], VOXELS.shape)
    image = read(write_series(tmp_path, replace(at(along), voxels=np.ascontiguousarray(ramp)))[0].parent)
    np.testing.assert_allclose(image.series.planes.places[:, 2], along)
    assert "3 to 3.5 mm apart" in " ".join(image.notes)
    grid = image.volume.geometry
    centres = grid.to_world([(0, 0, z) for z in range(grid.size[2])])[:, 2]
    assert centres[0] == 30.0 and centres[-1] == pytest.approx(43.0)
    np.testing.assert_allclose(image.volume.voxels[:, 0, 0], centres * 10, atol=1.0)


def test_a_scan_of_two_slice_thicknesses_has_no_gap(tmp_path: Path) -> None:
    along = (30.0, 32.5, 35.0, 40.0, 45.0)

    def change(data: Any, number: int) -> None:
        data.SliceThickness = 2.5 if number < 3 else 5.0

    image = read(write_series(tmp_path, at(along, change=change))[0].parent)
    assert image.volume.geometry.size == (7, 6, 7) and image.volume.geometry.spacing[2] == 2.5
    np.testing.assert_array_equal(image.volume.voxels[[0, 1, 2, 4, 6]], VOXELS)


def ball(planes_of: np.ndarray) -> np.ndarray:
    """A smooth ball in the patient, by place."""
    return np.clip(1000 - 70 * np.linalg.norm(planes_of - np.array([8.0, -4.0, 25.0]), axis=-1), 0, None)


def test_a_tilted_stack_is_made_orthogonal_and_labels_come_back(tmp_path: Path) -> None:
    grid = Geometry((40, 36, 18), (1.0, 1.25, 3.0), (-12.0, -27.0, 0.0))
    upright = stack_of(np.zeros(grid.shape, np.int16), grid)
    places = sheared(upright, 18.5)
    x, y = np.arange(40) * 1.0, np.arange(36) * 1.25
    offsets = np.stack([np.broadcast_to(x, (36, 40)), np.broadcast_to(y[:, None], (36, 40)), np.zeros((36, 40))], axis=-1)
    world = places[:, None, None, :] + offsets
    tilted = replace(upright, positions=places, voxels=ball(world).astype(np.int16))
    image = read(write_series(tmp_path, tilted)[0].parent)
    volume, planes = image.volume, image.series.planes
    assert planes.tilt == pytest.approx(18.5) and "tilted by 18.5 degrees" in image.notes[0]
    seen = volume.geometry.to_world(np.stack(np.meshgrid(*map(np.arange, volume.geometry.size), indexing="ij"), axis=-1)).transpose(
        2, 1, 0, 3
    )
    covered = (volume.voxels > 300) & (ball(seen) < 920)  # the tip of a cone is cut by linear interpolation
    assert covered.sum() > 500
    assert np.abs(volume.voxels - ball(seen))[covered].max() < 12
    labels = Segmentation.from_labels((ball(seen) > 500).astype(np.uint8), volume.geometry, {1: "ball"})
    (back,) = labels_on_planes(planes, labels)
    truth = ball(world) > 500
    assert back.shape == truth.shape
    assert 2 * (back.astype(bool) & truth).sum() / (back.astype(bool).sum() + truth.sum()) > 0.94
    # Half a pixel off would be half a millimetre.
    np.testing.assert_allclose(world[back.astype(bool)].mean(axis=0), world[truth].mean(axis=0), atol=0.2)


def test_labels_on_an_even_stack_come_back_exactly(tmp_path: Path) -> None:
    planes = read(write_series(tmp_path, stack())[0].parent).series.planes
    turn = reorientation(GRID, "SRA")
    labels = (VOXELS % 4).astype(np.uint8)
    turned = Segmentation.from_labels(np.ascontiguousarray(turn.apply(labels)), turn.grid(GRID), {1: "a", 2: "b", 3: "c"})
    np.testing.assert_array_equal(labels_on_planes(planes, turned)[0], labels)


def test_slices_beside_each_other_are_no_stack(tmp_path: Path) -> None:
    shifted = stack()
    write_series(tmp_path, replace(shifted, positions=shifted.positions + np.outer([0, 0, 0, 0, 1e6], [1, 0, 0])))
    assert "do not lie over each other" in refused(tmp_path)


def test_slices_shifted_each_by_its_own_are_put_where_they_are(tmp_path: Path) -> None:
    moved = stack()
    steps = np.array([0, 2, 1, 4, 0])
    write_series(tmp_path, replace(moved, positions=moved.positions + np.outer(steps * SPACING[0], [1, 0, 0])))
    image = read(tmp_path)
    assert "shifted against each other" in image.notes[0] and image.volume.geometry.size == (11, 6, 5)
    for index, step in enumerate(steps):
        np.testing.assert_array_equal(image.volume.voxels[index, :, step : step + 7], VOXELS[index])


# ---- pixels


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG_ENDIAN, DEFLATED, RLE, JPEG_2000, JPEG_LS])
def test_transfer_syntaxes(syntax: str, tmp_path: Path) -> None:
    if syntax == JPEG_LS:
        pytest.importorskip("jpeg_ls")
    larger = np.tile(VOXELS, (1, 6, 6))  # encoders want 32 pixels
    for voxels in (larger - 100, (larger + 4000).astype(np.uint16), larger.astype(np.uint8)):
        write_series(tmp_path, replace(stack(syntax=syntax), voxels=voxels))
        volume = read(tmp_path).volume
        assert volume.voxels.dtype == voxels.dtype
        np.testing.assert_array_equal(volume.voxels, voxels)


@pytest.mark.parametrize("is_broken", [False, True])
def test_the_fastest_decoder_is_taken_and_another_where_it_fails(is_broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg_ls = pytest.importorskip("jpeg_ls")
    voxels = np.tile(VOXELS, (1, 6, 6))
    write_series(tmp_path, replace(stack(syntax=JPEG_LS), voxels=voxels))
    decode, calls = jpeg_ls.decode_pixel_data, []

    def counted(source: bytes) -> Any:
        calls.append(len(source))
        if is_broken:
            raise RuntimeError("no")
        return decode(source)

    monkeypatch.setattr(jpeg_ls, "decode_pixel_data", counted)
    np.testing.assert_array_equal(read(tmp_path).volume.voxels, voxels)
    assert len(calls) >= len(voxels)


@pytest.mark.parametrize("syntax", [BIG_ENDIAN, RLE])
def test_transfer_syntaxes_of_frames(syntax: str, tmp_path: Path) -> None:
    volume = read(write_frames(tmp_path / "a.dcm", stack(syntax=syntax))).volume
    np.testing.assert_array_equal(volume.voxels, VOXELS)


def test_overlays_in_unused_bits_are_no_values(tmp_path: Path) -> None:
    stored = VOXELS.astype(np.uint16)
    write_series(tmp_path, replace(stack(stored=12), voxels=stored | 0xA000))
    np.testing.assert_array_equal(read(tmp_path).volume.voxels, stored)


def test_the_sign_of_twelve_bits_is_extended(tmp_path: Path) -> None:
    signed = (VOXELS - 120).astype(np.int16)
    write_series(tmp_path, replace(stack(stored=12), voxels=(signed & 0x0FFF)))
    np.testing.assert_array_equal(read(tmp_path).volume.voxels, signed)


def test_values_above_the_lowest_bit(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        data.BitsStored, data.HighBit = 12, 15

    write_series(tmp_path, replace(stack(change=change), voxels=VOXELS << 4))
    np.testing.assert_array_equal(read(tmp_path).volume.voxels, VOXELS)


def test_scale_stays_beside_the_stored_values(tmp_path: Path) -> None:
    write_series(tmp_path, stack())
    volume = read(tmp_path).volume
    assert (volume.slope, volume.intercept, volume.modality, volume.units) == (1.0, -1024.0, "CT", "HU")
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    np.testing.assert_array_equal(volume.values(), VOXELS - 1024)


@pytest.mark.parametrize(("slopes", "kind"), [((1, 2, 3, 4, 5), np.int32), ((0.5, 0.25, 1.3, 2, 7e-3), np.float32)])
def test_a_scale_that_varies_from_slice_to_slice(slopes: tuple[float, ...], kind: type, tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = slopes[number], 10 * number

    write_series(tmp_path, stack(change=change, modality="PT", sop_class=PT))
    volume = read(tmp_path).volume
    assert volume.voxels.dtype == kind and not volume.is_rescaled
    real = VOXELS * np.array(slopes)[:, None, None] + 10.0 * np.arange(5)[:, None, None]
    np.testing.assert_allclose(volume.voxels, real, rtol=2e-7)


@pytest.mark.parametrize("names", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",)])
def test_a_scale_that_some_slices_lack_is_not_guessed(names: tuple[str, ...], tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        for name in names if number == 3 else ():
            del data[name]

    paths = write_series(tmp_path / "bad", stack(change=change))
    with pytest.raises(ImageError, match=f"missing in some slices, but not in all: {paths[3].name}$"):
        read(tmp_path / "bad")
    write_series(tmp_path / "none", stack(change=change, modality="MR"))  # what is said is what silence means
    np.testing.assert_array_equal(read(tmp_path / "none").volume.values(), VOXELS)


def test_a_ct_without_any_scale_is_read_with_a_note(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        del data.RescaleSlope, data.RescaleIntercept

    write_series(tmp_path / "ct", stack(change=change))
    assert "taken for Hounsfield units" in read(tmp_path / "ct").notes[0]
    write_series(tmp_path / "mr", stack(change=change, modality="MR"))
    assert read(tmp_path / "mr").notes == ()


def test_inverted_display_does_not_change_values(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path, stack(change=change))
    np.testing.assert_array_equal(read(tmp_path).volume.voxels, VOXELS)


# ---- files that cannot be used


def test_a_slice_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_series(tmp_path, stack())[0]
    path.write_bytes(path.read_bytes()[:-10])
    image = read(tmp_path)
    assert image.volume.geometry.size == (7, 6, 4)
    assert f"left out what may be slices: {path.name} is cut off: 10 bytes of its PixelData are missing" in image.notes
    assert refused(path) == f"{path.name} is cut off: 10 bytes of its PixelData are missing"
    with pytest.raises(ImageError, match=f"left out what may be slices: {path.name}"):
        files.read_volume(tmp_path)  # nobody would hear of it
    assert files.read_volume(tmp_path, []).geometry.size == (7, 6, 4)


@pytest.mark.parametrize(("syntax", "mark", "at"), [(JPEG_LS, b"\xff\xf7", 5), (JPEG_2000, b"\xff\x51", 12)])
def test_a_code_stream_of_another_size_is_not_decoded(syntax: str, mark: bytes, at: int, tmp_path: Path) -> None:
    """One decoder never ends where the height is 0; others take memory for whatever is said."""
    if syntax == JPEG_LS:
        pytest.importorskip("jpeg_ls")
    path = write_series(tmp_path, replace(stack(syntax=syntax), voxels=np.tile(VOXELS, (1, 6, 6))))[0]
    content = bytearray(path.read_bytes())
    place = content.index(mark, read_header(path).offset) + at
    for value in (b"\0\0", b"\x7f\xff"):
        content[place : place + 2] = value
        path.write_bytes(content)
        assert "pixels instead of Columns x Rows, 42 x 36" in refused(path)


def test_fragments_that_are_cut_off_are_told(tmp_path: Path) -> None:
    path = write_series(tmp_path, stack(syntax=RLE))[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert path.name in refused(path)


def test_a_deflated_slice_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_series(tmp_path, replace(stack(syntax=DEFLATED), voxels=np.random.default_rng(1).integers(0, 99, VOXELS.shape, np.int16)))[
        0
    ]
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path.name} is cut off" in refused(path)


def _set(name: str, value: Any) -> Any:
    def change(data: Any, _: int) -> None:
        setattr(data, name, value)

    return change


def _delete(name: str) -> Any:
    def change(data: Any, _: int) -> None:
        del data[name]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("PixelSpacing", [0.0, 1.0]), "PixelSpacing of"),
        (_set("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "ImageOrientationPatient of"),
        (_set("ImageOrientationPatient", [1, 0, 0]), "ImageOrientationPatient of"),
        (_set("RescaleSlope", 0), "RescaleSlope of"),
        (_set("BitsStored", 17), "BitsStored 17"),
        (_set("Rows", 12), "PixelData of"),
        (_delete("PixelSpacing"), "has no PixelSpacing"),
        (_delete("Rows"), "has no Rows"),
        (_delete("ImagePositionPatient"), "no ImagePositionPatient"),
        (_set("ModalityLUTSequence", []), "ModalityLUTSequence"),
        (_set("SamplesPerPixel", 3), "in colour"),
        (_set("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser"),
        (_set("Modality", "RTDOSE"), "a dose"),
        (_set("NumberOfFrames", 5), "5 frames without a place for each"),
        (_set("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), "a secondary capture"),
    ],
)
def test_attributes_that_make_no_sense_are_named(change: Any, words: str, tmp_path: Path) -> None:
    path = write_series(tmp_path, at((30.0,), change=change))[0]
    assert words in refused(path)


@pytest.mark.parametrize("at_byte", [3, 131, 140, 300, 600])
def test_files_cut_off_anywhere_are_a_sentence(at_byte: int, tmp_path: Path) -> None:
    path = write_series(tmp_path, stack())[0]
    path.write_bytes(path.read_bytes()[:at_byte])
    assert path.name in refused(path)


def test_damaged_fragments_are_named(tmp_path: Path) -> None:
    path = write_series(tmp_path, stack(syntax=RLE))[0]
    content = path.read_bytes()
    path.write_bytes(content[:-60] + b"\xff" * 60)
    assert path.name in refused(path)
    start = read_header(path).offset
    assert start < len(content) - 80
    for position in range(start, len(content) - 8, 3):  # one decoder panics at some of them
        path.write_bytes(content[:position] + b"\x7f\x83" + content[position + 2 :])
        with contextlib.suppress(ImageError):
            read(path)


def test_functional_groups_that_are_too_few(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        del data.PerFrameFunctionalGroupsSequence[-1]

    path = write_frames(tmp_path / "a.dcm", stack(change=change))
    assert "NumberOfFrames of a.dcm is 5, its functional groups are 4" in refused(path)


def test_a_frame_without_a_place(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        del data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence

    assert "a.dcm frame 3 has no ImagePositionPatient" in refused(write_frames(tmp_path / "a.dcm", stack(change=change)))


# ---- by whatever door


def test_a_zip_of_nested_folders(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", stack())
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, path in enumerate([*paths, tmp_path / "in" / "notes.txt"]):
            archive.write(path, f"patient/day {number % 2}/{path.name}")
    image = read(tmp_path / "a.zip")
    assert image.volume.geometry.matches(GRID)
    np.testing.assert_array_equal(image.volume.voxels, VOXELS)
    np.testing.assert_array_equal(files.read_volume(tmp_path / "a.zip").voxels, VOXELS)


def test_a_zip_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    path = write_series(tmp_path / "in", stack())[0]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "../../outside.dcm")
    with pytest.raises(ArchiveError):
        read(tmp_path / "a.zip")


def test_files_reads_dicom_by_folder_name_and_content(tmp_path: Path) -> None:
    write_series(tmp_path / "in", stack())
    frames = write_frames(tmp_path / "frames.dcm", stack())
    frames.rename(tmp_path / "frames")
    for path in (tmp_path / "in", tmp_path / "frames"):
        notes: list[str] = []
        np.testing.assert_array_equal(files.read_volume(path, notes).voxels, VOXELS)
        assert notes == []


def test_the_client_sends_what_was_read(tmp_path: Path) -> None:
    write_series(tmp_path / "in", stack())
    (volume,) = loaded([tmp_path / "in"])
    assert isinstance(volume, Volume)
    with packed([tmp_path / "in"]) as archive:
        reader = ArchiveReader(archive)
        assert json.loads(reader.read("tmp_0000.meta.json"))["modality"] == "CT"
        (tmp_path / "sent.nii.gz").write_bytes(reader.read("tmp_0000.nii.gz"))
    sent = files.read_volume(tmp_path / "sent.nii.gz")
    turned = sent.mapped(reorientation(sent.geometry, "LPS"))
    assert turned.geometry.matches(GRID)
    np.testing.assert_array_equal(turned.values(), VOXELS - 1024)


def test_without_a_reader_of_dicom_the_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "entry_points", lambda **_: [])
    with pytest.raises(MissingPartError) as caught:
        files.read_volume(tmp_path)
    assert "delineate[dicom]" in caught.value.advice


def _table(first: int, values: np.ndarray, bits: int = 16) -> Any:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2" if bits > 8 else "u1").tobytes())
    item.ModalityLUTType = "HU"
    return [item]


@pytest.mark.parametrize(("bits", "first"), [(16, 0), (12, -20), (8, 5)])
def test_real_values_by_a_table(bits: int, first: int, tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 1 << bits, 30)
    stored = np.random.default_rng(4).integers(first - 4, first + 34, GRID.shape).astype(np.int16)
    write_series(
        tmp_path, stack_of(stored, GRID, change=lambda data, number: setattr(data, "ModalityLUTSequence", _table(first, values, bits)))
    )
    volume = read(tmp_path).volume
    assert np.array_equal(volume.voxels, values[np.clip(stored - first, 0, 29)]) and (volume.slope, volume.intercept) == (1, 0)
    assert volume.units == "HU"


def test_tables_of_some_slices_alone_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    stored = np.zeros(GRID.shape, np.int16)

    def some(data: Any, number: int) -> None:
        if number:
            data.ModalityLUTSequence = _table(0, np.arange(9))

    write_series(tmp_path / "some", stack_of(stored, GRID, change=some))
    assert "some slices have a table of real values" in refused(tmp_path / "some")

    def short(data: Any, number: int) -> None:
        data.ModalityLUTSequence = _table(0, np.arange(9))
        data.ModalityLUTSequence[0].LUTDescriptor = [10, 0, 16]

    path = write_series(tmp_path / "short", stack_of(stored, GRID, change=short))[0]
    assert "table of real values" in refused(path)


def test_pixels_of_other_kinds_are_refused_by_their_names(tmp_path: Path) -> None:
    def floating(data: Any, number: int) -> None:
        data.FloatPixelData = np.zeros(data.Rows * data.Columns, "<f4").tobytes()
        del data.PixelData

    assert "floating point pixels" in refused(write_series(tmp_path / "float", at((30.0,), change=floating))[0])

    def bits(data: Any, number: int) -> None:
        data.BitsAllocated, data.BitsStored, data.HighBit = 1, 1, 0

    assert "BitsAllocated" in refused(write_series(tmp_path / "bits", at((30.0,), change=bits))[0])


def test_a_slice_that_calls_itself_a_localiser_is_told_of(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        if number == 0:
            data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(tmp_path, stack_of(np.zeros(GRID.shape, np.int16), GRID, change=change))
    notes: list[str] = []
    found = read(tmp_path, notes=notes)
    assert notes == ["1 of the series calls itself a localiser (ImageType): left out"] and found.lost == ""


def test_real_values_that_are_not_read_are_told_of(tmp_path: Path) -> None:
    def mapped(data: Any, number: int) -> None:
        data.RealWorldValueMappingSequence = [pydicom.Dataset()]
        data.RealWorldValueMappingSequence[0].RealWorldValueSlope = 0.5
        data.RescaleSlope, data.RescaleIntercept = 1, 0

    write_series(tmp_path, stack(change=mapped))
    assert "RealWorldValueMappingSequence" in read(tmp_path).notes[0]
