"""Images, labels and models for work in the background: read where they lie, one after the other, nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from delineate import files
from delineate.errors import DelineateError, ModelError
from delineate.model import Model
from delineate.protocols.reference import Place
from delineate.segmentation import Segmentation
from delineate.volume import Volume
from delineate.worker.referred import Files
from delineate.worker.shelf import ModelShelf
from delineate.worker.staged import suffix_of

Read = TypeVar("Read")


class WorkReader:
    """See `delineate.runners.work.Reader`. scratch : a folder for links, emptied after the task."""

    def __init__(self, found: Files, models: ModelShelf, scratch: Path) -> None:
        self._files = found
        self._models = models
        self._scratch = scratch

    def path(self, place: Place) -> Path:
        """The file or folder itself. Raises `ModelError` of kind ``input``."""
        return self._files.find(place)

    def image(self, place: Place) -> Volume:
        """An image. Raises `ModelError` of kind ``input``."""
        return self._read(place, files.read_volume)

    def segmentation(self, place: Place) -> Segmentation:
        """Structures. Raises `ModelError` of kind ``input``."""
        return self._read(place, files.read_segmentation)

    def model(self, name: str) -> tuple[Model, Path | None]:
        """A model and the folder of its files. Raises `ModelError` of kind ``start``."""
        try:
            return self._models.find(name)
        except DelineateError as error:
            raise ModelError(error.message, error.advice, "start") from error

    def _read(self, place: Place, read: Callable[[Path], Read]) -> Read:
        path = self._files.find(place)
        try:
            found = read(self._named(place, path))
        except ModelError:
            raise
        except (DelineateError, MemoryError, OSError) as error:
            said = error.sentence() if isinstance(error, DelineateError) else str(error) or "it does not fit into memory"
            raise ModelError(f"{place.name}: {said}", "Look at the file, or take it away.", "input") from error
        self._files.require_unchanged(place, path)
        return found

    def _named(self, place: Place, path: Path) -> Path:
        """A blob under a name by which its format is known; a file as it is."""
        if not place.blob:
            return path
        link = self._scratch / f"{place.blob}{suffix_of(place.name)}"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return link
