"""WADO-URI, which old viewers speak: each request is one of WADO-RS.

Source: PS3.18, section 9, URI Service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from delineate.errors import InputError

DICOM: Final = "application/dicom"

_UID: Final = re.compile(r"[0-9][0-9.]{0,63}")  # not dots alone, which lead out of a path
_RENDERED: Final = frozenset({"image/jpeg", "image/png", "image/gif"})
_SYNTAX: Final = re.compile(r"[0-9.]{1,64}|\*")


@dataclass(frozen=True)
class Retrieval:
    """The request of WADO-RS. is_instance : its answer is multipart, with the instance as its one part."""

    path: str
    accept: str
    is_instance: bool


def retrieval_of(query: Mapping[str, str]) -> Retrieval:
    """What a query of WADO-URI asks for.

    Raises
    ------
    InputError
        It is none, or asks for what cannot be told to WADO-RS.
    """
    if query.get("requestType") != "WADO":
        raise InputError("this is no request of WADO-URI", "Begin the query with requestType=WADO.")
    study, series, instance = (_uid(query, name) for name in ("studyUID", "seriesUID", "objectUID"))
    path = f"studies/{study}/series/{series}/instances/{instance}"
    kinds = [kind.split(";")[0].strip() for kind in query.get("contentType", "image/jpeg").split(",")]
    if DICOM in kinds:
        syntax = query.get("transferSyntax", "")
        if syntax and not _SYNTAX.fullmatch(syntax):
            raise InputError("transferSyntax is no UID", "Leave it out.")
        chosen = f"; transfer-syntax={syntax}" if syntax else ""
        return Retrieval(path, f'multipart/related; type="{DICOM}"{chosen}', True)
    pictures = [kind for kind in kinds if kind in _RENDERED]
    if not pictures:
        raise InputError("contentType names nothing that can be given", f"Ask for {DICOM} or image/jpeg.")
    frame = query.get("frameNumber", "")
    if frame and not (frame.isascii() and frame.isdigit() and len(frame) < 8):
        raise InputError("frameNumber is no number", "Leave it out.")
    return Retrieval(f"{path}/frames/{frame}/rendered" if frame else f"{path}/rendered", ", ".join(pictures), False)


def _uid(query: Mapping[str, str], name: str) -> str:
    value = query.get(name, "")
    if not _UID.fullmatch(value):
        raise InputError(f"{name} is missing, or no UID", "Name study, series and instance.")
    return value
