"""Where a volume came from: what contours and segmentations in DICOM refer to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from delineate.dicom.header import AGAIN, Header
from delineate.dicom.nesting import require_shallow
from delineate.dicom.parts import pydicom
from delineate.dicom.planes import Planes
from delineate.dicom.slices import Slice
from delineate.errors import GeometryError, ImageError

_GROUPS: Final = frozenset((0x0008, 0x0010, 0x0018, 0x0020))  # patient, study, series, equipment, how and where it was acquired


class Instance(NamedTuple):
    """The file, or frame of one, that a plane came from; `frame` from 1, 0 for a file of one."""

    sop_class: str
    sop_instance: str
    frame: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """The source of a volume.

    study_uid, series_uid, frame_of_reference : empty where the files do not say; instances : of each plane; planes : where
    these lie, each by its own position; attributes : a pydicom data set of the first file's patient, study and series, which
    must not be logged.
    """

    study_uid: str
    series_uid: str
    frame_of_reference: str
    modality: str
    instances: tuple[Instance, ...]
    planes: Planes
    attributes: Any = field(repr=False)

    @property
    def missing_uids(self) -> list[str]:
        """Names of the UIDs that are empty: nothing can refer to this image then."""
        named = {"StudyInstanceUID": self.study_uid, "SeriesInstanceUID": self.series_uid, "FrameOfReferenceUID": self.frame_of_reference}
        named["SOPInstanceUID"] = "" if any(not item.sop_instance for item in self.instances) else "all"
        return [name for name, uid in named.items() if not uid]


def series_of(slices: Sequence[Slice], planes: Planes) -> Series:
    """The source of a volume of slices in the order of its planes.

    Raises
    ------
    ImageError
        The first file cannot be read.
    """
    header = slices[0].header
    return Series(
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        frame_of_reference=header.text("FrameOfReferenceUID"),
        modality=header.text("Modality"),
        instances=tuple(_instance(item) for item in slices),
        planes=planes,
        attributes=_attributes(header),
    )


def _instance(item: Slice) -> Instance:
    header = item.header
    frame = item.frame + 1 if "PerFrameFunctionalGroupsSequence" in header.elements else 0
    return Instance(header.text("SOPClassUID"), header.text("SOPInstanceUID"), frame)


def _attributes(header: Header) -> Any:
    library = pydicom()
    try:
        data = library.dcmread(header.path, stop_before_pixels=True, force=True)
        kept = library.Dataset()
        for tag in list(data.keys()):
            if tag.group in _GROUPS:
                kept[tag] = data[tag]
        return require_shallow(kept, header.name)
    except Exception as error:  # what a library makes of damaged elements is anything
        raise ImageError(f"the attributes of {header.name} cannot be read", AGAIN) from error


def note_other_frame(
    source: Series, frames: Collection[str], series_uids: Collection[str], what: str, is_allowed: bool, notes: list[str]
) -> bool:
    """Note that a file's frames of reference are others than the image's; whether they are.

    what : the file holds; series_uids : that it refers to: who names the image's series means its space; is_allowed : somebody
    said that they are one space

    Raises
    ------
    GeometryError
        They are others, and nobody says that it does not matter.
    """
    if not source.frame_of_reference or source.frame_of_reference in frames:
        return False
    words = f"the {what} are in another frame of reference than the image (FrameOfReferenceUID)"
    if not (is_allowed or source.series_uid in series_uids):
        raise GeometryError(words, "Give the series that they were made on, or say that the two are the same space.")
    notes.append(words)
    return True
