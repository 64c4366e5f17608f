"""What returns from a server that knew pseudonyms alone becomes the patient's again: references, patient and study."""

from __future__ import annotations

from typing import Any, Final

from delineate.dicom.deidentification_cleaning import UTF_8, is_registered, values_of
from delineate.dicom.deidentification_errors import DeidentificationError
from delineate.dicom.deidentification_map import IdentityMap, Origin
from delineate.dicom.derived import OPTIONAL, REQUIRED
from delineate.dicom.parts import pydicom

REPLACED: Final = ("PatientBirthTime", "EthnicGroup", "PatientComments", "OtherPatientIDs", "OtherPatientNames", "InstitutionName")
"""Of patient and study, what a file need not have: it is put back where a file has it."""

_MARKS: Final = (
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)  # fmt: skip
_REFERENCES: Final = frozenset((
    "StudyInstanceUID", "SeriesInstanceUID", "ReferencedSOPInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID",
    "RelatedFrameOfReferenceUID", "SourceFrameOfReferenceUID", "MultiFrameSourceSOPInstanceUID",
))  # fmt: skip
_ASCII: Final = ("", "ISO_IR 6", "ISO 2022 IR 6")
_GIVE: Final = "Give the map that the images were de-identified with, and a file that is not re-identified yet."


def restored(data: Any, identities: IdentityMap) -> Any:
    """A data set as `Deidentifier.restore` gives it; `data` itself is changed, so give a copy or what was just read."""
    sent = str(data.get("StudyInstanceUID", ""))
    study, attributes = identities.origin(sent), identities.study(sent)
    if study is None or attributes is None:
        raise DeidentificationError("it belongs to no study that was de-identified with this map", _GIVE)
    Restorer(identities, study.patient, own=_own(data)).walk(data, is_whole=True)
    _set_characters(data, "".join(attributes.values()))
    for name in REQUIRED:
        setattr(data, name, attributes.get(name, ""))
    for name in (*OPTIONAL, *REPLACED):
        if attributes.get(name) and (name in OPTIONAL or name in data):
            setattr(data, name, attributes[name])
        elif name in data:
            delattr(data, name)
    for name in _MARKS:
        if name in data:
            delattr(data, name)
    if meta := getattr(data, "file_meta", None):
        meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "")
    return data


def _own(data: Any) -> frozenset[str]:
    """UIDs that the file itself brings: what refers to these refers to no stranger."""
    return frozenset(str(data.get(name, "")) for name in ("SOPInstanceUID", "SeriesInstanceUID"))


def _set_characters(data: Any, text: str) -> None:
    """UTF-8 where the original's texts need it."""
    stated = [str(value) for value in values_of(data.get("SpecificCharacterSet", ""))]
    if text.isascii() or stated == [UTF_8]:
        return
    if any(value not in _ASCII for value in stated):
        data.decode()  # so that all texts are written anew
    data.SpecificCharacterSet = UTF_8


class Restorer:
    """Puts original UIDs in the place of those that were sent.

    patient : pseudonym that everything has to belong to; own : UIDs that the file brings itself
    """

    def __init__(self, identities: IdentityMap, patient: str, own: frozenset[str]) -> None:
        self._identities, self._patient, self._own = identities, patient, own
        self._known: dict[str, Origin | None] = {}

    def walk(self, data: Any, *, is_whole: bool = False) -> None:
        """All UIDs of a data set and of what is nested in it; values of other types are not even decoded.

        Raises
        ------
        DeidentificationError
            Something refers to what was not de-identified with this map, or belongs to another patient.
        """
        library = pydicom()
        for tag in list(data.keys()):
            raw = data.get_item(tag)
            vr = raw.VR
            if vr in (None, "UN"):
                vr = library.datadict.dictionary_VR(tag) if library.datadict.dictionary_has_tag(tag) else "UN"
            if vr == "SQ":
                for item in data[tag].value:
                    self.walk(item)
            elif vr == "UI":
                name = library.datadict.keyword_for_tag(tag)
                is_reference = name in _REFERENCES and not (is_whole and name == "SeriesInstanceUID")
                self._put_back(data, tag, name, is_reference)

    def _put_back(self, data: Any, tag: Any, name: str, is_reference: bool) -> None:
        sent = [str(uid) for uid in values_of(data[tag].value)]
        uids = [self._original(uid, name, is_reference) for uid in sent]
        if uids != sent:
            data[tag].value = uids[0] if len(uids) == 1 else uids

    def _original(self, uid: str, name: str, is_reference: bool) -> str:
        if not uid or is_registered(uid):
            return uid
        if uid not in self._known:
            self._known[uid] = self._identities.origin(uid)
        origin = self._known[uid]
        if origin is None:
            if is_reference and uid not in self._own:
                raise DeidentificationError(f"its {name} refers to something that was not de-identified with this map", _GIVE)
            return uid
        if is_reference and origin.patient != self._patient:
            raise DeidentificationError(f"its {name} belongs to another patient than its study", "Do not use it; ask who made it.")
        return origin.uid
