"""DICOM without the patient, for a server that must not know who it is; and the patient put back into what returns.

The Basic Application Level Confidentiality Profile of PS3.15, annex E, with two options. What leads back is in a local file
alone. Errors and notes name nobody: files by their number, since names of files often hold names and UIDs.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from delineate.dicom.deidentification_attributes import cleaned_attributes
from delineate.dicom.deidentification_cleaning import Cleaner, TooDeepError
from delineate.dicom.deidentification_errors import DeidentificationError
from delineate.dicom.deidentification_map import IdentityMap
from delineate.dicom.deidentification_pixels import TOLD, pixels_alone, why_not, why_written
from delineate.dicom.deidentification_table import EDITION, Kept
from delineate.dicom.derived import OPTIONAL, REQUIRED, coded, saved
from delineate.dicom.header import EXPLICIT, IMPLICIT, NotDicomError, read_header
from delineate.dicom.nesting import flat_text
from delineate.dicom.parts import pydicom
from delineate.dicom.reader import looked_at, unpacked
from delineate.dicom.reidentify import REPLACED, restored
from delineate.errors import DelineateError, MissingPartError, SettingsError

__all__ = ["DeidentificationError", "Deidentifier", "Options", "Policy", "require_no_names", "save"]

_PROFILE: Final = ("113100", "DCM", "Basic Application Confidentiality Profile")
_DATES: Final = ("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option")
_CHARACTERISTICS: Final = ("113108", "DCM", "Retain Patient Characteristics Option")
_ONE: Final = "Leave it out, or send the images without de-identification to a server that may know the patient."
_TOGETHER: Final = 50  # files for each of which the map would else be brought to the disk
_DIRECTORY: Final = "1.2.840.10008.1.3.10"


class Policy(str, Enum):
    """Whether a patient's identity may leave.

    off : as it is; on : de-identified, and what cannot be is left out with a note; required : de-identified, and nothing
    leaves where anything cannot be.
    """

    OFF = "off"
    ON = "on"
    REQUIRED = "required"


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
    """De-identifies, and keeps in the file `map_path` what it needs to undo it. Several processes may use one file.

    Raises
    ------
    StoreError
        The map cannot be used.
    """

    def __init__(self, map_path: Path, options: Options | None = None) -> None:
        self._options = options or Options()
        self._kept = Kept(self._options.dates, self._options.characteristics)
        self._map = map_path
        self._identities = IdentityMap(map_path)

    def __enter__(self) -> Deidentifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the map."""
        self._identities.close()

    def series(self, source: Path, target: Path, *, policy: Policy = Policy.REQUIRED, notes: list[str] | None = None) -> list[Path]:
        """De-identify every DICOM file in a folder, a zip, or a file into the folder `target`.

        Files of other formats and an index (DICOMDIR) are left out with a note. All files are in `target`, or none.

        Parameters
        ----------
        policy : what becomes of files that cannot be de-identified; `Policy.OFF` is none here
        notes : gets sentences on what was left out

        Returns
        -------
        The files, in the order of the originals' names; their own names tell nothing.

        Raises
        ------
        DeidentificationError
            Something cannot be de-identified and the policy is `required`, or nothing can.
        SettingsError
            The map lies below `target`, so that it would leave as well.
        """
        if policy is Policy.OFF:
            raise SettingsError("de-identification is off", "Send the files as they are.")
        if target.resolve() in self._map.resolve().parents:
            raise SettingsError("the map of identities is among the files that it leads back from", "Keep it in another folder.")
        notes = [] if notes is None else notes
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".deidentified-", dir=target) as aside, unpacked(source) as folder:
            files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
            made = self._made(files, Path(aside), policy, notes)
            return [path.rename(target / path.name) for path in made]

    def _made(self, files: Sequence[Path], aside: Path, policy: Policy, notes: list[str]) -> list[Path]:
        made, left, others = [], [], 0
        for begin in range(0, len(files), _TOGETHER):
            with self._identities.writing():  # nothing is sent before all of them are done
                for number, path in enumerate(files[begin : begin + _TOGETHER], begin + 1):
                    try:
                        made.append(self._file(path, aside / f"{number:06d}.dcm"))
                    except _OtherFormatError:
                        others += 1
                    except DeidentificationError as error:
                        left.append(f"file {number} of {len(files)} by name: {error.message}")
        self._settle(made, left, others, policy, notes)
        return made

    @staticmethod
    def _settle(made: list[Path], left: list[str], others: int, policy: Policy, notes: list[str]) -> None:
        if left and (policy is Policy.REQUIRED or not made):
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            raise DeidentificationError(f"nothing is sent: {left[0]}{more}", _ONE)
        if not made:
            raise DeidentificationError("there is no DICOM file to de-identify", "Give a folder, a zip or a file of DICOM.")
        notes += [f"left out: {reason}" for reason in left]
        if others:
            notes.append(f"left out: {others} file{'' if others == 1 else 's'} of other formats, or an index of files")

    def _file(self, path: Path, target: Path) -> Path:
        save(self.dataset(_read(path)), target)
        return target

    def dataset(self, data: Any) -> Any:
        """A pydicom data set as a new one without the patient.

        Raises
        ------
        DeidentificationError
            It cannot be de-identified.
        """
        syntax = _syntax(data)
        try:
            reason = why_not(data, burned_in=self._options.burned_in)
            if not reason:
                with self._identities.writing():
                    clean = self._cleaned(data)
                reason = pixels_alone(data, clean, syntax)
        except DelineateError:
            raise
        except Exception:  # what a library makes of damaged elements is anything, and its words may hold them
            raise DeidentificationError("it holds what cannot be read", _ONE) from None
        if reason:
            raise DeidentificationError(reason, _ONE)
        self._mark(clean)
        library = pydicom()
        clean.file_meta = library.dataset.FileMetaDataset()
        clean.file_meta.TransferSyntaxUID = library.uid.UID(syntax)
        clean.file_meta.MediaStorageSOPClassUID = clean.get("SOPClassUID", "")
        clean.file_meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID", "")
        return clean

    def _cleaned(self, data: Any) -> Any:
        study = str(data.get("StudyInstanceUID", "")).strip(" \0")
        known = {name: text for name in (*REQUIRED, *OPTIONAL, *REPLACED) if (text := _text(data, name))}
        cleaner, pseudonym = self._cleaner(known, _text(data, "IssuerOfPatientID"), study)
        try:
            clean = cleaner.cleaned(data)
        except TooDeepError:
            raise DeidentificationError("its sequences are nested too deeply", _ONE) from None
        clean.PatientName = clean.PatientID = pseudonym
        return clean

    def _cleaner(self, known: Mapping[str, str], issuer: str, study: str) -> tuple[Cleaner, str]:
        """For a data set of these attributes of patient and study; and the patient's pseudonym."""
        number, name = known.get("PatientID", ""), known.get("PatientName", "")
        # Who has no number is told apart by name and birth; who has neither is somebody else in every study that has a UID.
        who = (number, issuer) if number else ("", name, known.get("PatientBirthDate", "")) if name else ("", "", "", study)
        patient = self._identities.patient("\0".join(who))
        if study:
            self._identities.keep_study(self._identities.uid(study, patient.sent), known)
        return Cleaner(self._kept, patient.days, lambda uid: self._identities.uid(uid, patient.sent)), patient.sent

    def _mark(self, clean: Any) -> None:
        clean.PatientIdentityRemoved = "YES"
        clean.DeidentificationMethod = [f"PS3.15 {EDITION} Basic Profile", _program()]
        options = [code for code, is_on in ((_DATES, self._kept.dates), (_CHARACTERISTICS, self._kept.characteristics)) if is_on]
        clean.DeidentificationMethodCodeSequence = [coded(code) for code in (_PROFILE, *options)]
        clean.LongitudinalTemporalInformationModified = "MODIFIED" if self._kept.dates else "REMOVED"

    def attributes(self, values: Mapping[str, str]) -> dict[str, str]:
        """Attributes as text by tag as a decimal number, as ``dicom_info.json`` in a task archive has them."""
        tag_of = pydicom().datadict.tag_for_keyword
        known = {name: text for name in (*REQUIRED, *OPTIONAL, *REPLACED) if (text := values.get(str(tag_of(name)), ""))}
        study = values.get(str(tag_of("StudyInstanceUID")), "").strip(" \0")
        with self._identities.writing():
            cleaner, pseudonym = self._cleaner(known, known.get("IssuerOfPatientID", ""), study)
            clean = cleaned_attributes(values, cleaner)
        for name in ("PatientName", "PatientID"):
            if str(tag_of(name)) in values:
                clean[str(tag_of(name))] = pseudonym
        return clean

    def restore(self, data: Any) -> Any:
        """What returned, an RTSTRUCT or SEG, as a new data set of the patient: references, patient and study of the original.

        Raises
        ------
        DeidentificationError
            It refers to something that was not de-identified with this map, or to two patients.
        """
        try:
            return restored(copy.deepcopy(data), self._identities)
        except DelineateError:
            raise
        except Exception:  # a library's, of damaged elements and of items nested without end
            raise DeidentificationError("it holds what cannot be read", "Ask who made it.") from None


def save(data: Any, path: Path) -> None:
    """Write a data set as a file, which is there when it is whole.

    Raises
    ------
    DeidentificationError
        It cannot be written; without the library's words, which hold values.
    OSError
        The disk's.
    """
    try:
        data.preamble = bytes(128)
        with saved(path) as file:
            # Some images have no UIDs, which meta information cannot be complete without.
            pydicom().dcmwrite(file, data, enforce_file_format=bool(data.get("SOPInstanceUID") and data.get("SOPClassUID")))
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DeidentificationError("it holds what cannot be written", _ONE) from None


def require_no_names(path: Path, choice: str = "") -> None:
    """Refuse an image of which the voxels alone are sent where a name may be written on them.

    path, choice : as `delineate.dicom.reader.read` takes them

    Raises
    ------
    DeidentificationError
        A name may be written on its pixels.
    ImageError
        No image or several.
    """
    with looked_at(path) as found:
        files = dict.fromkeys(item.header.path for item in found.one(choice).slices)
        for number, file in enumerate(files, 1):
            try:
                data = pydicom().dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(TOLD))
                reason = why_written(data)
            except OSError:
                raise
            except Exception:  # a library's, of damaged elements
                reason = "it holds what cannot be read"
            if reason:
                raise DeidentificationError(f"nothing is sent: file {number} of {len(files)}: {reason}", _ONE)


@cache
def _program() -> str:
    return f"Delineate {version('delineate')}"


class _OtherFormatError(Exception):
    """No DICOM file with a patient's object."""


def _read(path: Path) -> Any:
    try:
        read_header(path)
        data = pydicom().dcmread(path, force=True)  # also without the preamble, as our reader does
        if data.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
            raise _OtherFormatError
        return data
    except NotDicomError:
        raise _OtherFormatError from None
    except (_OtherFormatError, MissingPartError, OSError):
        raise
    except Exception:  # a library's, of damaged elements
        raise DeidentificationError("it is damaged", "Export or send the file again.") from None


def _syntax(data: Any) -> str:
    stated = str(getattr(data, "file_meta", {}).get("TransferSyntaxUID", ""))
    if stated:
        return stated
    return EXPLICIT if getattr(data, "original_encoding", (True, True))[0] is False else IMPLICIT


def _text(data: Any, name: str) -> str:
    """One value as text; empty where it is missing or cannot be read."""
    with contextlib.suppress(Exception):  # a library's, of damaged elements
        return flat_text(data.get(name, ""))
    return ""
