"""Values that stand for others: dummies by type, and days that are shifted."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any, Final

ANONYMISED: Final = "ANONYMIZED"
_DUMMIES: Final[dict[str, Any]] = {
    "AE": ANONYMISED, "AS": "000Y", "AT": 0, "CS": ANONYMISED, "DA": "19000101", "DS": "0", "DT": "19000101000000", "FD": 0.0,
    "FL": 0.0, "IS": "0", "LO": ANONYMISED, "LT": ANONYMISED, "OB": b"\0\0", "OD": b"\0" * 8, "OF": b"\0" * 4, "OL": b"\0" * 4,
    "OV": b"\0" * 8, "OW": b"\0\0", "PN": ANONYMISED, "SH": ANONYMISED, "SL": 0, "SS": 0, "ST": ANONYMISED, "SV": 0, "TM": "000000",
    "UC": ANONYMISED, "UL": 0, "UN": b"\0\0", "UR": "http://anonymized.invalid", "US": 0, "UT": ANONYMISED, "UV": 0,
}  # fmt: skip
_DAY: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_REST: Final = re.compile(r"[0-9]{0,6}(\.[0-9]{1,6})?([+-][0-9]{4})?")
_TIME: Final = re.compile(r"[0-9]{2}:?([0-9]{2}:?([0-9]{2}(\.[0-9]{1,6})?)?)?")


def dummy(vr: str) -> Any:
    """A value of a type that is nobody's; those of bytes and numbers are zero. UIDs and sequences have none."""
    return _DUMMIES.get(vr, b"\0\0")


def shifted(text: str, vr: str, days: int) -> str:
    """A day, or day and time, moved by whole days; a time as it is. Empty where the text is none of that type.

    A day and time without a day keeps its precision: ``2024`` and ``202405`` are empty, since they cannot be shifted.
    """
    text = text.strip(" \0")
    if vr == "TM":
        return text if _TIME.fullmatch(text) else ""
    match = _DAY.match(text)
    rest = text[match.end() :] if match else ""
    if match is None or (vr == "DA" and rest) or not _REST.fullmatch(rest):
        return ""
    try:
        day = date(*map(int, match.groups())) + timedelta(days)
    except (ValueError, OverflowError):
        return ""
    return f"{day.year:04d}{day.month:02d}{day.day:02d}{rest}"
