"""DICOM without the patient, for a server that must not know who it is; and the patient put back into what returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from delineate.errors import InputError, SettingsError


class DeidentificationError(InputError):
    """Something cannot be sent without the patient, or what returned refers to what never left. Names nobody."""


class Policy(str, Enum):
    """Whether a patient's identity may leave.

    off : as it is; on : de-identified, and what cannot be is left out with a note; required : de-identified, and nothing
    leaves where anything cannot be.
    """

    OFF = "off"
    ON = "on"
    REQUIRED = "required"

    @classmethod
    def read(cls, word: str) -> Policy:
        """A policy by its name; `SettingsError` for another word."""
        try:
            return cls(word)
        except ValueError:
            raise SettingsError(f"deidentify is {word!r}", "Say off, on or required.") from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What stays beyond the Basic profile.

    dates : days that are shifted by as much for all of one patient, times as they are, instead of none; characteristics :
    sex, age, size, weight; burned_in : images on whose pixels a name may be written are let through.
    """

    dates: bool = False
    characteristics: bool = False
    burned_in: bool = False


class Deidentifier:
    """De-identifies by PS3.15, annex E, and keeps in the file `map_path` what it needs to undo it."""

    def __init__(self, map_path: Path, options: Options | None = None) -> None:
        self._path = map_path
        self._options = options or Options()

    def series(self, source: Path, target: Path, *, policy: Policy = Policy.REQUIRED, notes: list[str] | None = None) -> list[Path]:
        """De-identify every DICOM file in a folder, a zip, or a file into the folder `target`; the files written.

        Raises
        ------
        DeidentificationError
            Something cannot be de-identified and the policy is `required`, or nothing can.
        """
        raise NotImplementedError

    def dataset(self, data: Any) -> Any:
        """A pydicom data set as a new one without the patient; `DeidentificationError` where that cannot be."""
        raise NotImplementedError

    def attributes(self, values: Mapping[str, str]) -> dict[str, str]:
        """Attributes as text by tag as a decimal number, as ``dicom_info.json`` in a task archive has them."""
        raise NotImplementedError

    def restore(self, data: Any) -> Any:
        """What returned, an RTSTRUCT or SEG, as a new data set of the patient: references, patient and study of the original.

        Raises
        ------
        DeidentificationError
            It refers to something that did not go through this map.
        """
        raise NotImplementedError
