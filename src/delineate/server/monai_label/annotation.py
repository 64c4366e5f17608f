"""What annotation works on beside tasks and models: the datastore and the sessions, as far as the settings want them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from delineate.datastore.faults import UnknownItemError
from delineate.datastore.local import LocalDatastore
from delineate.datastore.sessions import SessionStore
from delineate.errors import InputError
from delineate.server.monai_label.faults import NotHereError, SessionsOffError
from delineate.server.service import archive_limits
from delineate.server.settings import Settings
from delineate.store.database import Database

if TYPE_CHECKING:
    from delineate.datastore.dicomweb import DicomWebDatastore

_FETCHES: Final = 4
"""Series fetched at once; who waits for more of them occupies no thread that others need."""

_READ_FIRST, _READ_EACH = 60.0, 5.0  # s for a worker to read labels in DICOM


class Annotation:
    """The datastore in the folder, or of the DICOMweb server, that `studies` of the settings names, and the sessions in the data folder.

    Raises
    ------
    StoreError, SettingsError
        As `LocalDatastore`.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._sessions: SessionStore | None = None
        self._datastore: LocalDatastore | None = None
        self.web: DicomWebDatastore | None = None
        """The datastore, where it is a DICOMweb server's."""
        self._fetchers: ThreadPoolExecutor | None = None
        if settings.session_expiry:
            self._sessions = SessionStore(
                sessions_folder(settings), database, longest=settings.session_expiry, limits=archive_limits(settings), sync=settings.sync
            )
        if settings.studies is not None:
            self._datastore = LocalDatastore(settings.studies, database, lease_seconds=settings.sample_lease, sync=settings.sync)
        elif settings.dicomweb:
            self._datastore = self.web = _of_web(settings, database)
            self._fetchers = ThreadPoolExecutor(_FETCHES, "fetch")

    @property
    def has_datastore(self) -> bool:
        """Whether there is one."""
        return self._datastore is not None

    @property
    def datastore(self) -> LocalDatastore:
        """The images and labels. Raises `NotHereError`."""
        if self._datastore is None:
            raise NotHereError("this server has no images to annotate", "Start it with --studies DIR.")
        return self._datastore

    async def fetch(self, image: str) -> None:
        """Have the files of an image here, for a while; at once for an image in a folder, and for one that is not there.

        Raises as `DicomWebDatastore.fetch`.
        """
        web = self.web
        if web is not None and self._fetchers is not None and image:
            with contextlib.suppress(UnknownItemError, InputError):  # whoever asked says so in its own words
                await asyncio.get_running_loop().run_in_executor(self._fetchers, web.fetch, image)

    async def fetch_labelled(self, tag: str) -> None:
        """The same for all images with a label of a tag; labels that were found in DICOM are label maps then, unless they cannot be."""
        if self.web is None:
            return
        from delineate.datastore.dicomweb_labels import unread

        pairs = self.web.pairs(tag)
        for image, _ in pairs:
            await self.fetch(image.id)
        end = time.monotonic() + _READ_FIRST + _READ_EACH * len(pairs)
        while unread(self.web, tag) and time.monotonic() < end:
            await asyncio.sleep(0.2)

    @property
    def sessions(self) -> SessionStore:
        """The sessions. Raises `SessionsOffError`."""
        if self._sessions is None:
            raise SessionsOffError("this server keeps no sessions")
        return self._sessions

    def sweep(self) -> int:
        """Remove sessions that expired: how many; and what interrupted work left in the datastore."""
        if self._datastore is not None:
            self._datastore.tidy()
        return self._sessions.sweep() if self._sessions is not None else 0

    def close(self) -> None:
        """Stop looking at the folder."""
        if self._fetchers is not None:
            self._fetchers.shutdown(wait=False, cancel_futures=True)
        if self._datastore is not None:
            self._datastore.close()


def sessions_folder(settings: Settings) -> Path:
    """Where sessions are kept."""
    return settings.data / "sessions"


def image_folders(settings: Settings) -> tuple[Path, ...]:
    """The folders whose images tasks may refer to."""
    studies = web_folder(settings) if settings.dicomweb else settings.studies
    return (sessions_folder(settings), *(() if studies is None else (studies,)))


def web_folder(settings: Settings) -> Path:
    """Where labels, index and fetched series of a DICOMweb server are kept; another server has another one."""
    return settings.data / "dicomweb" / hashlib.sha256(settings.dicomweb.rstrip("/").encode()).hexdigest()[:16]


def _of_web(settings: Settings, database: Database) -> DicomWebDatastore:
    # Only here: a server without one needs no client of HTTP.
    from delineate.datastore.dicomweb import DicomWebDatastore
    from delineate.datastore.dicomweb_client import Access, DicomWeb

    access = Access(
        url=settings.dicomweb, token_file=settings.dicomweb_token_file, password_file=settings.dicomweb_password_file,
        ca_file=settings.dicomweb_ca, idle=settings.dicomweb_idle,
    )  # fmt: skip
    return DicomWebDatastore(
        web_folder(settings), database, DicomWeb(access), modalities=settings.dicomweb_modalities,
        cache_bytes=settings.dicomweb_cache_mb << 20, every=settings.dicomweb_interval, lease_seconds=settings.sample_lease,
        sync=settings.sync,
    )  # fmt: skip
