"""All labelled images with their labels as one zip, made while it is sent: nothing is written to the disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.datastore.snapshot import shown_extension

_BLOCK: Final = 1 << 20
_DATE: Final = (1980, 1, 1, 0, 0, 0)


class _Pipe(io.RawIOBase):
    """What is written since it was taken last."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        block = bytes(data)  # type: ignore[call-overload]
        self._blocks.append(block)
        return len(block)

    def take(self) -> list[bytes]:
        taken, self._blocks = self._blocks, []
        return taken


def zipped(pairs: Iterable[tuple[ImageRecord, LabelRecord]], metadata: bytes) -> Iterator[bytes]:
    """The blocks of a zip with ``image/NAME`` and ``label/NAME`` of each pair and ``metadata.json``; entries are stored.

    Files that were removed meanwhile are left out.
    """
    files = (file for image, label in pairs for file in _files(image, label))
    return zip_blocks(files, {"metadata.json": metadata})


def zip_blocks(files: Iterable[tuple[str, Path]], texts: Mapping[str, bytes] | None = None) -> Iterator[bytes]:
    """The blocks of a zip of files by name, and of texts behind them; entries are stored, files that are gone left out."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, path in files:
            yield from _entry(archive, pipe, name, path)
        for name, text in (texts or {}).items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)
    yield from pipe.take()


def _files(image: ImageRecord, label: LabelRecord) -> Iterator[tuple[str, Path]]:
    if image.is_series:
        for path in sorted(image.path.iterdir()):
            if path.is_file():
                yield f"image/{image.id}/{path.name}", path
    else:
        yield f"image/{image.id}{shown_extension(image)}", image.path
    if label.path is not None:
        yield f"label/{label.image}{label.extension}", label.path


def _entry(archive: zipfile.ZipFile, pipe: _Pipe, name: str, path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file, archive.open(zipfile.ZipInfo(name, _DATE), "w", force_zip64=True) as entry:
        while block := file.read(_BLOCK):
            entry.write(block)
            yield from pipe.take()
    yield from pipe.take()
