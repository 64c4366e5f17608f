"""What structures' names mean: organ or target, its SNOMED CT code, a colour.

The table is after AAPM TG-263, with what else people call these structures. Codes are those that DICOM's own context groups
(PS3.16) use for the organ; the side is in the name, not in the code. Where none was sure there is none.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from delineate.segmentation import Colour

_TABLE: Final = Path(__file__).with_name("codes.csv")
_SIDES: Final = frozenset(("l", "r", "left", "right"))
_RIGHT: Final = frozenset(("r", "right"))
_TARGET: Final = re.compile(r"(i?gtv|i?ctv|ptv)[pn]?(?![a-z])")


class Meaning(NamedTuple):
    """What is known of a structure; what is not is empty.

    name : after TG-263, without the side; organ : in words; code : SNOMED CT; kind : RT ROI Interpreted Type
    """

    name: str = ""
    organ: str = ""
    code: str = ""
    kind: str = ""
    colour: Colour | None = None


def lookup(name: str) -> Meaning:
    """What a name means, whatever its case, its side, and how its words are joined; empty where nobody knows."""
    words = _words(name)
    table = _table()
    found = table.get(" ".join(words)) or table.get(" ".join(word for word in words if word not in _SIDES))
    if found is None:
        target = _TARGET.match(name.strip().lower())
        found = table.get(target.group(1)) if target else None
    if found is None or found.colour is None or _RIGHT.isdisjoint(words):
        return found or Meaning()
    red, green, blue = found.colour
    return found._replace(colour=(red * 5 // 9, green * 5 // 9, blue * 5 // 9))  # darker than the left one beside it


def _words(name: str) -> list[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[^a-z0-9]+", " ", parted.lower()).split()


@cache
def _table() -> dict[str, Meaning]:
    table: dict[str, Meaning] = {}
    with _TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            red, green, blue = bytes.fromhex(row["colour"])
            meaning = Meaning(row["name"], row["organ"], row["code"], row["kind"], (red, green, blue))
            for name in (row["name"], *filter(None, row["synonyms"].split("|"))):
                key = " ".join(_words(name))
                table.setdefault(key, meaning)
                table.setdefault(key.replace(" ", ""), meaning)
    return table
