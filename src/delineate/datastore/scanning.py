"""What lies in a datastore's folder: a cheap look at the folders that changed, and now and then a look at every file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from delineate.datastore.formats import is_dicom
from delineate.datastore.layout import Layout, Stamp
from delineate.datastore.names import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, split

_DEPTH: Final = 16  # sub-folders of sub-folders
_SNIFFED: Final = 3  # files of a folder that are read to see whether it is a DICOM series
_TICK: Final = 2 * 10**9  # ns; a folder that changed this lately may change again without a later time


@dataclass(frozen=True)
class FoundImage:
    """An image file, or the folder of a series; `path` is below the datastore's folder."""

    path: str
    extension: str
    is_series: bool
    stamp: Stamp


@dataclass(frozen=True)
class FoundLabel:
    """A label's file; `id` is what its name says of the image."""

    tag: str
    id: str
    extension: str
    stamp: Stamp


@dataclass
class Look:
    """All that lies there, and what could not be looked into (then nothing in it counts as gone)."""

    images: dict[str, FoundImage] = field(default_factory=dict)
    labels: list[FoundLabel] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass
class _Folder:
    mtime: int
    is_settled: bool
    files: dict[str, Stamp]
    folders: list[str]
    series: Stamp | None


class Scanner:
    """Looks into the folder and remembers what it saw. Not for several threads at once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, _Folder] = {}
        self.has_changed = False

    def look(self, *, deep: bool = False) -> Look:
        """What is there. Not `deep`: a file that was written over in place is noticed only when its folder changed.

        `has_changed` then tells whether any folder had to be listed. Raises OSError where the folder itself cannot be read.
        """
        self.has_changed = deep
        seen = Look()
        alive: set[str] = set()
        os.scandir(self._layout.images).close()
        for path, folder in self._walk(self._layout.images, 0, deep, seen, alive):
            self._add_images(seen, path, folder)
        for tag in self._tags(deep, seen, alive):
            self._add_labels(seen, tag)
        self._known = {path: folder for path, folder in self._known.items() if path in alive}
        return seen

    def _walk(self, path: Path, depth: int, deep: bool, seen: Look, alive: set[str]) -> Iterator[tuple[Path, _Folder]]:
        if path == self._layout.labels or depth > _DEPTH:
            return
        folder = self._folder(path, deep, seen, alive, IMAGE_EXTENSIONS)
        if folder is None:
            return
        yield path, folder
        for name in folder.folders:
            yield from self._walk(path / name, depth + 1, deep, seen, alive)

    def _tags(self, deep: bool, seen: Look, alive: set[str]) -> list[tuple[Path, _Folder]]:
        top = self._folder(self._layout.labels, deep, seen, alive, ())
        found = []
        for name in top.folders if top else ():
            folder = self._folder(self._layout.labels / name, deep, seen, alive, LABEL_EXTENSIONS)
            if folder is not None:
                found.append((self._layout.labels / name, folder))
        return found

    def _folder(self, path: Path, deep: bool, seen: Look, alive: set[str], extensions: tuple[str, ...]) -> _Folder | None:
        key = str(path)
        alive.add(key)
        try:
            mtime = path.stat().st_mtime_ns
            known = self._known.get(key)
            if known is None or deep or not known.is_settled or known.mtime != mtime:
                known = self._listed(path, mtime, known, deep, extensions)
                self._known[key] = known
            return known
        except FileNotFoundError:
            self.has_changed = True
            return None
        except OSError:
            seen.unreadable.append(self._layout.relative(path))
            return None

    def _listed(self, path: Path, mtime: int, known: _Folder | None, deep: bool, extensions: tuple[str, ...]) -> _Folder:
        """List a folder; files that were there before are looked at only by a deep look, because there may be very many."""
        if known is None or known.mtime != mtime:
            self.has_changed = True
        before = {} if known is None or deep else known.files
        files: dict[str, Stamp] = {}
        folders, others, size = [], [], 0
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif split(entry.name, extensions)[1]:
                    stamp = before.get(entry.name) or Stamp.of(Path(entry.path))
                    if stamp is not None:
                        files[entry.name] = stamp
                elif extensions is IMAGE_EXTENSIONS and path != self._layout.images:
                    others.append(entry.name)
                    size += entry.stat().st_size
        series = None
        if any(is_dicom(path / name) for name in sorted(others)[:_SNIFFED]):
            series = Stamp(size, mtime)
        return _Folder(mtime, time.time_ns() - mtime > _TICK, files, sorted(folders), series)

    def _add_images(self, seen: Look, path: Path, folder: _Folder) -> None:
        for name in sorted(folder.files):
            relative = self._layout.relative(path / name)
            seen.images[relative] = FoundImage(relative, split(name)[1], False, folder.files[name])
        if folder.series is not None:
            relative = self._layout.relative(path)
            seen.images[relative] = FoundImage(relative, "", True, folder.series)

    def _add_labels(self, seen: Look, tag: tuple[Path, _Folder]) -> None:
        path, folder = tag
        for name, stamp in folder.files.items():
            stem, extension = split(name, LABEL_EXTENSIONS)
            seen.labels.append(FoundLabel(path.name, stem, extension, stamp))
