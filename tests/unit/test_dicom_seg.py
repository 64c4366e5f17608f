"""SEG files: written, read back voxel by voxel, complete, and read although they are sparse, odd or of other makers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom
from pydicom.uid import RLELossless

from delineate.dicom.cielab import from_cielab, to_cielab
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct
from delineate.dicom.seg import Options, read_on_planes, read_seg, write_on_planes, write_seg
from delineate.errors import DelineateError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.segmentation import PALETTE, Segmentation, Structure
from delineate.testing.dicom import Stack, orientations, sheared, stack_of, write_frames, write_series

SIZE = (11, 9, 5)
GRID = Geometry(SIZE, (0.9765, 1.7, 2.5), (-31.25, 14.4, -100.0))
S05 = Path(__file__).parents[3] / "shared/data/S05_ct_3slice_dicom_seg"


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    z, y, x = np.indices(GRID.shape)
    square = np.maximum(abs(y - GRID.shape[1] // 2), abs(x - GRID.shape[2] // 2))
    return {
        "random": rng.random(GRID.shape) < 0.5,
        "ring": (square < 4) & (square > 1),
        "voxels": (z % 2 == 0) & (y % 3 == 0) & (x % 3 == 1),
        "plate": x == 4,
        "layer": z == 2,
        "border": (x == 0) | (x == SIZE[0] - 1) | (y == 0) | (y == SIZE[1] - 1),
        "ends": ((z == 0) | (z == SIZE[2] - 1)) & (square < 3),
        "corner": (x == 0) & (y == 0) & (z == 4),
        "nothing": x < 0,
    }


def apart() -> np.ndarray:
    """A label map of organs beside each other, some slices of which are empty."""
    labels = np.random.default_rng(6).integers(0, 7, GRID.shape).astype(np.uint8)
    labels[3] = 0
    return labels


def image(folder: Path, stack: Stack | None = None) -> DicomImage:
    write_series(folder, stack or stack_of(np.zeros(GRID.shape, np.int16), GRID))
    return read(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DicomImage:
    return image(tmp_path_factory.mktemp("series"))


def same(found: Segmentation, wanted: Segmentation) -> bool:
    return found.names == wanted.names and all(np.array_equal(found.mask(name), wanted.mask(name)) for name in wanted.names)


@pytest.mark.parametrize("degrees", [0, 17])
@pytest.mark.parametrize("number", range(48))
def test_every_orientation(number: int, degrees: int, tmp_path: Path) -> None:
    matrix = list(orientations(degrees))[number]
    grid = Geometry(SIZE, GRID.spacing, GRID.origin, tuple(matrix.ravel()))
    series = image(tmp_path / "s", stack_of(np.zeros(grid.shape, np.int16), grid)).series
    overlapping = Segmentation.from_masks(masks(), grid)
    beside = Segmentation.from_labels(apart(), grid, {label: f"organ {label}" for label in range(1, 8)})
    for kind, segmentation in (("binary", overlapping), ("fractional", overlapping), ("labelmap", beside)):
        notes: list[str] = []
        write_seg(tmp_path / "seg.dcm", segmentation, series, Options(kind=kind), notes)  # type: ignore[arg-type]
        found = read_seg(tmp_path / "seg.dcm", grid, notes=notes)
        assert found.geometry is grid and same(found, segmentation)
        for source in (series, None) if kind == "binary" else ():
            again = tmp_path / "again.dcm"
            write_seg(again, read_seg(tmp_path / "seg.dcm", source, notes=notes), series)
            assert same(read_seg(again, grid), segmentation)
        assert set(notes) <= {"fractions of 0.5 and more are inside"}


def test_tilted_and_uneven_stacks_come_back_on_their_slices(tmp_path: Path) -> None:
    for name, change in (("tilt", "tilt"), ("uneven", "uneven")):
        stack = stack_of(np.zeros(GRID.shape, np.int16), GRID)
        positions = sheared(stack, 18.5) if change == "tilt" else stack.positions + np.outer([0, 0.3, 0, -0.4, 0], [0, 0, 1])
        series = image(tmp_path / name, Stack(**{**vars(stack), "positions": positions})).series
        assert series.planes.geometry is None
        layers = Segmentation.from_masks(masks(), GRID)
        write_on_planes(tmp_path / "seg.dcm", layers.layers, layers.structures, series)
        found, structures = read_on_planes(tmp_path / "seg.dcm", series)
        for item in structures:
            assert np.array_equal(found[item.layer] == item.label, masks()[item.name])
        on_volume = read_seg(tmp_path / "seg.dcm", series)
        assert on_volume.geometry.size[2] >= SIZE[2] and on_volume.mask("ring").any()


@pytest.mark.parametrize("kind", ["binary", "fractional", "labelmap"])
@pytest.mark.parametrize("packing", ["rle", "deflated"])
def test_packed_files_are_smaller_and_hold_the_same(kind: Any, packing: Any, plain: DicomImage, tmp_path: Path) -> None:
    labels = np.repeat(np.repeat(apart() * 50, 3, axis=1), 4, axis=2).astype(np.uint16)
    grid = GRID.refined((4, 3, 1))
    series = image(tmp_path / "s", stack_of(np.zeros(grid.shape, np.int16), grid)).series
    wanted = Segmentation.from_labels(labels, grid, {label * 50: f"organ {label}" for label in range(1, 7)})
    if (kind, packing) == ("binary", "rle"):
        with pytest.raises(InputError, match="run lengths"):
            write_seg(tmp_path / "seg.dcm", wanted, series, Options(kind=kind, packing=packing))
        assert not (tmp_path / "seg.dcm").exists()
        return
    for name, options in (("seg.dcm", Options(kind=kind, packing=packing)), ("plain.dcm", Options(kind=kind))):
        write_seg(tmp_path / name, wanted, series, options)
    assert same(read_seg(tmp_path / "seg.dcm", grid), wanted)
    assert packing == "rle" or (tmp_path / "seg.dcm").stat().st_size < (tmp_path / "plain.dcm").stat().st_size / 2
    theirs, ours = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "plain.dcm")
    assert np.array_equal(theirs.pixel_array, ours.pixel_array)


def test_run_lengths_of_16_bits(plain: DicomImage, tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape, np.uint16)
    labels.ravel()[:400] = np.arange(1, 401)
    wanted = Segmentation.from_labels(labels, GRID, {label: f"lesion {label}" for label in range(1, 401)})
    write_seg(tmp_path / "seg.dcm", wanted, plain.series, Options(kind="labelmap", packing="rle"))
    assert same(read_seg(tmp_path / "seg.dcm", GRID), wanted)


def test_what_is_known_of_targets_and_objects(plain: DicomImage, tmp_path: Path) -> None:
    names = ["Liver", "GTVp", "PTV_60", "Body", "Couch", "Whatsit"]
    write_seg(tmp_path / "seg.dcm", Segmentation.from_masks(dict.fromkeys(names, masks()["ring"]), GRID), plain.series)
    found = {
        item.SegmentLabel: (
            item.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning,
            item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning,
        )
        for item in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    }
    assert found == {
        "Liver": ("Anatomical Structure", "Liver"),
        "GTVp": ("Morphologically Abnormal Structure", "Gross tumor volume"),
        "PTV_60": ("Spatial and Relational Concept", "Planning target volume"),
        "Body": ("Spatial and Relational Concept", "External Body Model"),
        "Couch": ("Physical object", "Physical object"),
        "Whatsit": ("Anatomical Structure", "Tissue"),
    }
    assert [item.code for item in read_seg(tmp_path / "seg.dcm")] == ["10200004", "", "", "", "", ""]


def test_few_layers_for_few_that_overlap(plain: DicomImage, tmp_path: Path) -> None:
    """Thirty structures in columns, two of which reach into their neighbours: two layers, in either format."""
    x = np.indices(GRID.shape)[2]
    made = {f"S{number}": (x == number % 10) & (np.indices(GRID.shape)[0] == number // 10) for number in range(30)}
    made["S3"] |= made["S4"]
    made["S17"] |= made["S16"]
    wanted = Segmentation.from_masks(made, GRID)
    write_seg(tmp_path / "seg.dcm", wanted, plain.series)
    write_rtstruct(tmp_path / "rs.dcm", wanted, plain.series)
    for found in (read_seg(tmp_path / "seg.dcm", GRID), read_rtstruct(tmp_path / "rs.dcm", GRID)):
        assert len(found.layers) == 2 and same(found, wanted)


def test_more_than_255_segments(plain: DicomImage, tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape, np.uint16)
    labels.ravel()[:400] = np.arange(1, 401)[::-1]
    wanted = Segmentation.from_labels(labels, GRID, {label: f"lesion {label}" for label in range(1, 401)})
    for kind in ("binary", "labelmap"):
        write_seg(tmp_path / "seg.dcm", wanted, plain.series, Options(kind=kind))  # type: ignore[arg-type]
        found = read_seg(tmp_path / "seg.dcm", GRID)
        assert same(found, wanted) and found.layers[0].dtype == np.uint16
    assert pydicom.dcmread(tmp_path / "seg.dcm").BitsAllocated == 16


def test_masks_as_layers(plain: DicomImage, tmp_path: Path) -> None:
    wanted = Segmentation(GRID, (masks()["ring"],), (Structure("ring", 1),))
    for kind in ("binary", "labelmap"):
        write_seg(tmp_path / "seg.dcm", wanted, plain.series, Options(kind=kind))  # type: ignore[arg-type]
        assert same(read_seg(tmp_path / "seg.dcm", GRID), wanted)


def test_labels_wider_than_16_bits_and_labels_of_nobody(plain: DicomImage, tmp_path: Path) -> None:
    labels = np.where(masks()["ring"], 4_000_000_000, masks()["layer"] * 7).astype(np.uint32)
    wanted = Segmentation(GRID, (labels,), (Structure("far", 4_000_000_000),))
    for kind in ("binary", "labelmap"):
        write_seg(tmp_path / "seg.dcm", wanted, plain.series, Options(kind=kind))  # type: ignore[arg-type]
        assert same(read_seg(tmp_path / "seg.dcm", GRID), wanted)


def test_sparse_frames_and_nothing_at_all(plain: DicomImage, tmp_path: Path) -> None:
    wanted = Segmentation.from_masks({"ends": masks()["ends"], "nothing": masks()["nothing"]}, GRID)
    write_seg(tmp_path / "seg.dcm", wanted, plain.series)
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames == 2
    found = read_seg(tmp_path / "seg.dcm")
    assert found.geometry.matches(GRID) and same(found, wanted)
    empty = Segmentation.from_masks({"nothing": masks()["nothing"]}, GRID)
    for kind in ("binary", "labelmap", "fractional"):
        write_seg(tmp_path / "seg.dcm", empty, plain.series, Options(kind=kind))  # type: ignore[arg-type]
        assert same(read_seg(tmp_path / "seg.dcm", plain.series), empty)
    with pytest.raises(InputError, match="not 0"):
        write_seg(tmp_path / "seg.dcm", Segmentation(GRID, wanted.layers, ()), plain.series)


def test_overlap_is_refused_in_a_label_map(plain: DicomImage, tmp_path: Path) -> None:
    wanted = Segmentation.from_masks({"Liver": masks()["ring"], "Tumour": masks()["plate"]}, GRID)
    with pytest.raises(InputError, match="Liver and Tumour overlap"):
        write_seg(tmp_path / "seg.dcm", wanted, plain.series, Options(kind="labelmap"))
    assert list(tmp_path.iterdir()) == []


def test_names_colours_codes_and_references(plain: DicomImage, tmp_path: Path) -> None:
    inside = masks()["ring"].astype(np.uint8)
    structures = (Structure("Kidney_L", 1, 0, (230, 25, 75)), Structure("Whatsit", 2, code="12345678"), Structure("GTVp", 3))
    options = Options(algorithm="lungs", version="3", label="lungs ct", uid="1.2.3")
    write_seg(tmp_path / "seg.dcm", Segmentation(GRID, (inside,), structures), plain.series, options)
    found = read_seg(tmp_path / "seg.dcm", plain.series)
    assert found.names == ["Kidney_L", "Whatsit", "GTVp"] and [s.label for s in found] == [1, 2, 3]
    assert np.abs(np.subtract(found["Kidney_L"].rgb(), (230, 25, 75))).max() <= 1
    assert found["Whatsit"].code == "12345678" and found["GTVp"].code == ""
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    kidney = data.SegmentSequence[0]
    assert kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert kidney.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "lungs"
    assert kidney.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "3"
    assert len({item.TrackingUID for item in data.SegmentSequence}) == 3
    assert data.SOPInstanceUID == "1.2.3" and data.ContentLabel == "LUNGS CT"
    assert len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SIZE[2]
    for frame in data.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = [item.sop_instance for item in plain.series.instances].index(reference)
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, plain.series.planes.positions[number])


def test_a_long_name_is_cut_and_empty_uids_are_refused(plain: DicomImage, tmp_path: Path) -> None:
    notes: list[str] = []
    write_seg(tmp_path / "seg.dcm", Segmentation.from_masks({"a" * 70: masks()["ring"]}, GRID), plain.series, None, notes)
    assert read_seg(tmp_path / "seg.dcm", GRID).names == ["a" * 64] and len(notes) == 1

    def without(data: Any, number: int) -> None:
        data.StudyInstanceUID = ""

    series = image(tmp_path / "s", stack_of(np.zeros(GRID.shape, np.int16), GRID, change=without)).series
    with pytest.raises(ImageError, match="StudyInstanceUID is empty"):
        write_seg(tmp_path / "x.dcm", Segmentation.from_masks({"a": masks()["ring"]}, GRID), series)


def test_of_a_file_with_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "ct.dcm", stack_of(np.zeros(GRID.shape, np.int16), GRID))
    series = read(tmp_path / "ct.dcm").series
    wanted = Segmentation.from_masks({"ring": masks()["ring"]}, GRID)
    write_seg(tmp_path / "seg.dcm", wanted, series)
    frame = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence[1]
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 2
    assert same(read_seg(tmp_path / "seg.dcm", series), wanted)


def changed(source: Path, target: Path, change: Any) -> Path:
    data = pydicom.dcmread(source)
    change(data)
    data.save_as(target)
    return target


def test_frames_of_other_makers(plain: DicomImage, tmp_path: Path) -> None:
    """Without references, without positions, compressed, implicit, orientation in each frame, columns and rows exchanged."""
    wanted = Segmentation.from_masks({"ring": masks()["ring"], "plate": masks()["plate"]}, GRID)
    write_seg(tmp_path / "seg.dcm", wanted, plain.series)
    write_seg(tmp_path / "map.dcm", Segmentation.from_masks({"ring": masks()["ring"]}, GRID), plain.series, Options(kind="labelmap"))

    def without_references(data: Any) -> None:
        del data.ReferencedSeriesSequence
        for frame in data.PerFrameFunctionalGroupsSequence:
            del frame.DerivationImageSequence

    def without_positions(data: Any) -> None:
        for frame in data.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    def each_its_orientation(data: Any) -> None:
        shared = data.SharedFunctionalGroupsSequence[0]
        for frame in data.PerFrameFunctionalGroupsSequence:
            frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
        del shared.PlaneOrientationSequence

    def implicit(data: Any) -> None:
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian

    def deflated(data: Any) -> None:
        data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian

    for change in (without_references, without_positions, each_its_orientation, implicit, deflated):
        path = changed(tmp_path / "seg.dcm", tmp_path / "odd.dcm", change)
        assert same(read_seg(path, plain.series), wanted), change.__name__
    path = changed(tmp_path / "seg.dcm", tmp_path / "odd.dcm", without_positions)
    with pytest.raises(ImageError, match="ImagePositionPatient"):
        read_seg(path)
    path = changed(tmp_path / "map.dcm", tmp_path / "odd.dcm", lambda data: data.compress(RLELossless))
    assert np.array_equal(read_seg(path, GRID).mask("ring"), masks()["ring"])


def test_two_frames_of_a_segment_on_one_slice(plain: DicomImage, tmp_path: Path) -> None:
    """Each half of a structure in a frame of its own, beside another that overlaps it: no third layer, nothing lost."""
    x = np.indices(GRID.shape)[2]
    halves = {"left": masks()["ring"] & (x < 6), "right": masks()["ring"] & (x > 4), "plate": masks()["plate"]}
    write_seg(tmp_path / "seg.dcm", Segmentation.from_masks(halves, GRID), plain.series)

    def join(data: Any) -> None:
        for frame in data.PerFrameFunctionalGroupsSequence:
            if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2:
                frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1

    found = read_seg(changed(tmp_path / "seg.dcm", tmp_path / "joined.dcm", join), GRID)
    assert len(found.layers) == 2 and not found.mask("right").any()
    assert np.array_equal(found.mask("left"), masks()["ring"]) and np.array_equal(found.mask("plate"), masks()["plate"])


def test_another_grid_and_a_part_of_it(plain: DicomImage, tmp_path: Path) -> None:
    wanted = Segmentation.from_masks({"ring": masks()["ring"]}, GRID)
    write_seg(tmp_path / "seg.dcm", wanted, plain.series)
    part = Geometry((6, 9, 5), GRID.spacing, tuple(GRID.to_world((3, 0, 0))), GRID.direction)
    notes: list[str] = []
    assert np.array_equal(read_seg(tmp_path / "seg.dcm", part, notes=notes).mask("ring"), masks()["ring"][:, :, 3:9])
    assert notes == ["parts of segments lie outside of the image: left out"]
    finer = GRID.refined((2, 2, 1))
    notes.clear()
    assert np.array_equal(read_seg(tmp_path / "seg.dcm", finer, notes=notes).mask("ring"), wanted.refined((2, 2, 1)).mask("ring"))
    assert len(notes) == 1 and "resampled" in notes[0]
    tipped = Geometry(SIZE, GRID.spacing, GRID.origin, tuple(next(iter(orientations(17))).ravel()))
    with pytest.raises(GeometryError):
        read_seg(tmp_path / "seg.dcm", tipped)


def test_fractions_and_their_threshold(plain: DicomImage, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", Segmentation.from_masks({"layer": masks()["layer"]}, GRID), plain.series, Options(kind="fractional"))
    fractions = np.arange(99, dtype=np.uint8).reshape(SIZE[1], SIZE[0])

    def fill(data: Any) -> None:
        data.MaximumFractionalValue = 100
        data.PixelData = fractions.tobytes() + b"\0"

    path = changed(tmp_path / "seg.dcm", tmp_path / "fractions.dcm", fill)
    for threshold in (0.25, 0.5):
        notes: list[str] = []
        found = read_seg(path, GRID, threshold=threshold, notes=notes).mask("layer")
        assert np.array_equal(found[2], fractions >= 100 * threshold) and f"{threshold:g}" in notes[0]
    with pytest.raises(InputError, match="threshold"):
        read_seg(path, GRID, threshold=0)


def test_bad_files_are_sentences(plain: DicomImage, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", Segmentation.from_masks({"ring": masks()["ring"]}, GRID), plain.series)
    content = (tmp_path / "seg.dcm").read_bytes()
    (tmp_path / "text.dcm").write_bytes(b"no DICOM at all")
    ct = next((tmp_path / "ct").glob("*")) if image(tmp_path / "ct") else tmp_path
    for path in (tmp_path / "text.dcm", tmp_path / "missing.dcm", ct):
        with pytest.raises(ImageError):
            read_seg(path, GRID)
    (tmp_path / "short.dcm").write_bytes(content[:-20])
    with pytest.raises(ImageError, match="cut off"):
        read_seg(tmp_path / "short.dcm", GRID)
    rng = np.random.default_rng(1)
    for _ in range(80):
        damaged = bytearray(content)
        damaged[int(rng.integers(140, len(content) - 80))] ^= 1 << int(rng.integers(8))
        (tmp_path / "damaged.dcm").write_bytes(damaged)
        try:
            read_seg(tmp_path / "damaged.dcm", plain.series)
        except DelineateError:
            continue


def test_another_frame_of_reference(plain: DicomImage, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", Segmentation.from_masks({"ring": masks()["ring"]}, GRID), plain.series)
    other = image(tmp_path / "other", stack_of(np.zeros(GRID.shape, np.int16), GRID, frame=2, series=2)).series
    with pytest.raises(GeometryError, match="FrameOfReferenceUID"):
        read_seg(tmp_path / "seg.dcm", other)
    assert np.array_equal(read_seg(tmp_path / "seg.dcm", other, other_frame=True).mask("ring"), masks()["ring"])


def test_colours_come_back() -> None:
    for colour in (*PALETTE, (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)):
        assert np.abs(np.subtract(from_cielab(to_cielab(colour)), colour)).max() <= 1


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy")
@pytest.mark.parametrize(("kind", "packing"), [("binary", "none"), ("fractional", "none"), ("labelmap", "none"), ("fractional", "rle")])
def test_dciodvfy_finds_no_error(kind: Any, packing: Any, plain: DicomImage, tmp_path: Path) -> None:
    labels = apart()
    names = {1: "Kidney_L", 2: "GTVp", 3: "PTV", 4: "Couch", 5: "Body", 6: "Grüße"}
    write_seg(tmp_path / "seg.dcm", Segmentation.from_labels(labels, GRID, names), plain.series, Options(kind=kind, packing=packing))
    done = subprocess.run(["dciodvfy", str(tmp_path / "seg.dcm")], capture_output=True, text=True, timeout=60)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    # Older editions of the program do not know the class of label maps.
    assert [line for line in errors if kind != "labelmap" or "Information Object" not in line] == []


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs dcmdump (DCMTK)")
@pytest.mark.parametrize(("kind", "packing"), [("binary", "deflated"), ("labelmap", "deflated"), ("labelmap", "rle")])
def test_dcmtk_reads_packed_files(kind: Any, packing: Any, plain: DicomImage, tmp_path: Path) -> None:
    wanted = Segmentation.from_labels(apart(), GRID, {label: f"organ {label}" for label in range(1, 7)})
    write_seg(tmp_path / "seg.dcm", wanted, plain.series, Options(kind=kind, packing=packing))
    done = subprocess.run(
        ["dcmdump", "+P", "SegmentLabel", "+P", "NumberOfFrames", "+s", str(tmp_path / "seg.dcm")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split("[")[1].split("]")[0] for line in done.stdout.splitlines() if "SegmentLabel" in line] == wanted.names


@pytest.mark.skipif(not S05.is_dir(), reason="needs the shared images")
def test_real_files_equal_their_nrrd() -> None:
    sitk = pytest.importorskip("SimpleITK")

    def labels(name: str) -> np.ndarray:
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(S05 / name))))

    image = read(S05 / "ct-3slice")
    for source in (image.series, image.volume.geometry, None):
        assert np.array_equal(read_seg(S05 / "liver.dcm", source).layers[0], labels("liver_seg.nrrd"))
        found = read_seg(S05 / "partial_overlaps.dcm", source)
        maps = [labels(f"partial_overlaps-{number}.nrrd") for number in (1, 2, 3)]
        assert found.geometry.matches(image.volume.geometry)
        for structure in found:
            assert any(np.array_equal(found.mask(structure.name), one == structure.label) for one in maps)
    tiny = S05 / "tiny_24x38x3"
    source = read(tiny / "image").series
    sparse = "sparse_labelmap_ppv5_seg.nrrd"
    pairs = {"sparse-labelmap-noppv.dcm": sparse, "sparse-labelmap-ppv5.dcm": sparse, "seg/label.seg": "nrrd/label.nrrd"}
    for name, wanted in pairs.items():
        assert np.array_equal(read_seg(tiny / name, source).layers[0] == 1, labels(f"tiny_24x38x3/{wanted}") == 1)


@pytest.mark.parametrize(("number", "written"), [("7", 1007), ("", 1000), ("2147483000", 2**31 - 1)])
def test_it_is_shown_behind_its_image(number: str, written: int, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", stack_of(np.zeros(GRID.shape, np.int16), GRID))
    for path in paths:
        data = pydicom.dcmread(path)
        data.SeriesNumber = number
        data.save_as(path)
    segmentation = Segmentation.from_masks({"ring": masks()["ring"]}, GRID)
    for write in (write_seg, write_rtstruct):
        write(tmp_path / "out.dcm", segmentation, read(tmp_path / "in").series)
        assert pydicom.dcmread(tmp_path / "out.dcm").SeriesNumber == written
