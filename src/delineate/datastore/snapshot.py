"""All images and current labels of a datastore in memory, as of one revision: what most questions are answered from.

A state is never changed: who has one sees one moment. Only what changed since is read from the database.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import Connection, Row

from delineate.datastore.layout import Layout, Stamp
from delineate.datastore.names import FINAL
from delineate.datastore.records import ImageRecord, LabelRecord, Statistics
from delineate.datastore.statements import IMAGES_SINCE, LABELS_SINCE, REVISION
from delineate.store.database import Database

_NS: Final = 1e-9


class Entry:
    """One image with its current labels by tag.

    row : its key in the database
    path : below the datastore's folder
    stamp, stamps : by which a change of its file, and of its labels' files, is known
    """

    def __init__(self, layout: Layout, row: Row[Any], labels: Sequence[Row[Any]]) -> None:
        self.row: int = row.id
        self.path: str = row.path
        self.image = image_record(layout, row)
        self.stamp = Stamp(row.size, row.mtime)
        self.labels = {label.tag: label_record(layout, row.name, label) for label in labels}
        self.stamps = {label.tag: Stamp(label.size, label.mtime) for label in labels}

    @cached_property
    def fragment(self) -> bytes:
        """Its line of the index, in the shape that MONAI Label's datastore_v2.json has."""
        labels = {tag: {"ext": label.extension, "info": label.info} for tag, label in self.labels.items()}
        value = {"image": {"ext": shown_extension(self.image), "info": self.image.info}, "labels": labels}
        return f"{json.dumps(self.image.id)}: {json.dumps(value)}".encode()


def shown_extension(image: ImageRecord) -> str:
    """What, put behind the id, gives the file's name; MONAI Label finds files that way. Two files of one stem differ in it."""
    return "" if image.path.name == image.id else image.extension


class State:
    """The images of one revision, by id."""

    def __init__(self, revision: int, entries: Mapping[str, Entry], header: Mapping[str, str]) -> None:
        self.revision = revision
        self.entries = entries
        self._header = header

    @cached_property
    def statistics(self) -> Statistics:
        """Counts over all images."""
        tags: dict[str, int] = {}
        for entry in self.entries.values():
            for tag in entry.labels:
                tags[tag] = tags.get(tag, 0) + 1
        return Statistics(total=len(self.entries), completed=tags.get(FINAL, 0), label_tags=dict(sorted(tags.items())))

    @cached_property
    def index(self) -> bytes:
        """Everything, as JSON, in the shape of MONAI Label's datastore_v2.json."""
        head = json.dumps(self._header)[:-1].encode() + b', "objects": {\n'
        return head + b",\n".join([entry.fragment for entry in self.entries.values()]) + b"\n}}\n"

    def unlabelled(self, tag: str) -> list[ImageRecord]:
        """The images without a label of that tag."""
        return [entry.image for entry in self.entries.values() if tag not in entry.labels]


class Snapshot:
    """The newest state, for any thread."""

    def __init__(self, database: Database, layout: Layout, datastore: int, header: Mapping[str, str]) -> None:
        self._database = database
        self._layout = layout
        self._datastore = datastore
        self._header = header
        self._lock = threading.Lock()
        self._seen = -1
        self._state = State(-1, {}, header)

    def state(self) -> State:
        """What is there now. Raises `StoreError` and its kin."""
        changes = self._database.changes()
        if changes != self._seen:
            with self._database.read() as connection:
                self.load(connection)
            self._seen = changes
        return self._state

    @property
    def last(self) -> State:
        """What was there when somebody last asked; never waits."""
        return self._state

    def load(self, connection: Connection) -> State:
        """The state that a transaction sees; before the transaction changes anything itself."""
        with self._lock:
            known = self._state.revision
            revision = REVISION.first(connection, of=self._datastore).revision
            if revision > known:
                given = {"of": self._datastore, "known": known}
                images = connection.execute(IMAGES_SINCE, given).all()
                labels = connection.execute(LABELS_SINCE, given).all()
                self._state = State(revision, self._merged(images, labels), self._header)
            return self._state

    def _merged(self, images: Iterable[Row[Any]], labels: Iterable[Row[Any]]) -> dict[str, Entry]:
        entries = dict(self._state.entries)
        by_image: dict[int, list[Row[Any]]] = {}
        for row in labels:
            by_image.setdefault(row.image, []).append(row)
        for row in images:
            if row.removed is not None:
                entries.pop(row.name, None)
                continue
            entries[row.name] = Entry(self._layout, row, by_image.get(row.id, []))
        return entries


def image_record(layout: Layout, row: Row[Any]) -> ImageRecord:
    """An image as its row tells it."""
    return ImageRecord(
        id=row.name,
        extension=row.extension,
        path=Path(f"{layout.folder}/{row.path}"),
        is_series=row.is_series,
        size=row.size,
        mtime=row.mtime * _NS,
        version=row.version,
        added=row.added,
        who=row.who,
        info=row.info,
    )


def label_record(layout: Layout, image: str, row: Row[Any]) -> LabelRecord:
    """A current label as its row tells it."""
    return LabelRecord(
        image=image,
        tag=row.tag,
        version=row.version,
        extension=row.extension,
        path=layout.label(row.tag, image, row.extension),
        size=row.size,
        is_current=row.is_current,
        at=row.at,
        who=row.who,
        image_version=row.image_version,
        info=row.info,
    )
