"""All of a SEG file but its frames: what it says of itself, references, segments, dimensions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple

from delineate.dicom.cielab import to_cielab
from delineate.dicom.codes import lookup
from delineate.dicom.derived import Code, beginning, coded, derived, encoded, item, references
from delineate.dicom.header import EXPLICIT
from delineate.dicom.parts import pydicom
from delineate.dicom.said import (
    BY,
    CATEGORY,
    CODES,
    DESCRIPTION,
    KIND,
    MADE,
    SNOMED,
    TRACKING,
    TRACKING_UID,
    Said,
    as_words,
    coded_on,
    codes_in,
    identified,
    modified,
    of_segment,
)
from delineate.dicom.source import Series
from delineate.dicom.uids import follows
from delineate.segmentation import Structure

Kind = Literal["binary", "fractional", "labelmap"]

SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP: Final = "1.2.840.10008.5.1.4.1.1.66.7"
MAXIMUM: Final = 255
"""Of fractional values."""

# Codes of SNOMED CT and of DICOM itself (PS3.16, annex D; context groups 7150, 7151, 7162, 244).
_ANATOMICAL: Final[Code] = ("91723000", "SCT", "Anatomical Structure")
_ABNORMAL: Final[Code] = ("49755003", "SCT", "Morphologically Abnormal Structure")
_SPATIAL: Final[Code] = ("309825002", "SCT", "Spatial and Relational Concept")
_OBJECT: Final[Code] = ("260787004", "SCT", "Physical object")
_TISSUE: Final[Code] = ("85756007", "SCT", "Tissue")

# Category and type by RT ROI Interpreted Type, where a structure has no code of its own; tissue where it has no type either.
_BY_TYPE: Final[dict[str, tuple[Code, Code]]] = {
    "GTV": (_ABNORMAL, ("228791009", "SCT", "Gross tumor volume")),
    "CTV": (_SPATIAL, ("228792002", "SCT", "Clinical target volume")),
    "PTV": (_SPATIAL, ("228793007", "SCT", "Planning target volume")),
    "EXTERNAL": (_SPATIAL, ("130047", "DCM", "External Body Model")),
    "SUPPORT": (_OBJECT, _OBJECT),
}
_OTHERS: Final = (_ANATOMICAL, _TISSUE)
GENERAL: Final = {**{code[0]: kind for kind, (_, code) in _BY_TYPE.items() if code != _OBJECT}, _OBJECT[0]: "", _TISSUE[0]: ""}
"""Types by SNOMED CT and DICOM that say no more than what a structure is to a planner; and as what."""

_FAMILY: Final[Code] = ("123110", "DCM", "Artificial Intelligence")
_UNKNOWN: Final = ("SEMIAUTOMATIC", "unknown")  # where nobody said how: the standard wants one of three words


class About(NamedTuple):
    """What a file says of how it was made; uid : SOP Instance UID, new where empty; syntax : transfer syntax."""

    label: str
    description: str
    algorithm: str
    version: str
    at: datetime
    uid: str
    syntax: str


def before_frames(
    kind: Kind, structures: Sequence[Structure], names: Sequence[str], frames: int, source: Series, about: About, overlap: str
) -> tuple[bytes, bytes]:
    """What stands before the data set, and that up to its per-frame functional groups, explicit VR little endian."""
    data = derived(source, LABELMAP if kind == "labelmap" else SEGMENTATION, "SEG", about.at, about.description or about.label, about.uid)
    values = item(
        ImageType=["DERIVED", "PRIMARY"],
        InstanceNumber=1,
        DeviceSerialNumber="0",  # the standard wants one
        ContentDate=about.at.strftime("%Y%m%d"),
        ContentTime=about.at.strftime("%H%M%S"),
        ContentLabel=_code_string(about.label),
        ContentDescription=about.description[:64],
        ContentCreatorName="",
        SegmentationType=kind.upper(),
        SegmentSequence=[_segment(number, *pair, about) for number, pair in enumerate(zip(structures, names, strict=True), 1)],
        ReferencedSeriesSequence=[item(SeriesInstanceUID=source.series_uid, ReferencedInstanceSequence=references(source))],
        SharedFunctionalGroupsSequence=[_shared(source)],
    )
    data.update(values)
    _set_dimensions(data, kind, about.uid)
    _set_pixel_format(data, kind, len(structures), frames, source)
    if kind != "fractional":
        data.SegmentsOverlap = overlap
    return beginning(data, about.syntax), encoded(data, EXPLICIT)


def _code_string(text: str) -> str:
    return re.sub(r"[^A-Z0-9_ ]", "_", text.upper())[:16].strip() or "SEGMENTATION"


def _set_dimensions(data: Any, kind: Kind, file_uid: str) -> None:
    uid = follows(file_uid, "dimensions")
    pointers = [("ImagePositionPatient", 0x00200032, 0x00209113)]
    if kind != "labelmap":
        pointers.insert(0, ("ReferencedSegmentNumber", 0x0062000B, 0x0062000A))
    data.DimensionOrganizationSequence = [item(DimensionOrganizationUID=uid)]
    data.DimensionIndexSequence = [
        item(DimensionOrganizationUID=uid, DimensionIndexPointer=tag, FunctionalGroupPointer=group, DimensionDescriptionLabel=label)
        for label, tag, group in pointers
    ]


def bits_of(kind: Kind, segments: int) -> int:
    """Of a pixel."""
    if kind == "labelmap":
        return 8 if segments <= 255 else 16
    return 1 if kind == "binary" else 8


def _set_pixel_format(data: Any, kind: Kind, segments: int, frames: int, source: Series) -> None:
    bits = bits_of(kind, segments)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.NumberOfFrames = frames
    data.Columns, data.Rows = source.planes.size
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.LossyImageCompression = "00"
    if kind == "labelmap":
        data.PixelPaddingValue = 0
        data["PixelPaddingValue"].VR = "US"
    if kind == "fractional":
        data.SegmentationFractionalType, data.MaximumFractionalValue = "OCCUPANCY", MAXIMUM


def _segment(number: int, structure: Structure, name: str, about: About) -> Any:
    said = structure.said
    category, codes = _what(structure, name)
    data = item(
        SegmentNumber=number,
        SegmentLabel=name,
        SegmentedPropertyCategoryCodeSequence=[coded(category)],
        SegmentedPropertyTypeCodeSequence=[coded_on(codes, modified(structure))],
        RecommendedDisplayCIELabValue=to_cielab(structure.colour or lookup(structure.name).colour or structure.rgb()),
        TrackingID=said.get(TRACKING) or f"{name} {number}",
        TrackingUID=said.get(TRACKING_UID) or follows(about.uid, f"segment {number}"),
    )
    data.update(_made(said, about))
    if DESCRIPTION in said:
        data.SegmentDescription = said[DESCRIPTION]
    if KIND in said:
        data.RTROIInterpretedType = said[KIND]  # the standard lets any attribute be added; this one has no other room here
    return data


def _what(structure: Structure, name: str) -> tuple[Code, list[Code]]:
    """Category and type: as they were said; else by the structure's codes, or by what it is to a planner. SNOMED CT goes first."""
    meaning = lookup(structure.name)
    codes = sorted(identified(structure, name, meaning), key=lambda code: code[1] != SNOMED)
    category, general = _BY_TYPE.get(structure.said.get(KIND) or meaning.kind, _OTHERS)
    if not codes or (codes[0][1] != SNOMED and general != _TISSUE):
        codes = [general, *codes]
    return next(iter(codes_in(structure.said, CATEGORY)), category), codes


def what_was_said(segment: Any) -> dict[str, str]:
    """What an item of SegmentSequence says, without what is written where nobody knows anything."""
    said = of_segment(segment)
    codes = codes_in(said, CODES)
    if kind := next((GENERAL[value] for value, _, _ in codes if value in GENERAL), ""):
        said.setdefault(KIND, kind)
    is_object = len(codes) == 1 and codes[0][0] == _OBJECT[0] and KIND not in said
    if codes and not is_object:
        said[CODES] = as_words(code for code in codes if code[0] not in GENERAL)
    implied = _BY_TYPE.get(said.get(KIND, ""), _OTHERS)[0]
    if any(value == implied[0] for value, _, _ in codes_in(said, CATEGORY)):
        del said[CATEGORY]
    return said


def _made(said: Said, about: About) -> Any:
    """How a segment was made: by us, or as it was said."""
    if MADE not in said:
        made = item(
            AlgorithmFamilyCodeSequence=[coded(_FAMILY)],
            AlgorithmName=about.algorithm[:64],
            AlgorithmVersion=(about.version or version("delineate"))[:64],
        )
        return item(
            SegmentAlgorithmType="AUTOMATIC",
            SegmentAlgorithmName=about.algorithm[:64],
            SegmentationAlgorithmIdentificationSequence=[made],
        )
    way, unknown = (said[MADE], "unknown") if said[MADE] else _UNKNOWN
    made = item(SegmentAlgorithmType=way)
    if way != "MANUAL" or BY in said:
        made.SegmentAlgorithmName = said.get(BY) or unknown
    return made


def _shared(source: Series) -> Any:
    planes = source.planes
    measures = item(
        PixelSpacing=[decimal(planes.spacing[1]), decimal(planes.spacing[0])],
        SliceThickness=decimal(planes.usual),
    )
    if planes.is_even:
        measures.SpacingBetweenSlices = decimal(planes.usual)
    return item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[decimal(value) for value in planes.orientation])],
        PixelMeasuresSequence=[measures],
    )


def decimal(value: float) -> str:
    """As exact as 16 characters allow (PS3.5, 6.2)."""
    text: str = pydicom().valuerep.format_number_as_ds(float(value))
    return text
