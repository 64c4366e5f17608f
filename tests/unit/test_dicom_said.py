"""What RTSTRUCT and SEG files say of structures beyond names and voxels stays when they are written again, by way of the other."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from delineate.dicom.derived import coded, item
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct
from delineate.dicom.seg import read_seg, write_seg
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation, Structure
from delineate.testing.dicom import stack_of, write_series

GRID = Geometry((9, 8, 3), (1.0, 1.5, 2.5), (-31.25, 14.4, -100.0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DicomImage:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, stack_of(np.zeros(GRID.shape, np.int16), GRID))
    return read(folder)


def segmentation(*names: str) -> Segmentation:
    layer = np.zeros(GRID.shape, np.uint8)
    for number in range(len(names)):
        layer[:, 1:6, number + 1] = number + 1
    return Segmentation(GRID, (layer,), tuple(Structure(name, number) for number, name in enumerate(names, 1)))


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
    return path


def planned(plain: DicomImage, path: Path) -> Path:
    """As a planning system would have it: an avoidance that a person drew, a couch of some density, a target with its own codes."""
    write_rtstruct(path, segmentation("Block", "Plate", "Boost", "Lunge li"), plain.series)

    def change(data: Any) -> None:
        regions, observations = data.StructureSetROISequence, data.RTROIObservationsSequence
        regions[0].ROIGenerationAlgorithm, regions[0].ROIDescription = "MANUAL", "drawn on PET"
        observations[0].RTROIInterpretedType = "AVOIDANCE"
        regions[1].ROIGenerationAlgorithm, regions[1].ROIGenerationDescription = "SEMIAUTOMATIC", "region growing"
        observations[1].RTROIInterpretedType = "SUPPORT"
        observations[1].ROIPhysicalPropertiesSequence = [item(ROIPhysicalProperty="REL_ELEC_DENSITY", ROIPhysicalPropertyValue="0.35")]
        regions[2].ROIGenerationAlgorithm = ""
        observations[2].RTROIInterpretedType = "PTV"
        observations[2].RTROIIdentificationCodeSequence = [coded(("PTVp", "99VMS_STRUCTCODE", "PTV Primary"))]
        observations[3].RTROIInterpretedType = "ORGAN"
        observations[3].RTROIIdentificationCodeSequence = [coded(("7310", "FMA", "Left lung"))]

    return changed(path, change)


def through(path: Path, plain: DicomImage, folder: Path) -> tuple[Any, Any]:
    """The SEG made of an RTSTRUCT, and the RTSTRUCT made of that."""
    write_seg(folder / "seg.dcm", read_rtstruct(path, plain.series), plain.series)
    write_rtstruct(folder / "again.dcm", read_seg(folder / "seg.dcm", plain.series), plain.series)
    return pydicom.dcmread(folder / "seg.dcm"), pydicom.dcmread(folder / "again.dcm")


def test_a_planners_words_come_back_by_way_of_a_seg(plain: DicomImage, tmp_path: Path) -> None:
    seg, again = through(planned(plain, tmp_path / "rs.dcm"), plain, tmp_path)
    observations, regions = again.RTROIObservationsSequence, again.StructureSetROISequence
    assert [region.RTROIInterpretedType for region in observations] == ["AVOIDANCE", "SUPPORT", "PTV", "ORGAN"]
    assert [region.ROIGenerationAlgorithm for region in regions][:2] == ["MANUAL", "SEMIAUTOMATIC"]
    assert regions[0].ROIDescription == "drawn on PET" and regions[1].ROIGenerationDescription == "region growing"
    assert "ROIDescription" not in regions[1]
    assert [segment.SegmentAlgorithmType for segment in seg.SegmentSequence] == ["MANUAL", "SEMIAUTOMATIC", "SEMIAUTOMATIC", "AUTOMATIC"]
    target = seg.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0]
    assert (target.CodeValue, target.EquivalentCodeSequence[0].CodeValue) == ("228793007", "PTVp")
    own = observations[2].RTROIIdentificationCodeSequence[0]
    assert own.CodeValue == "PTVp" and "EquivalentCodeSequence" not in own
    assert "RTROIIdentificationCodeSequence" not in observations[0] and "RTROIIdentificationCodeSequence" not in observations[1]
    lung = observations[3].RTROIIdentificationCodeSequence[0]
    assert (lung.CodeValue, lung.CodingSchemeDesignator, lung.CodeMeaning) == ("7310", "FMA", "Left lung")


def test_densities_stay_in_contours(plain: DicomImage, tmp_path: Path) -> None:
    found = read_rtstruct(planned(plain, tmp_path / "rs.dcm"), plain.series)
    write_rtstruct(tmp_path / "again.dcm", found, plain.series)
    properties = pydicom.dcmread(tmp_path / "again.dcm").RTROIObservationsSequence[1].ROIPhysicalPropertiesSequence
    assert [(item.ROIPhysicalProperty, item.ROIPhysicalPropertyValue) for item in properties] == [("REL_ELEC_DENSITY", 0.35)]


def test_a_segments_words_come_back(plain: DicomImage, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", segmentation("mass", "kidney"), plain.series)

    def change(data: Any) -> None:
        mass, kidney = data.SegmentSequence
        mass.SegmentAlgorithmType, mass.SegmentDescription = "MANUAL", "reader 2"
        mass.TrackingID, mass.TrackingUID = "Lesion 7", "1.2.3.4"
        mass.SegmentedPropertyCategoryCodeSequence = [coded(("49755003", "SCT", "Morphologically Abnormal Structure"))]
        mass.SegmentedPropertyTypeCodeSequence = [coded(("4147007", "SCT", "Mass"))]
        kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [coded(("7771000", "SCT", "Left"))]

    changed(tmp_path / "seg.dcm", change)
    write_seg(tmp_path / "again.dcm", read_seg(tmp_path / "seg.dcm", plain.series), plain.series)
    mass, kidney = pydicom.dcmread(tmp_path / "again.dcm").SegmentSequence
    assert (mass.SegmentAlgorithmType, mass.SegmentDescription, "SegmentAlgorithmName" in mass) == ("MANUAL", "reader 2", True)
    assert (mass.TrackingID, mass.TrackingUID) == ("Lesion 7", "1.2.3.4")
    assert mass.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert mass.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"
    assert kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


def test_what_a_model_made_is_called_so(plain: DicomImage, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "rs.dcm", segmentation("Lung_L", "Cochlea_R", "Whatsit"), plain.series)
    data = pydicom.dcmread(tmp_path / "rs.dcm")
    assert [item.ROIGenerationAlgorithm for item in data.StructureSetROISequence] == ["AUTOMATIC"] * 3
    lung, cochlea, other = data.RTROIObservationsSequence
    code = lung.RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == ("39607008", "Left")
    same = code.EquivalentCodeSequence[0]
    assert (same.CodeValue, same.CodingSchemeDesignator, same.CodeMeaning) == ("7310", "FMA", "Lung_L")
    code = cochlea.RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("60202", "FMA")
    assert "RTROIIdentificationCodeSequence" not in other


def test_numbers_of_the_fma_alone(plain: DicomImage, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "rs.dcm", segmentation("a", "b", "c"), plain.series)

    def change(data: Any) -> None:
        for number, region in enumerate(data.StructureSetROISequence):
            region.ROIName = "" if number != 1 else "Lunge"
        for region, code in zip(data.RTROIObservationsSequence, ("7309", "7310", "1"), strict=True):
            region.RTROIIdentificationCodeSequence = [coded((code, "FMA", "somewhere"))]

    notes: list[str] = []
    found = read_rtstruct(changed(tmp_path / "rs.dcm", change), GRID, notes=notes)
    assert [(each.name, each.code) for each in found] == [("Lung_R", "39607008"), ("Lunge", "39607008"), ("ROI 3", "")]
    assert notes == ["region 1 has no name: it is called Lung_R", "region 3 has no name: it is called ROI 3"]


def test_another_code_than_was_said_is_written(plain: DicomImage, tmp_path: Path) -> None:
    said = {"SegmentedPropertyTypeCodeSequence": "39607008^SCT^Lung\\7310^FMA^Left lung"}
    layer = np.ones(GRID.shape, np.uint8)
    corrected = Segmentation(GRID, (layer,), (Structure("Lung_L", 1, code="64033007", said=said),))
    write_rtstruct(tmp_path / "rs.dcm", corrected, plain.series)
    code = pydicom.dcmread(tmp_path / "rs.dcm").RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert code.CodeValue == "64033007"


def test_damaged_words_are_left_out(plain: DicomImage, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "rs.dcm", segmentation("a"), plain.series)

    def change(data: Any) -> None:
        observation = data.RTROIObservationsSequence[0]
        observation.RTROIInterpretedType = "a kind in small letters"
        observation.RTROIIdentificationCodeSequence = [coded(("1^2", "SCT", "x")), coded(("", "SCT", "x")), item(CodeMeaning="x")]
        observation.ROIPhysicalPropertiesSequence = [item(ROIPhysicalProperty="REL_ELEC_DENSITY", ROIPhysicalPropertyValue="")]
        data.StructureSetROISequence[0].ROIGenerationAlgorithm = "BY HAND"

    changed(tmp_path / "rs.dcm", change)
    assert read_rtstruct(tmp_path / "rs.dcm", GRID)["a"].said == {"SegmentAlgorithmType": ""}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_a_validator_finds_no_error(plain: DicomImage, tmp_path: Path) -> None:
    through(planned(plain, tmp_path / "rs.dcm"), plain, tmp_path)
    for name in ("seg.dcm", "again.dcm"):
        done = subprocess.run(["dciodvfy", "-new", tmp_path / name], capture_output=True, text=True, check=False)
        assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
