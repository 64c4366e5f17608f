"""What a receiver answers to an object that it was sent: codes of PS3.4, annexes B and J, and PS3.7, annex C."""

from __future__ import annotations

from typing import Final

_WORDS: Final = {
    0x0001: "attributes were not all taken",
    0x0105: "no such attribute",
    0x0106: "an attribute's value is invalid",
    0x0107: "attributes were left out",
    0x0110: "processing failed there",
    0x0111: "it is there already",
    0x0112: "no such object is there",
    0x0115: "an argument's value is invalid",
    0x0116: "an attribute's value is out of range",
    0x0117: "the object is invalid",
    0x0119: "the object is not of its class",
    0x0120: "an attribute is missing",
    0x0121: "an attribute's value is missing",
    0x0122: "the receiver does not take objects of this class",
    0x0124: "the receiver does not allow it",
    0x0131: "the request was made before",
    0x0210: "the request was made before",
    0x0211: "the receiver does not know such requests",
    0x0212: "an argument was not understood",
    0x0213: "resources are used up",
    0xB000: "attributes were changed",
    0xB006: "attributes were left out",
    0xB007: "the object does not match its class",
}
_RANGES: Final = {
    0xA7: "resources are used up",
    0xA9: "the object does not match its class",
    0xB: "a warning",
    0xC: "it was not understood",
}
_WARNINGS: Final = frozenset((0x0001, 0x0107, 0x0111, 0x0116))
_PASSING: Final = frozenset((0x0110, 0x0112, 0x0131, 0x0210, 0x0213))


def words(code: int) -> str:
    """A code as a person reads it."""
    text = _WORDS.get(code) or _RANGES.get(code >> 8) or _RANGES.get(code >> 12) or "no code of the standard"
    return f"{text} (0x{code:04X})"


def is_there(code: int) -> bool:
    """Whether the receiver has the object: success, or a warning.

    An object that "is there already" is ours, since nobody else has its UID: it was sent before.
    """
    return code == 0 or code in _WARNINGS or code >> 12 == 0xB


def may_pass(code: int) -> bool:
    """Whether the same object may be taken at another time: the receiver had no room, or failed on its own."""
    return code in _PASSING or code >> 8 == 0xA7
