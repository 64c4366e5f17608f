"""``info.properties``, in which the workstation reads what an extension offers: entry points, their parameters and outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from delineate.errors import InputError

JAVA_TYPES = {
    "Integer": "int",
    "String": "java.lang.String",
    "XMimContour": "com.mimvista.external.contouring.XMimContour",
    "XMimImage": "com.mimvista.external.series.XMimImage",
    "XMimSession": "com.mimvista.external.control.XMimSession",
}
"""Types that an entry point may take and give, and their names in the manifest."""

_TEXTS = {
    "name": "NAME", "author": "AUTHOR", "description": "DESC", "category": "CATEGORY",
    "institution": "COMPANY", "version": "VERSION", "method": "METHOD",
}  # fmt: skip
_ESCAPES = {"\t": r"\t", "\n": r"\n", "\r": r"\r", "\f": r"\f", "\\": r"\\"}
_UNESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class ManifestError(InputError):
    """The manifest is not one, or does not hold together."""


@dataclass(frozen=True)
class Entry:
    """One entry point: what a person reads of it, its function's name (`method`), and (name, Java type) of what goes in and out."""

    name: str
    author: str
    description: str
    category: str
    institution: str
    version: str
    method: str
    parameters: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


def properties(entries: Iterable[Entry], created: str) -> dict[str, str]:
    """The manifest's keys and values, in the order in which they are written."""
    entries = list(entries)
    values = {"EXTENSION_TYPE": "Python", "CREATION_DATE": created, "ENTRY_COUNT": str(len(entries))}
    for i, entry in enumerate(entries):
        for field, key in _TEXTS.items():
            values[f"{key}_{i}"] = getattr(entry, field)
        for kind, pairs in (("PARAM", entry.parameters), ("OUTPUT", entry.outputs)):
            values[f"{kind}_COUNT_{i}"] = str(len(pairs))
            for j, (name, java_type) in enumerate(pairs):
                values[f"{kind}_NAME_{i}_{j}"] = name
                values[f"{kind}_TYPE_{i}_{j}"] = java_type
    return values


def entries_of(values: Mapping[str, str]) -> list[Entry]:
    """The entry points of a manifest.

    Raises
    ------
    ManifestError
        A key is missing, has no business there, or makes no sense.
    """
    if values.get("EXTENSION_TYPE") != "Python":
        raise ManifestError("EXTENSION_TYPE is not Python")
    left = dict(values)
    if not left.pop("CREATION_DATE", ""):
        raise ManifestError("CREATION_DATE is missing")
    del left["EXTENSION_TYPE"]
    entries = [_entry(left, i) for i in range(_count(left, "ENTRY_COUNT"))]
    if left:
        raise ManifestError(f"keys that belong to no entry: {', '.join(sorted(left))}")
    if not entries:
        raise ManifestError("no entry points")
    for field in ("name", "method"):
        names = [getattr(entry, field) for entry in entries]
        if len(set(names)) < len(names):
            raise ManifestError(f"two entries of one {field}")
    return entries


def _entry(left: dict[str, str], i: int) -> Entry:
    texts = {field: _take(left, f"{key}_{i}") for field, key in _TEXTS.items()}
    for field in ("name", "version", "method"):
        if not texts[field].strip():
            raise ManifestError(f"{_TEXTS[field]}_{i} is empty")
    if not texts["method"].isidentifier():
        raise ManifestError(f"METHOD_{i} is no function's name")
    entry = Entry(**texts, parameters=_pairs(left, "PARAM", i), outputs=_pairs(left, "OUTPUT", i))
    if not entry.parameters or entry.parameters[0][1] != JAVA_TYPES["XMimSession"]:
        raise ManifestError(f"the first parameter of {entry.method} is not the session")
    return entry


def _pairs(left: dict[str, str], kind: str, i: int) -> tuple[tuple[str, str], ...]:
    count = range(_count(left, f"{kind}_COUNT_{i}"))
    pairs = tuple((_take(left, f"{kind}_NAME_{i}_{j}"), _take(left, f"{kind}_TYPE_{i}_{j}")) for j in count)
    if len({name for name, _ in pairs}) < len(pairs) or not all(name for name, _ in pairs):
        raise ManifestError(f"{kind}_NAME_{i}_…: a name is empty or there twice")
    return pairs


def _count(left: dict[str, str], key: str) -> int:
    text = _take(left, key)
    if not re.fullmatch(r"[0-9]{1,3}", text):
        raise ManifestError(f"{key} is no count")
    return int(text)


def _take(left: dict[str, str], key: str) -> str:
    try:
        return left.pop(key)
    except KeyError:
        raise ManifestError(f"{key} is missing") from None


def written(values: Mapping[str, str]) -> bytes:
    """Java properties: one line each, nothing beyond ASCII."""
    return "".join(f"{_escaped(key, is_key=True)}={_escaped(value)}\n" for key, value in values.items()).encode("ascii")


def _escaped(text: str, *, is_key: bool = False) -> str:
    parts = []
    for position, character in enumerate(text):
        if character in _ESCAPES:
            parts.append(_ESCAPES[character])
        elif (character in "=:#!" and (is_key or position == 0)) or (character == " " and (is_key or position == 0)):
            parts.append("\\" + character)
        elif " " <= character <= "~":
            parts.append(character)
        else:
            units = character.encode("utf-16-be")
            parts += [f"\\u{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2)]
    return "".join(parts)


def read(data: bytes) -> dict[str, str]:
    """Keys and values of Java properties, by the rules of ``java.util.Properties``.

    Raises
    ------
    ManifestError
        A key that is there twice (Java would take the last), or a broken escape.
    """
    values: dict[str, str] = {}
    for line in _logical_lines(data.decode("latin-1")):
        split = re.fullmatch(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
        assert split is not None
        key, value = _unescaped(split[1]), _unescaped(split[2])
        if key in values:
            raise ManifestError(f"{key} is there twice")
        values[key] = value
    return values


def _logical_lines(text: str) -> Iterable[str]:
    kept = ""
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(" \t\f")
        if not kept and (not line or line[0] in "#!"):
            continue
        slashes = len(line) - len(line.rstrip("\\"))
        if slashes % 2:
            kept += line[:-1]
            continue
        yield kept + line
        kept = ""
    if kept:
        yield kept


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] != "u":
            return _UNESCAPES.get(code, code)
        if len(code) != 5:
            raise ManifestError("a broken \\u escape")
        return chr(int(code[1:], 16))

    plain = re.sub(r"\\(u[0-9A-Fa-f]{4}|.)", character, text, flags=re.DOTALL)
    try:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ManifestError("half a surrogate pair") from None
