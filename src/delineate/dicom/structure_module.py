"""All of an RTSTRUCT file but its contours, as bytes: what it says of itself, references, names, types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from delineate.dicom.codes import Meaning
from delineate.dicom.derived import beginning, coded, derived, encoded, item, references
from delineate.dicom.header import IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.dicom.said import (
    BY,
    CATEGORY,
    DESCRIPTION,
    KIND,
    MADE,
    coded_on,
    codes_in,
    identified,
    modified,
    properties_in,
)
from delineate.dicom.source import Series
from delineate.dicom.structure_set import ROI_CONTOURS, RTSTRUCT
from delineate.segmentation import Structure

_STUDY: Final = "1.2.840.10008.3.1.2.3.1"  # what the standard wants here, though retired elsewhere


class Written(NamedTuple):
    """A region: its name in the file, the structure, and what its name means."""

    name: str
    structure: Structure
    meaning: Meaning


def written_before_contours(
    regions: Sequence[Written], source: Series, label: str, description: str, remark: str, at: datetime | None, uid: str
) -> tuple[bytes, bytes]:
    """The file's bytes before and after ROIContourSequence, implicit VR little endian.

    remark : what stands behind the description and names nothing.
    """
    at = at or datetime.now()
    label = label or description or "Delineate"
    data = derived(source, RTSTRUCT, "RTSTRUCT", at, description or label, uid)
    if told := "; ".join(filter(None, (description, remark))):
        data.StructureSetDescription = told[:1024]
    values = item(
        OperatorsName="",
        StructureSetLabel=label[:16],
        StructureSetName=label[:64],
        StructureSetDate=at.strftime("%Y%m%d"),
        StructureSetTime=at.strftime("%H%M%S"),
        ApprovalStatus="UNAPPROVED",
        ReferencedFrameOfReferenceSequence=[_frame_of_reference(source)],
        StructureSetROISequence=[_region(number, region, source) for number, region in enumerate(regions, 1)],
        RTROIObservationsSequence=[_observation(number, region) for number, region in enumerate(regions, 1)],
    )
    data.update(values)
    library = pydicom()
    before, after = (
        library.Dataset({tag: data[tag] for tag in data.keys() if (tag < ROI_CONTOURS) is is_before})  # noqa: SIM118
        for is_before in (True, False)
    )
    return beginning(data, IMPLICIT) + encoded(before, IMPLICIT), encoded(after, IMPLICIT)


def _frame_of_reference(source: Series) -> Any:
    series = item(SeriesInstanceUID=source.series_uid, ContourImageSequence=references(source))
    study = item(ReferencedSOPClassUID=_STUDY, ReferencedSOPInstanceUID=source.study_uid, RTReferencedSeriesSequence=[series])
    return item(FrameOfReferenceUID=source.frame_of_reference, RTReferencedStudySequence=[study])


def _region(number: int, region: Written, source: Series) -> Any:
    said = region.structure.said
    data = item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.frame_of_reference,
        ROIName=region.name,
        ROIGenerationAlgorithm=said.get(MADE, "AUTOMATIC"),
    )
    if DESCRIPTION in said:
        data.ROIDescription = said[DESCRIPTION]
    if BY in said:
        data.ROIGenerationDescription = said[BY]
    return data


def _observation(number: int, region: Written) -> Any:
    said = region.structure.said
    data = item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIInterpretedType=said.get(KIND) or region.meaning.kind,
        ROIInterpreter="",
    )
    if codes := identified(region.structure, region.name, region.meaning):
        data.RTROIIdentificationCodeSequence = [coded_on(codes, modified(region.structure))]
    if category := codes_in(said, CATEGORY):
        data.SegmentedPropertyCategoryCodeSequence = [coded(code) for code in category]
    if properties := properties_in(said):
        data.ROIPhysicalPropertiesSequence = properties
    return data
