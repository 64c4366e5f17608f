"""What a scripted server does with archives, on the standard library alone: take one out of a multipart body, make a result."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

HEADER_SIZE: Final = 348
DATA_OFFSET: Final = 352
LABELS: Final = {"1": "First_Half", "2": "Second_Half"}
LOG: Final = b"scripted model: done\n"


class UploadError(Exception):
    """What was posted is no archive with an image."""


@dataclass(frozen=True)
class Upload:
    """An archive inside a file that holds a multipart body. `fields` : the plain fields before it."""

    path: Path
    offset: int
    size: int
    fields: Mapping[str, str]

    def read(self, most: int = -1) -> bytes:
        """Its first bytes, or all."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size if most < 0 else min(most, self.size))


def read_upload(path: Path, content_type: str, field: str) -> Upload | None:
    """The file field `field` of a multipart body kept in a file, which has to be its last part; None where there is none.

    Parsed by string search, as small servers do; only the head is read, so a large body costs nothing.
    """
    match = re.fullmatch(r"multipart/form-data; boundary=([^\s;\"]+)", content_type)
    if match is None:
        return None
    mark, closing = b"--" + match[1].encode(), b"\r\n--" + match[1].encode() + b"--\r\n"
    with path.open("rb") as file:
        head = file.read(1 << 20)
        size = file.seek(0, 2)
        file.seek(max(0, size - len(closing)))
        if file.read() != closing:
            return None
    fields: dict[str, str] = {}
    place = 0
    while head.startswith(mark + b"\r\n", place):
        end = head.index(b"\r\n\r\n", place)
        names = re.search(rb'; name="([^"]*)"(?:; filename="([^"]*)")?', head[place:end])
        start = end + 4
        if names is None:
            return None
        if names[2] is not None:
            return Upload(path, start, size - len(closing) - start, fields) if names[1] == field.encode() else None
        stop = head.find(b"\r\n" + mark, start)
        fields[names[1].decode()] = head[start:stop].decode()
        place = stop + 2
    return None


def first_image(upload: Upload) -> tuple[int, int, int]:
    """Size (x, y, z) of the image ``tmp_0000`` in an archive; only its head is read.

    Raises
    ------
    UploadError
    """
    try:
        with upload.path.open("rb") as file:
            head = _head(cast(BinaryIO, _Window(file, upload.offset, upload.size)), upload.read(2) == b"PK")
        count, x, y, z = struct.unpack_from("<4h", head, 40)
    except (zipfile.BadZipFile, tarfile.TarError, StopIteration, LookupError, zlib.error, OSError, EOFError, struct.error) as error:
        raise UploadError(f"not an archive with an image: {error}") from None
    return (x, y, z) if count >= 3 else (x, y, 1)


def make_result(upload: Upload, target: Path, *, as_tar: bool) -> None:
    """Write the result of a model that cuts the image in two along x.

    As with published models the header says nothing: spacing 1, origin 0.
    """
    size = first_image(upload)
    x, y, z = size
    row = bytes(1 if i < x // 2 else 2 for i in range(x))
    header = bytearray(DATA_OFFSET)
    struct.pack_into("<i", header, 0, HEADER_SIZE)
    struct.pack_into("<8h", header, 40, 3, x, y, z, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, DATA_OFFSET)
    header[344:348] = b"n+1\0"
    entries = {
        "segmentation.nii.gz": gzip.compress(bytes(header) + row * (y * z), 1, mtime=0),
        "segmentation.json": json.dumps(LABELS).encode(),
    }
    if as_tar:
        with tarfile.open(target, "w") as tar:
            for name, data in {**entries, "container.log": LOG}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for name, data in entries.items():
            packed.writestr(name, data)


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        super().__init__()
        self._file, self._offset, self._size, self._place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._place)
        data = self._file.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _head(file: BinaryIO, is_zip: bool) -> bytes:
    """The first bytes of the first image, unpacked."""
    if is_zip:
        with zipfile.ZipFile(file) as packed:
            name = next(n for n in sorted(packed.namelist()) if n.startswith("tmp_0000.nii"))
            with packed.open(name) as entry:
                return _unpacked(cast(BinaryIO, entry))
    with tarfile.open(fileobj=file) as tar:
        member = tar.extractfile(next(n for n in sorted(tar.getnames()) if n.startswith("tmp_0000.nii")))
        if member is None:
            raise LookupError("tmp_0000 is no file")
        return _unpacked(cast(BinaryIO, member))


def _unpacked(file: BinaryIO) -> bytes:
    start = file.read(1 << 16)
    return zlib.decompressobj(31).decompress(start, HEADER_SIZE) if start[:2] == b"\x1f\x8b" else start[:HEADER_SIZE]
