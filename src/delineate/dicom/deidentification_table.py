"""What becomes of an attribute: the table of PS3.15, annex E, as data, and rules for what stands in no table.

``deidentification_table.csv`` is made by ``scripts/confidentiality_table.py``; its sources' licences stand beside it.
The table names attributes one by one and can know neither private ones nor those of later editions; so what is not
in it stays only where it is in the data dictionary and of a type that holds no names, dates or prose.
"""

from __future__ import annotations

import csv
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

from delineate.dicom.parts import pydicom

Action = Literal["keep", "remove", "empty", "dummy", "map", "shift", "within"]
"""keep as it is; remove; empty; dummy: another value of its type; map: UIDs to others; shift: days; within: items cleaned."""

EDITION: Final = "2026c"

_TABLE: Final = Path(__file__).with_suffix(".csv")
_DAYS: Final = frozenset(("DA", "DT", "TM"))
_BIRTH: Final = frozenset((0x00100030, 0x00100032))  # which no option keeps
_EMPTY_SEQUENCES: Final = frozenset((0x00400555, 0x00400513, 0x00400562, 0x00400610, 0x30100081, 0x0040A088))  # type 2 where they stand

# Of these types nothing stays that the table does not name: people, places, days, networks, prose; bytes but pixels' own.
_TELLING: Final = frozenset(("PN", "AE", "DA", "DT", "TM", "LT", "ST", "UT", "UC", "UR"))
_BYTES: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_NUMBERS: Final = frozenset(("DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"))
_WORDS: Final = frozenset(("CS", "LO", "SH"))
_PIXELS: Final = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009, 0x7FE00010))
_PIXEL_MODULES: Final = 0x0028  # the group of palettes and look-up tables
# UIDs of kinds of things, which are the same for everybody.
_KINDS: Final = (
    "ClassUID", "SyntaxUID", "SOPClassesInStudy", "SOPClassesInSeries", "SOPClassesSupported", "CodingSchemeUID", "ContextUID",
    "MappingResourceUID",
)  # fmt: skip


class Kept(NamedTuple):
    """Which options of the profile are taken: days shifted by as much instead of none; what a patient is like."""

    dates: bool = False
    characteristics: bool = False


@lru_cache(maxsize=10_000)
def action_of(tag: int, vr: str, kept: Kept) -> Action:
    """What becomes of the attribute `tag`, which is of the type `vr` in its file."""
    group = tag >> 16
    known = _dictionary(tag)
    if not known or group & 1 or group < 8 or tag & 0xFFFF == 0 or 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:
        return "remove"  # private, group lengths, the file's own and the network's groups, curves, overlays, what nobody knows
    row = _table().get(tag)
    if row is None:
        return _unlisted(tag, vr, known)
    if kept.characteristics and row.characteristic:
        return "keep" if _is_of(vr, known) else "remove"
    if kept.dates and known in _DAYS and tag not in _BIRTH:
        return "shift"
    return _listed(tag, row.code, known)


def type_of(tag: int) -> str:
    """The type of an attribute in the dictionary, the first of several; empty where it is unknown, or holds no text."""
    return _dictionary(tag).split(" ")[0]


def _listed(tag: int, code: str, known: str) -> Action:
    """The action of a code. Which of several the object's definition needs is not looked up: what is right for all of them."""
    if code == "X":
        return "remove"
    if code == "U":
        return "map"
    if known == "SQ":
        if code == "X/Z/U*":
            return "within"
        return "empty" if tag in _EMPTY_SEQUENCES else "dummy" if code == "D" else "remove"
    return "dummy" if "D" in code else "empty"


def _unlisted(tag: int, vr: str, known: str) -> Action:
    if tag in _PIXELS:
        return "keep"
    if vr == "SQ" or known == "SQ":
        return "within" if vr == known else "remove"
    if vr == "UI":
        return "remove" if known != "UI" else "keep" if _is_kind(tag) else "map"
    if vr in _TELLING or known in _TELLING or not _is_of(vr, known):
        return "remove"
    return "remove" if vr in _BYTES and (tag >> 16 != _PIXEL_MODULES or vr in ("OB", "UN")) else "keep"


def _is_of(vr: str, known: str) -> bool:
    """Whether a file's type is one that the dictionary means; numbers and words may be written as others of their kind."""
    first = known.split(" ")[0]
    return vr in known.split(" ") or (vr in _NUMBERS and first in _NUMBERS) or (vr in _WORDS and first in _WORDS)


def _is_kind(tag: int) -> bool:
    name: str = pydicom().datadict.keyword_for_tag(tag)
    return name.endswith(_KINDS)


def _dictionary(tag: int) -> str:
    """Types in the dictionary, such as ``US or SS``; empty for what is not in it, repeating groups too."""
    entry = pydicom().datadict.DicomDictionary.get(tag)
    return entry[0] if entry else ""


class _Row(NamedTuple):
    code: str
    characteristic: bool


@cache
def _table() -> dict[int, _Row]:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return {int(row["tag"], 16): _Row(row["action"], row["characteristic"] == "K") for row in csv.DictReader(file)}
