"""What the labels of a label map are called, out of what clients and models keep with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from delineate.datastore.records import LabelRecord

_LARGEST: Final = 1 << 16


def names_of(label: LabelRecord) -> dict[str, str]:
    """Names by label, as text: those that a person's client sent, else those of the model that made it; what makes no sense is left out.

    A client sends ``label_info``, ``[{"name": "liver", "idx": 1}]``; with a model's label stands ``params.label_names``,
    ``{"liver": 1}``.
    """
    params = label.info.get("params")
    return from_label_info(label.info.get("label_info")) or _from_names(params.get("label_names") if isinstance(params, dict) else None)


def from_label_info(said: Any) -> dict[str, str]:
    """Out of ``[{"name": "liver", "idx": 1}]``."""
    names: dict[str, str] = {}
    for entry in said if isinstance(said, list) else ():
        if isinstance(entry, dict):
            _add(names, entry.get("name"), entry.get("idx"))
    return names


def _from_names(said: Any) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, index in said.items() if isinstance(said, Mapping) else ():
        _add(names, name, index)
    return names


def _add(names: dict[str, str], name: Any, index: Any) -> None:
    if isinstance(name, str) and name.strip() and isinstance(index, int) and 0 < index < _LARGEST and name not in names.values():
        names[str(index)] = name
