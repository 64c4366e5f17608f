"""Zip and tar archives of anybody, listed, opened and extracted without trust and in constant memory.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import contextlib
import io
import os
from types import TracebackType
from typing import BinaryIO, Iterator, List, Optional, Tuple, Type, Union

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.protocols import archive_tar, archive_zip
from delineate.protocols.archive_entries import BLOCK, MIB, STORED, Entry, EntryStream, Limits, file_stream, is_junk, quoted

PathLike = Union[str, "os.PathLike[str]"]

ZIP, TAR, TAR_GZ = "zip", "tar", "tar.gz"

_OTHERS = (
    (b"BZh", "a bzip2 file"), (b"\xfd7zXZ\x00", "an xz file"), (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"), (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"), (b"PK\x07\x08", "a part of a split zip archive"),
)  # fmt: skip

# No link is followed where the name is one already, and nothing that exists is written to.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class ArchiveReader:
    """A zip, tar or gzipped tar, told apart by content.

    It keeps no file open between calls. Every call but `kind` reads the archive's directory when it is the first, and
    raises `ArchiveError` or `ArchiveLimitError` for an archive that is not safe and whole. What a Macintosh or Windows
    adds of its own (``__MACOSX/``, ``._name``, ``.DS_Store``) is checked and then treated as if it were not there.

    A ``.tar.gz`` has no directory: listing it unpacks all of it once. Whoever needs the files should call `extract`
    first, which lists on the way.

    Parameters
    ----------
    path : the archive, any suffix
    limits : Limits; what is allowed in it

    Raises
    ------
    ArchiveError
        Neither zip nor tar.
    OSError
        The file cannot be read.
    """

    def __init__(self, path: PathLike, limits: Optional[Limits] = None) -> None:
        self.path = os.fspath(path)
        self.limits = limits or Limits()
        with open(self.path, "rb") as file:
            self._length = os.fstat(file.fileno()).st_size
            self.kind = _kind(file)
        self._entries: Optional[List[Entry]] = None

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        """Nothing is open."""

    def entries(self) -> List[Entry]:
        """Files and folders in the order of the archive."""
        if self._entries is None:
            with self._file() as file:
                self._entries = [entry for entry, _ in self._walk(file)]
        return list(self._entries)

    def names(self) -> List[str]:
        """Names of the files, relative with ``/``, in the order of the archive."""
        return [entry.name for entry in self.entries() if not entry.is_folder]

    def files(self) -> Iterator[Tuple[str, EntryStream]]:
        """Each file's name and its bytes, in order; a stream can be read once, until the next is asked for."""
        with self._file() as file:
            for entry, stream in self._walk(file):
                if not entry.is_folder:
                    yield entry.name, stream

    def open(self, name: str) -> BinaryIO:
        """One file, to be read once from begin to end and closed; its checksum is verified at the end."""
        file = self._file()
        try:
            for entry, stream in self._walk(file):
                if entry.name == name and not entry.is_folder:
                    stream.own(file)
                    return io.BufferedReader(stream, BLOCK)
        except BaseException:
            file.close()
            raise
        file.close()
        raise ArchiveError("there is no file %s in the archive" % quoted(name))

    def read(self, name: str, most: int = MIB) -> bytes:
        """All bytes of a small file; `ArchiveLimitError` where it has more than `most`."""
        with self.open(name) as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise ArchiveLimitError("%s is larger than %d bytes" % (quoted(name), most))
        return data

    def extract(self, folder: PathLike) -> List[str]:
        """Write all files below `folder`, which is empty or not there yet; the names as in `names`.

        Files get mode 0600, folders 0700. Whatever stops it, it removes what it wrote.

        Raises
        ------
        ArchiveError, ArchiveLimitError
            As everywhere.
        OSError
            The folder cannot be written, or something of an entry's name is in it already.
        """
        target = _Target(os.fspath(folder))
        entries = []
        try:
            with self._file() as file:
                for entry, stream in self._walk(file):
                    if entry.is_folder:
                        target.make_folder(entry.name)
                    else:
                        target.write(entry.name, stream)
                    entries.append(entry)
        except BaseException:
            target.remove()
            raise
        self._entries = entries
        return self.names()

    def stored_extent(self, name: str) -> Tuple[int, int]:
        """Where a stored file's bytes are in the archive: (offset, length); `ArchiveError` for a packed one."""
        entry = next((e for e in self.entries() if e.name == name and not e.is_folder), None)
        if entry is None:
            raise ArchiveError("there is no file %s in the archive" % quoted(name))
        if entry.method != STORED or self.kind == TAR_GZ:
            raise ArchiveError("entry %s of the archive is packed" % quoted(name), "Store the entries.")
        return entry.start, entry.size

    def _file(self) -> BinaryIO:
        return open(self.path, "rb", buffering=1 << 16)

    def _walk(self, file: BinaryIO) -> Iterator[Tuple[Entry, EntryStream]]:
        for entry, stream in self._walk_zip(file) if self.kind == ZIP else self._walk_tar(file):
            if not is_junk(entry.name):
                yield entry, stream

    def _walk_zip(self, file: BinaryIO) -> Iterator[Tuple[Entry, EntryStream]]:
        entries = self._entries
        if entries is None:
            entries = archive_zip.zip_entries(file, self._length, self.limits)
        for entry in entries:
            yield entry, file_stream(entry, file)

    def _walk_tar(self, file: BinaryIO) -> Iterator[Tuple[Entry, EntryStream]]:
        source = archive_tar.tar_source(file, self._length, self.limits, packed=self.kind == TAR_GZ)
        for entry in archive_tar.tar_entries(source, self._length, self.limits):
            yield entry, EntryStream(entry, source.readinto)


class _Target:
    """A folder that is being filled, and how to undo it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: List[str] = []
        self._folders: List[str] = []
        self._known = {""}
        self._block = memoryview(bytearray(BLOCK))
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o700)
            self._folders.append(folder)

    def make_folder(self, name: str) -> None:
        """Make one folder and those above it."""
        if name in self._known:
            return
        parent = name.rpartition("/")[0]
        self.make_folder(parent)
        path = os.path.join(self._folder, *name.split("/"))
        os.mkdir(path, 0o700)
        self._folders.append(path)
        self._known.add(name)

    def write(self, name: str, stream: EntryStream) -> None:
        """Write one file."""
        self.make_folder(name.rpartition("/")[0])
        path = os.path.join(self._folder, *name.split("/"))
        descriptor = os.open(path, _CREATE, 0o600)
        self._files.append(path)
        with open(descriptor, "wb", buffering=0) as file:
            while True:
                count = stream.readinto(self._block)
                if not count:
                    return
                _write_all(file, self._block[:count])

    def remove(self) -> None:
        """Take away what was written, the last first."""
        for path in reversed(self._files):
            with contextlib.suppress(OSError):
                os.remove(path)
        for path in reversed(self._folders):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _write_all(file: io.RawIOBase, view: memoryview) -> None:
    while view:
        view = view[file.write(view) or 0 :]


def _kind(file: BinaryIO) -> str:
    head = file.read(archive_tar.BLOCK)
    if not head:
        raise ArchiveError("the archive is empty: it has no bytes")
    if head.startswith(archive_zip.MAGICS):
        return ZIP
    if archive_tar.is_gzip(head):
        return TAR_GZ
    if archive_tar.is_tar(head):
        return TAR
    what = next((text for magic, text in _OTHERS if head.startswith(magic)), "neither zip nor tar")
    raise ArchiveError("the file is not an archive we read: it is %s" % what)
