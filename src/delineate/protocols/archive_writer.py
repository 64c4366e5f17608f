"""Zip archives of stored entries that are the same bytes for the same content, and a tar made of one without a copy.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import tarfile
import unicodedata
import zipfile
from types import TracebackType
from typing import BinaryIO, Dict, Iterator, List, Optional, Sequence, Tuple, Type

from delineate.errors import ArchiveError
from delineate.protocols.archive_entries import BLOCK, NameRegister, name_key
from delineate.protocols.archive_reader import ZIP, ArchiveReader, PathLike
from delineate.protocols.messages import Body, FileBody, JoinedBody

LOG_NAME = "container.log"

_MODE = 0o100644 << 16  # a regular file that anybody may read, where an unpacker looks at it
_UNIX = 3
_COMPOUND_SUFFIXES = (".nii.gz", ".meta.json", ".dicom_info.json")


class StoredZipWriter:
    """Writes a zip whose entries are stored, dated 1980-01-01 and otherwise alike: same content, same bytes.

    Sizes and checksums stand in the local headers too, so that others can read it as a stream. An error while an entry
    is written removes the file: half an archive serves nobody. `close`, or leaving the context, completes it.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = os.fspath(path)
        self._names = NameRegister()
        self._file: BinaryIO = open(self.path, "wb")  # noqa: SIM115
        self._zip: Optional[zipfile.ZipFile] = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> StoredZipWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add one entry."""
        with self.entry(name, len(data)) as file:
            file.write(data)

    def add_text(self, name: str, text: str) -> None:
        """Add one entry of UTF-8 text."""
        self.add_bytes(name, text.encode("utf-8"))

    def add_file(self, name: str, path: PathLike) -> None:
        """Add a file byte for byte, in constant memory."""
        with open(path, "rb", buffering=0) as source, self.entry(name, os.fstat(source.fileno()).st_size) as file:
            block = memoryview(bytearray(BLOCK))
            while True:
                count = source.readinto(block)
                if not count:
                    break
                file.write(block[:count])

    @contextlib.contextmanager
    def entry(self, name: str, size: int) -> Iterator[BinaryIO]:
        """An open entry to write to; `size` is at least what will be written."""
        if self._zip is None:
            raise ValueError("the archive is closed")
        name = self.reserve(name)
        info = zipfile.ZipInfo(name)
        info.file_size = size  # what decides whether the header has room for sizes beyond 4 GiB
        info.create_system = _UNIX
        info.external_attr = _MODE
        try:
            with self._zip.open(info, "w") as file:
                yield file  # type: ignore[misc]
        except BaseException:
            self.discard()
            raise

    def reserve(self, name: str) -> str:
        """The name as it will be written (safe, NFC), kept from being used twice."""
        return self._names.add(unicodedata.normalize("NFC", name), is_folder=False)

    def has(self, name: str) -> bool:
        """Whether there is an entry of that name, or one that a file system takes for the same."""
        return name in self._names

    def close(self) -> None:
        """Complete the archive; nothing where it is complete, or was discarded."""
        if self._zip is None:
            return
        try:
            self._zip.close()
            self._file.close()
        except BaseException:
            self.discard()
            raise
        self._zip = None

    def discard(self) -> None:
        """Remove the file unless it is complete."""
        if self._zip is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()
        self._zip = None
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.remove(self.path)


def tar_view(path: PathLike, *, with_log: bool = False) -> Body:
    """The entries of a zip archive as a plain tar with flat names: headers from memory, content straight out of the zip.

    Names lose their folders. Where two would become one, what is not at the root is called ``FOLDER__NAME``, and a label
    map and its names stay together. The first ``.log`` becomes ``container.log``, which is where clients of the v2
    dialect look for it.

    Parameters
    ----------
    path : a zip whose entries are stored, as `StoredZipWriter` makes it
    with_log : add an empty ``container.log`` where there is no log

    Raises
    ------
    ArchiveError
        Not a zip, not safe, or with an entry that is packed.
    """
    reader = ArchiveReader(path)
    if reader.kind != ZIP:
        raise ArchiveError("only a zip archive can be sent as a tar without a copy, not a %s" % reader.kind)
    names = reader.names()
    flat = flat_names(names)
    parts: List[Body] = []
    for name in names:
        start, size = reader.stored_extent(name)
        parts += [Body(_tar_header(flat[name], size)), FileBody(reader.path, start, size)]
        parts.append(Body(bytes(-size % tarfile.BLOCKSIZE)))
    if with_log and LOG_NAME not in flat.values():
        parts.append(Body(_tar_header(LOG_NAME, 0)))
    parts.append(Body(bytes(2 * tarfile.BLOCKSIZE)))
    return JoinedBody(parts)


def flat_names(names: Sequence[str]) -> Dict[str, str]:
    """A name without folder for each of `names`, all different whatever a file system makes of case."""
    groups: Dict[Tuple[str, str], List[str]] = {}
    for name in names:
        folder, base = posixpath.split(name)
        groups.setdefault((folder, name_key(_stem(base))), []).append(name)
    log = next((name for name in sorted(names, key=lambda n: n.count("/")) if name.lower().endswith(".log")), None)
    taken = {name_key(LOG_NAME)} if log is not None else set()
    flat: Dict[str, str] = {}
    # What is at the root keeps its name, whatever comes before it in the archive.
    for (folder, _), members in sorted(groups.items(), key=lambda item: item[0][0] != ""):
        members = [name for name in members if name != log]
        prefix = next(p for p in _prefixes(folder) if not taken & {name_key(p + posixpath.basename(n)) for n in members})
        for name in members:
            flat[name] = prefix + posixpath.basename(name)
            taken.add(name_key(flat[name]))
    if log is not None:
        flat[log] = LOG_NAME
    return flat


def _prefixes(folder: str) -> Iterator[str]:
    yield ""
    base = folder.replace("/", "__")
    if base:
        yield base + "__"
    number = 2
    while True:
        yield "%s__%d__" % (base, number)
        number += 1


def _stem(base: str) -> str:
    """What a label map and its twin share."""
    suffix = next((s for s in _COMPOUND_SUFFIXES if base.lower().endswith(s)), None)
    return base[: -len(suffix)] if suffix else posixpath.splitext(base)[0]


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
