"""Models as servers and workers ask for them: looked up again only when some time has passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from sqlalchemy.engine import Connection

from delineate.model import Model
from delineate.store.models import ModelStore

FRESH: Final = 0.5  # s; a look at all model folders costs as much as a small task

T = TypeVar("T")


class _Kept(Generic[T]):
    """Values by name, each for `FRESH` seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[float, T]] = {}

    def get(self, name: str) -> T | None:
        known = self._values.get(name)
        return known[1] if known is not None and self._clock() - known[0] <= FRESH else None

    def put(self, name: str, look: Callable[[], T]) -> T:
        began = self._clock()
        self._values.pop(name, None)  # where looking fails, nothing is known
        value = look()
        self._values[name] = (began, value)
        return value


class ModelShelf:
    """A `ModelStore` that remembers for half a second. Shared by threads."""

    def __init__(self, models: ModelStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._records: _Kept[Model] = _Kept(clock)
        self._found: _Kept[tuple[Model, Path | None]] = _Kept(clock)
        self._lists: _Kept[Sequence[Model]] = _Kept(clock)
        self._list: Sequence[Model] = ()

    def has(self, name: str) -> bool:
        """Whether `get` would answer from memory."""
        return self._records.get(name) is not None

    def get(self, name: str) -> Model:
        """The model. Raises as `ModelStore.get`."""
        known = self._records.get(name)
        return self._records.put(name, lambda: self._models.get(name)) if known is None else known

    @property
    def is_listed(self) -> bool:
        """Whether `models` would answer from memory."""
        return self._lists.get("") is not None

    def models(self) -> Sequence[Model]:
        """All that can be asked for; the same object as long as nothing changes."""
        known = self._lists.get("")
        return self._lists.put("", self._listed) if known is None else known

    def _listed(self) -> Sequence[Model]:
        found = self._models.models()
        if found != self._list:
            self._list = found
        return self._list

    def knows(self, name: str) -> bool:
        """Whether `find` would answer from memory."""
        return self._found.get(name) is not None

    def find(self, name: str) -> tuple[Model, Path | None]:
        """The model, its digest included, and the folder of its files. Raises as `ModelStore.get` and `folder` do."""
        known = self._found.get(name)
        if known is None or self._was_published(name, known[0]):
            return self._found.put(name, lambda: (self._models.get(name, digest=True), self._models.folder(name)))
        return known

    def _was_published(self, name: str, model: Model) -> bool:
        """Whether a new version took the place of the one that is remembered: it holds from the next task on."""
        return model.source == "http" and not self._models.is_current(name, model.digest)

    def publish(self, connection: Connection, **values: Any) -> None:
        """A new version of a model, within a transaction: see `ModelVersions.publish`."""
        self._models.versions.publish(connection, **values)
