"""RTSTRUCT files: written, read back voxel by voxel, complete, and read although they do not conform."""

from __future__ import annotations

import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delineate.dicom import decimals, drawing, filling, structure_set
from delineate.dicom.decimals import Writer, read_numbers
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.region_names import region_names
from delineate.dicom.rtstruct import NothingToDrawError, Options, read_on_planes, read_rtstruct, write_on_planes, write_rtstruct
from delineate.dicom.simplify import simplified
from delineate.dicom.structure_set import load
from delineate.errors import GeometryError, ImageError
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation, Structure
from delineate.testing.dicom import Stack, orientations, sheared, stack_of, write_frames, write_series

SIZE = (11, 9, 5)
GRID = Geometry(SIZE, (0.9765, 1.7, 2.5), (-31.25, 14.4, -100.0))
Holes = Literal["keyhole", "xor"]


def masks(shape: tuple[int, ...] = GRID.shape) -> dict[str, np.ndarray]:
    """Overlapping structures with all that is hard about them."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices(shape)
    square = np.maximum(abs(y - shape[1] // 2), abs(x - shape[2] // 2))
    return {
        "random": rng.random(shape) < 0.5,
        "ring": (square < 4) & (square > 1),
        "nested": square % 2 == 1,
        "voxels": (z % 2 == 0) & (y % 3 == 0) & (x % 3 == 1),
        "plate": x == 4,
        "layer": z == 2,
        "border": (x == 0) | (x == shape[2] - 1) | (y == 0) | (y == shape[1] - 1),
        "ends": ((z == 0) | (z == shape[0] - 1)) & (square < 3),
        "two": (square < 4) & (x != 5),
        "checkers": (x + y + z) % 2 == 0,
    }


def image(folder: Path, stack: Stack | None = None) -> DicomImage:
    write_series(folder, stack or stack_of(np.zeros(GRID.shape, np.int16), GRID))
    return read(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DicomImage:
    return image(tmp_path_factory.mktemp("series"))


@pytest.mark.parametrize("degrees", [0, 17])
@pytest.mark.parametrize("number", range(48))
def test_every_orientation(number: int, degrees: int, tmp_path: Path) -> None:
    """The image's own order of axes, and the volume's, which a slice's files may have turned."""
    matrix = list(orientations(degrees))[number]
    grid = Geometry(SIZE, GRID.spacing, GRID.origin, tuple(matrix.ravel()))
    series = image(tmp_path / "s", stack_of(np.zeros(grid.shape, np.int16), grid)).series
    segmentation = Segmentation.from_masks(masks(), grid)
    for holes in ("keyhole", "xor"):
        notes: list[str] = []
        write_rtstruct(tmp_path / "rs.dcm", segmentation, series, Options(holes=holes), notes)  # type: ignore[arg-type]
        found = read_rtstruct(tmp_path / "rs.dcm", grid, notes=notes)
        assert notes == [] and found.geometry is grid
        assert all(np.array_equal(found.mask(name), mask) for name, mask in masks().items())
        on_volume = read_rtstruct(tmp_path / "rs.dcm", series)
        again = tmp_path / "again.dcm"
        write_rtstruct(again, on_volume, series, Options(holes=holes))  # type: ignore[arg-type]
        assert all(np.array_equal(read_rtstruct(again, grid).mask(name), mask) for name, mask in masks().items())


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grid_across_whose_slices_the_contours_do_not_lie(axis: int, plain: DicomImage, tmp_path: Path) -> None:
    """The same voxels counted in another order: the contours' slices are the grid's first or second axis."""
    segmentation = Segmentation.from_masks(masks(), GRID)
    write_rtstruct(tmp_path / "rs.dcm", segmentation, plain.series)
    order = (2, 0, 1) if axis == 0 else (1, 2, 0)
    matrix = GRID.matrix[:, order]
    turned = Geometry(
        (SIZE[order[0]], SIZE[order[1]], SIZE[order[2]]),
        (GRID.spacing[order[0]], GRID.spacing[order[1]], GRID.spacing[order[2]]),
        GRID.origin,
        tuple(matrix.ravel()),
    )
    found = read_rtstruct(tmp_path / "rs.dcm", turned)
    for name, mask in masks().items():
        assert np.array_equal(found.mask(name), mask.transpose(2, 1, 0).transpose(order).transpose(2, 1, 0))
    oblique = Geometry(SIZE, GRID.spacing, GRID.origin, tuple(next(orientations(17)).ravel()))
    with pytest.raises(GeometryError, match="parallel to no slices"):
        read_rtstruct(tmp_path / "rs.dcm", oblique)


@pytest.mark.parametrize("holes", ["keyhole", "xor"])
def test_tilted_and_unevenly_spaced_slices_get_their_own_voxels(holes: Holes, tmp_path: Path) -> None:
    straight = stack_of(np.zeros(GRID.shape, np.int16), GRID)
    uneven = straight.positions + np.array([[0, 0, step] for step in (0.0, 0.0, 0.9, 1.1, 2.0)])
    for number, positions in enumerate((sheared(straight, 18.5), uneven)):
        stack = Stack(voxels=straight.voxels, orientation=straight.orientation, spacing=straight.spacing, positions=positions)
        series = image(tmp_path / str(number), stack).series
        assert series.planes.geometry is None
        segmentation = Segmentation.from_masks(masks(), GRID)  # its layers alone count
        notes: list[str] = []
        path = tmp_path / "rs.dcm"
        write_on_planes(path, segmentation.layers, segmentation.structures, series, Options(holes=holes), notes)
        layers, structures = read_on_planes(path, series, notes=notes)
        assert notes == []
        for structure in structures:
            assert np.array_equal(layers[structure.layer] == structure.label, masks()[structure.name])
        on_grid = read_rtstruct(path, series, notes=notes)
        assert on_grid.geometry.matches(read(tmp_path / str(number)).volume.geometry)
        volume = masks()["two"].sum() * np.prod(GRID.spacing) / 1000 * (1 if number == 0 else 1.2)  # the last distances are longer
        assert on_grid.volume_ml("two") == pytest.approx(volume, rel=0.15)


def test_contours_of_tilted_slices_stay_where_they_are_in_the_patient(tmp_path: Path) -> None:
    straight = stack_of(np.zeros(GRID.shape, np.int16), GRID)
    positions = sheared(straight, 18.5)
    series = image(
        tmp_path / "s", Stack(voxels=straight.voxels, orientation=straight.orientation, spacing=straight.spacing, positions=positions)
    ).series
    one = np.zeros(GRID.shape, np.uint8)
    one[4, 3, 2] = 1
    write_on_planes(tmp_path / "rs.dcm", [one], [Structure("A", 1)], series)
    (contour,) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    assert points.mean(axis=0) == pytest.approx(positions[4] + np.array([2 * 0.9765, 3 * 1.7, 0]), abs=1e-4)


@pytest.mark.parametrize("holes", ["keyhole", "xor"])
def test_slices_and_structures_in_parts(holes: Holes, plain: DicomImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice at a time, a structure at a time: the same contours, numbered through, of one type for each structure."""
    contours = {}
    for parts in (False, True):
        if parts:
            monkeypatch.setattr(drawing, "_PIXELS", 1)
            monkeypatch.setattr(structure_set, "_AT_ONCE", 0)
        data = written(plain, tmp_path / "rs.dcm", holes=holes)
        contours[parts] = [list(region.ContourSequence) for region in data.ROIContourSequence]
        found = read_rtstruct(tmp_path / "rs.dcm", plain.series)
        assert all(np.array_equal(found.mask(name), mask) for name, mask in masks().items())
    assert contours[True] == contours[False]
    for region in contours[True]:
        assert [int(contour.ContourNumber) for contour in region] == list(range(1, len(region) + 1))
        assert len({contour.ContourGeometricType for contour in region}) == 1


def test_memory_is_that_of_a_few_slices_and_a_few_structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside label maps: a small part of the file while it is written, its bytes and some structures while it is read."""
    monkeypatch.setattr(drawing, "_PIXELS", 1 << 12)
    monkeypatch.setattr(structure_set, "_AT_ONCE", 1 << 14)
    grid = Geometry((128, 96, 40), GRID.spacing)
    labels = np.kron(np.random.default_rng(1).integers(0, 9, (40, 24, 32)), np.ones((1, 4, 4), int)).astype(np.uint8)
    series = image(tmp_path / "s", stack_of(np.zeros(grid.shape, np.int16), grid)).series
    segmentation, path = Segmentation.from_labels(labels, grid, {label: f"S{label}" for label in range(1, 9)}), tmp_path / "rs.dcm"
    write_rtstruct(path, segmentation, series)  # tables that stay are made
    peaks = []
    for work in (lambda: write_rtstruct(path, segmentation, series), lambda: read_rtstruct(path, grid)):
        tracemalloc.start()
        try:
            work()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    size = path.stat().st_size
    assert size > 5_000_000 and peaks[0] < size / 2 and peaks[1] < 4 * size + labels.nbytes


def test_contours_of_a_structure_in_two_places_of_a_file(plain: DicomImage, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        region = data.ROIContourSequence[0]
        further = pydicom.Dataset()
        further.ReferencedROINumber = region.ReferencedROINumber
        further.ContourSequence = list(region.ContourSequence)[1::2]
        region.ContourSequence = list(region.ContourSequence)[::2]
        data.ROIContourSequence.append(further)

    found = read_rtstruct(changed(plain, tmp_path / "rs.dcm", change), GRID)
    assert np.array_equal(found.mask("A"), masks()["ring"]) and np.array_equal(found.mask("B"), masks()["random"])


def test_pixels_of_a_few_micrometres(tmp_path: Path) -> None:
    grid = Geometry(SIZE, (0.004, 0.003, 0.005), (512.3, -77.1, 3.0))
    series = image(tmp_path / "s", stack_of(np.zeros(GRID.shape, np.int16), grid)).series
    write_rtstruct(tmp_path / "rs.dcm", Segmentation.from_masks(masks(), grid), series)
    found = read_rtstruct(tmp_path / "rs.dcm", series)
    assert all(np.array_equal(found.mask(name), mask) for name, mask in masks().items())


def test_frames_of_one_file_are_referred_to_by_number(tmp_path: Path) -> None:
    write_frames(tmp_path / "one.dcm", stack_of(np.zeros(GRID.shape, np.int16), GRID))
    series = read(tmp_path / "one.dcm").series
    write_rtstruct(tmp_path / "rs.dcm", Segmentation.from_masks(masks(), GRID), series)
    data = pydicom.dcmread(tmp_path / "rs.dcm")
    frames = {int(c.ContourImageSequence[0].ReferencedFrameNumber) for c in data.ROIContourSequence[0].ContourSequence}
    assert frames == {1, 2, 3, 4, 5}
    found = read_rtstruct(tmp_path / "rs.dcm", series)
    assert all(np.array_equal(found.mask(name), mask) for name, mask in masks().items())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mask_on_any_grid(data: st.DataObject, plain: DicomImage, tmp_path: Path) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)))
    spacing = data.draw(st.tuples(*[st.floats(0.1, 5.0)] * 3))
    origin = data.draw(st.tuples(*[st.floats(-900, 900)] * 3))
    turn = list(orientations(data.draw(st.floats(0, 90))))[data.draw(st.integers(0, 47))]
    grid = Geometry((shape[2], shape[1], shape[0]), spacing, origin, tuple(turn.ravel()))
    mask = np.random.default_rng(data.draw(st.integers(0, 1000))).random(shape) < data.draw(st.floats(0.1, 0.95))
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    found = image(folder, stack_of(np.zeros(shape, np.int16), grid))
    if not mask.any() or shape[0] == 1:
        return
    write_rtstruct(folder / "rs", Segmentation.from_masks({"A": mask}, grid), found.series)
    assert np.array_equal(read_rtstruct(folder / "rs", grid).mask("A"), mask)


# What stands in the file.


def written(plain: DicomImage, path: Path, structures: dict[str, np.ndarray] | None = None, **options: Any) -> Any:
    notes: list[str] = []
    write_rtstruct(path, Segmentation.from_masks(structures or masks(), GRID), plain.series, Options(**options), notes)
    data = pydicom.dcmread(path)
    data.notes = notes
    return data


def test_every_reference_is_there(plain: DicomImage, tmp_path: Path) -> None:
    data = written(plain, tmp_path / "rs.dcm", at=datetime(2026, 1, 2, 3, 4, 5))
    series = plain.series
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == (series.study_uid, series.frame_of_reference)
    assert data.SeriesInstanceUID != series.series_uid and data.PatientID == "phantom" and data.PatientName == "Phantom"
    (frame,) = data.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (referenced,) = study.RTReferencedSeriesSequence
    uids = [item.sop_instance for item in series.instances]
    assert (frame.FrameOfReferenceUID, study.ReferencedSOPInstanceUID) == (series.frame_of_reference, series.study_uid)
    assert referenced.SeriesInstanceUID == series.series_uid
    assert [item.ReferencedSOPInstanceUID for item in referenced.ContourImageSequence] == uids
    numbers = [item.ROINumber for item in data.StructureSetROISequence]
    assert numbers == [item.ReferencedROINumber for item in data.ROIContourSequence] == list(range(1, 11))
    assert numbers == [item.ReferencedROINumber for item in data.RTROIObservationsSequence]
    assert {item.ReferencedFrameOfReferenceUID for item in data.StructureSetROISequence} == {series.frame_of_reference}
    assert (data.StructureSetDate, data.StructureSetTime, data.ApprovalStatus) == ("20260102", "030405", "UNAPPROVED")
    for region in data.ROIContourSequence:
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            (slice_,) = contour.ContourImageSequence
            at = series.planes.positions[uids.index(slice_.ReferencedSOPInstanceUID)]
            assert contour.NumberOfContourPoints == len(points) and np.allclose(points[:, 2], at[2], atol=1e-3)
    other = written(plain, tmp_path / "other.dcm")
    assert other.SOPInstanceUID != data.SOPInstanceUID and other.SeriesInstanceUID != data.SeriesInstanceUID
    assert written(plain, tmp_path / "given.dcm", uid="2.25.1").SOPInstanceUID == "2.25.1"


def test_holes_as_they_are_chosen(plain: DicomImage, tmp_path: Path) -> None:
    types = {}
    for holes in ("keyhole", "xor"):
        data = written(plain, tmp_path / "rs.dcm", {"ring": masks()["ring"], "layer": masks()["layer"]}, holes=holes)
        types[holes] = [(len(r.ContourSequence), {c.ContourGeometricType for c in r.ContourSequence}) for r in data.ROIContourSequence]
    assert types["keyhole"] == [(5, {"CLOSED_PLANAR"}), (1, {"CLOSED_PLANAR"})]
    assert types["xor"] == [(10, {"CLOSEDPLANAR_XOR"}), (1, {"CLOSED_PLANAR"})]


def test_fewer_points_within_a_tolerance(tmp_path: Path) -> None:
    grid = Geometry((60, 50, 2), (1.0, 1.2, 2.0))
    y, x = np.indices((50, 60))
    away = np.hypot(x - 30, (y - 25) * 1.2)
    mask = np.broadcast_to((away < 25) & (away > 8), grid.shape)
    series = image(tmp_path / "s", stack_of(np.zeros(grid.shape, np.int16), grid)).series
    points = {}
    for tolerance in (0.0, 1.0, 100.0):
        write_rtstruct(tmp_path / "rs.dcm", Segmentation.from_masks({"A": mask}, grid), series, Options(holes="xor", tolerance=tolerance))
        contours = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
        points[tolerance] = sum(contour.NumberOfContourPoints for contour in contours)
        found = read_rtstruct(tmp_path / "rs.dcm", grid).mask("A")
        if tolerance == 1.0:
            is_near = (abs(away - 25) < 2.5) | (abs(away - 8) < 2.5)
            assert (found != mask).any() and not (found != mask)[:, ~is_near].any()
    assert points[1.0] < points[0.0] / 4 and points[100.0] >= 12


def test_no_point_left_out_is_farther_than_the_tolerance() -> None:
    points = np.random.default_rng(1).normal(0, 10, (200, 3)).cumsum(axis=0)
    starts, fewer = simplified(np.array([0, 120, 200]), points, 25.0)
    assert starts[0] == 0 and starts[2] == len(fewer) < 200
    for number, part in enumerate((points[:120], points[120:])):
        kept = fewer[starts[number] : starts[number + 1]]
        ends = np.roll(kept, -1, axis=0)
        for point in part:
            along = ends - kept
            share = np.clip(((point - kept) * along).sum(axis=1) / (along**2).sum(axis=1), 0, 1)
            assert np.linalg.norm(point - kept - share[:, None] * along, axis=1).min() <= 25.0


def test_a_contour_of_more_than_64_kilobytes(tmp_path: Path) -> None:
    grid = Geometry((301, 300, 2), (1.0, 1.0, 2.0))
    y, x = np.indices((300, 301))
    comb = np.broadcast_to((y == 0) | (x % 2 == 0), grid.shape)
    many = np.random.default_rng(1).random(grid.shape) < 0.9
    series = image(tmp_path / "s", stack_of(np.zeros(grid.shape, np.int16), grid)).series
    write_rtstruct(tmp_path / "rs.dcm", Segmentation.from_masks({"comb": comb, "many": many}, grid), series)
    data = pydicom.dcmread(tmp_path / "rs.dcm")
    assert data.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    sizes = [len("\\".join(map(str, contour.ContourData))) for contour in data.ROIContourSequence[1].ContourSequence]
    assert max(sizes) > 1 << 16
    found = read_rtstruct(tmp_path / "rs.dcm", series)
    assert np.array_equal(found.mask("comb"), comb) and np.array_equal(found.mask("many"), many)


def test_names_types_colours_codes(plain: DicomImage, tmp_path: Path) -> None:
    names = ["Lung_L", "PTV_60Gy", "Body", "A very long name of a structure 1", "A very long name of a structure 2", "Grün\\Öl", "empty"]
    made = dict.fromkeys(names, masks()["ring"]) | {"empty": np.zeros(GRID.shape, bool)}
    data = written(plain, tmp_path / "rs.dcm", made)
    assert [item.ROIName for item in data.StructureSetROISequence] == [*names[:5], "Grün Öl"]
    assert data.notes == ["empty has no voxels: left out", "Grün\\Öl is called Grün Öl in the file"]
    kinds = [item.RTROIInterpretedType for item in data.RTROIObservationsSequence]
    assert kinds == ["ORGAN", "PTV", "EXTERNAL", "", "", ""]
    code = data.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("39607008", "SCT", "Lung")
    assert "RTROIIdentificationCodeSequence" not in data.RTROIObservationsSequence[1]
    assert list(data.ROIContourSequence[1].ROIDisplayColor) == [255, 0, 0]
    short = written(plain, tmp_path / "rs.dcm", made, short_names=True)
    assert [item.ROIName for item in short.StructureSetROISequence][3:5] == ["A very long name", "A very long na~2"]
    found = read_rtstruct(tmp_path / "rs.dcm", GRID)
    assert found["PTV_60Gy"].colour == (255, 0, 0) and found["Lung_L"].code == "39607008"


def test_a_structures_own_colour_and_code(plain: DicomImage, tmp_path: Path) -> None:
    layer = masks()["ring"].astype(np.uint8)
    segmentation = Segmentation(GRID, (layer,), (Structure("Lung_L", 1, colour=(1, 2, 3), code="44029006"),))
    write_rtstruct(tmp_path / "rs.dcm", segmentation, plain.series)
    assert read_rtstruct(tmp_path / "rs.dcm", GRID).structures == (Structure("Lung_L", 1, 0, (1, 2, 3), "44029006"),)


def test_names_are_unique_whatever_their_case() -> None:
    notes: list[str] = []
    names = region_names(["lung", "Lung", " a  b ", "\n", "x" * 20, "x" * 21], 16, notes)
    assert names == ["lung", "Lung~2", "a b", "ROI", "x" * 16, "x" * 14 + "~2"] and len(notes) == 5


def test_patients_names_in_other_alphabets(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.SpecificCharacterSet = "ISO_IR 100"
        data.PatientName = "Müller^Jörg"

    stack = stack_of(np.zeros(GRID.shape, np.int16), GRID, change=change)
    data = written(image(tmp_path / "s", stack), tmp_path / "rs.dcm")
    assert data.SpecificCharacterSet == "ISO_IR 192" and data.PatientName == "Müller^Jörg"


def test_no_contours_for_an_image_without_uids(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.SOPInstanceUID = data.StudyInstanceUID = ""

    found = image(tmp_path / "s", stack_of(np.zeros(GRID.shape, np.int16), GRID, change=change))
    with pytest.raises(ImageError, match="StudyInstanceUID, SOPInstanceUID are empty"):
        written(found, tmp_path / "rs.dcm")
    assert not (tmp_path / "rs.dcm").exists()


def test_a_file_without_a_structure_is_none(plain: DicomImage, tmp_path: Path) -> None:
    nothing = Segmentation.from_labels(np.zeros(GRID.shape, np.uint8), GRID, {1: "A"})
    with pytest.raises(NothingToDrawError, match="no structure has voxels"):
        write_rtstruct(tmp_path / "rs.dcm", nothing, plain.series)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(plain: DicomImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(plain, tmp_path / "rs.dcm")
    before = (tmp_path / "rs.dcm").read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        written(plain, tmp_path / "rs.dcm")
    assert (tmp_path / "rs.dcm").read_bytes() == before and [item.name for item in tmp_path.iterdir()] == ["rs.dcm"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("holes", ["keyhole", "xor"])
def test_a_validator_finds_no_error(holes: Holes, plain: DicomImage, tmp_path: Path) -> None:
    structures = {"Lung_L": masks()["ring"], "PTV_60": masks()["random"], "Body": masks()["border"], "odd": masks()["checkers"]}
    written(plain, tmp_path / "rs.dcm", structures, holes=holes, short_names=True, description="for a test")
    done = subprocess.run(["dciodvfy", "-new", tmp_path / "rs.dcm"], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "RTStructureSet" in said
    # It is older than the standard's second word for a closed contour.
    assert [line for line in said if line.startswith("Error") and "CLOSEDPLANAR_XOR" not in line] == []


# Reading what others wrote.


def changed(plain: DicomImage, path: Path, change: Callable[[Any], None], syntax: str = "1.2.840.10008.1.2") -> Path:
    data = written(plain, path, {"A": masks()["ring"], "B": masks()["random"]}, holes="xor")
    del data.notes
    change(data)
    data.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, data, implicit_vr=syntax.endswith("1.2"), little_endian=not syntax.endswith("1.2.2"))
    return path


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
@pytest.mark.parametrize("undefined", [False, True])
def test_every_encoding(syntax: str, undefined: bool, plain: DicomImage, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data["ROIContourSequence"].is_undefined_length = undefined
        for region in data.ROIContourSequence:
            region.is_undefined_length_sequence_item = undefined
            region["ContourSequence"].is_undefined_length = undefined
            for contour in region.ContourSequence:
                contour.is_undefined_length_sequence_item = undefined

    found = read_rtstruct(changed(plain, tmp_path / "rs.dcm", change, syntax), GRID)
    assert np.array_equal(found.mask("A"), masks()["ring"]) and np.array_equal(found.mask("B"), masks()["random"])


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "ISO_IR 144"])
@pytest.mark.parametrize("undefined", [False, True])
def test_names_in_every_alphabet(charset: str, undefined: bool, plain: DicomImage, tmp_path: Path) -> None:
    name = "Лёгкое" if charset == "ISO_IR 144" else "Größe"

    def change(data: Any) -> None:
        data.SpecificCharacterSet = charset
        data.StructureSetROISequence[0].ROIName = data.StructureSetLabel = name
        data["StructureSetROISequence"].is_undefined_length = undefined
        for item in data.StructureSetROISequence:
            item.is_undefined_length_sequence_item = undefined

    path = changed(plain, tmp_path / "rs.dcm", change)
    assert read_rtstruct(path, GRID).names == [name, "B"] and load(path).label == name


def _two_points(data: Any) -> None:
    data.ROIContourSequence[0].ContourSequence[0].ContourData = [1, 2, 3, 4, 5, 6]


def _point(data: Any) -> None:
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"


def _odd_count(data: Any) -> None:
    data.ROIContourSequence[0].ContourSequence[0].ContourData = list(data.ROIContourSequence[0].ContourSequence[0].ContourData)[:-1]


def _no_data(data: Any) -> None:
    data.ROIContourSequence[0].ContourSequence[0].ContourData = None


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (_two_points, "A: 1 contour is of fewer than three points: left out"),
        (_point, "A: 1 contour is of the type POINT: left out"),
        (_odd_count, "A: 1 contour is damaged (ContourData): left out"),
        (_no_data, "A: 1 contour is of fewer than three points: left out"),
    ],
)
def test_odd_contours_are_left_out_and_named(change: Callable[[Any], None], note: str, plain: DicomImage, tmp_path: Path) -> None:
    notes: list[str] = []
    found = read_rtstruct(changed(plain, tmp_path / "rs.dcm", change), GRID, notes=notes)
    assert notes == [note]
    assert np.array_equal(found.mask("A")[1:], masks()["ring"][1:]) and np.array_equal(found.mask("B"), masks()["random"])


def test_what_is_no_number_is_damaged(plain: DicomImage, tmp_path: Path) -> None:
    path = changed(plain, tmp_path / "rs.dcm", lambda data: None)
    content = path.read_bytes()
    text = load(path).contours.all().points[0, 0]
    path.write_bytes(content.replace(f"{text:.4f}".encode(), b"x" * len(f"{text:.4f}"), 1))
    notes: list[str] = []
    read_rtstruct(path, GRID, notes=notes)
    assert notes == ["A: 1 contour is damaged (ContourData): left out"]


def test_coordinates_in_no_patient_are_damaged(plain: DicomImage, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data.ROIContourSequence[0].ContourSequence[0].ContourData[0] = "1e305"

    notes: list[str] = []
    read_rtstruct(changed(plain, tmp_path / "rs.dcm", change), GRID, notes=notes)
    assert notes == ["A: 1 contour is damaged (ContourData): left out"]


def test_what_would_take_all_memory_is_refused(plain: DicomImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(plain, tmp_path / "rs.dcm", lambda data: None)
    monkeypatch.setattr(structure_set, "_MOST", 1)
    with pytest.raises(ImageError, match=r"rs.dcm has 2 regions, more than 1"):
        read_rtstruct(path, GRID)
    monkeypatch.undo()
    monkeypatch.setattr(filling, "_MOST", 100)
    with pytest.raises(ImageError, match="too often"):
        read_rtstruct(path, GRID)
    monkeypatch.setattr(filling, "_MOST", 300)  # enough for each structure, not for both
    monkeypatch.setattr(structure_set, "_AT_ONCE", 0)
    with pytest.raises(ImageError, match="too often"):
        read_rtstruct(path, GRID)


def test_files_that_do_not_conform(plain: DicomImage, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data.StructureSetROISequence[1].ROIName = "A"
        data.ROIContourSequence[0].ROIDisplayColor = [1, 2]
        del data.ROIContourSequence[1].ContourSequence[0].ContourGeometricType
        data.ROIContourSequence.append(pydicom.Dataset())
        data.ROIContourSequence[2].ReferencedROINumber = 77
        third = pydicom.Dataset()
        third.ROINumber, third.ROIName = 9, ""
        fourth = pydicom.Dataset()
        fourth.ROINumber, fourth.ROIName = 9, "again"
        data.StructureSetROISequence += [third, fourth]
        del data.RTROIObservationsSequence, data.StructureSetLabel

    notes: list[str] = []
    found = read_rtstruct(changed(plain, tmp_path / "rs.dcm", change), GRID, notes=notes)
    assert found.names == ["A", "A (2)", "ROI 9"] and not found.mask("ROI 9").any()
    assert np.array_equal(found.mask("A"), masks()["ring"]) and np.array_equal(found.mask("A (2)"), masks()["random"])
    assert notes == [
        "two regions are called A: one is A (2) now",
        "region 9 has no name: it is called ROI 9",
        "two regions have ROINumber 9: the first is taken",
        "a ROIDisplayColor is not three numbers: left out",
        "contours refer to region 77, which is not in StructureSetROISequence: left out",
    ]


def test_keyholes_and_plain_contours_within_each_other_are_holes(plain: DicomImage, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        for contour in data.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "CLOSED_PLANAR"

    found = read_rtstruct(changed(plain, tmp_path / "rs.dcm", change), GRID)
    assert np.array_equal(found.mask("A"), masks()["ring"])


def test_no_contours_at_all(plain: DicomImage, tmp_path: Path) -> None:
    notes: list[str] = []
    found = read_rtstruct(changed(plain, tmp_path / "rs.dcm", lambda data: data.pop("ROIContourSequence")), GRID, notes=notes)
    assert found.names == ["A", "B"] and not found.layers[0].any()
    assert notes == ["ROIContourSequence is missing: there are no contours"]


def test_another_frame_of_reference(plain: DicomImage, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
        for item in data.StructureSetROISequence:
            item.ReferencedFrameOfReferenceUID = "1.2.3"

    def both(data: Any) -> None:
        change(data)
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.4"

    notes: list[str] = []
    read_rtstruct(changed(plain, tmp_path / "rs.dcm", change), plain.series, notes=notes)
    assert len(notes) == 1 and "another frame of reference" in notes[0]
    path = changed(plain, tmp_path / "rs.dcm", both)
    with pytest.raises(GeometryError, match="another frame of reference"):
        read_rtstruct(path, plain.series)
    assert np.array_equal(read_rtstruct(path, plain.series, other_frame=True).mask("A"), masks()["ring"])


def test_files_that_are_none(plain: DicomImage, tmp_path: Path) -> None:
    write_series(tmp_path / "s", stack_of(np.zeros(GRID.shape, np.int16), GRID))
    (tmp_path / "text").write_text("no DICOM " * 100)
    path = changed(plain, tmp_path / "rs.dcm", lambda data: None)
    content = path.read_bytes()
    for name, words in (
        ("absent", "absent cannot be read: No such file"),
        ("text", "text is not a DICOM file"),
        ("s/s1-0000.dcm", "holds no contours: its Modality is 'CT'"),
    ):
        with pytest.raises(ImageError, match=words):
            read_rtstruct(tmp_path / name, GRID)
    for size in (140, *range(200, len(content), 997), len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ImageError):
            read_rtstruct(path, GRID)
    for place in range(len(content) // 2, len(content), 499):
        path.write_bytes(content[:place] + b"\xff" * 4 + content[place + 4 :])
        try:
            read_rtstruct(path, GRID)
        except (ImageError, GeometryError):
            continue


# Numbers as text.


def test_decimals_there_and_back() -> None:
    points = np.random.default_rng(1).normal(0, 300, (1000, 3))
    points[:4] = [(0, -0.0, 0.00004), (-0.00006, 9.99995, -9.99996), (1, -1, 0.5), (1023.9999, -1024, 99999.9)]
    starts = np.array([0, 1, 400, 400, 1000])
    texts = Writer().lists(points, starts)
    assert texts[0] == b"0.0000\\0.0000\\0.0000" and texts[2] == b""
    for text, first, after in zip(texts, starts[:-1], starts[1:], strict=True):
        if text:
            assert text == b"\\".join((f"{v:.4f}" if abs(v) >= 5e-5 else "0.0000").encode() for v in points[first:after].ravel())
            assert np.abs(read_numbers([text]) - points[first:after].ravel()).max() <= 0.50001e-4
            assert max(map(len, text.split(b"\\"))) <= 16


def test_numbers_of_any_size_fit_in_16_characters() -> None:
    values = np.array([[123456.789, -2e10, 3e-20], [-1.5e300, 99999999999.0, 1e15]])
    (text,) = Writer().lists(values, np.array([0, 2]))
    assert max(map(len, text.split(b"\\"))) <= 16 and np.allclose(read_numbers([text]), values.ravel(), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "text", [b" 1.5 \\-2\\+3.25\\1e2\\.5\\5.\\-0.125\\ 7", b"1.5000\\-2.0000\\3.2500\\100.0000\\0.5000\\5.0000\\-0.1250\\7.0000"]
)
def test_numbers_as_anybody_may_write_them(text: bytes) -> None:
    assert read_numbers([text]).tolist() == [1.5, -2.0, 3.25, 100.0, 0.5, 5.0, -0.125, 7.0]


@given(st.lists(st.from_regex(rb"\A[-+ ]?[0-9]{0,9}(\.[0-9]{0,9})?(e[0-9])?[ x]?\Z"), min_size=1, max_size=9))
def test_numbers_are_what_python_reads(texts: list[bytes]) -> None:
    expected = []
    for text in texts:
        try:
            expected.append(float(text))
        except ValueError:
            expected.append(float("nan"))
    np.testing.assert_array_equal(read_numbers(texts), expected)


@given(st.lists(st.tuples(st.sampled_from(["", "-"]), st.from_regex(r"\A[0-9]{0,8}\.[0-9]{1,8}\Z")), min_size=1, max_size=9))
def test_numbers_in_the_usual_form(texts: list[tuple[str, str]]) -> None:
    numbers = [sign + text for sign, text in texts]
    assert read_numbers(["\\".join(numbers).encode()]).tolist() == [float(number) for number in numbers]


def test_numbers_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decimals, "_AT_ONCE", 3)
    assert read_numbers([b"1.5\\2\\3.25", b"4.5\\5.5\\-6.5\\x\\8.5"]).tolist()[:6] == [1.5, 2, 3.25, 4.5, 5.5, -6.5]


def test_no_numbers() -> None:
    found = read_numbers([b"1\\x\\\\-\\3.\0\\4"])
    assert found[0] == 1 and found[5] == 4 and np.isnan(found[1:4]).all()
