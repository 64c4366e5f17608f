"""Archives as a server takes them: what `delineate.protocols.archive_walker` reads, gzipped tars, and unpacking into a folder."""

from __future__ import annotations

import contextlib
import io
import os
from types import TracebackType
from typing import BinaryIO, List, Optional, Type

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.nifti_codec import INFLATE_ERRORS, Inflater
from delineate.protocols.archive_entries import BLOCK, MIB, EntryStream, PathLike, Tally, quoted
from delineate.protocols.archive_walker import TAR_GZ, ArchiveWalker, TarSource

# No link is followed where the name is one already, and nothing that exists is written to.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

_SCRATCH = 1 << 16
_PADDING = 1 << 24  # zeros after the end that are read to reach the gzip checksum
_ENTRY_OVERHEAD = 2048  # bytes of a tar around each entry
_NIFTI = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}  # what versions 1 and 2 begin with


class ArchiveReader(ArchiveWalker):
    """A zip, tar or gzipped tar, told apart by content; all else as `ArchiveWalker`.

    A ``.tar.gz`` has no directory: listing it unpacks all of it once. Whoever needs the files should call `extract`
    first, which lists on the way.
    """

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        """Nothing is open."""

    def read(self, name: str, most: int = MIB) -> bytes:
        """All bytes of a small file; `ArchiveLimitError` where it has more than `most`."""
        data = next((stream.read(most + 1) for found, stream in self.files() if found == name), None)
        if data is None:
            raise ArchiveError("there is no file %s in the archive" % quoted(name))
        if len(data) > most:
            raise ArchiveLimitError("%s is larger than %d bytes" % (quoted(name), most))
        return data

    def open(self, name: str) -> BinaryIO:
        """One file, to be read once from begin to end and closed; its checksum is verified at the end."""
        file = self._file()
        try:
            for entry, stream in self._walk(file):
                if entry.name == name and not entry.is_folder:
                    return _OpenEntry(stream, file)
        except BaseException:
            file.close()
            raise
        file.close()
        raise ArchiveError("there is no file %s in the archive" % quoted(name))

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

    def _source(self, file: BinaryIO) -> TarSource:
        if self.kind != TAR_GZ:
            return super()._source(file)
        tally = Tally(self.limits, self._length)
        return _GzipSource(file, tally, tally.headroom(_ENTRY_OVERHEAD) + _PADDING)


class _OpenEntry(io.BufferedReader):
    """One entry; closes the archive with itself."""

    def __init__(self, stream: EntryStream, file: BinaryIO) -> None:
        super().__init__(stream, BLOCK)
        self._file = file

    def close(self) -> None:
        super().close()
        self._file.close()


class _GzipSource(TarSource):
    """The unpacked bytes of an open ``.tar.gz``, of which `tally` allows so many and not one more."""

    def __init__(self, file: BinaryIO, tally: Tally, most: int) -> None:
        super().__init__(file)
        self._gzip = Inflater(file)
        self._tally = tally
        self._most = most

    def readinto(self, view: memoryview) -> int:
        """Some bytes; 0 at the end."""
        if self.position > self._most:
            self._tally.require(self.position)
        is_begin = self.position == 0
        try:
            count = self._gzip.readinto(view)
        except EOFError as error:
            raise _cut_off() from error
        except INFLATE_ERRORS as error:
            raise ArchiveError("the gzip data of the archive is damaged: %s" % error, "Send the archive again.") from error
        self.position += count
        if is_begin and bytes(view[:4]) in _NIFTI:
            raise ArchiveError("the file is a NIfTI image, not an archive", "Put it into a zip and send that.")
        return count

    def skip(self, count: int) -> None:
        """Go on by `count` bytes."""
        scratch = memoryview(bytearray(min(_SCRATCH, count)))
        while count:
            done = self.readinto(scratch[:count])
            if not done:
                raise _cut_off()
            count -= done

    def finish(self) -> None:
        """Read to the end of the gzip data, whose checksum is verified there."""
        scratch = memoryview(bytearray(_SCRATCH))
        end = self.position + _PADDING
        while self.readinto(scratch):
            if self.position > end:
                raise ArchiveError("the archive goes on after its end", "Send one tar archive.")


def _cut_off() -> ArchiveError:
    return ArchiveError("the tar archive is cut off", "Send the archive again.")


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
