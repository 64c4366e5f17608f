"""What the labels of a label map are called, out of what clients and models keep with it, and of what models answered before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from delineate.datastore.records import LabelRecord
from delineate.datastore.snapshot import Entry

LABEL_INFO: Final = "label_info"
LABEL_NAMES: Final = "label_names"
LIKELY: Final = "likely_names"
"""Where names stand with a label that came without any: those that models gave the same labels of the image."""

_LARGEST: Final = 1 << 16
_IMAGES: Final = 4096  # whose answers are remembered, the last ones

Names = Mapping[str, str]


def names_of(label: LabelRecord) -> dict[str, str]:
    """Names by label, as text, that came with the label; what makes no sense is left out."""
    return names_in(label.info)


def likely_names_of(label: LabelRecord) -> dict[str, str]:
    """Names by label, as text, that it probably has, as none came with it."""
    return _from_names(label.info.get(LIKELY))


def names_in(info: Mapping[str, Any]) -> dict[str, str]:
    """Out of what is kept with a label.

    A person's client sends ``label_info``, ``[{"name": "liver", "idx": 1}]``, or ``label_names``, ``{"liver": 1}``, as a model's
    answer has it; with a model's label the latter stands in ``params``.
    """
    params = info.get("params")
    nested = params.get(LABEL_NAMES) if isinstance(params, dict) else None
    return _from_label_info(info.get(LABEL_INFO)) or _from_names(info.get(LABEL_NAMES)) or _from_names(nested)


class AnsweredNames:
    """The names that answers to infers gave the labels of an image: a client that saves what it got may send the label map alone.

    In memory, for the images asked for last; shared by threads.
    """

    def __init__(self, images: int = _IMAGES) -> None:
        self._images = images
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, int], dict[str, Names]] = OrderedDict()

    def note(self, image: str, version: int, model: str, names: Any) -> None:
        """Remember an answer; the last one of a model counts."""
        found = _from_names(names)
        if not found:
            return
        with self._lock:
            self._answers.setdefault((image, version), {})[model] = found
            self._answers.move_to_end((image, version))
            while len(self._answers) > self._images:
                self._answers.popitem(last=False)

    def likely(self, entry: Entry) -> dict[str, int]:
        """Labels by name, of which all answers and all labels by models agree that are about this version of the image."""
        with self._lock:
            answers = list(self._answers.get((entry.image.id, entry.image.version), {}).values())
        labels = [label for label in entry.labels.values() if label.image_version == entry.image.version and "model" in label.info]
        return _agreed([*answers, *map(names_of, labels)])


def _agreed(tables: Iterable[Names]) -> dict[str, int]:
    pairs = {pair for table in tables for pair in table.items()}
    labels, names = [label for label, _ in pairs], [name for _, name in pairs]
    sure = [(label, name) for label, name in pairs if labels.count(label) == 1 and names.count(name) == 1]
    return {name: int(label) for label, name in sorted(sure, key=lambda pair: int(pair[0]))}


def _from_label_info(said: Any) -> dict[str, str]:
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
    if isinstance(name, str) and name.strip() and type(index) is int and 0 < index < _LARGEST and name not in names.values():
        names[str(index)] = name
