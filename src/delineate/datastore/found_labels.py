"""Labels that lie in the folder become rows, and rows whose file is gone are no longer the current ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from delineate.datastore import names
from delineate.datastore.found_images import NS, FoundImages, content, told_info, told_who
from delineate.datastore.layout import Stamp
from delineate.datastore.records import LabelRecord
from delineate.datastore.scanning import FoundLabel, Look
from delineate.datastore.settling import Settling
from delineate.datastore.snapshot import Entry
from delineate.datastore.statements import END_LEASE, INSERT_EVENT, INSERT_LABEL
from delineate.errors import InputError
from delineate.store.tables import IMAGES, LABELS

_MANY: Final = 200  # in one transaction

_Candidate = tuple[FoundLabel, Entry]


class FoundLabels(FoundImages):
    """What people do to labels behind our back, taken over."""

    def take_over_labels(self, seen: Look, settling: Settling) -> tuple[int, list[FoundLabel]]:
        """Make the rows equal to what lies there: how many labels changed, and which must be looked at again.

        Those are the ones that are being written just now, and in a light look those whose image is not there yet.
        """
        entries = self.state().entries
        candidates: list[_Candidate] = []
        waiting = []
        for found in seen.labels:
            entry = entries.get(found.id)
            if entry is None or not _differs(found, entry):
                continue
            if settling.is_settled(f"{self.layout.labels_dir}/{found.tag}/{found.id}{found.extension}", found.stamp):
                candidates.append((found, entry))
            else:
                waiting.append(found)
        count = 0
        for start in range(0, len(candidates), _MANY):
            with self.database.write() as connection:
                count += self._discover_labels(connection, candidates[start : start + _MANY])
        if not seen.unreadable:
            count += self._lose_labels(self._gone(seen))
        return count, waiting

    def _gone(self, seen: Look) -> list[tuple[Entry, LabelRecord]]:
        entries = self.state().entries
        if seen.gone_labels is not None:
            found = ((tag, *names.split(name, names.LABEL_EXTENSIONS)) for tag, name in seen.gone_labels)
            known = ((entries[id], entries[id].labels.get(tag), extension) for tag, id, extension in found if id in entries)
            return [(entry, label) for entry, label, extension in known if label is not None and label.extension == extension]
        there = {(found.tag, found.id, found.extension) for found in seen.labels}
        return [
            (entry, label)
            for entry in entries.values()
            for label in entry.labels.values()
            if (label.tag, entry.image.id, label.extension) not in there
        ]

    def _discover_labels(self, connection: Connection, candidates: Sequence[_Candidate]) -> int:
        images = sorted({entry.row for _, entry in candidates})
        versions = {row.id: row.version for row in connection.execute(sa.select(IMAGES).where(IMAGES.c.id.in_(images)))}
        known: dict[tuple[int, str], list[Row[Any]]] = {}
        query = sa.select(LABELS).where(LABELS.c.image.in_(images)).order_by(LABELS.c.version)
        for row in connection.execute(query):
            known.setdefault((row.image, row.tag), []).append(row)
        fresh = []
        changed = set()
        for found, entry in candidates:
            rows = known.get((entry.row, found.tag), [])
            values = self._take_label(connection, found, entry, rows)
            if values is not None:
                changed.add((entry.row, found.tag))
            if values:
                fresh.append(values | {"image_version": versions[entry.row]})
        if fresh:
            connection.execute(INSERT_LABEL, fresh)
            event = {"datastore": self._datastore, "at": self._clock(), "kind": "label-found", "who": ""}
            ids = {entry.row: entry.image.id for _, entry in candidates}
            told = [{"image": ids[row["image"]], "tag": row["tag"], "version": row["version"]} for row in fresh]
            connection.execute(INSERT_EVENT, [event | item for item in told])
        if changed:
            connection.execute(END_LEASE, [{"which": image, "tagged": tag} for image, tag in changed])
            touched = sa.update(IMAGES).where(IMAGES.c.id.in_({image for image, _ in changed}))
            connection.execute(touched.values(revision=self._next_revision(connection)))
        return len(changed)

    def _take_label(self, connection: Connection, found: FoundLabel, entry: Entry, rows: Sequence[Row[Any]]) -> dict[str, Any] | None:
        """The values of a new row; empty where an old row is right again; None where nothing is to be done."""
        path = self.layout.label(found.tag, entry.image.id, found.extension)
        current = next((row for row in rows if row.is_current), None)
        if Stamp.of(path) != found.stamp or (current is not None and not _supersedes(found, current)):
            return None
        if current is not None and current.digest is not None and content(path) == current.digest:
            values = {"size": found.stamp.size, "mtime": found.stamp.mtime, "extension": found.extension}
            self._change_label(connection, current, values)
            return {}
        if current is not None:
            self._change_label(connection, current, {"is_current": False})
        for row in reversed(rows):
            if row.extension == found.extension and Stamp(row.size, row.mtime) == found.stamp:
                self._change_label(connection, row, {"is_current": True})
                return {}
        info = {"ts": int(found.stamp.mtime * NS), "name": path.name} | self._told(found)
        return {
            "image": entry.row, "tag": found.tag, "version": 1 + (rows[-1].version if rows else 0), "is_current": True,
            "extension": found.extension, "digest": None, "size": found.stamp.size, "mtime": found.stamp.mtime,
            "at": found.stamp.mtime * NS, "who": told_who(info), "info": info,
        }  # fmt: skip

    def _told(self, found: FoundLabel) -> dict[str, Any]:
        return told_info({}, self.manifest.labels.get((found.tag, f"{found.id}{found.extension}"), {}))

    def _lose_labels(self, gone: Sequence[tuple[Entry, LabelRecord]]) -> int:
        count = 0
        for start in range(0, len(gone), _MANY):
            with self.database.write() as connection:
                for entry, label in gone[start : start + _MANY]:
                    current = self._current(connection, entry.row, label.tag)
                    path = self.layout.label(label.tag, entry.image.id, label.extension)
                    if current is None or current.version != label.version or path.exists():
                        continue
                    self._change_label(connection, current, {"is_current": False})
                    self._changed(connection, entry.row)
                    self._event(connection, "label-gone", entry.image.id, label.version, tag=label.tag)
                    count += 1
        return count


def _differs(found: FoundLabel, entry: Entry) -> bool:
    """Whether a file is another than the current label; quick, because there may be very many."""
    label = entry.labels.get(found.tag)
    if label is None:
        return _is_tag(found.tag)
    if label.extension == found.extension:
        return entry.stamps[found.tag] != found.stamp
    return found.stamp.mtime > entry.stamps[found.tag].mtime


def _supersedes(found: FoundLabel, current: Row[Any]) -> bool:
    if current.extension == found.extension:
        return Stamp(current.size, current.mtime) != found.stamp
    return bool(found.stamp.mtime > current.mtime)


def _is_tag(text: str) -> bool:
    try:
        return names.check_tag(text) == text
    except InputError:
        return False
