"""A datastore in a folder of this machine."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from delineate.datastore import manifest
from delineate.datastore.dataset import zipped
from delineate.datastore.findings import Findings
from delineate.datastore.found_images import told_info
from delineate.datastore.layout import Files, Layout, Stamp
from delineate.datastore.reading import SeriesGrid, remove_unnamed, unnamed
from delineate.datastore.records import ImageRecord
from delineate.datastore.sampling import Sampling
from delineate.datastore.scanning import DEEPEST, Look, Scanner
from delineate.datastore.settling import Settling
from delineate.datastore.snapshot import Entry
from delineate.datastore.strategies import Strategy
from delineate.datastore.strategies_learning import all_strategies
from delineate.datastore.watch import Watch
from delineate.errors import StoreError
from delineate.store.database import Database
from delineate.store.faults import storage_error
from delineate.store.tables import DATASTORES

LEASE: Final = 3600.0
"""Seconds for which an image is an annotator's."""

_SETTLE: Final = 2.0
_PATIENCE: Final = 1.0  # s beyond that time for which an image is waited for that is just being copied
_TURN: Final = 0.05  # s
_WAITING: Final = 4  # threads at once
_QUICK, _SHARE = 0.01, 10.0  # s; a look that takes longer is not repeated for so many times as long, whoever asks for what is not there
_CHUNK: Final = 500

_log = logging.getLogger(__name__)


class LocalDatastore(Sampling):
    """Images and labels in a folder, shared by threads and processes that open the same database.

    Parameters
    ----------
    folder : made where it is missing; images lie in it and its sub-folders, labels in ``labels/TAG``
    database : migrated
    interval : seconds between two looks at the folder, in a thread of its own, and at once for an id that is not known; 0 looks
        at the start only
    settle : seconds for which a file must not have changed before it is taken over, because somebody may be writing it
    lease_seconds : for which an image is an annotator's
    strategies : by name; by default all that there are
    series_grid : reads the grid of a DICOM series, so that labels of it are compared with it
    sync : whether what was answered survives a power cut; False is for tests

    Raises
    ------
    StoreError
        The folder cannot be used.
    SettingsError
        Its ``datastore_v2.json`` names folders outside of it.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        *,
        interval: float = 1.0,
        settle: float = _SETTLE,
        lease_seconds: float = LEASE,
        strategies: Mapping[str, Strategy] | None = None,
        series_grid: SeriesGrid | None = None,
        clock: Callable[[], float] = time.time,
        sync: bool = True,
    ) -> None:
        folder = Path(folder).resolve()
        row, self.manifest = _registered(database, folder)
        files = Files(Layout(folder, row.images_dir, row.labels_dir), sync=sync)
        header = {name: getattr(row, name) for name in ("name", "description", "images_dir", "labels_dir")}
        super().__init__(database, files, row.id, header, clock=clock, series_grid=series_grid)
        self.findings = Findings(database, row.id, clock)
        self.strategies = all_strategies(self.findings) if strategies is None else strategies
        self.lease_seconds = lease_seconds
        self._settle = settle
        self._settling = Settling(settle)
        self._scanner = self._new_scanner(files.layout)
        self._look_lock = threading.Lock()
        self._is_behind = True
        self._arriving: frozenset[str] = frozenset()
        self._look_again = 0.0
        self._passed_over = 0
        self._waiting = threading.Semaphore(_WAITING)
        self._watch: Watch | None = None
        self._owns_kept = self._mark(row.uid)
        self.sweep()
        self.look(deep=True)
        self._merge()
        if interval > 0:
            self._watch = Watch(self, interval)

    def __enter__(self) -> LocalDatastore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop looking, and write MONAI Label's index; the database stays open."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self.write_manifest()

    def _new_scanner(self, layout: Layout) -> Scanner:
        return Scanner(layout)

    def fetch(self, id: str) -> ImageRecord:
        """An image whose file is on this disk; all are. Raises `UnknownImageError`."""
        return self.image(id)

    def is_here(self, image: ImageRecord) -> bool:
        """Whether its file is on this disk, without a look at it."""
        return True

    def look(self, *, deep: bool = True) -> int:
        """Take over what people changed in the folder: how many images and labels. Not `deep`: only where a folder changed.

        Raises `StoreError` where the folder cannot be read; then nothing counts as gone.
        """
        with self._look_lock:
            deep, self._is_behind = deep or self._is_behind, True
            try:
                seen = self._scanner.look(deep=deep)
            except OSError as error:
                raise storage_error(error, "looking into the datastore's folder") from error
            count = self._take_over(seen) if deep or seen.images or seen.labels or seen.gone_images or seen.gone_labels else 0
            self._tell_of(seen.passed_over)
            self._is_behind = False  # what came in between is seen next time; where this one failed, all is compared again
            return count

    def _tell_of(self, passed_over: int) -> None:
        """Say in the log, once, that there is more in the folder than people can be shown; without names, which may be patients'."""
        if passed_over > self._passed_over:
            _log.warning(
                "%d files or folders of the datastore are left out: their names hold control characters or are no UTF-8, or they lie in "
                "more than %d folders; rename or move them", passed_over, DEEPEST
            )  # fmt: skip
        self._passed_over = passed_over

    def _entry(self, id: str) -> Entry:
        if self._watch is not None and id not in self.state().entries:
            self._expect(id)
        return super()._entry(id)

    def _expect(self, id: str) -> None:
        """Look for an image that nobody saw yet; one that is just being copied is waited for until it surely is whole."""
        end = time.monotonic() + self._settle + _PATIENCE
        if (begin := time.monotonic()) >= self._look_again:
            self.look(deep=False)
            took = time.monotonic() - begin
            self._look_again = begin + took + (_SHARE * took if took > _QUICK else 0.0)
        if id not in self._arriving or id in self.state().entries or not self._waiting.acquire(blocking=False):
            return
        try:
            while id in self._arriving and id not in self.state().entries and time.monotonic() < end:
                time.sleep(_TURN)
                self.look(deep=False)
        finally:
            self._waiting.release()

    def _take_over(self, seen: Look) -> int:
        self._settling.begin()
        images, waiting = self.take_over_images(seen, self._settling)
        known = self.state().entries
        self._arriving = frozenset(self._id_for(seen.images[path], known, {}) for path in waiting)
        labels, unsettled = self.take_over_labels(seen, self._settling)
        if images and seen.gone_images is not None:  # labels that lay there before their image did
            more, others = self.take_over_labels(self._scanner.labels(), self._settling)
            labels, unsettled = labels + more, unsettled + others
        for path in waiting:
            folder, _, name = path.rpartition("/")
            self._scanner.again(folder, name)
        for label in unsettled:
            self._scanner.again(f"{self.layout.labels_dir}/{label.tag}", f"{label.id}{label.extension}")
        return images + labels

    def write_manifest(self) -> bool:
        """Write ``datastore_v2.json`` where anything changed since it was written last: whether it was."""
        state = self.state()
        with self.database.read() as connection:
            row = connection.execute(sa.select(DATASTORES).where(DATASTORES.c.id == self._datastore)).one()
        path = self.layout.manifest
        if row.written == state.revision and path.exists():
            return False

        def note(values: Mapping[str, int]) -> None:
            with self.database.write(light=True) as connection:
                connection.execute(sa.update(DATASTORES).where(DATASTORES.c.id == self._datastore).values(values))

        stamp = self._files.write_whole(path, state.index, lambda stamp: note({"writing_size": stamp.size, "writing_mtime": stamp.mtime}))
        note({"written": state.revision, "written_size": stamp.size, "written_mtime": stamp.mtime})
        return True

    def _merge(self) -> None:
        """What MONAI Label wrote of images and labels that are known here, into what is kept with them."""
        for entry in self.state().entries.values():
            told = self.manifest.images.get(entry.path)
            if told and (news := told_info(entry.image.info, told[1])):
                self.update_image_info(entry.image.id, news)
            for tag, label in entry.labels.items():
                if news := told_info(label.info, self.manifest.labels.get((tag, f"{label.image}{label.extension}"), {})):
                    self.update_label_info(label.image, tag, news)

    def dataset(self, *, limit: int | None = None) -> Iterator[bytes]:
        """The images that have a final label, with it, as the blocks of a zip; at most `limit` of them."""
        pairs = self.pairs()
        return zipped(pairs[:limit] if limit and limit > 0 else pairs, self.index())

    def sweep(self) -> int:
        """Remove what interrupted work left: how many files. Safe while other processes work."""
        count = self._files.blobs.clean_incoming()
        self._files.clean()
        if not self._owns_kept:
            _log.warning("the datastore's kept versions belong to another database; they are left as they are")
            return count
        for digests in self._files.blobs.digests():
            for start in range(0, len(digests), _CHUNK):
                with self.database.read() as connection:  # a first look without the lock: nearly always there is nothing to do
                    suspects = unnamed(connection, digests[start : start + _CHUNK])
                count += remove_unnamed(self.database, self._files.blobs, suspects) if suspects else 0
        return count

    def tidy(self) -> None:
        """Remove what was taken away by work that was killed before its end; for a server that runs on."""
        try:
            self._files.clean()
        except OSError as error:
            raise storage_error(error, "removing what interrupted work left") from error

    def _mark(self, uid: str) -> bool:
        """Whether the kept versions in the folder are those of this database; another's are no orphans."""
        path = self.layout.hidden / "datastore"
        with contextlib.suppress(FileNotFoundError):
            return path.read_text(encoding="ascii").strip() == uid
        self._files.write_whole(path, f"{uid}\n".encode())
        return True

    def _forget(self, digests: Any) -> None:
        if self._owns_kept:
            super()._forget(digests)


def _registered(database: Database, folder: Path) -> tuple[Row[Any], manifest.Manifest]:
    """The row of a folder, and what MONAI Label's index in it says unless we wrote it ourselves."""
    query = sa.select(DATASTORES).where(DATASTORES.c.folder == str(folder))
    path = Layout(folder).manifest
    with database.read() as connection:
        row = connection.execute(query).first()
    own = [] if row is None else [Stamp(row.written_size, row.written_mtime), Stamp(row.writing_size, row.writing_mtime)]
    is_ours = Stamp.of(path) in own
    told = (None if is_ours else manifest.read(path)) or manifest.Manifest()
    if row is None:
        Layout(folder, told.images_dir, told.labels_dir)  # checked before it is kept
        values = {
            "uid": secrets.token_urlsafe(32), "folder": str(folder), "name": told.name, "description": told.description,
            "images_dir": told.images_dir, "labels_dir": told.labels_dir, "revision": 0, "written": -1, "written_size": -1,
            "written_mtime": -1, "writing_size": -1, "writing_mtime": -1,
        }  # fmt: skip
        with database.write() as connection:
            if connection.execute(query).first() is None:
                connection.execute(sa.insert(DATASTORES), values)
        with database.read() as connection:
            row = connection.execute(query).first()
    if row is None:
        raise StoreError("the datastore is not in the database", "Look into the server's log.")
    return row, told
