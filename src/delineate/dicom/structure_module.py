"""All of an RTSTRUCT file but its contours, as bytes: patient, study, equipment, references, names, types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from io import BytesIO
from typing import Any, Final, NamedTuple

from delineate.dicom.codes import Meaning
from delineate.dicom.header import IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.dicom.source import Series
from delineate.dicom.structure_set import ROI_CONTOURS, RTSTRUCT

_STUDY: Final = "1.2.840.10008.3.1.2.3.1"  # what the standard wants here, though retired elsewhere
_MAKER: Final = "Delineate"

# Of the image's patient and study; what a file must have although it may be empty.
_KEPT: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_KEPT_IF_THERE: Final = ("IssuerOfPatientID", "StudyDescription", "PatientAge", "PatientSize", "PatientWeight")


class Written(NamedTuple):
    """A region: its name in the file, what is known of that structure, and its code where it brings one."""

    name: str
    meaning: Meaning
    code: str


def written_before_contours(
    regions: Sequence[Written], source: Series, label: str, description: str, at: datetime | None, uid: str
) -> tuple[bytes, bytes]:
    """The file's bytes before and after ROIContourSequence, implicit VR little endian."""
    library = pydicom()
    data = _about(source, label, description, at or datetime.now())
    data.StudyInstanceUID = source.study_uid
    data.SOPInstanceUID = uid or library.uid.generate_uid(prefix=None)
    data.SeriesInstanceUID = library.uid.generate_uid(prefix=None)
    data.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    data.StructureSetROISequence = [_region(number, item, source) for number, item in enumerate(regions, 1)]
    data.RTROIObservationsSequence = [_observation(number, item) for number, item in enumerate(regions, 1)]
    data.file_meta = library.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = library.uid.UID(IMPLICIT)
    before, after = (library.Dataset({tag: data[tag] for tag in part}) for part in _halves(data))
    before.file_meta = data.file_meta
    file = BytesIO()
    library.dcmwrite(file, before, enforce_file_format=True)
    return file.getvalue(), _encoded(after)


def _halves(data: Any) -> tuple[list[Any], list[Any]]:
    tags = list(data.keys())
    return [tag for tag in tags if tag < ROI_CONTOURS], [tag for tag in tags if tag > ROI_CONTOURS]


def _encoded(data: Any) -> bytes:
    library = pydicom()
    buffer = library.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    library.filewriter.write_dataset(buffer, data, "utf8")
    content: bytes = buffer.getvalue()
    return content


def _about(source: Series, label: str, description: str, at: datetime) -> Any:
    date, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    data = _item(
        SpecificCharacterSet="ISO_IR 192",
        InstanceCreationDate=date,
        InstanceCreationTime=time,
        SOPClassUID=RTSTRUCT,
        SeriesDate=date,
        SeriesTime=time,
        Modality="RTSTRUCT",
        Manufacturer=_MAKER,
        SeriesDescription=description[:64] or label[:64],
        OperatorsName="",
        ManufacturerModelName=_MAKER,
        SoftwareVersions=version("delineate"),
        SeriesNumber=1,
        FrameOfReferenceUID=source.frame_of_reference,
        PositionReferenceIndicator="",
        StructureSetLabel=label[:16],
        StructureSetName=label[:64],
        StructureSetDate=date,
        StructureSetTime=time,
        ApprovalStatus="UNAPPROVED",
    )
    for name, value in _kept(source.attributes):
        setattr(data, name, value)
    return data


def _kept(attributes: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of the image as they are, as text in another character set."""
    for name in (*_KEPT, *_KEPT_IF_THERE):
        value = attributes.get(name)
        if value is not None and value != "":
            yield name, str(value)
        elif name in _KEPT:
            yield name, ""


def _frame_of_reference(source: Series) -> Any:
    instances = dict.fromkeys((item.sop_class, item.sop_instance) for item in source.instances)
    images = [_item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for kind, uid in instances]
    series = _item(SeriesInstanceUID=source.series_uid, ContourImageSequence=images)
    study = _item(ReferencedSOPClassUID=_STUDY, ReferencedSOPInstanceUID=source.study_uid, RTReferencedSeriesSequence=[series])
    return _item(FrameOfReferenceUID=source.frame_of_reference, RTReferencedStudySequence=[study])


def _region(number: int, region: Written, source: Series) -> Any:
    return _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.frame_of_reference,
        ROIName=region.name,
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(number: int, region: Written) -> Any:
    data = _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        ROIObservationLabel=region.name[:16],
        RTROIInterpretedType=region.meaning.kind,
        ROIInterpreter="",
    )
    code = region.code or region.meaning.code
    if code:
        words = region.meaning.organ if code == region.meaning.code else region.name
        data.RTROIIdentificationCodeSequence = [_item(CodeValue=code, CodingSchemeDesignator="SCT", CodeMeaning=words[:64])]
    return data


def _item(**attributes: Any) -> Any:
    data = pydicom().Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data
