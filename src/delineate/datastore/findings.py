"""What was found out about images in the background: how doubtful a model is of each, what each looks like.

Rows are replaced, never changed, and their ids grow: whoever keeps a copy in memory reads what came since.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from delineate.store.database import Database
from delineate.store.tables import IMAGE_FINDINGS, IMAGES

Vector = npt.NDArray[np.float32]

DOUBT, LOOKS = "doubt", "looks"
"""Kinds: a model's uncertainty, 0 to 1; a vector that is near those of images that look alike."""

_IMAGE: Final = sa.select(IMAGES.c.id, IMAGES.c.version).where(
    IMAGES.c.datastore == sa.bindparam("of"), IMAGES.c.name == sa.bindparam("called"), IMAGES.c.removed.is_(None)
)
_SINCE: Final = (
    sa.select(IMAGE_FINDINGS, IMAGES.c.name)
    .join(IMAGES, IMAGES.c.id == IMAGE_FINDINGS.c.image)
    .where(IMAGE_FINDINGS.c.kind == sa.bindparam("of_kind"), IMAGE_FINDINGS.c.id > sa.bindparam("known"))
    .where(IMAGES.c.datastore == sa.bindparam("of"))
    .order_by(IMAGE_FINDINGS.c.id)
)
_REPLACED: Final = sa.delete(IMAGE_FINDINGS).where(
    IMAGE_FINDINGS.c.image == sa.bindparam("which"),
    IMAGE_FINDINGS.c.kind == sa.bindparam("of_kind"),
    IMAGE_FINDINGS.c.source == sa.bindparam("by"),
)
_INSERT: Final = sa.insert(IMAGE_FINDINGS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """One thing that was found about one version of an image.

    Parameters
    ----------
    image, image_version : which.
    kind : `DOUBT` or `LOOKS`.
    source, version : the model and its version, or how a vector is computed.
    value, vector : what was found; neither where it cannot be, as of a file that nobody can read.
    """

    image: str
    image_version: int
    kind: str
    source: str
    version: int
    value: float | None = None
    vector: Vector | None = None


class Findings:
    """The findings of a datastore. Shared by threads and processes."""

    def __init__(self, database: Database, datastore: int, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._datastore = datastore
        self._clock = clock
        self._lock = threading.Lock()
        self._known = {DOUBT: 0, LOOKS: 0}
        self._found: dict[str, Mapping[str, Mapping[str, Finding]]] = {DOUBT: {}, LOOKS: {}}  # never changed in place
        self._newest = ""
        self._changes = -1

    def keep(self, found: Iterable[Finding]) -> int:
        """Keep findings, in the place of older ones of that kind and source: how many; those of an image that changed are dropped."""
        with self._database.write(light=True) as connection:
            return sum(self._keep(connection, finding) for finding in found)

    def _keep(self, connection: Connection, finding: Finding) -> int:
        row = connection.execute(_IMAGE, {"of": self._datastore, "called": finding.image}).first()
        if row is None or row.version != finding.image_version:
            return 0
        connection.execute(_REPLACED, {"which": row.id, "of_kind": finding.kind, "by": finding.source})
        values = {name: getattr(finding, name) for name in ("kind", "source", "version", "image_version", "value")}
        vector = None if finding.vector is None else finding.vector.astype("<f4").tobytes()
        connection.execute(_INSERT, {"image": row.id, "vector": vector, "at": self._clock(), **values})
        return 1

    def doubts(self, source: str = "") -> tuple[str, Mapping[str, Finding]]:
        """What a model doubts, by image, with its name; without one the model that looked at an image last, empty where none did."""
        with self._lock:
            self._read()
            source = source or self._newest
            return source, self._found[DOUBT].get(source, {})

    def looks(self, source: str) -> Mapping[str, Finding]:
        """Vectors by image; the same object as long as nothing changed."""
        with self._lock:
            self._read()
            return self._found[LOOKS].get(source, {})

    def _read(self) -> None:
        changes = self._database.changes()  # before the rows: what comes between is read next time
        if changes == self._changes:
            return
        with self._database.read() as connection:
            for kind in self._known:
                rows = connection.execute(_SINCE, {"of": self._datastore, "of_kind": kind, "known": self._known[kind]}).all()
                if rows:
                    self._take(kind, rows)
        self._changes = changes

    def _take(self, kind: str, rows: Sequence[Row[Any]]) -> None:
        by_source = {source: dict(found) for source, found in self._found[kind].items()}
        for row in rows:
            by_source.setdefault(row.source, {})[row.name] = Finding(
                image=row.name, image_version=row.image_version, kind=kind, source=row.source, version=row.version, value=row.value,
                vector=None if row.vector is None else np.frombuffer(row.vector, dtype="<f4").astype(np.float32),
            )  # fmt: skip
        self._found[kind] = by_source
        self._known[kind] = rows[-1].id
        if kind == DOUBT:
            self._newest = rows[-1].source
