"""Images that lie in the folder become rows, and rows whose file is gone are removed; who put or took them is not known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import sqlalchemy as sa
from blake3 import blake3
from sqlalchemy.engine import Connection, Row

from delineate.datastore import names
from delineate.datastore.labels import LabelVerbs
from delineate.datastore.layout import Stamp
from delineate.datastore.manifest import Manifest
from delineate.datastore.reading import checked_info
from delineate.datastore.scanning import FoundImage, Look, is_below
from delineate.datastore.settling import Settling
from delineate.datastore.snapshot import Entry
from delineate.datastore.statements import DELETE_LEASE, INSERT_EVENT, INSERT_IMAGE, INSERT_VERSION, VERSIONS
from delineate.errors import InputError
from delineate.store.tables import IMAGE_VERSIONS, IMAGES

NS: Final = 1e-9
_MANY, _FEW = 500, 50  # in one transaction, so that nobody waits long: those that are inserted at once, and one by one
_BLOCK: Final = 1 << 20


class FoundImages(LabelVerbs):
    """What people do to images behind our back, taken over. A row and the file's stamp are compared again inside the transaction."""

    manifest: Manifest

    def take_over_images(self, seen: Look, settling: Settling) -> tuple[int, list[str]]:
        """Make the rows equal to what lies there: how many images changed, and which are being written just now."""
        entries = {entry.path: entry for entry in self.state().entries.values()}
        differing = [found for path, found in seen.images.items() if path not in entries or entries[path].stamp != found.stamp]
        settled = [found for found in differing if settling.is_settled(found.path, found.stamp)]
        waiting = sorted({found.path for found in differing} - {found.path for found in settled})
        new = [found for found in settled if found.path not in entries]
        changed = [(found, entries[found.path]) for found in settled if found.path in entries]
        if seen.gone_images is None:
            gone = [entry for path, entry in entries.items() if path not in seen.images and not is_below(path, seen.unreadable)]
        else:
            gone = [entries[path] for path in seen.gone_images if path in entries]
        count = 0
        for part in _parts(gone, _FEW):  # first, so that a file that was moved keeps its id
            with self.database.write() as connection:
                count += sum(self._lose(connection, entry) for entry in part)
        for part in _parts(new, _MANY):
            with self.database.write() as connection:
                count += self._discover(connection, part)
        for found, entry in changed:
            count += self._notice(found, entry)
        return count, waiting

    def _take_up(self, path: Path) -> None:
        stamp = Stamp.of(path)
        if stamp is not None:
            extension = names.split(path.name)[1]
            with self.database.write() as connection:
                self._discover(connection, [FoundImage(self.layout.relative(path), extension, False, stamp)])

    def _lose(self, connection: Connection, entry: Entry) -> bool:
        row = self._row(connection, entry.image.id)
        if row is None or row.removed is not None or row.path != entry.path or self._is_there(row.path):
            return False
        self._changed(connection, row.id, {"removed": self._clock()})
        connection.execute(DELETE_LEASE, {"which": row.id})
        self._event(connection, "gone", row.name, row.version)
        return True

    def _discover(self, connection: Connection, found: Sequence[FoundImage]) -> int:
        """New rows, and those of images that were gone and are back."""
        taken = self._still_taken(connection, found)
        of_datastore = IMAGES.c.datastore == self._datastore
        paths = [item.path for item in found]
        query = sa.select(IMAGES.c.path).where(of_datastore, IMAGES.c.path.in_(paths), IMAGES.c.removed.is_(None))
        indexed = set(connection.execute(query).scalars())
        removed = {row.name: row for row in connection.execute(sa.select(IMAGES).where(of_datastore, IMAGES.c.removed.is_not(None)))}
        before = {row.path: row.name for row in reversed(removed.values())}
        revision = self._next_revision(connection)
        rows = []
        for item in found:
            if item.path in indexed or not self._is_as_seen(item):
                continue
            id = self._id_for(item, taken, before)
            taken.add(id)
            if id in removed:
                self._revive(connection, removed[id], item)
            else:
                rows.append(self._found_values(item, id) | {"datastore": self._datastore, "name": id, "version": 1, "revision": revision})
        if rows:
            connection.execute(INSERT_IMAGE, rows)
            columns = (IMAGES.c.id, IMAGES.c.version, IMAGES.c.extension, IMAGES.c.size, IMAGES.c.added, IMAGES.c.who)
            fresh = sa.select(*columns).where(of_datastore, IMAGES.c.revision == revision)
            connection.execute(sa.insert(IMAGE_VERSIONS).from_select(["image", "version", "extension", "size", "at", "who"], fresh))
            event = {"datastore": self._datastore, "tag": "", "version": 1, "at": self._clock(), "kind": "found", "who": ""}
            connection.execute(INSERT_EVENT, [event | {"image": row["name"]} for row in rows])
        return len(rows)

    def _still_taken(self, connection: Connection, found: Sequence[FoundImage]) -> set[str]:
        """The ids in use. One of an image that was moved in the middle of a look is free: it was seen here and there."""
        entries = self._snapshot.load(connection).entries
        taken = set(entries)
        for item in found:
            entry = entries.get(self._id_by_name(item, ()))
            if entry is not None and entry.path != item.path and self._lose(connection, entry):
                taken.discard(entry.image.id)
        return taken

    def _is_there(self, path: str) -> bool:
        return (self.layout.folder / path).exists()

    def _is_as_seen(self, item: FoundImage) -> bool:
        path = self.layout.folder / item.path
        return path.is_dir() if item.is_series else Stamp.of(path) == item.stamp

    def _id_for(self, item: FoundImage, taken: Collection[str], before: Mapping[str, str]) -> str:
        """That of MONAI Label's index, that it had `before` it was gone, by path, or one made of its name."""
        told = self.manifest.images.get(item.path)
        for id in (told[0] if told else "", before.get(item.path, "")):
            if id and id not in taken and _is_id(id):
                return id
        return self._id_by_name(item, taken)

    def _id_by_name(self, item: FoundImage, taken: Collection[str]) -> str:
        path = PurePosixPath(item.path)
        parents = path.parent.parts[len(PurePosixPath(self.layout.images_dir).parts) :]
        return names.id_of_file(path.name, parents, taken, () if item.is_series else names.IMAGE_EXTENSIONS)

    def _found_values(self, item: FoundImage, id: str) -> dict[str, Any]:
        told = self.manifest.images.get(item.path)
        info = {"ts": int(item.stamp.mtime * NS), "name": PurePosixPath(item.path).name} | (told_info({}, told[1]) if told else {})
        return {
            "extension": item.extension, "path": item.path, "is_series": item.is_series, "size": item.stamp.size,
            "mtime": item.stamp.mtime, "added": self._clock(), "who": told_who(info), "sha256": None, "removed": None, "info": info,
        }  # fmt: skip

    def _revive(self, connection: Connection, row: Row[Any], item: FoundImage) -> None:
        """An id that is back: the same file goes on where it was, another one is a new version."""
        if row.path == item.path and Stamp(row.size, row.mtime) == item.stamp and row.info:
            self._changed(connection, row.id, {"removed": None})
            self._event(connection, "found", row.name, row.version)
            return
        self._new_version(connection, row, item, self._found_values(item, row.name), "found")

    def _new_version(self, connection: Connection, row: Row[Any], item: FoundImage, values: Mapping[str, Any], kind: str) -> None:
        version = row.version + 1
        self._changed(connection, row.id, {**values, "version": version})
        given = {"image": row.id, "version": version, "extension": item.extension, "digest": None, "size": item.stamp.size}
        connection.execute(INSERT_VERSION, given | {"at": self._clock(), "who": values["who"]})
        self._event(connection, kind, row.name, version)

    def _notice(self, item: FoundImage, entry: Entry) -> bool:
        """A file that is another than its row says: a new version, or the same content written again."""
        with self.database.read() as connection:
            digests = {row.version: row.digest for row in connection.execute(VERSIONS, {"which": entry.row})}
        digest = digests.get(entry.image.version)
        is_same = digest is not None and item.stamp.size == entry.stamp.size and content(self.layout.folder / item.path) == digest
        with self.database.write() as connection:
            row = self._row(connection, entry.image.id)
            if row is None or row.removed is not None or row.path != item.path or Stamp(row.size, row.mtime) != entry.stamp:
                return False
            if not self._is_as_seen(item):
                return False
            stamp = {"size": item.stamp.size, "mtime": item.stamp.mtime}
            if is_same:
                self._changed(connection, row.id, stamp)
            else:
                self._new_version(connection, row, item, stamp | {"added": self._clock(), "who": "", "sha256": None}, "changed")
        return True


def told_who(info: Mapping[str, Any]) -> str:
    """Who did it, as MONAI Label's information tells."""
    who = info.get("user") or info.get("client_id")
    return who[:255] if isinstance(who, str) else ""


def told_info(known: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What MONAI Label's index says that is not known, as far as it can be kept."""
    try:
        return {key: value for key, value in checked_info(told).items() if key not in known or known[key] != value}
    except InputError:
        return {}


def _is_id(text: str) -> bool:
    try:
        names.check_id(text)
    except InputError:
        return False
    return True


def _parts(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def content(path: Path) -> str:
    """BLAKE3 of a file in hex; empty where it cannot be read."""
    found = blake3()
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError:
        return ""
    return found.hexdigest()
