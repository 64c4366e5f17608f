"""A folder as a destination."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from delineate.gateway.destination_settings import FolderSettings


class FolderDestination:
    """Puts each file into the folder, whole or not at all."""

    def __init__(self, settings: FolderSettings) -> None:
        self.settings = settings

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """As `Destination.deliver`."""
        raise NotImplementedError
