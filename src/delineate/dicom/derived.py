"""What all files made from an image say: whose it is, which images they refer to, who made them and when; and how they are saved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from delineate.dicom.header import IMPLICIT
from delineate.dicom.nesting import flat_text
from delineate.dicom.parts import pydicom
from delineate.dicom.source import Series
from delineate.dicom.uids import follows, new_uid
from delineate.errors import ImageError

_MAKER: Final = "Delineate"
_BEHIND: Final = 1000
_LARGEST: Final = 2**31 - 1  # of an integer string

# Of the image's patient and study: what a file must have although it may be empty, and what it has where it is known.
REQUIRED: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
OPTIONAL: Final = ("IssuerOfPatientID", "StudyDescription", "PatientAge", "PatientSize", "PatientWeight")

Code = tuple[str, str, str]
"""Value, coding scheme, meaning."""


def require_uids(source: Series, what: str) -> None:
    """Raise `ImageError` for an image with empty UIDs, to which `what` cannot refer."""
    if missing := source.missing_uids:
        raise ImageError(
            f"{what} cannot refer to this image: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} empty",
            "Export the image again with its UIDs, or write the structures as NIfTI.",
        )


def derived(source: Series, sop_class: str, modality: str, at: datetime, description: str, uid: str) -> Any:
    """A data set with the image's patient, study and frame of reference, and a series and equipment of its own.

    uid : SOP Instance UID, from which the series' own follows; both new where empty
    """
    date, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    return item(
        SpecificCharacterSet="ISO_IR 192",
        InstanceCreationDate=date,
        InstanceCreationTime=time,
        SOPClassUID=sop_class,
        SOPInstanceUID=uid or new_uid(),
        StudyInstanceUID=source.study_uid,
        SeriesInstanceUID=follows(uid, "series"),
        SeriesDate=date,
        SeriesTime=time,
        SeriesNumber=_number(source),
        SeriesDescription=description[:64],
        Modality=modality,
        Manufacturer=_MAKER,
        ManufacturerModelName=_MAKER,
        SoftwareVersions=version("delineate"),
        FrameOfReferenceUID=source.frame_of_reference,
        PositionReferenceIndicator="",
        **dict(_taken_over(source)),
    )


def _number(source: Series) -> int:
    """A series number behind the image's: viewers show series in the order of their numbers, some the first one alone."""
    text = flat_text(source.attributes.get("SeriesNumber")).strip()
    number = int(text) if text.isascii() and text.isdigit() else 0
    return number + _BEHIND if number + _BEHIND <= _LARGEST else _LARGEST


def _taken_over(source: Series) -> Iterator[tuple[str, str]]:
    """Attributes of the image as they are, as text in another character set."""
    for name in (*REQUIRED, *OPTIONAL):
        value = source.attributes.get(name)
        text = flat_text(value)
        if text or name in REQUIRED:
            yield name, text


def references(source: Series) -> list[Any]:
    """An item for each instance of the image."""
    instances = dict.fromkeys((instance.sop_class, instance.sop_instance) for instance in source.instances)
    return [item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for kind, uid in instances]


def coded(code: Code) -> Any:
    """An item of a code sequence."""
    value, scheme, words = code
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=words[:64])


def item(**attributes: Any) -> Any:
    """A data set of these attributes."""
    data = pydicom().Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def beginning(data: Any, syntax: str) -> bytes:
    """What stands in a file before the data set: preamble and meta information."""
    library = pydicom()
    meta = library.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = library.uid.UID(syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    file = BytesIO()
    library.filewriter.write_file_meta_info(file, meta, enforce_standard=True)
    return b"\0" * 128 + b"DICM" + file.getvalue()


def encoded(data: Any, syntax: str) -> bytes:
    """The elements of a data set, little endian; implicit where the syntax is."""
    library = pydicom()
    buffer = library.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == IMPLICIT
    library.filewriter.write_dataset(buffer, data, "utf8")
    content: bytes = buffer.getvalue()
    return content


@contextlib.contextmanager
def saved(path: Path) -> Iterator[BinaryIO]:
    """A file to write, that is at `path` when it is whole, or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w+b") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
