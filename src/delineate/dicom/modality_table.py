"""Real values by a table (Modality LUT, PS3.3, C.11.1) instead of a slope and an intercept."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from delineate.dicom.header import AGAIN, Header
from delineate.dicom.parts import pydicom
from delineate.errors import ImageError

_MOST: Final = 1 << 16  # entries, and what the word for it is 0 for


class ModalityTable(NamedTuple):
    """Real values of stored ones.

    first : stored value of the first entry; values : uint16; kind : what they are, such as HU, empty where nobody says
    """

    first: int
    values: np.ndarray
    kind: str

    def real(self, plane: np.ndarray) -> np.ndarray:
        """Of stored values: below the first entry and beyond the last one theirs."""
        index = np.clip(plane.astype(np.int64) - self.first, 0, len(self.values) - 1)
        found: np.ndarray = self.values[index]
        return found


def table_of(header: Header) -> ModalityTable | None:
    """The table of a file, None where it has none.

    Raises
    ------
    ImageError
        One that makes no sense.
    """
    if "ModalityLUTSequence" not in header.elements:
        return None
    try:
        data = pydicom().dcmread(header.path, stop_before_pixels=True, force=True, specific_tags=["ModalityLUTSequence"])
        return _read(data.ModalityLUTSequence[0], bool(header.short("PixelRepresentation")), header.order)
    except Exception as error:  # what a library makes of damaged sequences is anything
        raise ImageError(f"the table of real values of {header.name} makes no sense (ModalityLUTSequence)", AGAIN) from error


def _read(item: Any, is_signed: bool, order: str) -> ModalityTable:
    count, first, bits = (int(value) & 0xFFFF for value in item.LUTDescriptor)
    count = count or _MOST
    first -= 0x10000 if is_signed and first >= 0x8000 else 0
    data = item.LUTData
    if isinstance(data, bytes):
        is_narrow = bits == 8 and len(data) <= count + 1  # a byte each, and one to make them even
        values = np.frombuffer(data, "u1" if is_narrow else f"{order}u2", count)
    else:
        values = np.atleast_1d(np.asarray(data))
    if not 8 <= bits <= 16 or len(values) != count or values.min() < 0 or values.max() >> bits:
        raise ValueError("the descriptor is of another table")
    return ModalityTable(first, values.astype(np.uint16), str(item.get("ModalityLUTType") or ""))
