"""JSON objects as frozen dataclasses: how the messages of the MONAI Label API are read and written.

A `Message` declares its members as fields. What it does not know, or what has another kind of value than it
expects, is kept in `more` and written again: nothing of a stranger's answer is lost on the way through.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Dict, List, Mapping, Optional, Type, TypeVar, cast

from delineate.errors import AnswerError, InputError

Reader = Callable[[Any], Any]
M = TypeVar("M", bound="Message")

_READ = "read"
_PLAIN = (str, int, float)


class _OtherKindError(Exception):
    """A member's value is of another kind than its field."""


@dataclasses.dataclass(frozen=True)
class Message:
    """Base of all messages. A field that is None is not written.

    more : members without a field, and those that the field could not take.
    """

    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls: Type[M], value: Any, strict: bool = False) -> M:
        """Read an object that a JSON parser gave.

        Parameters
        ----------
        strict : refuse members of a wrong kind instead of keeping them in `more`: for what a server is sent.

        Raises
        ------
        AnswerError
            Not an object; with `strict` `InputError`, also for a member of a wrong kind.
        """
        if not isinstance(value, dict):
            raise _refusal("%s is not an object" % cls.__name__, strict)
        known: Dict[str, Any] = {}
        more: Dict[str, Any] = {}
        readers = _readers(cast(Any, cls))
        for name, member in value.items():
            if name not in readers:
                more[name] = member
                continue
            try:
                known[name] = readers[name](member)
            except (_OtherKindError, AnswerError):
                if strict and member is not None:  # some clients send null for what they do not say
                    raise _refusal("%s of %s is of a wrong kind" % (name, cls.__name__), strict) from None
                more[name] = member
        return cls(more=more, **known)

    def to_json(self) -> Dict[str, Any]:
        """The object as plain values."""
        written: Dict[str, Any] = {}
        for name in _readers(cast(Any, type(self))):
            value = getattr(self, name)
            if value is not None:
                written[name] = value if isinstance(value, _PLAIN) else _plain(value)
        written.update(self.more)
        return written


@functools.lru_cache(maxsize=None)
def _readers(kind: Any) -> Dict[str, Reader]:
    """How each member of a kind is read; kept, because a datastore holds many thousand objects of few kinds."""
    return {field.name: field.metadata[_READ] for field in dataclasses.fields(kind) if _READ in field.metadata}


def _refusal(text: str, strict: bool) -> Exception:
    if strict:
        return InputError("the request's " + text, "Send it as the API describes it.")
    return AnswerError("the server's answer is not of the protocol: " + text)


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return value.to_json()
    if isinstance(value, (dict, Mapping)):  # a dict is known at once, other mappings are asked for slowly
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value


def _field(read: Reader, default: Any = None, factory: Optional[Callable[[], Any]] = None) -> Any:
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={_READ: read})
    return dataclasses.field(default=default, metadata={_READ: read})


def _of_kind(kinds: Any) -> Reader:
    def read(value: Any) -> Any:
        if isinstance(value, bool) and kinds is not bool:  # a bool is an int to Python, not to JSON
            raise _OtherKindError
        if not isinstance(value, kinds):
            raise _OtherKindError
        return value

    return read


def text(default: Optional[str] = None) -> Any:
    """A string."""
    return _field(_of_kind(str), default)


def word(default: Optional[str] = None) -> Any:
    """A string, or a number that stands for one: some clients count their users."""

    def read(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, _PLAIN):
            raise _OtherKindError
        return str(value)

    return _field(read, default)


def number(default: Optional[float] = None) -> Any:
    """A number, whole or not."""
    return _field(_of_kind((int, float)), default)


def whole(default: Optional[int] = None) -> Any:
    """A whole number."""
    return _field(_of_kind(int), default)


def flag(default: Optional[bool] = None) -> Any:
    """True or false."""
    return _field(_of_kind(bool), default)


def sequence(factory: Optional[Callable[[], Any]] = None) -> Any:
    """A list of anything; absent None, or what `factory` makes."""
    return _field(_of_kind(list), None, factory)


def mapping(factory: Optional[Callable[[], Any]] = None) -> Any:
    """An object of anything; absent None, or what `factory` makes."""
    return _field(_of_kind(dict), None, factory)


def names(factory: Optional[Callable[[], Any]] = None) -> Any:
    """Names as a list, or as an object name → value: both are in use."""
    return _field(_of_kind((list, dict)), None, factory)


def anything() -> Any:
    """Whatever stands there."""
    return _field(lambda value: value)


def message(kind: Type[Message]) -> Any:
    """One object of a kind, absent None."""
    return _field(kind.from_json)


def messages(kind: Type[Message]) -> Any:
    """An object name → object of a kind; empty where absent."""

    def read(value: Any) -> Dict[str, Message]:
        if not isinstance(value, dict):
            raise _OtherKindError
        return {name: kind.from_json(member) for name, member in value.items()}

    return _field(read, None, dict)


def listed(kind: Type[M], value: Any) -> List[M]:
    """A list of objects of a kind; `AnswerError` for anything else."""
    if not isinstance(value, list):
        raise AnswerError("the server's answer is not of the protocol: a list was expected")
    return [kind.from_json(member) for member in value]


def by_name(kind: Type[M], value: Any) -> Dict[str, M]:
    """An object name → object of a kind, as a whole answer; `AnswerError` for anything else."""
    if not isinstance(value, dict):
        raise AnswerError("the server's answer is not of the protocol: an object was expected")
    return {name: kind.from_json(member) for name, member in value.items()}
