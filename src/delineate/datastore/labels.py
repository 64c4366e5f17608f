"""Labels: save, remove, and what is kept with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import Connection, Row

from delineate.datastore import names
from delineate.datastore.faults import GridMismatchError, UnknownLabelError
from delineate.datastore.formats import PICTURES, require_label, write_raw
from delineate.datastore.images import ImageVerbs
from delineate.datastore.layout import Changes, Stamp
from delineate.datastore.reading import checked_info, checked_who
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.datastore.snapshot import label_record
from delineate.datastore.statements import CHANGE_LABEL, DELETE_LABELS, END_LEASE, INSERT_AND_TELL, INSERT_LABEL, LABELS_OF_TAG
from delineate.errors import InputError, StoreBusyError, StoreError
from delineate.orientation import is_same_place
from delineate.store.writer import BlobWriter

_TRIES: Final = 20


@dataclass(frozen=True)
class _Drawing:
    """An uploaded label on its way in: what is kept, and the copy that lies in the folder."""

    image: ImageRecord
    tag: str
    extension: str
    kept: BlobWriter
    public: BlobWriter
    info: Mapping[str, Any]
    who: str


class LabelVerbs(ImageVerbs):
    """What changes labels; errors as for images."""

    def save_label(self, image: str, tag: str, writer: BlobWriter, *, info: Mapping[str, Any] | None = None, who: str = "") -> LabelRecord:
        """Save a label; it is there, and safe, when this returns. The writer is used up.

        The label before it is kept as an older version. A lease on the image that waits for this tag ends.

        Parameters
        ----------
        tag : empty for ``final``
        writer : its name's extension says the format; ``.bin`` is a bare array on the image's grid, kept as ``.nii.gz``

        Raises
        ------
        UnknownImageError
            No such image.
        GridMismatchError
            The label lies on another grid than the image.
        InputError, ImageError
            A tag that cannot be one, a format that is not known, a file that is not readable.
        """
        with ExitStack() as stack:
            stack.enter_context(writer)
            writer.seal()
            tag, given, who = names.check_tag(tag), checked_info(info), checked_who(who)
            entry = self._entry(image)
            record = entry.image
            _, extension = names.upload_parts(writer.name, (*names.LABEL_EXTENSIONS, names.RAW))
            kept, extension = self._on_grid(stack, record, writer, extension)
            public = stack.enter_context(self._files.public_copy(kept))
            # The disk takes its time for each file and folder: they go to it side by side.
            other = stack.enter_context(ThreadPoolExecutor(1, "label"))
            copied = other.submit(self._files.bring_to_disk, public)
            self._files.blobs.place(kept)
            copied.result()
            drawing = _Drawing(record, tag, extension, kept, public, given, who)
            for turn in range(_TRIES):
                # Where there is no label as far as is known, there is none to keep; `_record` looks again.
                version = 0 if turn == 0 and tag not in entry.labels else self._keep_label(image, tag)
                with self._with_files() as (connection, changes):
                    saved = self._record(connection, changes, drawing, version)
                    is_done = isinstance(saved, LabelRecord)
                    listed = other.submit(self._files.sync_folder, self.layout.labels / tag) if is_done else None
                if listed is not None:
                    listed.result()  # a power cut before the answer may leave the old label in the folder; both are kept then
                if isinstance(saved, LabelRecord):
                    return saved
                if saved is not None:
                    self._keep_stray(image, tag, extension, saved)
        raise StoreBusyError("the label was replaced by others again and again")

    def _on_grid(self, stack: ExitStack, image: ImageRecord, writer: BlobWriter, extension: str) -> tuple[BlobWriter, str]:
        """The label as it is to be kept, once it is known to lie where its image does."""
        grid = self._grid(image)
        if extension == names.RAW:
            if grid is None:
                raise InputError("a raw label needs an image whose grid is known", "Send a NIfTI or NRRD file.")
            written = stack.enter_context(self._files.blobs.incoming("label.nii.gz"))
            write_raw(writer.path, grid, written)
            written.seal()
            return written, ".nii.gz"
        found = require_label(writer.path, extension)
        if grid is not None and found is None and extension in PICTURES:
            raise InputError("a picture cannot be the label of a volume", "Save a label map on the grid of the image: NIfTI, NRRD.")
        if grid is not None and found is not None and not is_same_place(grid, found):
            raise GridMismatchError(grid, found)
        return writer, extension

    def _keep_label(self, image: str, tag: str) -> int:
        """Keep the label that is to be replaced where it lies in the folder only: its version, 0 where there is none."""
        with self.database.read() as connection:
            row = self._image_row(connection, image)
            current = self._current(connection, row.id, tag)
        if current is None or current.digest is not None:
            return 0 if current is None else int(current.version)
        kept = self._files.keep(self.layout.label(tag, image, current.extension))
        if kept is not None:
            with kept:
                kept.seal()
                self._files.blobs.place(kept)
                with self.database.write() as connection:
                    self._files.blobs.confirm(kept)
                    self._change_label(connection, current, {"digest": kept.digest})
        return int(current.version)

    def _keep_stray(self, image: str, tag: str, extension: str, path: Path) -> None:
        """Keep a file that lies where a label is to lie, and that nobody indexed yet, as an older version."""
        if os.path.lexists(path) and not path.is_file():  # of a pipe reading never ends
            raise StoreError(f"what lies where the image's label {tag} is to lie is no file", "Remove it, then save the label again.")
        kept = self._files.keep(path)
        if kept is None:
            return
        with kept:
            kept.seal()
            self._files.blobs.place(kept)
            with self._with_files() as (connection, changes):
                row = self._image_row(connection, image)
                rows = connection.execute(LABELS_OF_TAG, {"which": row.id, "tagged": tag}).all()
                stamp = Stamp.of(path)
                if stamp is None or any(label.is_current and label.extension == extension for label in rows):
                    return
                self._files.blobs.confirm(kept)
                values = {
                    "image": row.id, "tag": tag, "version": 1 + (rows[0].version if rows else 0), "is_current": False, "who": "",
                    "extension": extension, "digest": kept.digest, "size": stamp.size, "mtime": stamp.mtime,
                    "at": stamp.mtime * 1e-9, "image_version": row.version, "info": {"ts": int(stamp.mtime * 1e-9), "name": path.name},
                }  # fmt: skip
                connection.execute(INSERT_LABEL, values)
                self._event(connection, "label-found", image, values["version"], "", tag)
                changes.remove(path)

    def _record(self, connection: Connection, changes: Changes, drawing: _Drawing, before: int) -> LabelRecord | Path | None:
        """The new record; None when the version to keep is another by now; a path where a file lies that nobody indexed."""
        row = self._image_row(connection, drawing.image.id)
        rows = connection.execute(LABELS_OF_TAG, {"which": row.id, "tagged": drawing.tag}).all()
        current = next((label for label in rows if label.is_current), None)
        if (0 if current is None else current.version) != before:
            return None
        path = self.layout.label(drawing.tag, row.name, drawing.extension)
        if (current is None or current.extension != drawing.extension) and os.path.lexists(path):
            return path
        self._files.blobs.confirm(drawing.kept)
        version = 1 + (rows[0].version if rows else 0)
        old = None if current is None else self.layout.label(drawing.tag, row.name, current.extension)
        changes.put(drawing.public, path, old, sync=False)
        if current is not None:
            self._change_label(connection, current, {"is_current": False})
        stamp = Stamp.of(path)
        if stamp is None:
            raise StoreError("the label vanished while it was stored", "Check the datastore's disk.")
        now = self._clock()
        values = {
            "image": row.id, "tag": drawing.tag, "version": version, "is_current": True, "extension": drawing.extension,
            "digest": drawing.kept.digest, "size": stamp.size, "mtime": stamp.mtime, "at": now, "who": drawing.who,
            "image_version": drawing.image.version, "info": {**drawing.info, "ts": int(now), "name": path.name},
        }  # fmt: skip
        inserted = connection.execute(INSERT_AND_TELL, values).one()
        connection.execute(END_LEASE, {"which": row.id, "tagged": drawing.tag})
        self._changed(connection, row.id)
        self._event(connection, "label-saved", row.name, version, drawing.who, drawing.tag)
        return label_record(self.layout, row.name, inserted)

    def _current(self, connection: Connection, image: int, tag: str) -> Row[Any] | None:
        rows = connection.execute(LABELS_OF_TAG, {"which": image, "tagged": tag})
        return next((row for row in rows if row.is_current), None)

    def _change_label(self, connection: Connection, label: Row[Any], values: Mapping[str, Any]) -> None:
        connection.execute(CHANGE_LABEL, {"which": label.image, "tagged": label.tag, "numbered": label.version, **values})

    def _saved(self, connection: Connection, image: Row[Any], tag: str) -> LabelRecord:
        current = self._current(connection, image.id, tag)
        if current is None:
            raise UnknownLabelError(f"the image has no label {tag}")
        return label_record(self.layout, image.name, current)

    def update_label_info(self, image: str, tag: str, info: Mapping[str, Any], *, who: str = "", version: int | None = None) -> LabelRecord:
        """Add to what is kept with a label, key by key.

        version : only where it is the newest one still

        Raises
        ------
        UnknownImageError, UnknownLabelError
            There is none, or a newer one.
        InputError
            What is given is no JSON object.
        """
        given, tag = checked_info(info), names.check_tag(tag)
        with self.database.write() as connection:
            row = self._image_row(connection, names.check_id(image))
            current = self._current(connection, row.id, tag)
            if current is None or version not in (None, current.version):
                raise UnknownLabelError(f"the image has no label {tag}" + ("" if current is None else " of this version any more"))
            self._change_label(connection, current, {"info": checked_info({**current.info, **given})})
            self._changed(connection, row.id)
            self._event(connection, "label-info", image, current.version, checked_who(who), tag)
            return self._saved(connection, row, tag)

    def remove_label(self, image: str, tag: str, *, who: str = "") -> None:
        """Remove a label with all its versions; the events stay. Raises `UnknownImageError` or `UnknownLabelError`."""
        tag = names.check_tag(tag)
        with self._with_files() as (connection, changes):
            row = self._image_row(connection, names.check_id(image))
            rows = connection.execute(LABELS_OF_TAG, {"which": row.id, "tagged": tag}).all()
            current = next((label for label in rows if label.is_current), None)
            if current is None:
                raise UnknownLabelError(f"the image has no label {tag}")
            changes.remove(self.layout.label(tag, image, current.extension))
            connection.execute(DELETE_LABELS, {"which": row.id, "tagged": tag})
            self._changed(connection, row.id)
            self._event(connection, "label-removed", image, current.version, checked_who(who), tag)
        self._forget([label.digest for label in rows])
