"""What an attribute has to be for a rule to hold: patterns over the text of DICOM attributes."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from delineate.dicom.parts import pydicom
from delineate.errors import SettingsError

_NUMBERS: Final = frozenset(("DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "SV", "UV", "DA", "AS"))
_IMPERSONAL: Final = frozenset(("CS", "DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "SV", "UV"))
_UNREADABLE: Final = frozenset(("SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN", "AT"))
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_RANGE: Final = re.compile(rf"({_NUMBER.pattern})?\.\.({_NUMBER.pattern})?")
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_YEARS: Final = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}  # how long a unit of an age is

_HELP: Final = 'Write a text with * and ?, "/regex/", a number, a range such as "0.5..3", "absent", or a list of these.'

Test = Callable[[str], bool]


@dataclass(frozen=True)
class Pattern:
    """One condition: an attribute, what is wanted of it as it was written, and whether one value is that.

    `test` is None where the attribute has to be absent or empty.
    """

    keyword: str
    wanted: str
    tests: tuple[Test | None, ...] = field(compare=False, repr=False)
    is_negated: bool = False

    def holds(self, text: str) -> bool:
        """Whether an attribute's text, its values parted by backslashes, is as wanted; of several values one is enough."""
        values = [value for part in text.split("\\") if (value := part.strip(" \0"))]
        whole = "\\".join(values)
        held = (*values, whole) if values else ()
        found = any(not values if test is None else any(map(test, held)) for test in self.tests)
        return found is not self.is_negated


def pattern(keyword: str, given: Any) -> Pattern:
    """The condition that ``keyword = given`` in a rules file is.

    Raises
    ------
    SettingsError
        An attribute that DICOM does not know or that is no text, or a pattern that makes no sense.
    """
    kind = kind_of(keyword)
    items = given if isinstance(given, list) else [given]
    if not items:
        raise SettingsError(f"{keyword} has an empty list", _HELP)
    texts = [_text(keyword, item) for item in items]
    negated = [text.startswith("!") for text in texts]
    if any(negated) and not all(negated):
        raise SettingsError(f"{keyword} mixes patterns with and without '!'", "Begin all of a list with '!', or none.")
    tests = tuple(_test(keyword, text.removeprefix("!").strip(), kind) for text in texts)
    return Pattern(keyword, " or ".join(texts) if not negated[0] else " and ".join(texts), tests, negated[0])


def is_telling(keyword: str) -> bool:
    """Whether values of an attribute may name a patient: all but words of DICOM's own and numbers of images."""
    return kind_of(keyword) not in _IMPERSONAL or int(pydicom().datadict.tag_for_keyword(keyword)) >> 16 == 0x0010


@cache
def kind_of(keyword: str) -> str:
    """The value representation of an attribute by DICOM's dictionary.

    Raises
    ------
    SettingsError
        No such attribute, or one that no pattern can be held against.
    """
    library = pydicom()
    from pydicom.datadict import dictionary_VR, keyword_dict

    tag = library.datadict.tag_for_keyword(keyword)
    if tag is None:
        near = difflib.get_close_matches(keyword, keyword_dict, 1)
        proposal = f"Perhaps {near[0]}." if near else "Write its keyword, such as BodyPartExamined."
        raise SettingsError(f"{keyword!r} is no attribute of DICOM's dictionary", proposal)
    kind = str(dictionary_VR(tag)).split(" or ")[0]
    if kind in _UNREADABLE:
        raise SettingsError(f"{keyword} is no text or number ({kind})", "Choose images by another attribute.")
    return kind


def _text(keyword: str, item: Any) -> str:
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise SettingsError(f"{keyword} is {item!r}, which is no pattern", _HELP)
    text = str(item).strip()
    if not text.removeprefix("!").strip():
        raise SettingsError(f"{keyword} has an empty pattern", 'Write "absent" for an attribute that is missing or empty.')
    return text


def _test(keyword: str, text: str, kind: str) -> Test | None:
    """Whether one value is as wanted; None for no value."""
    if text == "absent":
        return None
    if text.startswith("/"):
        return _regex(keyword, text, kind)
    if kind in _NUMBERS:
        found = _RANGE.fullmatch(text)
        if found and (found[1] or found[2]):
            return _between(keyword, text, *(float(end) if end else None for end in found.groups()))
        if _NUMBER.fullmatch(text):
            return _between(keyword, text, float(text), float(text))
        if not set(text) & set("*?[") and kind != "AS":
            raise SettingsError(f"{keyword} is a number ({kind}), and {text!r} is none", _HELP)
    flags = re.IGNORECASE if kind == "CS" else 0
    compiled = re.compile(fnmatch.translate(text), flags)
    return lambda value: compiled.match(value) is not None


def _regex(keyword: str, text: str, kind: str) -> Test:
    body, end, flags = text[1:].rpartition("/")
    if not end or flags not in ("", "i") or not body:
        raise SettingsError(f"{keyword} has the pattern {text!r}, which has no end", "Write it as /regex/, or /regex/i whatever the case.")
    try:
        compiled = re.compile(body, re.IGNORECASE if flags or kind == "CS" else 0)
    except re.error as error:
        raise SettingsError(f"{keyword} has the pattern {text!r}: {error}", "Correct the regular expression.") from None
    return lambda value: compiled.search(value) is not None


def _between(keyword: str, text: str, low: float | None, high: float | None) -> Test:
    if low is not None and high is not None and low > high:
        raise SettingsError(f"{keyword} has the range {text!r}, which is empty", "Write the lower end first.")

    def test(value: str) -> bool:
        number = _number(value)
        return number is not None and (low is None or number >= low) and (high is None or number <= high)

    return test


def _number(value: str) -> float | None:
    """A number, or years of an age."""
    age = _AGE.fullmatch(value)
    if age:
        return int(age[1]) * _YEARS[age[2]]
    return float(value) if _NUMBER.fullmatch(value) else None
