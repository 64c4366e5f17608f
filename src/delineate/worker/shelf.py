"""Models as a worker asks for them: looked up again only when some time has passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from delineate.model import Model
from delineate.store.models import ModelStore

FRESH = 0.5  # s; a look at all model folders costs as much as a small task


class ModelShelf:
    """A `ModelStore` that remembers for half a second."""

    def __init__(self, models: ModelStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock = clock
        self._found: dict[str, tuple[float, Model, Path | None]] = {}

    def knows(self, name: str) -> bool:
        """Whether `find` would answer from memory."""
        known = self._found.get(name)
        return known is not None and self._clock() - known[0] <= FRESH

    def find(self, name: str) -> tuple[Model, Path | None]:
        """The model, its digest included, and the folder of its files. Raises as `ModelStore.get` and `folder` do."""
        if not self.knows(name) or self._was_published(name):
            self._found.pop(name, None)
            self._found[name] = (self._clock(), self._models.get(name, digest=True), self._models.folder(name))
        return self._found[name][1:]

    def _was_published(self, name: str) -> bool:
        """Whether a new version took the place of the one that is remembered: it holds from the next task on."""
        model = self._found[name][1]
        return model.source == "http" and not self._models.is_current(name, model.digest)

    def publish(self, connection: Connection, **values: Any) -> None:
        """A new version of a model, within a transaction: see `ModelVersions.publish`."""
        self._models.versions.publish(connection, **values)
