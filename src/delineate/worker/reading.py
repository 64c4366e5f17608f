"""Images, labels and models for work in the background: read where they lie, one after the other, nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from delineate import files
from delineate.errors import DelineateError, ModelError
from delineate.model import Model
from delineate.protocols.reference import Place
from delineate.segmentation import Segmentation
from delineate.store.shelf import ModelShelf
from delineate.volume import Volume
from delineate.worker.referred import Files, Read, named, readable


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
        with self._files.reading(place) as path:
            return readable(place, lambda: read(named(place, path, self._scratch)), "Look at the file, or take it away.")
