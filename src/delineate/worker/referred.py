"""What a reference names: made by the server from files it has, found again by the worker if they are what they were."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from delineate.errors import DelineateError, InputError, MissingPartError, ModelError
from delineate.protocols.reference import LARGEST, Place, Reference, is_reference
from delineate.store.blobs import BlobStore

MOST_FILES: Final = 20_000  # of a folder

_GONE: Final = "Submit the task again."

Read = TypeVar("Read")


def place_of(path: Path, name: str = "") -> Place:
    """A file, or a folder of the files of one series, as it is now; `InputError` where it is neither.

    `name` : what it is called for people, by default the file's own name.
    """
    path = path.absolute()
    try:
        size, mtime_ns = _stamp(path)
    except OSError as error:
        raise InputError(f"the image cannot be read: {error.strerror}", "Check that it is still there.") from error
    return Place(path=str(path), size=size, mtime_ns=mtime_ns, name=name or path.name)


def read_reference(path: Path) -> Reference | None:
    """The reference in a task's input; None where the input is something else, an archive.

    Raises
    ------
    ModelError
        Kind ``input``: it begins like a reference and is none.
    """
    with path.open("rb") as file:
        start = file.read(64)
        if not is_reference(start):
            return None
        data = start + file.read(LARGEST)
    try:
        return Reference.from_bytes(data)
    except InputError as error:
        raise ModelError(error.message, error.advice, "input") from error


def suffix_of(name: str) -> str:
    """The suffix of an image's name in lower case, ``.nii.gz`` whole; empty for a name without one, as of a folder."""
    lower = name.lower()
    return ".nii.gz" if lower.endswith(".nii.gz") else Path(lower).suffix


def named(place: Place, path: Path, scratch: Path) -> Path:
    """A blob's file under a name by which its format is known, a link in `scratch`; what was named by its path as it is."""
    if not place.blob:
        return path
    link = scratch / f"{place.blob}{suffix_of(place.name)}"
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return link


def readable(place: Place, read: Callable[[], Read], advice: str) -> Read:
    """What `read` makes of a place's file; `advice` where its error has none.

    Raises `ModelError` of kind ``input``, or ``missing`` where the format's reader is not installed.
    """
    try:
        return read()
    except ModelError:
        raise
    except DelineateError as error:
        kind = "missing" if isinstance(error, MissingPartError) else "input"
        raise ModelError(f"{place.name}: {error.message}", error.advice or advice, kind) from error
    except (MemoryError, OSError) as error:
        raise ModelError(f"{place.name}: {str(error) or 'it does not fit into memory'}", "Send a smaller image.", "input") from error


class Files:
    """Finds the files of places. roots : folders below which every path must lie, links of folders followed."""

    def __init__(self, blobs: BlobStore, roots: Sequence[Path]) -> None:
        self._blobs = blobs
        self._roots = [root.resolve() for root in roots]

    def find(self, place: Place) -> Path:
        """Where the content is.

        Raises
        ------
        ModelError
            Kind ``input``: it is gone, changed, or outside of the folders that tasks may name.
        BlobError
            The blob is missing or altered.
        """
        if place.blob:
            return self._blobs.verified(place.blob)
        return self._file(place)

    def coming(self, name: str) -> Path:
        """A file that the server still writes to, among those that come for its blobs."""
        return self._blobs.coming(name)

    @contextlib.contextmanager
    def reading(self, place: Place) -> Iterator[Path]:
        """As `find`, for who reads all of it at once: a blob is compared with its digest meanwhile, by another core.

        What was read is good where leaving the context raises nothing; that the file is not what it was goes before whatever
        came of reading it.
        """
        if not place.blob:
            path = self._file(place)
            yield path
            self.require_unchanged(place, path)
            return
        with ThreadPoolExecutor(1, "verify") as thread:
            verified = thread.submit(self._blobs.verified, place.blob)
            try:
                yield self._blobs.path(place.blob)
            finally:
                verified.result()

    def _file(self, place: Place) -> Path:
        try:
            path = Path(place.path).resolve(strict=True)
            if not self._is_allowed(Path(place.path), path):
                raise ModelError(
                    "the image lies outside of the folders that tasks may use", "The server's administrator names them.", "input"
                )
            self._require_unchanged(place, path)
        except OSError as error:
            raise ModelError(f"{place.name}: the image cannot be read: {error.strerror}", _GONE, "input") from error
        return path

    def _is_allowed(self, named: Path, real: Path) -> bool:
        """Whether it lies in one of the folders; a link to a file that lies there may lead elsewhere, as the datastore lists it."""
        if self._is_below(real):
            return True
        return named.name != ".." and real.is_file() and self._is_below(named.parent.resolve() / named.name)

    def _is_below(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._roots)

    def require_unchanged(self, place: Place, path: Path) -> None:
        """Refuse what was written to since the reference was made, also while it was read; as `find`."""
        try:
            self._require_unchanged(place, path)
        except OSError as error:
            raise ModelError(f"{place.name}: the image cannot be read: {error.strerror}", _GONE, "input") from error

    def _require_unchanged(self, place: Place, path: Path) -> None:
        if place.path and _stamp(path) != (place.size, place.mtime_ns):
            raise ModelError(f"{place.name}: the image was changed after the task was submitted", _GONE, "input")


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change, ns; of a folder all bytes, and a number that follows from each file's name, size and time."""
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    if len(files) > MOST_FILES:
        raise OSError(errno.EFBIG, f"more than {MOST_FILES} files")
    found = [(str(file.relative_to(path)), seen.st_size, seen.st_mtime_ns) for file in sorted(files) for seen in [file.stat()]]
    said = hashlib.sha256(repr((status.st_mtime_ns, found)).encode("utf-8", "surrogateescape")).digest()
    return sum(size for _, size, _ in found), int.from_bytes(said[:8], "little") >> 1
