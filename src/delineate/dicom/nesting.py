"""How deeply a data set's sequences are nested. The library writes and decodes what is nested a thousand times for as long as
there is memory, and what it says of it then as well."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any

from delineate.dicom.header import DEEPEST
from delineate.dicom.parts import pydicom
from delineate.errors import ImageError


def require_shallow(data: Any, name: str) -> Any:
    """A pydicom data set as it is; `ImageError` where its sequences are nested more than `DEEPEST` times."""
    library = pydicom()
    level, depth = [data], 0
    while level:
        if depth > DEEPEST:
            raise ImageError(f"{name} is damaged: its sequences are nested too deeply", "Export or send the file again.")
        level = [item for each in level for item in _items(library, each)]
        depth += 1
    return data


def _items(library: Any, data: Any) -> list[Any]:
    """The items of all sequences of a data set, whatever their attributes' types should be."""
    found: list[Any] = []
    for tag in list(data.keys()):
        raw = data.get_item(tag)
        if raw.VR in (None, "SQ", "UN") and isinstance(value := data[tag].value, library.sequence.Sequence):
            found += value
    return found


def flat_text(value: Any) -> str:
    """A value, or several parted by backslashes, as text; empty for items of a sequence, in place of all that is nested in them."""
    library = pydicom()
    if value is None or isinstance(value, (library.sequence.Sequence, library.Dataset)):
        return ""
    values = value if isinstance(value, (MutableSequence, tuple)) else (value,)  # a name iterates over its letters
    return "\\".join(str(item) for item in values)
