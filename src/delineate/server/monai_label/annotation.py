"""What annotation works on beside tasks and models: the datastore and the sessions, as far as the settings want them."""

from __future__ import annotations

from pathlib import Path

from delineate.datastore.local import LocalDatastore
from delineate.datastore.sessions import SessionStore
from delineate.server.monai_label.faults import NotHereError, SessionsOffError
from delineate.server.service import archive_limits
from delineate.server.settings import Settings
from delineate.store.database import Database


class Annotation:
    """The datastore in the folder `studies` of the settings, and the sessions in the data folder.

    Raises
    ------
    StoreError, SettingsError
        As `LocalDatastore`.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._sessions: SessionStore | None = None
        self._datastore: LocalDatastore | None = None
        if settings.session_expiry:
            self._sessions = SessionStore(
                sessions_folder(settings), database, longest=settings.session_expiry, limits=archive_limits(settings), sync=settings.sync
            )
        if settings.studies is not None:
            self._datastore = LocalDatastore(settings.studies, database, lease_seconds=settings.sample_lease, sync=settings.sync)

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

    @property
    def sessions(self) -> SessionStore:
        """The sessions. Raises `SessionsOffError`."""
        if self._sessions is None:
            raise SessionsOffError("this server keeps no sessions")
        return self._sessions

    def sweep(self) -> int:
        """Remove sessions that expired: how many."""
        return self._sessions.sweep() if self._sessions is not None else 0

    def close(self) -> None:
        """Stop looking at the folder."""
        if self._datastore is not None:
            self._datastore.close()


def sessions_folder(settings: Settings) -> Path:
    """Where sessions are kept."""
    return settings.data / "sessions"


def image_folders(settings: Settings) -> tuple[Path, ...]:
    """The folders whose images tasks may refer to."""
    return (sessions_folder(settings), *(() if settings.studies is None else (settings.studies,)))
