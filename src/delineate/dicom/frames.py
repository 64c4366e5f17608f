"""The frames of enhanced images: where each lies, and its scale, by functional groups (PS3.3, C.7.6.16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from delineate.dicom.header import AGAIN, Header
from delineate.dicom.parts import pydicom
from delineate.dicom.pixel_format import PixelFormat
from delineate.dicom.pixels import format_of
from delineate.dicom.slices import Slice, checked_orientation, checked_slope, checked_spacing, units_of
from delineate.errors import DelineateError, ImageError

# What may tell frames at the same place apart: name, sequence, attribute.
_APART: Final = (
    ("StackID", "FrameContentSequence", "StackID"),
    ("TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex"),
    ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    ("DiffusionGradientOrientation", "MRDiffusionSequence", "DiffusionGradientDirectionSequence"),
    ("NominalPercentageOfCardiacPhase", "CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("TriggerTime", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("ConvolutionKernel", "CTReconstructionSequence", "ConvolutionKernel"),
    ("ImageType", "MRImageFrameTypeSequence", "FrameType"),
    ("ImageType", "CTImageFrameTypeSequence", "FrameType"),
    ("ImageType", "PETFrameTypeSequence", "FrameType"),
    ("AcquisitionNumber", "FrameContentSequence", "FrameAcquisitionNumber"),
)


def frames_of(header: Header) -> list[Slice]:
    """Every frame of an enhanced image.

    Raises
    ------
    ImageError
        A functional group is missing or makes no sense; names file, frame and attribute.
    """
    if "ModalityLUTSequence" in header.elements:
        raise ImageError(f"{header.name} has frames and one table of real values (ModalityLUTSequence), which is not read", AGAIN)
    try:
        data = pydicom().dcmread(header.path, stop_before_pixels=True, force=True)
        shared = data.get("SharedFunctionalGroupsSequence") or [None]
        groups = data.PerFrameFunctionalGroupsSequence
        if len(groups) != header.frames:
            raise ImageError(f"NumberOfFrames of {header.name} is {header.frames}, its functional groups are {len(groups)}", AGAIN)
        form = format_of(header)
        return [_frame(header, form, shared[0], group, number) for number, group in enumerate(groups)]
    except DelineateError:
        raise
    except Exception as error:  # what a library makes of damaged sequences is anything
        raise ImageError(f"PerFrameFunctionalGroupsSequence of {header.name} cannot be read", AGAIN) from error


def _frame(header: Header, form: PixelFormat, shared: Any, own: Any, number: int) -> Slice:
    name = f"{header.name} frame {number + 1}"

    def found(sequence: str, attribute: str) -> Any:
        for group in (own, shared):
            items = group.get(sequence) if group is not None else None
            if items:
                value = items[0].get(attribute)
                if value not in (None, ""):
                    return value
        return None

    def numbers(sequence: str, attribute: str, count: int) -> tuple[float, ...]:
        value = found(sequence, attribute)
        values = tuple(float(part) for part in value) if value is not None else ()
        if len(values) != count:
            raise ImageError(f"{name} has no {attribute}", AGAIN)
        return values

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    slope = found("PixelValueTransformationSequence", "RescaleSlope")
    intercept = found("PixelValueTransformationSequence", "RescaleIntercept")
    kind = str(found("PixelValueTransformationSequence", "RescaleType") or "")
    apart = {key: _word(value) for key, sequence, attribute in _APART if (value := found(sequence, attribute)) is not None}
    if instance := header.text("InstanceNumber"):
        apart["InstanceNumber"] = instance
    return Slice(
        header=header,
        form=form,
        frame=number,
        position=(position[0], position[1], position[2]),
        orientation=checked_orientation(numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6), name),
        spacing=checked_spacing(numbers("PixelMeasuresSequence", "PixelSpacing", 2), name),
        thickness=float(found("PixelMeasuresSequence", "SliceThickness") or 0.0),
        step=float(found("PixelMeasuresSequence", "SpacingBetweenSlices") or 0.0),
        slope=checked_slope(1.0 if slope is None else float(slope), name),
        intercept=0.0 if intercept is None else float(intercept),
        said=(slope is not None, intercept is not None),
        units=units_of(header.text("Modality"), kind, header.text("Units")),
        apart=apart,
    )


def _word(value: Any) -> str:
    if hasattr(value, "tag_attributes") or type(value).__name__ == "Sequence":  # the direction stands one sequence deeper
        return _word(value[0].get("DiffusionGradientOrientation", "")) if len(value) else ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\\".join(str(part) for part in value)
    return str(value)
