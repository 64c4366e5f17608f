"""DICOM as JSON (PS3.18, annex F): what QIDO tells of a series, without a library that decodes DICOM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

TAGS: Final[Mapping[str, str]] = {
    "SeriesDate": "00080021", "SeriesTime": "00080031", "Modality": "00080060", "SeriesDescription": "0008103E",
    "RetrieveURL": "00081190", "PatientID": "00100020", "BodyPartExamined": "00180015", "ProtocolName": "00181030",
    "StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "SeriesNumber": "00200011", "StudyDate": "00080020",
    "NumberOfSeriesRelatedInstances": "00201209",
}  # fmt: skip
"""What is asked for and kept of a series, by the standard's keywords."""

NOT_IMAGES: Final = frozenset(
    ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTINTENT", "RTSEGANN", "SR", "KO", "PR", "DOC", "REG", "FID", "RWV", "PLAN", "AU",
     "ECG", "ANN")
)  # fmt: skip
"""Modalities of series that hold no image by definition (PS3.3, C.7.3.1.1.1)."""

_UID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*)){1,31}")
_MOMENT: Final = re.compile(r"(\d{8})(?:(\d{2})(\d{2})(\d{2}))?")
_LONGEST: Final = 1024  # letters of a text that is kept


@dataclass(frozen=True, kw_only=True)
class RemoteSeries:
    """A series that the other server has.

    count : of its instances, 0 where nobody says; moment : when it was made, Unix seconds, 0 where nobody says or it lies in the
    future; info : `TAGS` as text.
    """

    study: str
    uid: str
    modality: str
    count: int
    moment: int
    info: Mapping[str, str] = field(repr=False)


def is_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5, 9.1): it becomes part of a path and of an address."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def values(data: Any, tag: str) -> list[Any]:
    """The values of an element; empty where it is missing, empty or malformed."""
    element = data.get(tag) if isinstance(data, Mapping) else None
    found = element.get("Value") if isinstance(element, Mapping) else None
    return list(found) if isinstance(found, list) else []


def text(data: Any, tag: str) -> str:
    """The first value of an element as text."""
    first = next(iter(values(data, tag)), None)
    if isinstance(first, Mapping):  # a person's name
        first = first.get("Alphabetic")
    return str(first).strip()[:_LONGEST] if isinstance(first, str | int | float) else ""


def numbers(data: Any, tag: str) -> list[float]:
    """The values of an element as numbers; empty where one is none."""
    try:
        return [float(value) for value in values(data, tag)]
    except (OverflowError, TypeError, ValueError):
        return []


def series_of(data: Any, base: str, now: float) -> RemoteSeries | None:
    """A series out of an answer to QIDO; None where its UIDs are none.

    base : the server's address, for those that do not say where the series is.
    """
    info = {name: found for name, tag in TAGS.items() if (found := text(data, tag))}
    study, uid = info.get("StudyInstanceUID", ""), info.get("SeriesInstanceUID", "")
    if not is_uid(study) or not is_uid(uid):
        return None
    info.setdefault("RetrieveURL", f"{base}/studies/{study}/series/{uid}")
    count = info.get("NumberOfSeriesRelatedInstances", "")
    moment = moment_of(info.get("SeriesDate", ""), info.get("SeriesTime", ""))
    return RemoteSeries(
        study=study, uid=uid, modality=info.get("Modality", ""), count=int(count) if count.isdecimal() and len(count) < 9 else 0,
        moment=moment if moment < now else 0, info=info,
    )  # fmt: skip


def moment_of(date: str, time: str) -> int:
    """Unix seconds of a date and time of DICOM, as if they were UTC; 0 for none."""
    found = _MOMENT.match(date + time[:6])
    try:
        day = datetime.strptime(found[1], "%Y%m%d") if found else None
        if found and day and found[2]:
            day = day.replace(hour=int(found[2]), minute=int(found[3]), second=min(59, int(found[4])))
    except ValueError:
        return 0
    return max(0, int(day.replace(tzinfo=timezone.utc).timestamp())) if day else 0
