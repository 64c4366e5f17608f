"""The attributes of an image that rules look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from delineate.dicom.parts import pydicom
from delineate.dicom.series import Group
from delineate.errors import ImageError

COUNT: Final = "NumberOfSeriesRelatedInstances"


def attributes_of(group: Group, keywords: Collection[str]) -> dict[str, str]:
    """What an image has of some attributes, by its first slice: text by keyword, several values parted by backslashes.

    An attribute that a slice has not is looked for in its file's meta information (``SourceApplicationEntityTitle``, who sent
    it) and in the functional groups that all frames share. ``NumberOfSeriesRelatedInstances`` is the count of files.

    Raises
    ------
    ImageError
        The file cannot be read.
    """
    found = attributes_in(group.header.path, keywords)
    if COUNT in keywords:
        found[COUNT] = str(len({item.header.path for item in group.slices}))
    return found


def attributes_in(path: Path, keywords: Collection[str]) -> dict[str, str]:
    """`attributes_of` for one file."""
    library = pydicom()
    try:
        data = library.dcmread(path, force=True, stop_before_pixels=True, specific_tags=[*keywords, "SharedFunctionalGroupsSequence"])
        sources = [data, data.file_meta, *_shared(data)]
        return {name: text for name in keywords if (text := _text(sources, name))}
    except Exception as error:  # pydicom raises whatever a damaged file leads to
        raise ImageError(f"{path.name} cannot be read as DICOM", "Export or send the file again.") from error


def _shared(data: Any) -> Iterator[Any]:
    for item in data.get("SharedFunctionalGroupsSequence") or ():
        for element in item:
            if element.VR == "SQ":
                yield from element.value


def _text(sources: list[Any], keyword: str) -> str:
    for source in sources:
        value = source.get(keyword)
        if value is not None and str(value) != "":
            values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
            return "\\".join(str(item) for item in values)
    return ""
