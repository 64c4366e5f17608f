"""DICOM in a request archive: the archive is one series, or folders ``tmp_0000/``, ``tmp_0001/``, … hold one each.

Files of a series have any names, or none that tell: what a file begins with decides. Series are not packed within the archive once
more, so that its limits count all there is.
"""

from __future__ import annotations

import re
from typing import Collection, Dict, Iterator, List, Sequence

from delineate.errors import ArchiveError
from delineate.protocols.archive_entries import EntryStream, quoted
from delineate.protocols.archive_reader import ArchiveReader

WHOLE = "."
"""The name of the image that is the archive itself."""

_FOLDER = re.compile(r"((?:.*/)?tmp_\d{4,9})/.+", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(r"(?:.*/)?tmp_(\d{4,9})", re.IGNORECASE | re.DOTALL)
_PREAMBLE, _MAGIC = 132, b"DICM"  # bytes, and the last of them (PS3.10, 7.1)
_MOST = 16  # files that are looked at: series may come with a list of contents, a viewer, a letter
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
    for name in names:
        match = _FOLDER.fullmatch(name)
        if match:
            files.setdefault(match.group(1), []).append(name)
    folder_of = {name: folder for folder, inside in files.items() for name in _looked_at(inside)}
    numbers: Dict[int, str] = {}
    for folder in dict.fromkeys(folder_of[name] for name in _dicom(folder_of, reader)):
        number = int(folder.rpartition("_")[2])
        other = numbers.setdefault(number, folder)
        if other != folder:
            raise ArchiveError("%s and %s are the same image of the request" % (quoted(other), quoted(folder)), "Send one of them.")
    return numbers


def holds_dicom(names: Sequence[str], reader: ArchiveReader) -> bool:
    """Whether one of the first of these files of an archive is DICOM."""
    return next(_dicom(_looked_at(names), reader), None) is not None


def _looked_at(names: Sequence[str]) -> List[str]:
    return [name for name in names if not name.lower().endswith(_NEVER)][:_MOST]


def _dicom(names: Collection[str], reader: ArchiveReader) -> Iterator[str]:
    """Which of these begin as DICOM does, found in one walk over the archive: a stranger's may have very many."""
    left = set(names)
    if not left:
        return
    try:
        for name, stream in reader.files():
            if name in left:
                left.remove(name)
                if _head(stream)[-len(_MAGIC) :] == _MAGIC:
                    yield name
            if not left:
                return
    except ArchiveError:  # damaged: whoever unpacks it says so
        return


def _head(stream: EntryStream) -> bytes:
    """The first bytes; nothing where there are fewer."""
    data = b""
    while len(data) < _PREAMBLE:
        more = stream.read(_PREAMBLE - len(data))
        if not more:
            return b""
        data += more
    return data
