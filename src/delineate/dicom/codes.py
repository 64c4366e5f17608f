"""What structures' names mean: organ or target, its SNOMED CT code, a colour.

The table is after AAPM TG-263, with what else people call these structures. Codes are those that DICOM's own context groups
(PS3.16) use for the organ; the side is in the name, not in the code. Where none was sure there is none.
"""

from __future__ import annotations

import colorsys
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
    found = table.get(" ".join(words))
    if found is not None:
        return found
    found = table.get(" ".join(word for word in words if word not in _SIDES))
    if found is None:
        target = _TARGET.match(name.strip().lower())
        found = table.get(target.group(1)) if target else None
    if found is None or found.colour is None or _RIGHT.isdisjoint(words):
        return found or Meaning()
    return found._replace(colour=_beside(found.colour))


def _beside(colour: Colour) -> Colour:
    """The right one's, told from the left one's by its hue; a grey one by its brightness. Darker ones are lost on an image."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    if saturation < 0.15:
        lightness += -0.25 if lightness > 0.6 else 0.25
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb((hue + 0.17) % 1, lightness, saturation))
    return red, green, blue


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
