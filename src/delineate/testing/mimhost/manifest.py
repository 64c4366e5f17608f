"""An extension's manifest against what its entry module declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from delineate.testing.mimhost.mimpython import JAVA_NAMES
from delineate.testing.mimhost.properties import read_properties

GENERAL = ("ENTRY_COUNT", "EXTENSION_TYPE", "CREATION_DATE")


class ExtensionError(Exception):
    """The workstation would not install it: no extension, not to be loaded, or a manifest that does not fit."""


@dataclass(frozen=True)
class Entry:
    """One entry point: its `name` in the workstation, its function, and (name, Java type) of what goes in and out."""

    name: str
    method: str
    parameters: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    function: Callable[..., Any]


def entries_of(data: bytes, module: object) -> list[Entry]:
    """The entry points in ``info.properties``, found in the entry module and compared with what is declared there.

    Raises
    ------
    ExtensionError
        Which key is missing, unknown, or other than what the function declares.
    """
    try:
        left = read_properties(data)
    except ValueError as error:
        raise ExtensionError(f"info.properties: {error}") from None
    missing = [key for key in GENERAL if not left.get(key)]
    if missing:
        raise ExtensionError(f"info.properties: {', '.join(missing)} is missing")
    count, kind, _ = (left.pop(key) for key in GENERAL)
    if kind != "Python" or not count.isdecimal() or not int(count):
        raise ExtensionError(f"info.properties: EXTENSION_TYPE is {kind}, ENTRY_COUNT is {count}")
    entries = [_entry(left, i, module) for i in range(int(count))]
    if left:
        raise ExtensionError(f"info.properties: what is {', '.join(sorted(left))}?")
    return entries


def _entry(left: dict[str, str], i: int, module: object) -> Entry:
    method = left.get(f"METHOD_{i}", "")
    function = getattr(module, method, None) if method else None
    if not callable(function) or not isinstance(getattr(function, "info", None), dict):
        raise ExtensionError(f"info.properties: METHOD_{i} is {method!r}, which is no entry point of ext.py")
    info: Mapping[str, str] = function.info
    for key, value in info.items():
        # NAME becomes NAME_0, PARAM_TYPE_2 becomes PARAM_TYPE_0_2.
        head, _, number = key.rpartition("_")
        numbered = f"{head}_{i}_{number}" if number.isdecimal() else f"{key}_{i}"
        found = left.pop(numbered, None)
        if found != value:
            raise ExtensionError(f"info.properties: {numbered} is {found!r}, and {method} declares {value!r}")
    parameters, outputs = _pairs(info, "PARAM"), _pairs(info, "OUTPUT")
    if parameters[0][1] != JAVA_NAMES["XMimSession"] or any(kind == parameters[0][1] for _, kind in (*parameters[1:], *outputs)):
        raise ExtensionError(f"{method}: the session is the first parameter, and nothing else")
    return Entry(info["NAME"], method, parameters, outputs, function)


def _pairs(info: Mapping[str, str], kind: str) -> tuple[tuple[str, str], ...]:
    return tuple((info[f"{kind}_NAME_{j}"], info[f"{kind}_TYPE_{j}"]) for j in range(int(info[f"{kind}_COUNT"])))
