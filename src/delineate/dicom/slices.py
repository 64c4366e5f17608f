"""One plane of an image: a file, or a frame of one; and which files are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from delineate.dicom.attributes import APART
from delineate.dicom.header import AGAIN, Header
from delineate.dicom.modality_table import ModalityTable, table_of
from delineate.dicom.pixel_format import PixelFormat
from delineate.dicom.pixels import format_of
from delineate.errors import ImageError
from delineate.geometry import ORTHOGONALITY_TOLERANCE, Vector

DIRECTORY: Final = "1.2.840.10008.1.3.10"
LOCALISER: Final = "a localiser (scout)"
CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_CONVERT: Final = "Convert it to a NIfTI or NRRD file with a program that knows this kind."

# What is no image although it may have pixels, by modality.
_OTHERS: Final = {
    "SEG": "a segmentation, no image", "RTDOSE": "a dose, no image", "RTSTRUCT": "contours (RTSTRUCT), no image",
    "RTPLAN": "a treatment plan, no image", "RTRECORD": "a treatment record, no image", "SR": "a report, no image",
    "PR": "a presentation state, no image", "KO": "a selection of images, no image", "REG": "a registration, no image",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One plane.

    header : of its file; form : of its pixels; frame : from 0 within the file; position : centre of the first pixel, LPS mm;
    orientation : cosines of the directions in which columns and rows are counted; spacing : between columns, between rows,
    mm; thickness, step : Slice Thickness and Spacing Between Slices, mm, 0 where nobody says; slope, intercept, units : of the
    real value; said : whether the file gives slope and intercept; table : instead of these; apart : what may tell images at the same
    places apart.
    """

    header: Header
    form: PixelFormat
    frame: int = 0
    position: Vector
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float = 0.0
    step: float = 0.0
    slope: float = 1.0
    intercept: float = 0.0
    said: tuple[bool, bool] = (True, True)
    table: ModalityTable | None = None
    units: str = ""
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How to call it to a person."""
        return self.header.name if self.header.frames == 1 else f"{self.header.name} frame {self.frame + 1}"

    @property
    def normal(self) -> np.ndarray:
        """The unit vector along which planes are sorted."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def why_not(header: Header) -> str:
    """Why a file is no slice of an image, in words; empty where it may be one."""
    if DIRECTORY in (header.text("MediaStorageSOPClassUID"), header.text("SOPClassUID")):
        return "an index of files (DICOMDIR)"
    modality = header.text("Modality")
    if modality in _OTHERS:
        return _OTHERS[modality]
    if not header.has_pixels:
        is_float = "FloatPixelData" in header.elements
        return "with floating point pixels, which are not read" if is_float else f"no image (modality {modality or 'unknown'})"
    kind = header.texts("ImageType")[2:]
    if "LOCALIZER" in kind or "SCOUT" in kind:
        return LOCALISER
    samples, photometric = header.short("SamplesPerPixel"), header.text("PhotometricInterpretation")
    if samples not in (None, 1) or photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        return f"in colour ({photometric or f'{samples} values in a pixel'})"
    if header.text("SOPClassUID") == CAPTURE:
        return "a secondary capture"
    if "PerFrameFunctionalGroupsSequence" in header.elements:
        return ""
    if header.frames > 1:
        return f"{header.frames} frames without a place for each"
    if not header.text("ImagePositionPatient") or not header.text("ImageOrientationPatient"):
        missing = "ImagePositionPatient" if not header.text("ImagePositionPatient") else "ImageOrientationPatient"
        return f"nobody knows where it is (no {missing})"
    return ""


def slice_of(header: Header) -> Slice:
    """The slice in a file of one.

    Raises
    ------
    ImageError
        An attribute that is needed is missing or makes no sense; names file and attribute.
    """
    position = header.numbers("ImagePositionPatient", 3)
    orientation = header.numbers("ImageOrientationPatient", 6)
    between = header.numbers("PixelSpacing", 2)
    for name, value in (("ImagePositionPatient", position), ("ImageOrientationPatient", orientation), ("PixelSpacing", between)):
        if value is None:
            raise ImageError(f"{header.name} has no {name}", _CONVERT)
    assert position is not None and orientation is not None and between is not None
    table = table_of(header)
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    modality = header.text("Modality")
    return Slice(
        header=header,
        form=format_of(header),
        position=(position[0], position[1], position[2]),
        orientation=checked_orientation(orientation, header.name),
        spacing=checked_spacing(between, header.name),
        thickness=length(header, "SliceThickness"),
        step=length(header, "SpacingBetweenSlices"),
        slope=checked_slope(1.0 if slope is None else slope, header.name),
        intercept=0.0 if intercept is None else intercept,
        said=(slope is not None, intercept is not None),
        table=table,
        units=units_of(modality, header.text("RescaleType") if table is None else table.kind, header.text("Units")),
        apart={name: word for name in APART if (word := header.word(name))},
    )


def checked_orientation(values: tuple[float, ...], name: str) -> tuple[float, ...]:
    """Six cosines as perpendicular unit vectors; `ImageError` where they are far from it."""
    row, column = np.array(values[:3]), np.array(values[3:])
    far = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if far > ORTHOGONALITY_TOLERANCE:
        raise ImageError(f"ImageOrientationPatient of {name} is not two perpendicular unit vectors", AGAIN)
    if far <= 1e-9:
        return values
    row /= np.sqrt(row @ row)
    column -= (row @ column) * row
    column /= np.sqrt(column @ column)
    return (*row.tolist(), *column.tolist())


def checked_spacing(between: tuple[float, ...], name: str) -> tuple[float, float]:
    """(between columns, between rows) of Pixel Spacing, which has the rows first; `ImageError` where not positive."""
    if min(between) <= 0:
        raise ImageError(f"PixelSpacing of {name} is not positive", AGAIN)
    return (between[1], between[0])


def checked_slope(slope: float, name: str) -> float:
    """Rescale Slope; `ImageError` for 0, with which all voxels would be one value."""
    if slope == 0:
        raise ImageError(f"RescaleSlope of {name} is 0", AGAIN)
    return slope


def units_of(modality: str, kind: str, units: str) -> str:
    """Units of the real value: Rescale Type and Units where they say it, Hounsfield units for a CT that says nothing."""
    if kind and kind != "US":
        return kind
    return "HU" if modality == "CT" and not kind else units


def length(header: Header, name: str) -> float:
    """A length that only helps: 0 where it is missing or makes no sense."""
    try:
        found = header.number(name)
    except ImageError:
        return 0.0
    return abs(found) if found is not None else 0.0
