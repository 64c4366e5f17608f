"""A series as whoever imports no DICOM sees it: a volume, and structures written for it.

Found by the entry point ``dicom-source`` of the group ``delineate.readers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

from delineate.dicom import rtstruct, seg
from delineate.dicom.reader import DicomImage, read
from delineate.errors import ImageError, InputError
from delineate.segmentation import Segmentation
from delineate.volume import Volume


@dataclass(frozen=True, eq=False)
class ReadSeries:
    """A series that was read."""

    image: DicomImage

    @property
    def volume(self) -> Volume:
        """The image."""
        return self.image.volume

    def write(self, path: str | PathLike[str], segmentation: Segmentation, to: str, notes: list[str], **options: Any) -> None:
        """Write structures that refer to the series.

        Parameters
        ----------
        to : ``rtstruct`` or ``seg``
        notes : gets sentences on what was changed or left out
        options : fields of `rtstruct.Options` or `seg.Options`

        Raises
        ------
        InputError
            Another format; as `rtstruct.write_rtstruct` and `seg.write_seg`.
        """
        if to == "rtstruct":
            rtstruct.write_rtstruct(path, segmentation, self.image.series, rtstruct.Options(**options), notes)
        elif to == "seg":
            seg.write_seg(path, segmentation, self.image.series, seg.Options(**options), notes)
        else:
            raise InputError(f"structures in DICOM cannot be written as {to!r}", "Use rtstruct or seg.")


def read_series(path: str | PathLike[str], choice: str = "") -> ReadSeries:
    """The one series in a folder, a zip or a file, or that of a number or UID. As `delineate.dicom.reader.read`; damaged files are
    an error."""
    image = read(path, choice=choice)
    if image.lost:
        raise ImageError(image.lost, "Send these files again, or remove them.")
    return ReadSeries(image)
