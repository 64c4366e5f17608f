"""Commands between application entities (PS3.7, annex E): always in implicit VR little endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from delineate.gateway.upper_layer import ProtocolError

STORE, ECHO, EVENT_REPORT, CANCEL = 0x0001, 0x0030, 0x0100, 0x0FFF
_ANSWER: Final = 0x8000
_NO_DATA: Final = 0x0101
_CLASS, _FIELD, _MESSAGE, _ANSWERED, _DATA, _STATUS, _COMMENT, _INSTANCE, _EVENT = (
    0x0002, 0x0100, 0x0110, 0x0120, 0x0800, 0x0900, 0x0902, 0x1000, 0x1002,
)  # fmt: skip

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
NOT_UNDERSTOOD: Final = 0xC000
KEPT_ASIDE: Final = 0xB000
NO_TRANSACTION: Final = 0x0115  # an argument's value makes no sense (PS3.7, annex C)
UNKNOWN_OPERATION: Final = 0x0211


@dataclass(frozen=True)
class Command:
    """A command that was received, by its elements."""

    elements: dict[int, bytes]

    @property
    def field(self) -> int:
        """What is asked for."""
        return self._short(_FIELD)

    @property
    def message(self) -> int:
        """Its number, which an answer repeats."""
        return self._short(_MESSAGE)

    @property
    def has_data(self) -> bool:
        """Whether a data set follows."""
        return self._short(_DATA) != _NO_DATA

    @property
    def sop_class(self) -> str:
        """Affected SOP Class UID, empty where there is none."""
        return self._text(_CLASS)

    @property
    def instance(self) -> str:
        """Affected SOP Instance UID, empty where there is none."""
        return self._text(_INSTANCE)

    def _short(self, element: int) -> int:
        raw = self.elements.get(element, b"")
        if len(raw) != 2:
            raise ProtocolError(f"a command without the element 0000,{element:04X}")
        return int.from_bytes(raw, "little")

    def _text(self, element: int) -> str:
        return self.elements.get(element, b"").decode("latin-1").strip(" \0")


def read_command(data: bytes) -> Command:
    """A command from its bytes; `ProtocolError` where they are none."""
    elements, at = {}, 0
    while at < len(data):
        try:
            group, element, length = struct.unpack_from("<HHI", data, at)
        except struct.error as error:
            raise ProtocolError("a command that is cut off") from error
        at += 8
        if group != 0 or at + length > len(data):
            raise ProtocolError("a command that makes no sense")
        elements[element] = data[at : at + length]
        at += length
    return Command(elements)


def answer(command: Command, status: int, comment: str = "") -> bytes:
    """What is said to a command; `comment` to a person there, without what could name a patient."""
    elements = {
        _FIELD: _short(command.field | _ANSWER),
        _ANSWERED: _short(command.message),
        _DATA: _short(_NO_DATA),
        _STATUS: _short(status),
    }
    for element in (_CLASS, _INSTANCE, _EVENT):
        if command.elements.get(element):
            elements[element] = command.elements[element]
    if comment:
        elements[_COMMENT] = comment.encode("ascii", "replace")[:64]
    body = b"".join(_element(element, elements[element]) for element in sorted(elements))
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _short(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _element(element: int, value: bytes) -> bytes:
    value += b" " * (len(value) & 1) if element == _COMMENT else b"\0" * (len(value) & 1)
    return struct.pack("<HHI", 0, element, len(value)) + value
