"""DICOM in a request archive: the archive is one series, or folders ``tmp_0000/``, ``tmp_0001/``, … hold one each.

Files of a series have any names, or none that tell: what a file begins with decides. Series are not packed within the archive once
more, so that its limits count all there is.
"""

from __future__ import annotations

import re
from typing import Dict, List, Sequence

from delineate.errors import ArchiveError
from delineate.protocols.archive_entries import quoted
from delineate.protocols.archive_reader import ArchiveReader

WHOLE = "."
"""The name of the image that is the archive itself."""

_FOLDER = re.compile(r"((?:.*/)?tmp_\d{4,9})/.+", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(r"(?:.*/)?tmp_(\d{4,9})", re.IGNORECASE | re.DOTALL)
_PREAMBLE, _MAGIC = 132, b"DICM"  # bytes, and the last of them (PS3.10, 7.1)
_LOOKED_AT = 16  # files: series may come with a list of contents, a viewer, a letter
_NEVER = (".json", ".txt", ".log", ".xml", ".pdf", ".htm", ".html", ".nii", ".gz", ".nrrd", ".mha", ".zip", ".png", ".jpg")


def is_series(image: str) -> bool:
    """Whether an image, as `request_images` names it, is a series: the archive itself or a folder of it."""
    return image == WHOLE or _NUMBERED.fullmatch(image) is not None


def series_folders(names: Sequence[str], reader: ArchiveReader) -> Dict[int, str]:
    """Folders of the archive that are images, by the image's number.

    Raises
    ------
    ArchiveError
        Two folders of one number.
    """
    files: Dict[str, List[str]] = {}
    numbers: Dict[int, str] = {}
    for name in names:
        match = _FOLDER.fullmatch(name)
        if match:
            files.setdefault(match.group(1), []).append(name)
    for folder, inside in files.items():
        if holds_dicom(inside, reader):
            number = int(folder.rpartition("_")[2])
            other = numbers.setdefault(number, folder)
            if other != folder:
                raise ArchiveError("%s and %s are the same image of the request" % (quoted(other), quoted(folder)), "Send one of them.")
    return numbers


def holds_dicom(names: Sequence[str], reader: ArchiveReader) -> bool:
    """Whether one of the first of these files of an archive is DICOM."""
    wanted = [name for name in names if not name.lower().endswith(_NEVER)][:_LOOKED_AT]
    return any(_begins_as_dicom(name, reader) for name in wanted)


def _begins_as_dicom(name: str, reader: ArchiveReader) -> bool:
    try:
        with reader.open(name) as file:
            return file.read(_PREAMBLE)[-4:] == _MAGIC
    except ArchiveError:  # damaged: whoever unpacks it says so
        return False
