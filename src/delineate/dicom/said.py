"""What RTSTRUCT and SEG files say of a structure beyond its name, colour and voxels, as words by attribute, and back.

A `Structure` carries these words through a conversion: a planner's external stays one, and what a person drew is not called
automatic. Codes are ``value^scheme^meaning``, several of them parted by backslashes, as values of DICOM are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from delineate.dicom.codes import Meaning, Side, named_by_fma, side_of
from delineate.dicom.derived import Code, coded, item
from delineate.segmentation import Structure

KIND: Final = "RTROIInterpretedType"
MADE: Final = "SegmentAlgorithmType"
"""``AUTOMATIC``, ``SEMIAUTOMATIC``, ``MANUAL``, or empty where a file says nothing; ROIGenerationAlgorithm of an RTSTRUCT."""
BY: Final = "SegmentAlgorithmName"
"""ROIGenerationDescription of an RTSTRUCT."""
DESCRIPTION: Final = "SegmentDescription"
"""ROIDescription of an RTSTRUCT."""
CODES: Final = "SegmentedPropertyTypeCodeSequence"
"""RTROIIdentificationCodeSequence of an RTSTRUCT; with their equivalents."""
CATEGORY: Final = "SegmentedPropertyCategoryCodeSequence"
MODIFIERS: Final = "SegmentedPropertyTypeModifierCodeSequence"
TRACKING: Final = "TrackingID"
TRACKING_UID: Final = "TrackingUID"
PROPERTIES: Final = "ROIPhysicalPropertiesSequence"
"""``property^value``: what a dose is calculated with."""

SNOMED: Final = "SCT"
FMA: Final = "FMA"

_SIDES: Final[dict[Side, Code]] = {"L": ("7771000", SNOMED, "Left"), "R": ("24028007", SNOMED, "Right")}

_WAYS: Final = frozenset(("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", ""))
_KIND: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
_UID: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

Said = Mapping[str, str]


def of_region(region: Any, observation: Any | None) -> dict[str, str]:
    """What an RTSTRUCT says: an item of StructureSetROISequence, and that of RTROIObservationsSequence, where there is one."""
    found = {MADE: _way(region.get("ROIGenerationAlgorithm"))}
    found[BY] = _text(region, "ROIGenerationDescription", 64)
    found[DESCRIPTION] = _text(region, "ROIDescription", 1024)
    if observation is not None:
        items = observation.get("RTROIIdentificationCodeSequence") or ()
        found[KIND] = _kind(observation)
        found[CODES] = _codes(items)
        found[MODIFIERS] = _modifiers(items)
        found[CATEGORY] = _codes(observation.get(CATEGORY) or ())
        found[PROPERTIES] = "\\".join(_properties(observation))
    return _kept(found)


def of_segment(segment: Any) -> dict[str, str]:
    """What a SEG says: an item of SegmentSequence."""
    items = segment.get(CODES) or ()
    found = {MADE: _way(segment.get(MADE)), BY: _text(segment, BY, 64), DESCRIPTION: _text(segment, DESCRIPTION, 1024)}
    found |= {KIND: _kind(segment), CODES: _codes(items), CATEGORY: _codes(segment.get(CATEGORY) or ()), MODIFIERS: _modifiers(items)}
    uid = str(segment.get(TRACKING_UID) or "")
    if _UID.fullmatch(uid) and len(uid) <= 64:
        found |= {TRACKING_UID: uid, TRACKING: _text(segment, TRACKING, 1024)}
    return _kept(found)


def codes_in(said: Said, attribute: str) -> list[Code]:
    """Codes that were said."""
    found = []
    for part in filter(None, said.get(attribute, "").split("\\")):
        value, scheme, meaning = part.split("^", 2)
        found.append((value, scheme, meaning))
    return found


def as_words(codes: Iterable[Code]) -> str:
    """What `codes_in` reads."""
    return "\\".join("^".join(code) for code in codes)


def properties_in(said: Said) -> list[Any]:
    """Items of ROIPhysicalPropertiesSequence that were said."""
    pairs = [part.split("^", 1) for part in filter(None, said.get(PROPERTIES, "").split("\\"))]
    return [item(ROIPhysicalProperty=name, ROIPhysicalPropertyValue=value) for name, value in pairs]


def snomed_in(said: Said) -> str:
    """The code by SNOMED CT: said, or that of an FMA number that was; empty where there is neither."""
    codes = codes_in(said, CODES)
    found = next((value for value, scheme, _ in codes if scheme == SNOMED), "")
    return found or next(filter(None, (named_by_fma(value)[1].code for value, scheme, _ in codes if scheme == FMA)), "")


def name_in(said: Said) -> str:
    """TG-263's name by an FMA number that was said, for what has no name; empty where there is none."""
    return next(filter(None, (named_by_fma(value)[0] for value, scheme, _ in codes_in(said, CODES) if scheme == FMA)), "")


def identified(structure: Structure, name: str, meaning: Meaning) -> list[Code]:
    """Codes of what a structure is: those that were said, or SNOMED CT by its own code or its name's; and FMA by its name, unless
    another code was said.

    name : in the file; meaning : of the structure's name
    """
    codes = codes_in(structure.said, CODES)
    if structure.code and structure.code != snomed_in(structure.said):
        codes = []  # somebody knew better since
    is_other = bool(codes) and structure.code != meaning.code
    value = structure.code or meaning.code
    if value and not codes:
        codes = [(value, SNOMED, meaning.organ if value == meaning.code else name)]
    if meaning.fma and not is_other and all(scheme != FMA for _, scheme, _ in codes):
        codes.append((meaning.fma, FMA, named_by_fma(meaning.fma)[0]))
    return codes


def modified(structure: Structure) -> list[Code]:
    """What is said of codes in which it is not, such as the side in a structure's name."""
    side = side_of(structure.name)
    return codes_in(structure.said, MODIFIERS) or ([_SIDES[side]] if side else [])


def coded_on(codes: Sequence[Code], modifiers: Sequence[Code]) -> Any:
    """The one item of a code sequence: the first code, the others as its equivalents, with modifiers, such as the side."""
    found = coded(codes[0])
    if codes[1:]:
        found.EquivalentCodeSequence = [coded(code) for code in codes[1:]]
    if modifiers:
        found.SegmentedPropertyTypeModifierCodeSequence = [coded(modifier) for modifier in modifiers]
    return found


def _kept(found: dict[str, str]) -> dict[str, str]:
    """Without what nobody said. That nobody said how it was made is worth knowing."""
    return {name: value for name, value in found.items() if value or name == MADE}


def _way(value: Any) -> str:
    word = str(value or "").strip().upper()
    return word if word in _WAYS else ""


def _kind(data: Any) -> str:
    word = str(data.get(KIND) or "").strip()
    return word if _KIND.fullmatch(word) else ""


def _text(data: Any, attribute: str, most: int) -> str:
    return _printable(str(data.get(attribute) or ""), lambda letter: letter in "\r\n\t")[:most].strip()


def _printable(text: str, also: Callable[[str], bool] = lambda _: False) -> str:
    return "".join(letter for letter in text if letter.isprintable() or also(letter)).replace("\\", " ")


def _codes(items: Any) -> str:
    """Those of items, each before its equivalents."""
    every = [each for code in items for each in (code, *(code.get("EquivalentCodeSequence") or ()))]
    return as_words(dict.fromkeys(code for code in map(_code, every) if all(code)))


def _modifiers(items: Any) -> str:
    """Those of the first item that has any."""
    return next(filter(None, (_codes(code.get(MODIFIERS) or ()) for code in items)), "")


def _code(data: Any) -> Code:
    """Empty words for what does not fit into a code sequence as it is written here."""
    value, scheme = (_printable(str(data.get(name) or "")).strip() for name in ("CodeValue", "CodingSchemeDesignator"))
    if max(len(value), len(scheme)) > 16 or "^" in value + scheme:
        return "", "", ""
    return value, scheme, _printable(str(data.get("CodeMeaning") or "")).strip()[:64]


def _properties(observation: Any) -> Iterator[str]:
    for data in observation.get(PROPERTIES) or ():
        name, value = (str(data.get(attribute) or "").strip() for attribute in ("ROIPhysicalProperty", "ROIPhysicalPropertyValue"))
        if _KIND.fullmatch(name) and name != "ELEM_FRACTION" and _NUMBER.fullmatch(value) and len(value) <= 16:
            yield f"{name}^{value}"
