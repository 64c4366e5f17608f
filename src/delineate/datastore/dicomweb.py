"""A datastore whose images are the series of a DICOMweb server: a `LocalDatastore` whose index is kept equal to the server's.

Rows, labels, leases, versions and events are those of any datastore, in a folder of our own. Only what an image is differs: a
series that the server has, fetched when somebody needs its files, and kept on this disk for a while.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from delineate.datastore.dataset import zipped
from delineate.datastore.dicomweb_cache import IN_USE, PATIENCE, Held, SeriesCache
from delineate.datastore.dicomweb_client import DicomWeb, path_of
from delineate.datastore.dicomweb_grid import grid_of
from delineate.datastore.dicomweb_json import NOT_IMAGES, RemoteSeries, is_uid
from delineate.datastore.dicomweb_labels import DERIVED, FoundThere
from delineate.datastore.dicomweb_scanning import Listing, ListingScanner
from delineate.datastore.faults import DicomWebError
from delineate.datastore.layout import HIDDEN, Layout
from delineate.datastore.local import LocalDatastore
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.datastore.scanning import FoundImage
from delineate.errors import DelineateError, InputError
from delineate.geometry import Geometry
from delineate.store.database import Database
from delineate.store.writer import BlobWriter

IMAGES: Final = "images"
EVERY: Final = 60.0
"""Seconds between two questions what the server has."""

_THERE: Final = "Change it in the DICOMweb server; instances are sent to it by STOW, here through /proxy/dicom/stow/studies."
_AGAIN: Final = 1.0  # s between two questions for series that are not known
_TURNS: Final = 64
_PATIENCE: Final = 5.0  # s to wait for the thread at the end

_log = logging.getLogger(__name__)


class DicomWebDatastore(LocalDatastore):
    """Images of a DICOMweb server, labels in a folder.

    Parameters
    ----------
    folder : of our own: labels, series that were fetched, the index
    web : closed with this
    modalities : of the series that are images; empty for all but `NOT_IMAGES`
    cache_bytes : most that fetched series may take; in_use : seconds for which one stays after its last use; patience : for
        which one that comes waits for room
    every : seconds between two questions what the server has; 0 for none but `synchronise`
    others : as of `LocalDatastore`

    Raises
    ------
    StoreError
        The folder cannot be used. A server that does not answer is no error: what is known of it stays.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        web: DicomWeb,
        *,
        modalities: Collection[str] = (),
        cache_bytes: int = 20 << 30,
        in_use: float = IN_USE,
        patience: float = PATIENCE,
        every: float = EVERY,
        **others: Any,
    ) -> None:
        self.web = web
        self._modalities = frozenset(modalities)
        self._every = every
        self._listing = Listing()
        self._listing_lock = threading.Lock()
        self._missing: frozenset[str] = frozenset()
        self._counts: dict[str, int] = {}
        self._asked_again = 0.0
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._stopped = threading.Event()
        _name_images_folder(Path(folder).resolve())
        super().__init__(folder, database, **others)
        self._cache = SeriesCache(self._files, cache_bytes, clock=others.get("clock", time.time), in_use=in_use, patience=patience)
        self._labels = FoundThere(self)
        self._thread = threading.Thread(target=self._run, name="dicomweb", daemon=True)
        if every > 0:
            self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._stopped.set()
        self._cache.close()
        self.web.close()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        super().close()

    # What the server has

    @property
    def uid(self) -> str:
        """Of this datastore among all: no two servers make the same names for what they send."""
        return (self.layout.hidden / "datastore").read_text(encoding="ascii").strip()

    def synchronise(self) -> int:
        """Ask the server what it has: how many images changed here, and labels that others put there.

        A series counts as gone when it was missing twice in a row: while others write, a list that comes in pages may lack one.
        One that has other instances than before is another version when it had as many twice in a row: it may be just coming.

        Raises
        ------
        DicomWebError, StoreError
            Then nothing changed.
        """
        found, derived = self._series()
        counts = {path: one.count for path, one in found.items()}
        for path, before in self._listing.series.items():
            if path in found and counts[path] not in (before.count, self._counts.get(path)):
                found[path] = before
        self._counts = counts
        known = {entry.path for entry in self.state().entries.values()}
        missing = frozenset(known - found.keys())
        count = self._take_listing(found, missing & self._missing)
        self._missing = missing
        self._merge()
        return count + self._labels.look(derived)

    def _take_listing(self, series: Mapping[str, RemoteSeries], gone: Collection[str] = ()) -> int:
        with self._listing_lock:
            self._listing = Listing(series, gone, self._listing.number + 1)
            self.manifest = replace(self.manifest, images=self._listing.told)
        return self.look(deep=False)

    def _expect(self, id: str) -> None:
        """Ask for a series that was not listed yet: a viewer may show what came a moment ago."""
        now = time.monotonic()
        if not is_uid(id) or now < self._asked_again:
            return
        self._asked_again = now + _AGAIN
        with contextlib.suppress(DicomWebError):
            one = self.web.one_series(id)
            if one is not None and self._is_image(one):
                self._take_listing({**self._listing.series, f"{IMAGES}/{one.uid}": one})

    def _series(self) -> tuple[dict[str, RemoteSeries], list[RemoteSeries]]:
        """Images by path, and what is derived from images."""
        wanted = sorted({*self._modalities, *DERIVED}) if self._modalities else [""]
        found = [one for modality in wanted for one in self.web.series(modality)]
        images = {f"{IMAGES}/{one.uid}": one for one in found if self._is_image(one)}
        return images, [one for one in found if one.modality in DERIVED]

    def send(self, image: ImageRecord, files: Sequence[Path]) -> None:
        """Store what was made from an image beside it; it is there when this returns. Raises `DicomWebError`."""
        self.web.store(self._known(image)[0], files)

    def write_note(self, path: Path, content: bytes) -> None:
        """Write a file of our own, whole or not at all. Raises `StoreError`."""
        self._files.write_whole(path, content)

    def _is_image(self, one: RemoteSeries) -> bool:
        return one.modality in self._modalities if self._modalities else one.modality not in NOT_IMAGES

    def _run(self) -> None:
        trouble = ""
        while not self._stopped.is_set():
            try:
                self.synchronise()
                trouble = ""
            except DelineateError as error:
                if error.message != trouble and not self._stopped.is_set():  # once, not every minute
                    _log.error("the DICOMweb server: %s", error.sentence())
                trouble = error.message
            except Exception:
                if not self._stopped.is_set():
                    _log.exception("the DICOMweb server could not be looked at")
            self._stopped.wait(self._every)

    # Files, when they are needed

    def fetch(self, id: str) -> ImageRecord:
        """An image whose files are on this disk, and stay for a while; blocks until they are.

        Raises
        ------
        UnknownImageError
            No such image.
        DicomWebError
            The server does not give it, or not all of it.
        StorageFullError
            It does not fit.
        """
        record = self.image(id)
        uid = record.path.name
        if self._cache.use(uid, record.version) is not None:
            return record
        with self._turns[hash(uid) % len(self._turns)]:  # who wants the same one waits for it
            record = self.image(id)
            if self._cache.use(uid, record.version) is None:
                self._retrieve(uid, record)
        return record

    def is_here(self, image: ImageRecord) -> bool:
        """Whether its files are on this disk."""
        return self._cache.peek(image.path.name, image.version) is not None

    def _retrieve(self, uid: str, record: ImageRecord) -> None:
        study, count = self._known(record)
        begun = time.monotonic()
        with self._cache.receiving(uid) as receiver, ThreadPoolExecutor(1, "metadata") as beside:
            told = beside.submit(self._asked_grid, study, uid)
            self.web.retrieve(path_of(study, uid), receiver)
            if receiver.count < max(1, count):
                raise DicomWebError(
                    f"the DICOMweb server sent {receiver.count} instances of a series of {count}", "Look whether it has lost some."
                )
            grid, instances = told.result()
            size, files = receiver.size, receiver.count
            receiver.keep(record.version, grid if instances == files else None)
        _log.info("a series of %d instances was fetched, %.1f MB in %.1f s", files, size / 1e6, time.monotonic() - begun)

    def _known(self, record: ImageRecord) -> tuple[str, int]:
        """Study and number of instances: as listed now, or as they were kept."""
        listed = self._listing.series.get(f"{IMAGES}/{record.path.name}")
        if listed is not None:
            return listed.study, listed.count
        count = str(record.info.get("NumberOfSeriesRelatedInstances", ""))
        return str(record.info.get("StudyInstanceUID", "")), int(count) if count.isdecimal() else 0

    def _asked_grid(self, study: str, uid: str) -> tuple[Geometry | None, int]:
        """The grid, and of how many instances."""
        try:
            instances = self.web.metadata(study, uid)
        except DicomWebError as error:
            _log.warning("the grid of a series is not known: %s", error.message)
            return None, 0
        return grid_of(instances), len(instances)

    def _grid(self, image: ImageRecord) -> Geometry | None:
        """That of a series that is here; others are not fetched for it."""
        held: Held | None = self._cache.peek(image.path.name, image.version)
        return None if held is None else held.grid

    def dataset(self, *, limit: int | None = None) -> Iterator[bytes]:
        """As of a folder; each series is fetched when its turn comes."""
        pairs = self.pairs()

        def fetched() -> Iterator[tuple[ImageRecord, LabelRecord]]:
            for image, label in pairs[:limit] if limit and limit > 0 else pairs:
                yield self.fetch(image.id), label

        return zipped(fetched(), self.index())

    def save_label(
        self, image: str, tag: str, writer: BlobWriter, *, info: Mapping[str, Any] | None = None, who: str = ""
    ) -> LabelRecord:  # fmt: skip
        """As of a folder; the series is fetched, because a label is compared with its grid. Raises as `fetch`, too."""
        with writer:
            self.fetch(image)
            return super().save_label(image, tag, writer, info=info, who=who)

    # What is changed there, not here

    def add_image(self, writer: BlobWriter, id: str = "", *, info: Mapping[str, Any] | None = None, who: str = "") -> ImageRecord:
        """Refused: images come from the server."""
        writer.discard()
        raise InputError("the images of this datastore are those of its DICOMweb server", _THERE)

    def remove_image(self, id: str, *, who: str = "") -> None:
        """Refused: the next look at the server would bring it back."""
        self.image(id)
        raise InputError("the images of this datastore are removed in its DICOMweb server", _THERE)

    # The folder's ways, of series

    def _new_scanner(self, layout: Layout) -> ListingScanner:
        return ListingScanner(layout, lambda: self._listing)

    def _is_as_seen(self, item: FoundImage) -> bool:
        return item.path in self._listing.series

    def _is_there(self, path: str) -> bool:
        return path in self._listing.series


def _name_images_folder(folder: Path) -> None:
    """Let a new folder keep its images apart from all else."""
    path = folder / "datastore_v2.json"
    if not (folder / HIDDEN).exists() and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": "dicomweb", "images_dir": IMAGES}), encoding="utf-8")
