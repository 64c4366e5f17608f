"""A DICOMweb server as a destination: STOW-RS (PS3.18, 10.5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from delineate.gateway.destination_settings import StowSettings


class StowDestination:
    """Sends files by STOW-RS."""

    def __init__(self, settings: StowSettings) -> None:
        self.settings = settings

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """As `Destination.deliver`."""
        raise NotImplementedError
