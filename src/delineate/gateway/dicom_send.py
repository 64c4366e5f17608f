"""A DICOM application entity as a destination: C-STORE (PS3.4, annex B)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from delineate.gateway.commitment import Commitments
from delineate.gateway.destination_settings import DicomSettings


class DicomDestination:
    """Sends files by C-STORE, and asks for commitment where the settings say so."""

    def __init__(self, settings: DicomSettings, commitments: Commitments) -> None:
        self.settings, self.commitments = settings, commitments

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """As `Destination.deliver`."""
        raise NotImplementedError
