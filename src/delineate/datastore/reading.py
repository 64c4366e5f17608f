"""What a datastore is asked; what its verbs share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from delineate.datastore.faults import UnknownImageError, UnknownLabelError
from delineate.datastore.grids import grid_of
from delineate.datastore.layout import Changes, Files, Layout
from delineate.datastore.names import FINAL, check_id, check_tag
from delineate.datastore.records import DatastoreEvent, ImageRecord, ImageVersion, LabelRecord, Statistics
from delineate.datastore.snapshot import Entry, Snapshot, State, label_record
from delineate.datastore.statements import (
    CHANGE_IMAGE,
    IMAGE_BY_NAME,
    INSERT_EVENT,
    LABELS_OF_IMAGE,
    NEXT_REVISION,
    VERSIONS,
)  # fmt: skip
from delineate.errors import InputError, StoreError
from delineate.geometry import Geometry
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tables import ANNOTATION_EVENTS, IMAGE_VERSIONS, LABELS

_GRIDS: Final = 1024  # remembered
_ALGORITHMS: Final = ("SHA256", "SHA512", "MD5")
_LONGEST_INFO: Final = 1 << 20  # bytes of JSON
_BLOCK: Final = 1 << 20
_CHUNK: Final = 500  # values of one IN

SeriesGrid = Callable[[Path], Geometry]


class DatastoreReader:
    """Questions; each may raise `StoreError` and its kin, and `InputError` for an id or tag that cannot be one."""

    def __init__(
        self,
        database: Database,
        files: Files,
        datastore: int,
        header: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
        series_grid: SeriesGrid | None = None,
    ) -> None:
        self.database = database
        self._files = files
        self._datastore = datastore
        self._clock = clock
        self._series_grid = series_grid
        self._snapshot = Snapshot(database, files.layout, datastore, header)
        self._grids: OrderedDict[tuple[str, int, float], Geometry | None] = OrderedDict()
        self._grids_lock = threading.Lock()

    @property
    def layout(self) -> Layout:
        """Where the files lie."""
        return self._files.layout

    def state(self) -> State:
        """All images and current labels at this moment."""
        return self._snapshot.state()

    def image(self, id: str) -> ImageRecord:
        """One image. Raises `UnknownImageError`."""
        return self._entry(id).image

    def may_be_series(self, id: str) -> bool:
        """Whether an image is many files, or was not there when somebody last asked; never waits."""
        entry = self._snapshot.last.entries.get(id)
        return entry is None or entry.image.is_series

    def images(self, *, unlabelled: bool | None = None, tag: str = FINAL) -> list[ImageRecord]:
        """All images in the order in which they came; those without (True) or with (False) a label of `tag` only."""
        entries = self.state().entries.values()
        return [entry.image for entry in entries if unlabelled is None or (tag not in entry.labels) == unlabelled]

    def label(self, id: str, tag: str) -> LabelRecord:
        """The current label of an image and tag. Raises `UnknownImageError` or `UnknownLabelError`."""
        found = self._entry(id).labels.get(check_tag(tag))
        if found is None:
            raise UnknownLabelError(f"the image has no label {tag or FINAL}")
        return found

    def labels(self, id: str) -> Mapping[str, LabelRecord]:
        """The current labels of an image by tag. Raises `UnknownImageError`."""
        return self._entry(id).labels

    def pairs(self, tag: str = FINAL) -> list[tuple[ImageRecord, LabelRecord]]:
        """Images with their labels of a tag: what a model learns from."""
        return [(entry.image, entry.labels[tag]) for entry in self.state().entries.values() if tag in entry.labels]

    def statistics(self) -> Statistics:
        """How many images and labels there are."""
        return self.state().statistics

    def index(self) -> bytes:
        """Everything as JSON, in the shape of MONAI Label's datastore_v2.json."""
        return self.state().index

    def image_versions(self, id: str) -> list[ImageVersion]:
        """All versions of an image, oldest first. Raises `UnknownImageError`."""
        entry = self._entry(id)
        with self.database.read() as connection:
            rows = connection.execute(VERSIONS, {"which": entry.row}).all()
        return [
            ImageVersion(
                version=row.version,
                extension=row.extension,
                path=entry.image.path if row.version == entry.image.version else self._kept(row.digest),
                size=row.size,
                at=row.at,
                who=row.who,
            )
            for row in rows
        ]

    def label_versions(self, id: str, tag: str) -> list[LabelRecord]:
        """All versions of a label, oldest first; empty where there never was one. Raises `UnknownImageError`."""
        entry, tag = self._entry(id), check_tag(tag)
        with self.database.read() as connection:
            rows = [row for row in connection.execute(LABELS_OF_IMAGE, {"which": entry.row}) if row.tag == tag]
        return [self._version(entry.image.id, row) for row in rows]

    def _version(self, image: str, row: Row[Any]) -> LabelRecord:
        record = label_record(self.layout, image, row)
        if row.is_current:
            return record
        fields = {name: getattr(record, name) for name in record.__slots__}
        return LabelRecord(**(fields | {"path": self._kept(row.digest)}))

    def _kept(self, digest: str | None) -> Path | None:
        path = None if digest is None else self._files.blobs.path(digest)
        return path if path is not None and path.exists() else None

    def events(self, id: str = "", *, after: int = 0, limit: int = 1000) -> list[DatastoreEvent]:
        """What happened, oldest first, to one image (also a removed one) or to all."""
        query = sa.select(ANNOTATION_EVENTS).where(ANNOTATION_EVENTS.c.datastore == self._datastore, ANNOTATION_EVENTS.c.id > after)
        if id:
            query = query.where(ANNOTATION_EVENTS.c.image == check_id(id))
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(ANNOTATION_EVENTS.c.id).limit(limit)).all()
        return [
            DatastoreEvent(id=row.id, image=row.image, tag=row.tag, version=row.version, at=row.at, kind=row.kind, who=row.who)
            for row in rows
        ]  # fmt: skip

    def checksum(self, id: str, algorithm: str = "SHA256") -> str:
        """Digest of an image's file in hex; SHA-256 is computed once for each version.

        Raises
        ------
        InputError
            Another algorithm than SHA256, SHA512 and MD5, or a series, which is many files.
        UnknownImageError
            No such image.
        """
        if algorithm.upper() not in _ALGORITHMS:
            raise InputError("this kind of checksum is not known", f"Use one of {', '.join(_ALGORITHMS)}.")
        entry = self._entry(id)
        if entry.image.is_series:
            raise InputError("a DICOM series has no checksum", "Compare its files.")
        with self.database.read() as connection:
            row = connection.execute(IMAGE_BY_NAME, {"of": self._datastore, "called": id}).one()
        is_usual = algorithm.upper() == "SHA256"
        if is_usual and row.sha256 is not None and row.version == entry.image.version:
            return str(row.sha256)
        digest = _digest(entry.image.path, algorithm)
        if is_usual:
            with self.database.write(light=True) as connection:
                row = connection.execute(IMAGE_BY_NAME, {"of": self._datastore, "called": id}).one()
                if row.version == entry.image.version and row.mtime == entry.stamp.mtime:
                    connection.execute(CHANGE_IMAGE, {"which": row.id, "sha256": digest})
        return digest

    def grid(self, id: str) -> Geometry | None:
        """The grid of an image from its header; None for a format that has none, and for a series nobody can read here.

        Raises
        ------
        UnknownImageError
            No such image.
        ImageError, GeometryError
            It is not readable.
        """
        return self._grid(self._entry(id).image)

    def learn_grid(self, image: ImageRecord, grid: Geometry) -> None:
        """Remember the grid of an image as it is now, which somebody else has read."""
        with self._grids_lock:
            self._grids[image.id, image.version, image.mtime] = grid

    def _grid(self, image: ImageRecord) -> Geometry | None:
        key = (image.id, image.version, image.mtime)
        with self._grids_lock:
            if key in self._grids:
                return self._grids[key]
        if image.is_series:
            grid = None if self._series_grid is None else self._series_grid(image.path)
        else:
            grid = grid_of(image.path, image.extension.lower())
        with self._grids_lock:
            self._grids[key] = grid
            if len(self._grids) > _GRIDS:
                self._grids.popitem(last=False)
        return grid

    # What the verbs share

    def _entry(self, id: str) -> Entry:
        found = self.state().entries.get(check_id(id))
        if found is None:
            raise UnknownImageError("there is no such image in the datastore")
        return found

    @contextlib.contextmanager
    def _with_files(self) -> Iterator[tuple[Connection, Changes]]:
        """A write transaction with the files that it moves; they are put back if anything of it fails, its commit on a full disk too."""
        changes = Changes(self._files)
        with self.database.write() as connection:
            try:
                yield connection, changes
                connection.commit()
            except BaseException:
                changes.undo()  # here, while nobody else can move the same files
                raise
        changes.discard()

    def _image_row(self, connection: Connection, id: str) -> Row[Any]:
        row = self._row(connection, id)
        if row is None or row.removed is not None:
            raise UnknownImageError("there is no such image in the datastore")
        return row

    def _row(self, connection: Connection, id: str) -> Row[Any] | None:
        """An image's row, that of a removed one too."""
        return connection.execute(IMAGE_BY_NAME, {"of": self._datastore, "called": id}).first()

    def _changed(self, connection: Connection, image: int, values: Mapping[str, Any] | None = None) -> None:
        """Change an image's row, or only say that its labels did."""
        connection.execute(CHANGE_IMAGE, {"which": image, "revision": self._next_revision(connection), **(values or {})})

    def _next_revision(self, connection: Connection) -> int:
        return int(connection.execute(NEXT_REVISION, {"of": self._datastore}).scalar_one())

    def _forget(self, digests: Iterable[str | None]) -> None:
        """Remove those kept files that no row names any more; what fails here is left to the next sweep."""
        with contextlib.suppress(StoreError):
            remove_unnamed(self.database, self._files.blobs, sorted({digest for digest in digests if digest is not None}))

    def _event(self, connection: Connection, kind: str, image: str, version: int, who: str = "", tag: str = "") -> None:
        values = {"image": image, "tag": tag, "version": version, "kind": kind, "who": who}
        connection.execute(INSERT_EVENT, {"datastore": self._datastore, "at": self._clock(), **values})


def remove_unnamed(database: Database, blobs: BlobStore, digests: Sequence[str]) -> int:
    """Remove those kept files that no row names, inside write transactions: how many."""
    count = 0
    for start in range(0, len(digests), _CHUNK):
        chunk = digests[start : start + _CHUNK]
        with database.write() as connection:
            for digest in unnamed(connection, chunk):
                blobs.remove(digest)
                count += 1
    return count


def unnamed(connection: Connection, digests: Sequence[str]) -> list[str]:
    """Those digests, `_CHUNK` at most, that no version of an image or label has."""
    of_images = sa.select(IMAGE_VERSIONS.c.digest).where(IMAGE_VERSIONS.c.digest.in_(digests))
    of_labels = sa.select(LABELS.c.digest).where(LABELS.c.digest.in_(digests))
    return sorted(set(digests) - set(connection.execute(sa.union_all(of_images, of_labels)).scalars()))


def checked_info(info: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of what a caller wants to keep. Raises `InputError` where it is no JSON object, or a very large one."""
    if info is not None and not isinstance(info, Mapping):
        raise InputError("the information is not a JSON object", 'Send one like {"patient": "p1"}.')
    try:
        text = json.dumps(dict(info or {}), allow_nan=False)
        if len(text) > _LONGEST_INFO:
            raise InputError("the information is longer than 1 MiB", "Keep less with the image or label.")
        value: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError("the information cannot be kept as JSON", "Send plain objects, lists, text and finite numbers.") from error
    return value


def checked_who(who: str) -> str:
    """A name as the database can hold it."""
    return "".join(letter for letter in who if letter.isprintable())[:255]


def _digest(path: Path, algorithm: str) -> str:
    found = hashlib.new(algorithm.lower(), usedforsecurity=False)
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError as error:
        raise UnknownImageError("the image's file is not there any more") from error
    return found.hexdigest()
