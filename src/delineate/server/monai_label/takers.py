"""Where the files of a form go: into blobs, one for each field, or into a new session."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import BinaryIO, Final

from delineate.datastore.names import file_name
from delineate.datastore.sessions import SessionStore, SessionUpload
from delineate.errors import InputError
from delineate.protocols.monai_label import PARAMS_FIELD, WSI_FIELD
from delineate.protocols.monai_label_datastore import INFO_FIELD
from delineate.server.service import Along
from delineate.store.writer import BlobWriter

LARGE: Final = 1 << 20
"""Bytes from which on an image is worth being read while it comes."""

_TEXTS: Final = frozenset({PARAMS_FIELD, WSI_FIELD, INFO_FIELD})
"""Fields that are none for files."""


class BlobTaker:
    """At most one file for each field, files in other fields aside; what is not placed in the end is removed.

    make : a writer for a file of that name
    fields : that may hold a file
    along, image : has a worker read what comes in the field `image`, where that is worth its while
    """

    def __init__(
        self,
        make: Callable[[str], BlobWriter],
        fields: Collection[str],
        along: Callable[[BlobWriter], Along | None] | None = None,
        image: str = "",
    ) -> None:
        self._make = make
        self._fields = fields
        self._writers: dict[str, BlobWriter] = {}
        self._current: BlobWriter | None = None
        self._read_along = along
        self._image = image
        self._along: Along | None = None

    def begin(self, field: str, filename: str) -> None:
        """A file comes."""
        if field in _TEXTS:
            raise InputError(f"the form has a file in the field {field}", "Send that as a plain field.")
        if field in self._writers:
            raise InputError(f"the form has two files in the field {field}", "Send one.")
        if field in self._fields:
            self._current = self._writers[field] = self._make(filename)

    def write(self, data: memoryview) -> None:
        """More of it."""
        if self._current is None:
            return
        self._current.write(data)
        if self._read_along is not None and self._current.size >= LARGE and self._current is self.take(self._image):
            self._along, self._read_along = self._read_along(self._current), None

    def end(self) -> None:
        """It is whole."""
        if self._along is not None and self._current is not None and self._current is self.take(self._image):
            self._along.whole(self._current.digest)
        self._current = None

    def take(self, field: str) -> BlobWriter | None:
        """The file of a field; None where none came."""
        return self._writers.get(field)

    def require(self, field: str) -> BlobWriter:
        """The same. Raises `InputError` where none came."""
        writer = self.take(field)
        if writer is None:
            raise InputError(f"the form has no file in the field {field}", f"Send the file in {field}.")
        return writer

    def discard(self) -> None:
        """Remove what was not placed."""
        for writer in self._writers.values():
            writer.discard()
        image = self.take(self._image)
        if self._along is not None and not (image is not None and image.is_placed):
            self._along.forget()


class SessionTaker:
    """Any number of files in one field, those in others aside, for a session; the folder is made when the first one comes."""

    def __init__(self, sessions: SessionStore, field: str) -> None:
        self._sessions = sessions
        self._field = field
        self._upload: SessionUpload | None = None
        self._file: BinaryIO | None = None

    def begin(self, field: str, filename: str) -> None:
        """A file comes."""
        self._file = self.upload().open(filename) if field == self._field else None

    def write(self, data: memoryview) -> None:
        """More of it."""
        if self._file is not None:
            self._file.write(data)

    def end(self) -> None:
        """It is whole."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def upload(self) -> SessionUpload:
        """What came, for a session to be made of it."""
        if self._upload is None:
            self._upload = self._sessions.incoming()
        return self._upload

    def discard(self) -> None:
        """Remove what became no session."""
        self.end()
        if self._upload is not None:
            self._upload.__exit__(None, None, None)


class Named:
    """Makes writers under the plain name of what was sent: some clients send their whole path."""

    def __init__(self, make: Callable[[str], BlobWriter]) -> None:
        self._make = make

    def __call__(self, name: str) -> BlobWriter:
        """A writer. Raises `InputError` for a name that leads elsewhere."""
        return self._make(file_name(name))
