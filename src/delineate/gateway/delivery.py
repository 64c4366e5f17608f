"""What brings results to where they belong, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from delineate.errors import DelineateError


class DeliveryError(DelineateError):
    """Something was not delivered, or nobody says that it is safe.

    `is_final`: the receiver refused what it was sent, and would again; else another try may succeed.
    """

    def __init__(self, message: str, advice: str = "", is_final: bool = False) -> None:
        super().__init__(message, advice)
        self.is_final = is_final


class Destination(Protocol):
    """A place for results. What is delivered twice is there once."""

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """Bring all files there; returns when every one of them is safe.

        Parameters
        ----------
        files : DICOM files
        notes : gets sentences on what the receiver warned of

        Raises
        ------
        DeliveryError
            At least one is not there. What did arrive stays.
        """

    def ask(self) -> None:
        """Raises `DeliveryError` where it cannot be reached now, or does not let us in."""
