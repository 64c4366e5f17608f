"""Models: those of folders, and those registered over HTTP. A name belongs to one of them."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from delineate.errors import SettingsError, StoreError, UnknownModelError
from delineate.model import Model
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.faults import storage_error
from delineate.store.folders import ModelFolders, Problem
from delineate.store.records import remove_unnamed
from delineate.store.tables import MODELS
from delineate.store.versions import ModelVersions, split
from delineate.store.writer import BlobWriter
from delineate.task import Blob


class ModelStore:
    """All models a server offers.

    Parameters
    ----------
    folders : (folder, source) pairs, see `ModelFolders`.
    unpacked : where archives of registered models are unpacked; by default ``models`` beside the folder of blobs.
    """

    def __init__(
        self,
        folders: Sequence[tuple[Path, str]],
        database: Database,
        blobs: BlobStore,
        clock: Callable[[], float] = time.time,
        *,
        unpacked: Path | None = None,
    ) -> None:
        self._folders = ModelFolders(folders)
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._unpacked = unpacked or blobs.folder.parent / "models"
        self.versions = ModelVersions(database, clock)

    def get(self, name: str, *, digest: bool = False) -> Model:
        """The model of a name, in its current version; of a published one ``NAME@VERSION`` is that version.

        `digest` makes sure that `Model.digest` is there, which reads all files of a folder the first time; without it the
        digest is empty until somebody asked.

        Raises
        ------
        UnknownModelError
            No such model.
        SettingsError
            Two models have the name: which one is meant is never guessed.
        """
        found = self._folders.get(name)
        row = self._row(name)
        if found is not None and row is not None:
            raise SettingsError(
                f"the model name {name!r} is there twice: in the folder {found.folder.name!r} and registered over HTTP",
                "Remove or rename one of them.",
            )
        if found is not None:
            return replace(found.model, digest=self._folders.digest(found.folder, known_only=not digest))
        if row is None:
            broken = next((problem.reason for problem in self._folders.problems() if problem.path.parent.name == name), "")
            if broken:
                raise UnknownModelError(f"the model in the folder {name!r} cannot be used: {broken}", "Correct its model.toml.")
            raise UnknownModelError(f"no model is called {name!r}")
        return _model(row)

    def is_current(self, name: str, digest: str) -> bool:
        """Whether a model that is no folder's still has this digest."""
        row = self._row(name)
        return row is not None and _digest(row) == digest

    def models(self) -> list[Model]:
        """All that can be asked for, by name."""
        found = self._folders.models()
        registered = {row.name: _model(row) for row in self._rows()}
        usable = {name: place.model for name, place in found.items() if name not in registered}
        usable |= {name: model for name, model in registered.items() if name not in found and not self._is_doubled(name)}
        return [usable[name] for name in sorted(usable)]

    def _is_doubled(self, name: str) -> bool:
        try:
            self._folders.get(name)
        except SettingsError:
            return True
        return False

    def problems(self) -> list[Problem]:
        """What is there and cannot be used, with the reason."""
        found = self._folders.models()
        doubled = [row.name for row in self._rows() if row.name in found]
        return self._folders.problems() + [
            Problem(path=found[name].folder, reason=f"the model name {name!r} is also registered over HTTP") for name in doubled
        ]

    def register(self, model: Model, archive: BlobWriter | None = None) -> Model:
        """Add a model over HTTP; `archive` (zip or tar) holds its files. The writer is used up.

        Raises
        ------
        SettingsError
            The name is taken.
        """
        if archive is None:
            return self._register(model, None)
        with archive:
            archive.seal()
            try:
                self._blobs.place(archive)
                return self._register(model, archive)
            except BaseException:
                if archive.is_placed:
                    remove_unnamed(self._database, self._blobs, [archive.digest])
                raise

    def _register(self, model: Model, archive: BlobWriter | None) -> Model:
        found = self._folders.get(model.name)
        if found is not None:
            raise SettingsError(f"the model name {model.name!r} is taken by the folder {found.folder.name!r}", "Choose another name.")
        record = {name: value for name, value in model.to_dict().items() if name not in ("digest", "source")}
        row: dict[str, Any] = {"name": model.name, "record": record, "archive": None, "size": None, "created": self._clock()}
        with self._database.write() as connection:
            if connection.execute(sa.select(MODELS.c.name).where(MODELS.c.name == model.name)).first() is not None:
                raise SettingsError(f"the model name {model.name!r} is taken by one registered over HTTP", "Remove that one first.")
            if archive is not None:
                self._blobs.confirm(archive)
                row |= {"archive": archive.digest, "size": archive.size}
            connection.execute(sa.insert(MODELS), row)
        return self.get(model.name)

    def remove(self, name: str) -> None:
        """Remove a registered model, or a published one with all its versions.

        Unpacked files go at the next `sweep`, because a worker may be using them.

        Raises
        ------
        SettingsError
            The model is a folder.
        UnknownModelError
            No such model.
        """
        with self._database.write() as connection:
            row = connection.execute(sa.select(MODELS).where(MODELS.c.name == name)).first()
            connection.execute(sa.delete(MODELS).where(MODELS.c.name == name))
            digests = self.versions.remove(connection, name)
        if row is not None:
            remove_unnamed(self._database, self._blobs, [*digests, *([row.archive] if row.archive else [])])
            return
        found = self._folders.get(name)
        if found is not None:
            raise SettingsError(f"the model {name!r} is the folder {found.folder.name!r}", "Remove the folder instead.")
        raise UnknownModelError(f"no model is called {name!r}")

    def remove_version(self, name: str, version: int) -> None:
        """Remove one version of a published model; was it current, the newest of the others is. Raises `UnknownModelError`."""
        remove_unnamed(self._database, self._blobs, [self.versions.drop(name, version)])

    def archive(self, name: str) -> Blob | None:
        """The archive a model was registered with, None for one without or of a folder. Raises `UnknownModelError`."""
        self.get(name)
        row = self._row(name)
        if row is None or not row.archive:
            return None
        return Blob(role="archive", name="model.zip", digest=row.archive, size=row.size)

    def folder(self, name: str) -> Path | None:
        """Where the model's own files are, None where it has none; an archive is unpacked the first time.

        Raises
        ------
        UnknownModelError, SettingsError
            As `get`.
        BlobError, ArchiveError
            The archive is missing, altered, or not safe to unpack.
        """
        self.get(name)
        found = self._folders.get(name)
        if found is not None:
            return found.folder
        row = self._row(name)
        return self._unpack(row.archive) if row is not None and row.archive else None

    def _unpack(self, digest: str) -> Path:
        target = self._unpacked / digest
        if target.is_dir():
            return target
        # Imported here: the server looks at models all the time and unpacks one hardly ever.
        from delineate.protocols.archive import ArchiveReader

        archive = self._blobs.verified(digest)
        aside = self._unpacked / f".{digest}-{secrets.token_hex(8)}"
        try:
            aside.mkdir(mode=0o700, parents=True)
            with ArchiveReader(archive) as reader:
                reader.extract(aside)
            aside.rename(target)
        except OSError as error:
            if not target.is_dir():  # else another process was first
                raise storage_error(error, "unpacking a model") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return target

    def sweep(self) -> int:
        """Remove unpacked files of models that are gone, and what interrupted unpacking left; call it before workers start."""
        if not self._unpacked.is_dir():
            return 0
        wanted = {row.archive for row in self._rows()} | self.versions.archives()
        stale = [path for path in self._unpacked.iterdir() if path.name not in wanted]
        for path in stale:
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise StoreError(f"{path} cannot be removed: {error.strerror}", "Remove it by hand.") from error
        return len(stale)

    def prune(self, name: str, keep: int) -> None:
        """Remove all but the newest `keep` versions of a published model and the current one; unpacked files go at the next `sweep`."""
        digests = self.versions.prune(name, keep)
        if digests:
            remove_unnamed(self._database, self._blobs, digests)

    def _row(self, name: str) -> Row[Any] | None:
        base, version = split(name)
        if version is not None:
            return self.versions.row(base, version)
        with self._database.read() as connection:
            return connection.execute(sa.select(MODELS).where(MODELS.c.name == name)).first()

    def _rows(self) -> Sequence[Row[Any]]:
        with self._database.read() as connection:
            return connection.execute(sa.select(MODELS).order_by(MODELS.c.name)).all()


def _model(row: Row[Any]) -> Model:
    return replace(Model.from_dict(row.record), source="http", digest=_digest(row))


def _digest(row: Row[Any]) -> str:
    return row.archive or hashlib.sha256(json.dumps(row.record, sort_keys=True).encode()).hexdigest()
