"""Ids and tags, which are never paths, and what a file's name says of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Final

from delineate.errors import InputError

_FLAT: Final = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff")

SLIDE_EXTENSIONS: Final = (".svs", ".svslide", ".ndpi", ".scn", ".bif")
"""Of slides as scanners write them, TIFF all of them."""

MIRAX: Final = ".mrxs"
"""Of a slide whose pixels lie in the folder of its name beside it: one file alone is none."""

IMAGE_EXTENSIONS: Final = (*_FLAT, *SLIDE_EXTENSIONS, MIRAX)
"""Of files that are images, the longer ones first."""

LABEL_EXTENSIONS: Final = (*_FLAT, ".dcm", ".xml", ".json")
"""Of files that are labels: masks, and the outlines that whole-slide viewers save."""

FINAL: Final = "final"
"""The tag of a person's label; ``original`` is that of a model's."""

RAW: Final = ".bin"
"""A label as a bare array on the image's grid."""

_LONGEST: Final = 200  # bytes: a file name has room for 255, and an extension and a number are added
_RESERVED: Final = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_NO_TEXT: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_FORBIDDEN: Final = re.compile(rf"[/\\:{_NO_TEXT}]")
_UNSPEAKABLE: Final = re.compile(f"[{_NO_TEXT}]")


def check_id(text: str) -> str:
    """An image's id as it is. Raises `InputError` where it could be taken for more than the name of a file."""
    return _checked(text, "an image's id")


def check_tag(text: str) -> str:
    """A label's tag, `FINAL` for an empty one. Raises `InputError` as `check_id`."""
    return _checked(text or FINAL, "a label's tag")


def _checked(text: str, what: str) -> str:
    if fault := _fault(text):
        shown = ascii(text) if len(text) <= 60 else ascii(text[:60]) + "…"
        raise InputError(f"{shown} cannot be {what}: it {fault}", "Use letters, digits, blanks, dots, dashes and underscores.")
    return text


def _fault(text: str) -> str:
    if not text:
        return "is empty"
    if _FORBIDDEN.search(text):
        return "holds a separator or a control character"
    if len(text.encode()) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    if text[0] == "." or text[-1] == "." or text != text.strip():
        return "begins or ends with a dot or a blank"
    return "is a name that some systems keep for themselves" if _RESERVED.fullmatch(text) else ""


def is_text(name: str) -> bool:
    """Whether a file's name fits into a line of text: no control characters, no bytes that are none of its encoding."""
    return _UNSPEAKABLE.search(name) is None


def split(name: str, extensions: Collection[str] = IMAGE_EXTENSIONS) -> tuple[str, str]:
    """(file name without its extension, extension as written); the extension is empty where it is none of those known."""
    lower = name.lower()
    for extension in extensions:
        if lower.endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)], name[-len(extension) :]
    return name, ""


def file_name(name: str) -> str:
    """The last part of a file name as a client sent it, of whatever system: some send their whole path.

    Raises `InputError` for one that leads out of folders, or that no file can have.
    """
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        raise InputError("a file's name must not lead out of its folder", "Send the plain name.")
    return _checked(parts[-1], "a file's name")


def upload_parts(name: str, extensions: Collection[str]) -> tuple[str, str]:
    """(stem, extension in lower case) of an uploaded file's name. Raises `InputError` for an unknown extension."""
    stem, extension = split(file_name(name), extensions)
    if not extension:
        raise InputError("the file's name has no extension that is known here", f"Use one of {', '.join(extensions)}.")
    return stem, extension.lower()


def id_of_file(name: str, parents: tuple[str, ...], taken: Collection[str], extensions: Collection[str] = IMAGE_EXTENSIONS) -> str:
    """The id of a file that was found: its name without extension, and where that is taken something close to it.

    name : of the file, or of a series' folder (then with no `extensions`)
    parents : the folders it lies in, outermost first
    taken : the ids that are given already
    """
    stem, _ = split(name, extensions)
    candidates = [stem] if parents else [stem, name]
    for depth in range(1, len(parents) + 1):
        candidates += ["_".join((*parents[-depth:], stem)), "_".join((*parents[-depth:], name))]
    for candidate in map(_made_safe, candidates):
        if candidate not in taken:
            return candidate
    number = 2
    while (candidate := f"{_made_safe(stem)}-{number}") in taken:
        number += 1
    return candidate


def _made_safe(text: str) -> str:
    text = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)) if _FORBIDDEN.search(text) else text
    while len(text.encode()) > _LONGEST:
        text = text[:-1]
    text = text.strip().strip(".").strip() or "image"
    return f"{text}_" if _RESERVED.fullmatch(text) else text
