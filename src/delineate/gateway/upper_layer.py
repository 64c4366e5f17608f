"""The units of DICOM's upper layer as bytes (PS3.8, chapter 9.3): what a caller says, and what is answered. No socket.

Written here because nothing that a caller sends is trusted: lengths are held against what there is, counts have limits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

REQUEST, ACCEPT, REJECT, DATA, RELEASE, RELEASED, ABORT = range(1, 8)
HEADER: Final = struct.Struct(">BxI")  # kind, length of what follows
COMMAND, LAST = 1, 2  # bits of a fragment's control header
APPLICATION: Final = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION: Final = "2.25.18686173413895669328055984973051941110"  # class UID: whose software this is
VERSION: Final = "DELINEATE"

REJECTED_FOR_GOOD, REJECTED_FOR_NOW = 1, 2
BY_USER, BY_PRESENTATION = 1, 3
NO_REASON, APPLICATION_UNKNOWN, CALLING_UNKNOWN, CALLED_UNKNOWN = 1, 2, 3, 7  # reasons of the user
TOO_MANY: Final = 2  # reason of the presentation layer
ABORTED_BY_PROVIDER: Final = 2
INVALID: Final = 6  # reason of an abort by the provider

_LONGEST_FIRST: Final = 1 << 19  # bytes of a request for an association
_CONTEXTS: Final = 128  # numbers that there are (PS3.8, 9.3.2.2)
_HEAD: Final = struct.Struct(">HH16s16s32x")
_ITEM: Final = struct.Struct(">BxH")
_FRAGMENT: Final = struct.Struct(">IBB")
_OVERHEAD: Final = 6  # bytes of a fragment that are no data


class ProtocolError(Exception):
    """What a caller sent is none of the protocol."""


@dataclass(frozen=True)
class Proposed:
    """A presentation context that a caller proposes: its number, what it is about, and in which encodings."""

    number: int
    abstract: str
    syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """What becomes of a proposal. result : 0 accepted, 3 not this class, 4 none of these encodings."""

    number: int
    abstract: str
    syntax: str
    result: int = 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for an association.

    longest : bytes of data units that the caller takes, 0 for any; roles : by class, whether the caller will be user and provider.
    """

    called: str
    calling: str
    application: str
    contexts: tuple[Proposed, ...] = ()
    longest: int = 0
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)


def require_length(kind: int, length: int, longest: int) -> None:
    """`ProtocolError` for a unit of another kind or length than there may be; `longest` is what data units may be."""
    most = {REQUEST: _LONGEST_FIRST, DATA: longest}.get(kind, 1 << 16)
    if not REQUEST <= kind <= ABORT:
        raise ProtocolError(f"a unit of the kind {kind}, which does not exist")
    if length > most:
        raise ProtocolError(f"a unit of {length} bytes, more than the {most} that may be")


def read_request(body: bytes) -> Request:
    """A request for an association, from what follows its header; `ProtocolError` where it is none."""
    try:
        version, _, called, calling = _HEAD.unpack_from(body)
        items = list(_items(body[_HEAD.size :]))
        if not version & 1:
            raise ProtocolError("another version of the protocol")
        user = dict[int, list[bytes]]()
        for kind, value in _within(items, 0x50):
            user.setdefault(kind, []).append(value)
        contexts = tuple(_proposed(value) for kind, value in items if kind == 0x20)
        if len(contexts) > _CONTEXTS or len({item.number for item in contexts}) < len(contexts):
            raise ValueError("contexts that nobody can tell apart")
        return Request(
            called=_title(called),
            calling=_title(calling),
            application=next((_text(value) for kind, value in items if kind == 0x10), ""),
            contexts=contexts,
            longest=struct.unpack(">I", user[0x51][0])[0] if 0x51 in user else 0,
            roles=dict(map(_role, user.get(0x54, ()))),
        )
    except (struct.error, IndexError, ValueError) as error:
        raise ProtocolError("a request for an association that makes no sense") from error


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if at + length > len(data):
            raise ValueError("an item ends beyond what there is")
        yield kind, data[at : at + length]
        at += length


def _within(items: Sequence[tuple[int, bytes]], kind: int) -> list[tuple[int, bytes]]:
    """The items within those of a kind."""
    return [inner for found, value in items if found == kind for inner in _items(value)]


def _proposed(data: bytes) -> Proposed:
    inner = list(_items(data[4:]))
    abstract = [_text(value) for kind, value in inner if kind == 0x30]
    if len(abstract) != 1:
        raise ValueError("a context without its class")
    return Proposed(data[0], abstract[0], tuple(_text(value) for kind, value in inner if kind == 0x40))


def _role(data: bytes) -> tuple[str, tuple[bool, bool]]:
    (length,) = struct.unpack_from(">H", data)
    uid = data[2 : 2 + length]
    return _text(uid), (data[2 + length] == 1, data[3 + length] == 1)


def _text(data: bytes) -> str:
    return data.decode("ascii").strip(" \0")


def _title(data: bytes) -> str:
    text = data.decode("latin-1").strip(" \0")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def accept(request: Request, answers: Sequence[Answered], longest: int, roles: Mapping[str, tuple[bool, bool]]) -> bytes:
    """The answer to a request; `longest` is the length of data units that we take."""
    head = _HEAD.pack(1, 0, request.called.encode("latin-1").ljust(16), request.calling.encode("latin-1").ljust(16))
    user = _item(0x51, struct.pack(">I", longest)) + _item(0x52, IMPLEMENTATION.encode())
    for uid, (scu, scp) in roles.items():
        user += _item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    user += _item(0x55, VERSION.encode())
    contexts = b"".join(
        _item(0x21, bytes((answer.number, 0, answer.result, 0)) + _item(0x40, answer.syntax.encode())) for answer in answers
    )
    return _unit(ACCEPT, head + _item(0x10, APPLICATION.encode()) + contexts + _item(0x50, user))


def reject(result: int, source: int, reason: int) -> bytes:
    """The refusal of a request."""
    return _unit(REJECT, bytes((0, result, source, reason)))


def abort(source: int, reason: int = 0) -> bytes:
    """The end of an association before its time."""
    return _unit(ABORT, bytes((0, 0, source, reason)))


def released() -> bytes:
    """The answer to who ends an association."""
    return _unit(RELEASED, bytes(4))


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _unit(kind: int, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body


def fragments(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Context, control header and bytes of each fragment in a data unit."""
    at = 0
    while at < len(body):
        if len(body) < at + _FRAGMENT.size:
            raise ProtocolError("a fragment that is cut off")
        length, number, control = _FRAGMENT.unpack_from(body, at)
        at += _FRAGMENT.size
        if length < 2 or at + length - 2 > len(body):
            raise ProtocolError("a fragment that ends beyond its unit")
        yield number, control, body[at : at + length - 2]
        at += length - 2


def command_units(number: int, command: bytes, longest: int) -> bytes:
    """A command in as many data units as a caller who takes `longest` bytes wants, 0 for any."""
    most = max(longest - _OVERHEAD, 128) if longest else len(command)
    parts = [command[at : at + most] for at in range(0, len(command), most)]
    units = []
    for index, part in enumerate(parts):
        control = COMMAND | (LAST if index == len(parts) - 1 else 0)
        units.append(_unit(DATA, _FRAGMENT.pack(len(part) + 2, number, control) + part))
    return b"".join(units)
