"""What lies in a datastore's folder: a cheap look at the folders that changed, and now and then a look at every file."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from delineate.datastore.formats import is_dicom
from delineate.datastore.layout import Layout, Stamp
from delineate.datastore.names import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, is_text, split

DEEPEST: Final = 16
"""Sub-folders of sub-folders that are looked into."""

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
    """What there is to compare with the rows.

    images, labels : all that lie there, or in a light look those that came since the last one
    gone_images, gone_labels : those that lay there and no longer do; None after a deep look: all that are not in the others
    unreadable : folders that could not be looked into: nothing in them counts as gone
    passed_over : how many files and folders there are that nobody can ask for: their names are no text, or they lie too deep
    """

    images: dict[str, FoundImage] = field(default_factory=dict)
    labels: list[FoundLabel] = field(default_factory=list)
    gone_images: list[str] | None = None
    gone_labels: list[tuple[str, str]] | None = None
    unreadable: list[str] = field(default_factory=list)
    passed_over: int = 0


@dataclass
class _Folder:
    """One folder as it was seen: its files that count, its sub-folders, the series it is where it is one, names that are no text."""

    mtime: int
    is_settled: bool = True
    files: dict[str, Stamp] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    series: Stamp | None = None
    passed_over: int = 0


_NONE: Final = _Folder(-1)


class Scanner:
    """Looks into the folder and remembers what it saw. Not for several threads at once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, _Folder] = {}

    def look(self, *, deep: bool = False) -> Look:
        """What is there (deep), or what came and went since the last look.

        Not `deep`, a file that was written over in place is not noticed. Raises OSError where the folder itself cannot be
        read.
        """
        seen = Look() if deep else Look(gone_images=[], gone_labels=[])
        before, now = self._known, dict[str, _Folder]()
        os.scandir(self._layout.images).close()
        self._walk("" if self._layout.images_dir == "." else self._layout.images_dir, 0, deep, seen, now)
        top = self._folder(self._layout.labels_dir, deep, seen, now, ())
        for tag in top.folders if top else ():
            self._folder(f"{self._layout.labels_dir}/{tag}", deep, seen, now, LABEL_EXTENSIONS)
        self._known = now
        for path, folder in now.items():
            old = _NONE if deep else before.get(path, _NONE)
            if folder is not old:
                self._compare(seen, path, old, folder)
        for path, folder in before.items():
            if path in now:
                continue
            if is_below(path, seen.unreadable):
                now[path] = folder
            elif not deep:
                self._compare(seen, path, folder, _NONE)
        return seen

    def labels(self) -> Look:
        """All labels that the last look knew."""
        seen = Look(gone_images=[], gone_labels=[])
        for path, folder in self._known.items():
            if path.startswith(f"{self._layout.labels_dir}/"):
                self._compare(seen, path, _NONE, folder)
        return seen

    def again(self, path: str, name: str) -> None:
        """Let the next look find a file, or a series' folder, as if it came then; for one that is just being written."""
        if (folder := self._known.get(path)) is not None:
            folder.files.pop(name, None)
            folder.is_settled = False
        if (series := self._known.get(_joined(path, name))) is not None:
            series.series, series.is_settled = None, False

    def _walk(self, path: str, depth: int, deep: bool, seen: Look, now: dict[str, _Folder]) -> None:
        if path == self._layout.labels_dir:
            return
        if depth > DEEPEST:
            seen.passed_over += 1
            return
        folder = self._folder(path, deep, seen, now, IMAGE_EXTENSIONS)
        for name in folder.folders if folder else ():
            self._walk(_joined(path, name), depth + 1, deep, seen, now)

    def _folder(self, path: str, deep: bool, seen: Look, now: dict[str, _Folder], extensions: tuple[str, ...]) -> _Folder | None:
        absolute = self._layout.folder / path
        known = self._known.get(path)
        try:
            mtime = absolute.stat().st_mtime_ns
            if known is None or deep or not known.is_settled or known.mtime != mtime:
                known = self._listed(absolute, mtime, _NONE if known is None or deep else known, extensions)
            now[path] = known
            seen.passed_over += known.passed_over
            return known
        except FileNotFoundError:
            return None
        except OSError:
            seen.unreadable.append(path)
            if known is not None:
                now[path] = known  # as it was
            return None

    def _listed(self, path: Path, mtime: int, before: _Folder, extensions: tuple[str, ...]) -> _Folder:
        """List a folder; files that were there before are not looked at again, because there may be very many."""
        files: dict[str, Stamp] = {}
        folders, others, size, passed_over = [], [], 0, 0
        may_be_series = extensions is IMAGE_EXTENSIONS and path != self._layout.images
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name in before.files:
                    files[name] = before.files[name]
                elif name.startswith("."):
                    continue
                elif not is_text(name):
                    passed_over += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif split(name, extensions)[1]:
                    if (stamp := _stamp(entry)) is not None:
                        files[name] = stamp
                elif may_be_series and (stamp := _stamp(entry)) is not None:
                    others.append(name)
                    size += stamp.size
        is_series = any(is_dicom(path / name) for name in sorted(others)[:_SNIFFED])
        is_settled = time.time_ns() - mtime > _TICK
        return _Folder(mtime, is_settled, files, sorted(folders), Stamp(size, mtime) if is_series else None, passed_over)

    def _compare(self, seen: Look, path: str, old: _Folder, new: _Folder) -> None:
        tag = path[len(self._layout.labels_dir) + 1 :] if path.startswith(f"{self._layout.labels_dir}/") else ""
        if tag:
            for name in new.files.keys() - old.files.keys():
                stem, extension = split(name, LABEL_EXTENSIONS)
                seen.labels.append(FoundLabel(tag, stem, extension, new.files[name]))
            if seen.gone_labels is not None:
                seen.gone_labels += [(tag, name) for name in old.files.keys() - new.files.keys()]
            return
        for name in sorted(new.files.keys() - old.files.keys()):
            found = FoundImage(_joined(path, name), split(name)[1], False, new.files[name])
            seen.images[found.path] = found
        if new.series is not None and new.series != old.series:
            seen.images[path] = FoundImage(path, "", True, new.series)
        if seen.gone_images is not None:
            seen.gone_images += [_joined(path, name) for name in old.files.keys() - new.files.keys()]
            if old.series is not None and new.series is None:
                seen.gone_images.append(path)


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of some folders, or in one."""
    return any(folder in ("", path) or path.startswith(f"{folder}/") for folder in folders)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        status = entry.stat()
    except OSError:
        return None  # gone already, or a link to nothing or to itself
    if not stat.S_ISREG(status.st_mode):
        return None  # a pipe or a device, of which reading may never end
    return Stamp(status.st_size, status.st_mtime_ns)
