"""All of an RTSTRUCT file but its contours, as bytes: what it says of itself, references, names, types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from delineate.dicom.codes import Meaning
from delineate.dicom.derived import beginning, coded, derived, encoded, item, references
from delineate.dicom.header import IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.dicom.source import Series
from delineate.dicom.structure_set import ROI_CONTOURS, RTSTRUCT

_STUDY: Final = "1.2.840.10008.3.1.2.3.1"  # what the standard wants here, though retired elsewhere


class Written(NamedTuple):
    """A region: its name in the file, what is known of that structure, and its code where it brings one."""

    name: str
    meaning: Meaning
    code: str


def written_before_contours(
    regions: Sequence[Written], source: Series, label: str, description: str, at: datetime | None, uid: str
) -> tuple[bytes, bytes]:
    """The file's bytes before and after ROIContourSequence, implicit VR little endian."""
    at = at or datetime.now()
    label = label or description or "Delineate"
    data = derived(source, RTSTRUCT, "RTSTRUCT", at, description or label, uid)
    if description:
        data.StructureSetDescription = description[:1024]
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
    return item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.frame_of_reference,
        ROIName=region.name,
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(number: int, region: Written) -> Any:
    data = item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIInterpretedType=region.meaning.kind,
        ROIInterpreter="",
    )
    code = region.code or region.meaning.code
    if code:
        words = region.meaning.organ if code == region.meaning.code else region.name
        data.RTROIIdentificationCodeSequence = [coded((code, "SCT", words))]
    return data
