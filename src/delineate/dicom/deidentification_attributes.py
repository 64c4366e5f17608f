"""Attributes as text by tag, as ``dicom_info.json`` of a task archive has them, by the same table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from delineate.dicom.deidentification_cleaning import Cleaner, is_registered
from delineate.dicom.deidentification_table import action_of, type_of
from delineate.dicom.deidentification_values import dummy, shifted

_NUMBERS: Final = re.compile(r"[0-9eE.,+\-\\\[\] ]*")
_NUMERIC: Final = frozenset(("DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT"))
_TEXT: Final = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"))
_LARGEST: Final = 0xFFFFFFFF


def cleaned_attributes(values: Mapping[str, str], cleaner: Cleaner) -> dict[str, str]:
    """What stays, by tag as a decimal number. Sequences and bytes, whose form as text nobody fixed, do not."""
    clean = {}
    for key, value in values.items():
        if key.isascii() and key.isdecimal() and int(key) <= _LARGEST and isinstance(value, str):
            kept = _value(int(key), value, cleaner)
            if kept is not None:
                clean[key] = kept
    return clean


def _value(tag: int, text: str, cleaner: Cleaner) -> str | None:
    vr = type_of(tag)
    if vr not in _TEXT and not (vr in _NUMERIC and _NUMBERS.fullmatch(text)):
        return None
    action = action_of(tag, vr, cleaner.kept)
    if action == "shift":
        moved = [shifted(part, vr, cleaner.days) for part in text.split("\\")]
        if all(moved):
            return "\\".join(moved)
        action = action_of(tag, vr, cleaner.kept._replace(dates=False))
    if action == "keep":
        return text
    if action == "map":
        uids = (uid.strip(" \0") for uid in text.split("\\"))
        return "\\".join(uid if not uid or is_registered(uid) else cleaner.uid(uid) for uid in uids)
    return "" if action == "empty" else str(dummy(vr)) if action == "dummy" else None
