"""The attributes that grouping and reading look at: tags by name, as in PS3.6, and which are text and which binary."""

from __future__ import annotations

from typing import Final

TAGS: Final[dict[str, int]] = {
    "MediaStorageSOPClassUID": 0x00020002,
    "TransferSyntaxUID": 0x00020010,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "SeriesDescription": 0x0008103E,
    "PatientID": 0x00100020,
    "ScanOptions": 0x00180022,
    "SliceThickness": 0x00180050,
    "RepetitionTime": 0x00180080,
    "EchoTime": 0x00180081,
    "InversionTime": 0x00180082,
    "EchoNumbers": 0x00180086,
    "SpacingBetweenSlices": 0x00180088,
    "ConvolutionKernel": 0x00181210,
    "TriggerTime": 0x00181060,
    "NominalPercentageOfCardiacPhase": 0x00209241,
    "DiffusionBValue": 0x00189087,
    "DiffusionGradientOrientation": 0x00189089,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "ModalityLUTSequence": 0x00283000,
    "RealWorldValueMappingSequence": 0x00409096,
    "Units": 0x00541001,
    "SharedFunctionalGroupsSequence": 0x52009229,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
}

NAMES: Final[dict[int, str]] = {tag: name for name, tag in TAGS.items()}

SHORTS: Final = frozenset(("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"))
"""Binary, two bytes (US)."""

DOUBLES: Final = frozenset(("DiffusionBValue", "DiffusionGradientOrientation", "NominalPercentageOfCardiacPhase"))
"""Binary, eight bytes a value (FD); old files have them as text."""

PRESENCE: Final = frozenset(
    ("ModalityLUTSequence", "RealWorldValueMappingSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
)
"""Sequences, of which only is kept that they are there."""

PIXELS: Final = 0x7FE00010
FLOAT_PIXELS: Final = frozenset((0x7FE00008, 0x7FE00009))

# Attributes by which the slices of one series at the same places may belong to several images, in the order in which
# they are tried; with what a person calls them.
APART: Final[dict[str, str]] = {
    "TemporalPositionIdentifier": "temporal position",
    "EchoTime": "echo time",
    "EchoNumbers": "echo",
    "InversionTime": "inversion time",
    "DiffusionBValue": "b-value",
    "DiffusionGradientOrientation": "direction of diffusion",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "TriggerTime": "trigger time",
    "ConvolutionKernel": "kernel",
    "ImageType": "image type",
    "AcquisitionNumber": "acquisition",
}
