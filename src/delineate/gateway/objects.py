"""A file that is to be delivered: what it is, without reading its contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delineate.dicom.parts import pydicom
from delineate.gateway.delivery import DeliveryError


@dataclass(frozen=True, kw_only=True)
class Object:
    """A DICOM object in a file: UIDs of class and instance, and its transfer syntax. In text it is its class, because UIDs
    are kept out of messages."""

    path: Path
    sop_class: str
    uid: str
    syntax: str

    def __str__(self) -> str:
        return str(pydicom().uid.UID(self.sop_class).name).removesuffix(" Storage")

    @property
    def encoding(self) -> str:
        """The transfer syntax in words."""
        return str(pydicom().uid.UID(self.syntax).name)


def objects_of(files: Sequence[Path]) -> list[Object]:
    """The objects in files.

    Raises
    ------
    DeliveryError
        One that is missing or no DICOM file; final, for it will be no other time.
    """
    return [_object(path) for path in files]


def _object(path: Path) -> Object:
    library = pydicom()
    wanted = ["SOPClassUID", "SOPInstanceUID"]
    try:
        data = library.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        values = [str(data[name].value) for name in wanted]
        return Object(path=path, sop_class=values[0], uid=values[1], syntax=str(data.file_meta.TransferSyntaxUID))
    except OSError as error:
        raise DeliveryError(f"a result cannot be read: {error.strerror}", "Run the rule again.", True) from None
    except Exception as error:  # whatever a damaged file leads to
        raise DeliveryError("a result is no DICOM file", "Run the rule again.", True) from error
