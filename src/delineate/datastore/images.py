"""Images: add, replace, remove, and what is kept with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from sqlalchemy.engine import Connection, Row

from delineate.datastore import names
from delineate.datastore.formats import require_image
from delineate.datastore.layout import Changes, Stamp
from delineate.datastore.reading import DatastoreReader, checked_info, checked_who
from delineate.datastore.records import ImageRecord
from delineate.datastore.snapshot import image_record
from delineate.datastore.statements import (
    CHANGE_VERSION,
    DELETE_ALL_LABELS,
    DELETE_LEASE,
    DELETE_VERSIONS,
    IMAGE_BY_PATH,
    INSERT_IMAGE,
    INSERT_VERSION,
    LABELS_OF_IMAGE,
    VERSIONS,
)  # fmt: skip
from delineate.errors import InputError, StoreBusyError, StoreError
from delineate.store.writer import BlobWriter

_TRIES: Final = 20
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class _Arrival:
    """An uploaded image on its way in."""

    id: str
    extension: str
    writer: BlobWriter
    info: Mapping[str, Any]
    who: str


class ImageVerbs(DatastoreReader):
    """What changes images. Any verb may raise `StoreBusyError`, `StorageFullError` or `StoreError`; it has then changed nothing."""

    def incoming(self, name: str) -> BlobWriter:
        """A file to write an upload to; `name` is what the sender calls it, of which the extension counts."""
        return self._files.blobs.incoming(name)

    def received(self, stream: BinaryIO, name: str) -> BlobWriter:
        """An upload that is read from a stream to its end."""
        writer = self.incoming(name)
        try:
            while block := stream.read(_BLOCK):
                writer.write(block)
        except BaseException:
            writer.discard()
            raise
        return writer

    def add_image(self, writer: BlobWriter, id: str = "", *, info: Mapping[str, Any] | None = None, who: str = "") -> ImageRecord:
        """Take an uploaded image into the folder; it is there, and safe, when this returns. The writer is used up.

        An id that is known gets a new version; the old one is kept, and labels go on naming the version they were drawn
        on. The same content again, as a client sends that never heard the answer, is the same version.

        Parameters
        ----------
        id : by default the file's name without its extension

        Raises
        ------
        InputError
            An id that cannot be one, an extension that is not known, the id of a series.
        ImageError, GeometryError
            The file is not readable as what its name says.
        """
        with writer:
            writer.seal()
            stem, extension = names.upload_parts(writer.name, names.IMAGE_EXTENSIONS)
            arrival = _Arrival(names.check_id(id or stem), extension, writer, checked_info(info), checked_who(who))
            require_image(writer.path, extension)
            self._files.make_public(writer)
            self._files.bring_to_disk(writer)
            for _ in range(_TRIES):
                kept = self._keep_image(arrival)
                with self._with_files() as (connection, changes):
                    record = self._admit(connection, changes, arrival, kept)
                if isinstance(record, ImageRecord):
                    return record
                if record is not None:
                    self._take_up(record)
        raise StoreBusyError("the image was replaced by others again and again")

    def _take_up(self, path: Path) -> None:
        """Index a file that was found where an upload is to lie."""
        raise NotImplementedError

    def _keep_image(self, arrival: _Arrival) -> int:
        """Keep what an upload will replace: its version, 0 where there is nothing."""
        with self.database.read() as connection:
            row = self._row(connection, arrival.id)
            if row is None or row.removed is not None or row.is_series:
                return 0
            digest = self._digest_of(connection, row)
            is_same = self._is_same(connection, row, arrival)
        if is_same or (digest is not None and self._files.blobs.path(digest).exists()):
            return int(row.version)
        kept = self._files.keep(self.layout.folder / row.path)
        if kept is not None:
            with kept:
                kept.seal()
                self._files.blobs.place(kept)
                with self.database.write() as connection:
                    self._files.blobs.confirm(kept)
                    connection.execute(CHANGE_VERSION, {"which": row.id, "numbered": row.version, "digest": kept.digest})
        return int(row.version)

    def _admit(self, connection: Connection, changes: Changes, arrival: _Arrival, kept: int) -> ImageRecord | Path | None:
        """The new record; None when the version to keep is another by now; a path where a file lies that nobody indexed."""
        row = self._row(connection, arrival.id)
        is_there = row is not None and row.removed is None
        if row is not None and is_there:
            if row.is_series:
                raise InputError("the image of this id is a DICOM series", "Upload under another id.")
            if row.version != kept:
                return None
            if self._is_same(connection, row, arrival):
                return self._again(connection, row, arrival)
        path = self._place_for(connection, row if is_there else None, arrival)
        if not is_there and os.path.lexists(path):
            return path
        changes.put(arrival.writer, path, self.layout.folder / row.path if row is not None and is_there else None)
        version = self._save(connection, row, arrival, path)
        self._event(connection, "added" if version == 1 else "replaced", arrival.id, version, arrival.who)
        return image_record(self.layout, self._image_row(connection, arrival.id))

    def _place_for(self, connection: Connection, row: Row[Any] | None, arrival: _Arrival) -> Path:
        """Where the file is to lie: in the place of the old one, or under its id; a number is added where others have that."""
        if row is not None and row.extension.lower() == arrival.extension:
            return self.layout.folder / str(row.path)
        parent = self.layout.images if row is None else (self.layout.folder / row.path).parent
        path, number = parent / f"{arrival.id}{arrival.extension}", 1
        while os.path.lexists(path) and (row is not None or not path.is_file() or self._is_indexed(connection, path)):
            number += 1
            path = parent / f"{arrival.id}-{number}{arrival.extension}"
        return path

    def _is_indexed(self, connection: Connection, path: Path) -> bool:
        given = {"of": self._datastore, "at": self.layout.relative(path)}
        return connection.execute(IMAGE_BY_PATH, given).first() is not None

    def _is_same(self, connection: Connection, row: Row[Any], arrival: _Arrival) -> bool:
        if self._digest_of(connection, row) != arrival.writer.digest or row.extension.lower() != arrival.extension:
            return False
        return Stamp.of(self.layout.folder / row.path) == Stamp(row.size, row.mtime)

    def _digest_of(self, connection: Connection, row: Row[Any]) -> str | None:
        return next((v.digest for v in connection.execute(VERSIONS, {"which": row.id}) if v.version == row.version), None)

    def _again(self, connection: Connection, row: Row[Any], arrival: _Arrival) -> ImageRecord:
        if arrival.info:
            self._changed(connection, row.id, {"info": {**row.info, **arrival.info}})
        return image_record(self.layout, self._image_row(connection, arrival.id))

    def _save(self, connection: Connection, row: Row[Any] | None, arrival: _Arrival, path: Path) -> int:
        """Write the rows; the version they are of."""
        now, stamp = self._clock(), Stamp.of(path)
        if stamp is None:
            raise StoreError("the image vanished while it was stored", "Check the datastore's disk.")
        version = 1 if row is None else row.version + 1
        values: dict[str, Any] = {
            "extension": arrival.extension, "path": self.layout.relative(path), "is_series": False, "size": stamp.size,
            "mtime": stamp.mtime, "version": version, "added": now, "who": arrival.who, "sha256": None, "removed": None,
            "info": {**arrival.info, "ts": int(now), "name": path.name},
        }  # fmt: skip
        if row is None:
            fresh = {"datastore": self._datastore, "name": arrival.id, "revision": self._next_revision(connection)}
            key = connection.execute(INSERT_IMAGE, fresh | values).inserted_primary_key
            id = int(key[0]) if key else 0
        else:
            id = row.id
            self._changed(connection, id, values)
        connection.execute(
            INSERT_VERSION,
            {
                "image": id, "version": version, "extension": arrival.extension, "digest": arrival.writer.digest, "size": stamp.size,
                "at": now, "who": arrival.who,
            },
        )  # fmt: skip
        return version

    def update_image_info(self, id: str, info: Mapping[str, Any], *, who: str = "") -> ImageRecord:
        """Add to what is kept with an image, key by key. Raises `UnknownImageError` or `InputError`."""
        given = checked_info(info)
        with self.database.write() as connection:
            row = self._image_row(connection, names.check_id(id))
            self._changed(connection, row.id, {"info": checked_info({**row.info, **given})})
            self._event(connection, "image-info", id, row.version, checked_who(who))
            return image_record(self.layout, self._image_row(connection, id))

    def remove_image(self, id: str, *, who: str = "") -> None:
        """Remove an image, its labels and all versions of both; the events stay. Raises `UnknownImageError`."""
        with self._with_files() as (connection, changes):
            row = self._image_row(connection, names.check_id(id))
            labels = connection.execute(LABELS_OF_IMAGE, {"which": row.id}).all()
            paths = [self.layout.label(label.tag, id, label.extension) for label in labels if label.is_current]
            for path in (self.layout.folder / row.path, *paths):
                changes.remove(path)
            versions = connection.execute(VERSIONS, {"which": row.id}).all()
            for statement in (DELETE_ALL_LABELS, DELETE_VERSIONS, DELETE_LEASE):
                connection.execute(statement, {"which": row.id})
            self._changed(connection, row.id, {"removed": self._clock(), "info": {}, "sha256": None})
            self._event(connection, "removed", id, row.version, checked_who(who))
        self._forget([row.digest for row in (*labels, *versions)])
