"""The attributes of an image that rules look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from delineate.dicom.nesting import flat_text
from delineate.dicom.parts import pydicom
from delineate.dicom.series import Group
from delineate.errors import ImageError

_FILES: Final = "NumberOfSeriesRelatedInstances"
_SLICES: Final = "NumberOfSlices"
_SHARED: Final = "SharedFunctionalGroupsSequence"
_FRAMES: Final = "PerFrameFunctionalGroupsSequence"


def attributes_of(group: Group, keywords: Collection[str]) -> dict[str, str]:
    """What an image has of some attributes, by its first slice: text by keyword, several values parted by backslashes.

    An attribute that a slice has not is looked for in its file's meta information (``SourceApplicationEntityTitle``, who sent
    it), in the functional groups that all frames share, and in those of the slice. ``NumberOfSlices`` and
    ``NumberOfSeriesRelatedInstances`` are counted: slices and files.

    Raises
    ------
    ImageError
        The file cannot be read.
    """
    found = attributes_in(group.header.path, keywords, group.slices[0].frame)
    counts = {_FILES: len({item.header.path for item in group.slices}), _SLICES: len(group.slices)}
    return {**found, **{name: str(count) for name, count in counts.items() if name in keywords}}


def attributes_in(path: Path, keywords: Collection[str], frame: int = 0) -> dict[str, str]:
    """`attributes_of` for one file, and a frame of it."""
    library = pydicom()
    try:
        data = library.dcmread(path, force=True, stop_before_pixels=True, specific_tags=[*keywords, _SHARED, _FRAMES])
        sources = [data, data.file_meta, *_groups(data, _SHARED, 0)]
        found = {name: _text(sources, name) for name in keywords}
        if not all(found.values()):
            sources = list(_groups(data, _FRAMES, frame))
            found = {name: text or _text(sources, name) for name, text in found.items()}
    except Exception as error:  # pydicom raises whatever a damaged file leads to
        raise ImageError(f"{path.name} cannot be read as DICOM", "Export or send the file again.") from error
    return {name: text for name, text in found.items() if text}


def _groups(data: Any, sequence: str, number: int) -> Iterator[Any]:
    """The items of one item's sequences."""
    items = data.get(sequence) or ()
    for element in items[number] if number < len(items) else ():
        if element.VR == "SQ":
            yield from element.value


def _text(sources: list[Any], keyword: str) -> str:
    for source in sources:
        if text := flat_text(source.get(keyword)):
            return text
    return ""
