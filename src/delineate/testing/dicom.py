"""DICOM files made by formula: a series with whatever is odd about it, so that a reader's mistake shows.

Needs the extra ``dicom``. UIDs are made of numbers under the root of example UIDs; there is no patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.dicom.parts import pydicom
from delineate.geometry import Geometry

ROOT: Final = "1.2.826.0.1.3680043.8.498.1"
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
MR: Final = "1.2.840.10008.5.1.4.1.1.4"
PT: Final = "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_CT: Final = "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

Change = Callable[[Any, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Planes with voxels, to be written as a series.

    voxels : stored values, shape (planes, rows, columns), of 8, 16 or 32 bits; orientation : cosines of the directions in which
    columns and rows are counted; spacing : between columns, between rows, mm; positions : shape (planes, 3), LPS mm, in any
    order; series, number : of the series; stored : Bits Stored, 0 for all of them; syntax : transfer syntax UID; change :
    called with each data set and its number before it is written.
    """

    voxels: np.ndarray
    orientation: Sequence[float]
    spacing: tuple[float, float]
    positions: np.ndarray
    modality: str = "CT"
    sop_class: str = CT
    series: int = 1
    study: int = 1
    frame: int = 1
    stored: int = 0
    syntax: str = EXPLICIT
    change: Change = field(default=lambda data, number: None)

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return f"{ROOT}.{self.study}.{self.series}"


def stack_of(voxels: np.ndarray, geometry: Geometry, **other: Any) -> Stack:
    """The planes of an image on a grid, of whatever handedness."""
    matrix = geometry.matrix
    positions = np.array([geometry.to_world((0, 0, index)) for index in range(geometry.size[2])])
    across = (geometry.spacing[0], geometry.spacing[1])
    return Stack(voxels=voxels, orientation=(*matrix[:, 0], *matrix[:, 1]), spacing=across, positions=positions, **other)


def orientations(degrees: float = 0.0) -> Iterator[np.ndarray]:
    """All 48 orders and flips of axes, as 3 x 3 matrices whose columns are index axes, each turned by an angle about (1, 2, 3)."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            yield turn @ (np.eye(3)[:, order] * np.array(signs))


def sheared(stack: Stack, degrees: float) -> np.ndarray:
    """The positions of a stack whose planes slide along their rows' direction, as with a tilted gantry."""
    row, column = np.array(stack.orientation[:3]), np.array(stack.orientation[3:])
    along = stack.positions @ np.cross(row, column)
    shifted: np.ndarray = stack.positions + np.outer((along - along[0]) * np.tan(np.radians(degrees)), column)
    return shifted


def write_series(folder: Path, stack: Stack) -> list[Path]:
    """One file for each plane, in the order of planes; their names are in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(stack.voxels)
    paths = []
    for number, plane in enumerate(stack.voxels):
        data = _common(stack, number)
        data.ImagePositionPatient = [_decimal(value) for value in stack.positions[number]]
        data.ImageOrientationPatient = [_decimal(value) for value in stack.orientation]
        data.PixelSpacing = [stack.spacing[1], stack.spacing[0]]
        _set_pixels(data, plane, stack)
        path = folder / f"s{stack.series}-{(number * 7) % count if count % 7 else number:04d}.dcm"
        paths.append(_save(data, path, stack, number))
    return paths


def write_frames(path: Path, stack: Stack, sop_class: str = ENHANCED_CT) -> Path:
    """One enhanced file with a frame for each plane, in the order of planes."""
    library = pydicom()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _common(stack, 0)
    data.SOPClassUID = sop_class
    data.NumberOfFrames = len(stack.voxels)
    data.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[_decimal(value) for value in stack.orientation])],
            PixelMeasuresSequence=[_item(PixelSpacing=[stack.spacing[1], stack.spacing[0]], SliceThickness=1.0)],
            PixelValueTransformationSequence=[_item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[_decimal(value) for value in position])],
            FrameContentSequence=[_item(StackID="1", InStackPositionNumber=number + 1)],
        )
        for number, position in enumerate(stack.positions)
    ]
    for name in ("RescaleSlope", "RescaleIntercept"):
        del data[name]
    _set_pixels(data, stack.voxels, stack)
    assert isinstance(data, library.Dataset)
    return _save(data, path, stack, 0)


def _item(**attributes: Any) -> Any:
    data = pydicom().Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def _common(stack: Stack, number: int) -> Any:
    data = _item(
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        SOPClassUID=stack.sop_class,
        SOPInstanceUID=f"{stack.uid}.{number + 1}",
        Modality=stack.modality,
        PatientName="Phantom",
        PatientID="phantom",
        StudyDate="20260101",
        StudyInstanceUID=f"{ROOT}.{stack.study}",
        SeriesInstanceUID=stack.uid,
        SeriesNumber=stack.series,
        AcquisitionNumber=1,
        InstanceNumber=len(stack.voxels) - number,  # tells nothing about the place
        FrameOfReferenceUID=f"{ROOT}.9.{stack.frame}",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        RescaleSlope=1,
        RescaleIntercept=-1024 if stack.modality == "CT" else 0,
    )
    return data


def _set_pixels(data: Any, voxels: np.ndarray, stack: Stack) -> None:
    bits = voxels.dtype.itemsize * 8
    data.Rows, data.Columns = voxels.shape[-2:]
    data.BitsAllocated, data.BitsStored = bits, stack.stored or bits
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(voxels.dtype.kind == "i")
    content = (voxels.byteswap() if stack.syntax == BIG_ENDIAN else voxels).tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    data["PixelData"].VR = "OW" if bits > 8 else "OB"


def _save(data: Any, path: Path, stack: Stack, number: int) -> Path:
    library = pydicom()
    data.file_meta = library.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = library.uid.UID(EXPLICIT)
    syntax = library.uid.UID(stack.syntax)
    if syntax.is_compressed and not syntax.is_deflated:
        data.compress(syntax, generate_instance_uid=False)
    data.file_meta.TransferSyntaxUID = syntax
    stack.change(data, number)
    data.file_meta.MediaStorageSOPClassUID = data.get("SOPClassUID", "")
    data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "")
    library.dcmwrite(path, data, enforce_file_format=bool(data.get("SOPInstanceUID")))
    return path


def _decimal(value: float) -> str:
    """At most 16 characters (PS3.5, 6.2), as exact as these allow."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return "0"
