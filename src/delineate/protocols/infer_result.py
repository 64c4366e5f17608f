"""What a worker leaves in a result archive for whoever asked by the MONAI Label API: one entry that says what to answer.

The entry `NAME` is JSON under a name that ends in ``.txt``, because clients of the inference-server protocol fail a result that has
a ``.json`` without a label map. It holds the answer's parameters and the name of the entry with its file.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any, Dict, Final, Mapping, Optional

from delineate.errors import BlobError
from delineate.protocols.archive_entries import PathLike
from delineate.protocols.messages import FileBody

NAME: Final = "answer.txt"
LARGEST: Final = 16 << 20  # bytes

_KEY: Final = "delineate-answer"
_LOCAL_HEADER: Final = 30  # bytes of a zip's local header before the name


@dataclass(frozen=True)
class InferResult:
    """What to answer.

    params : plain values for JSON: ``label_names``, and what else the model found; image : name of the archive's entry that is
    the file of the answer, None where there is none; filename : what to call it; dicom : names of entries in DICOM, by what was
    asked for.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    image: Optional[str] = None
    filename: Optional[str] = None
    dicom: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The entry; the same result gives the same bytes. Raises `ValueError` or `TypeError` for what is not JSON."""
        fields: Dict[str, Any] = {_KEY: 1, "image": self.image, "filename": self.filename, "params": self.params}
        if self.dicom:
            fields["dicom"] = dict(self.dicom)
        return json.dumps(fields, ensure_ascii=True, allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class StoredResult:
    """What to answer, from a result archive: `params`, the file with its name, both None where there is none, and files in DICOM."""

    params: Mapping[str, Any]
    file: Optional[FileBody] = None
    filename: Optional[str] = None
    dicom: Mapping[str, FileBody] = field(default_factory=dict)


def read_infer_result(path: PathLike) -> Optional[StoredResult]:
    """What a result archive of our own has for such an answer; None where it has nothing.

    Raises
    ------
    BlobError
        The archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if NAME not in archive.namelist():
                return None
            fields = json.loads(archive.read(NAME).decode("ascii"))
            image = fields["image"]
            file = None if image is None else _stored(os.fspath(path), archive.getinfo(image))
            dicom = {kind: _stored(os.fspath(path), archive.getinfo(name)) for kind, name in fields.get("dicom", {}).items()}
            return StoredResult(fields["params"], file, fields["filename"], dicom)
    except (OSError, zipfile.BadZipFile, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlobError("a stored result is damaged") from error


def _stored(path: str, info: zipfile.ZipInfo) -> FileBody:
    """The bytes of a stored entry where they lie: behind its local header, whose last two fields are lengths."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(_LOCAL_HEADER))
    return FileBody(path, info.header_offset + _LOCAL_HEADER + name + extra, info.file_size)
