"""Where a datastore's files lie, and how they get there and away; nothing here knows the database.

::

    FOLDER/                     images as people have them, in sub-folders too
    FOLDER/labels/TAG/ID.EXT    the current label of each image and tag
    FOLDER/datastore_v2.json    the index as MONAI Label reads and writes it
    FOLDER/.delineate/          kept versions (blobs), what is being written, what is being removed
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delineate.errors import SettingsError, StoreError
from delineate.store.blobs import BlobStore
from delineate.store.faults import storage_error
from delineate.store.writer import BlobWriter

HIDDEN: Final = ".delineate"
_BLOCK: Final = 1 << 20
_ABANDONED: Final = 600.0  # s


@dataclass(frozen=True)
class Stamp:
    """By which a changed file is known: bytes, and when it was written, ns. No inode: a restored folder has others."""

    size: int
    mtime: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Of a file, None where there is none."""
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Layout:
    """The paths of one datastore; `images_dir` and `labels_dir` are below `folder`."""

    folder: Path
    images_dir: str = "."
    labels_dir: str = "labels"

    def __post_init__(self) -> None:
        for name in (self.images_dir, self.labels_dir):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise SettingsError(f"the datastore names a folder outside of itself ({name})", "Correct its datastore_v2.json.")
        object.__setattr__(self, "images_dir", os.path.normpath(self.images_dir))
        object.__setattr__(self, "labels_dir", os.path.normpath(self.labels_dir))

    @property
    def images(self) -> Path:
        """The folder of images."""
        return self.folder / self.images_dir

    @property
    def labels(self) -> Path:
        """The folder of labels, one sub-folder for each tag."""
        return self.folder / self.labels_dir

    @property
    def hidden(self) -> Path:
        """What is ours alone."""
        return self.folder / HIDDEN

    @property
    def manifest(self) -> Path:
        """MONAI Label's index."""
        return self.folder / "datastore_v2.json"

    def label(self, tag: str, id: str, extension: str) -> Path:
        """The current label of an image and tag."""
        return Path(f"{self.folder}/{self.labels_dir}/{tag}/{id}{extension}")  # at once: there may be very many

    def relative(self, path: Path) -> str:
        """A path below the folder as rows have it."""
        return path.relative_to(self.folder).as_posix()


class Files:
    """Puts files into the folder and takes them out, so that each step is whole or not done.

    sync : whether what is placed survives a power cut; False is for tests.
    """

    def __init__(self, layout: Layout, *, sync: bool = True) -> None:
        self.layout = layout
        self._sync = sync
        self._trash = layout.hidden / "trash"
        self._keeping = layout.hidden / "keeping"
        try:
            for folder in (layout.folder, layout.images, layout.labels / "final", layout.labels / "original"):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (layout.hidden, self._trash, self._keeping):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, "making the datastore's folders") from error
        self.blobs = BlobStore(layout.hidden / "blobs", sync=sync)
        self._unsynced = BlobStore(layout.hidden / "blobs", sync=False)

    def make_public(self, writer: BlobWriter) -> None:
        """Let whoever may read the folder read a sealed file that is to lie in it."""
        try:
            status = self.layout.images.stat()
            writer.path.chmod(status.st_mode & 0o666)
            with contextlib.suppress(PermissionError):
                os.chown(writer.path, -1, status.st_gid)
        except OSError as error:
            raise storage_error(error, "opening incoming data to others") from error

    def bring_to_disk(self, writer: BlobWriter) -> None:
        """What `publish` does anyway, for a large file before others have to wait for it."""
        if self._sync:
            try:
                _sync(writer.path, os.O_RDONLY)
            except OSError as error:
                raise storage_error(error, "bringing incoming data to the disk") from error

    def public_copy(self, writer: BlobWriter) -> BlobWriter:
        """A second file of the same content, ready to be placed: what people write over must not be what is kept."""
        copy = self._unsynced.incoming(writer.name)
        try:
            with writer.path.open("rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    copy.write(block)
            copy.seal()
            self.make_public(copy)
        except OSError as error:
            copy.discard()
            raise storage_error(error, "copying a label") from error
        except BaseException:
            copy.discard()
            raise
        return copy

    def publish(self, writer: BlobWriter, target: Path, *, sync: bool = True) -> None:
        """Let a sealed file be found at `target`, in the place of whatever was there; not `sync`: `sync_folder` follows."""
        try:
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                self.sync_folder(target.parent.parent)
        except OSError as error:
            raise storage_error(error, "making a folder in the datastore") from error
        writer.link(target)
        if sync:
            self.sync_folder(target.parent)

    def sync_folder(self, folder: Path) -> None:
        """Bring a folder's entries to the disk."""
        if self._sync:
            try:
                _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise storage_error(error, "storing a folder of the datastore") from error

    def keep(self, path: Path) -> BlobWriter | None:
        """A writer over the file at `path` as it is now, to be placed as a blob; the file stays. None where there is none.

        On one file system nothing is copied: the writer holds the same file, which stays when another is put in its place.
        """
        linked = self._keeping / secrets.token_hex(16)
        try:
            try:
                os.link(path.resolve(), linked)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copyfile(path, linked)  # a link into another file system
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, "keeping an old version") from error
        return self.blobs.adopt(linked)

    def hold(self, path: Path) -> Path | None:
        """A second name of a file that is to be replaced, to be put back or discarded; None where there is no file.

        Neither this nor `put_back` needs room on the disk, of which there may be none when something has to be undone.
        """
        held = self._keeping / secrets.token_hex(16)
        try:
            os.link(path, held, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, "holding an old version") from error
        return held

    def put_back(self, held: Path, path: Path) -> None:
        """Let what was held or set aside be where it was, after its replacement or removal came to nothing."""
        try:
            held.replace(path)
            held.unlink(missing_ok=True)  # still there where `path` was this very file
        except OSError as error:
            raise storage_error(error, "putting an old version back") from error

    def take_away(self, path: Path) -> None:
        """Remove a file, missing or not."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, "removing a file") from error

    def set_aside(self, path: Path) -> Path | None:
        """Take a file or folder out of the way, to be removed by `discard` or put back; None where there is none."""
        aside = self._trash / secrets.token_hex(16)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, "removing a file") from error
        return aside

    def discard(self, aside: Path) -> None:
        """Remove what was set aside; what cannot be removed now is, at the next start."""
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what interrupted removals and replacements left; not what others are just doing."""
        now = time.time()
        for folder in (self._trash, self._keeping):
            for left in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if now - left.lstat().st_ctime > _ABANDONED:
                        self.discard(left)

    def write_whole(self, target: Path, content: bytes, announce: Callable[[Stamp], None] | None = None) -> Stamp:
        """Write a file so that it is the old or the new one, whenever somebody looks; `announce` hears of it before."""
        with self.blobs.incoming() as writer:
            writer.write(content)
            writer.seal()
            self.make_public(writer)
            stamp = Stamp.of(writer.path)
            if stamp is None:
                raise StoreError("a file vanished while it was written", "Check the datastore's disk.")
            if announce:
                announce(stamp)
            self.publish(writer, target)
        return stamp


class Changes:
    """Files put into the folder and taken out of it in one transaction: all of it can be undone until what was there is discarded."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._back = contextlib.ExitStack()
        self._old: list[Path] = []

    def put(self, writer: BlobWriter, path: Path, old: Path | None, *, sync: bool = True) -> None:
        """Let a sealed file lie at `path`, and no longer what lay at `old`, there or elsewhere; `sync` as for `Files.publish`."""
        if old is not None and (held := self._files.hold(old)) is not None:
            self._old.append(held)
            self._back.callback(self._files.put_back, held, old)
        if old != path:
            self._back.callback(self._files.take_away, path)
        self._files.publish(writer, path, sync=sync)
        if old is not None and old != path:
            self._files.take_away(old)

    def remove(self, path: Path) -> None:
        """Take a file or folder out of the way, missing or not."""
        if (aside := self._files.set_aside(path)) is not None:
            self._old.append(aside)
            self._back.callback(self._files.put_back, aside, path)

    def undo(self) -> None:
        """Put everything back to where it was. Raises `StoreError`."""
        self._back.close()

    def discard(self) -> None:
        """Remove what was replaced or taken away."""
        for old in self._old:
            self._files.discard(old)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
