"""Versions of models that the server publishes by itself: one row each, the current one also the model's row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from delineate.errors import SettingsError, UnknownModelError
from delineate.model import Model
from delineate.store.database import Database
from delineate.store.tables import MODEL_VERSIONS, MODELS

MARK: Final = "@"
"""Between a model's name and the version that is meant: ``voxel-forest@3``."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version. archive : digest of the blob with its files; size : of it, bytes; created : Unix seconds; info : how it was made."""

    model: str
    version: int
    is_current: bool
    archive: str
    size: int
    created: float
    who: str
    info: Mapping[str, Any]


class ModelVersions:
    """All published versions of all models."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def publish(self, connection: Connection, *, model: Model, digest: str, size: int, who: str, info: Mapping[str, Any]) -> int:
        """Make a new version and make it the current one, within a transaction that also places its blob: its number.

        Raises
        ------
        SettingsError
            The name is that of a model that somebody registered.
        """
        mine = MODELS.c.name == model.name
        newest: int | None = connection.execute(_newest(model.name)).scalar()
        if newest is None and connection.execute(sa.select(MODELS.c.name).where(mine)).first() is not None:
            raise SettingsError(f"the model name {model.name!r} is taken by one registered over HTTP", "Remove that one first.")
        number, now = (newest or 0) + 1, self._clock()
        numbered = replace(model, version=str(number))
        record = {name: value for name, value in numbered.to_dict().items() if name not in ("digest", "source")}
        row = {"model": model.name, "version": number, "record": record, "archive": digest, "size": size, "created": now}
        connection.execute(sa.insert(MODEL_VERSIONS), row | {"who": who, "info": dict(info)})
        self._make_current(connection, model.name, row)
        return number

    def select(self, name: str, version: int) -> None:
        """Make a version the current one. Raises `UnknownModelError`."""
        with self._database.write() as connection:
            row = connection.execute(_one(name, version)).first()
            if row is None:
                raise UnknownModelError(f"the model {name!r} has no version {version}", "Ask for its versions.")
            self._make_current(connection, name, row._asdict())

    def _make_current(self, connection: Connection, name: str, row: Mapping[str, Any]) -> None:
        connection.execute(sa.delete(MODELS).where(MODELS.c.name == name))
        values = {"record": row["record"], "archive": row["archive"], "size": row["size"], "created": row["created"]}
        connection.execute(sa.insert(MODELS), {"name": name, **values})

    def versions(self, name: str) -> list[ModelVersion]:
        """All that are kept of a model, newest first."""
        with self._database.read() as connection:
            current = connection.execute(sa.select(MODELS.c.record).where(MODELS.c.name == name)).scalar()
            query = sa.select(MODEL_VERSIONS).where(MODEL_VERSIONS.c.model == name).order_by(MODEL_VERSIONS.c.version.desc())
            rows = connection.execute(query).all()
        now = None if current is None else current.get("version")
        return [_version(row, is_current=str(row.version) == now) for row in rows]

    def row(self, name: str, version: int) -> Row[Any] | None:
        """Record and archive of a version, as the table of models has them; None where there is none."""
        with self._database.read() as connection:
            return connection.execute(_one(name, version)).first()

    def archives(self) -> set[str]:
        """Digests of all archives."""
        with self._database.read() as connection:
            return set(connection.execute(sa.select(MODEL_VERSIONS.c.archive)).scalars())

    def prune(self, name: str, keep: int) -> list[str]:
        """Forget all but the newest `keep` versions and the current one: digests that no version has any more, for `remove_unnamed`."""
        old = [version for version in self.versions(name)[max(1, keep) :] if not version.is_current]
        if old:
            numbers = [version.version for version in old]
            with self._database.write() as connection:
                gone = sa.delete(MODEL_VERSIONS).where(MODEL_VERSIONS.c.model == name, MODEL_VERSIONS.c.version.in_(numbers))
                connection.execute(gone)
        return [version.archive for version in old]

    def drop(self, name: str, version: int) -> str:
        """Forget one version: its digest. Was it current, the newest of the others is. Raises `UnknownModelError`."""
        with self._database.write() as connection:
            row = connection.execute(_one(name, version)).first()
            if row is None:
                raise UnknownModelError(f"the model {name!r} has no version {version}", "Ask for its versions.")
            current = connection.execute(sa.select(MODELS.c.record).where(MODELS.c.name == name)).scalar()
            gone = sa.delete(MODEL_VERSIONS).where(MODEL_VERSIONS.c.model == name, MODEL_VERSIONS.c.version == version)
            connection.execute(gone)
            if current is not None and current.get("version") == str(version):
                newest = connection.execute(_newest(name)).scalar()
                if newest is None:
                    connection.execute(sa.delete(MODELS).where(MODELS.c.name == name))
                else:
                    self._make_current(connection, name, connection.execute(_one(name, newest)).one()._asdict())
        return str(row.archive)

    def remove(self, connection: Connection, name: str) -> list[str]:
        """Forget all versions of a model, within a transaction: their digests."""
        mine = MODEL_VERSIONS.c.model == name
        digests = list(connection.execute(sa.select(MODEL_VERSIONS.c.archive).where(mine)).scalars())
        connection.execute(sa.delete(MODEL_VERSIONS).where(mine))
        return digests


def split(name: str) -> tuple[str, int | None]:
    """A name as it is asked for: the model's, and the version if one is meant."""
    model, mark, version = name.partition(MARK)
    return (model, int(version)) if mark and version.isascii() and version.isdecimal() and len(version) < 10 else (name, None)


def _newest(name: str) -> sa.Select[Any]:
    return sa.select(sa.func.max(MODEL_VERSIONS.c.version)).where(MODEL_VERSIONS.c.model == name)


def _one(name: str, version: int) -> sa.Select[Any]:
    return sa.select(MODEL_VERSIONS).where(MODEL_VERSIONS.c.model == name, MODEL_VERSIONS.c.version == version)


def _version(row: Row[Any], *, is_current: bool) -> ModelVersion:
    fields = {name: row._mapping[name] for name in ("model", "version", "archive", "size", "created", "who", "info")}
    return ModelVersion(**fields, is_current=is_current)
