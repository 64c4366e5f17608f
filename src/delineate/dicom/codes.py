"""What structures' names mean: organ or target, its codes, a colour.

The table is after AAPM TG-263, with what else people call these structures. SNOMED CT codes are those that DICOM's own context
groups (PS3.16) use for the organ; the side is in the name, not in the code. FMA numbers are TG-263's own, which have the side in
them, where the FMA's names do not contradict. Where none was sure there is none.
"""

from __future__ import annotations

import colorsys
import csv
import re
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

from delineate.segmentation import Colour

Side = Literal["", "L", "R", "both"]

_TABLE: Final = Path(__file__).with_name("codes.csv")
_SIDES: Final[dict[str, Side]] = {"l": "L", "left": "L", "r": "R", "right": "R"}
_COLUMNS: Final[dict[Side, str]] = {"": "fma", "L": "fma_left", "R": "fma_right", "both": "fma_both"}
_TARGET: Final = re.compile(r"(i?gtv|i?ctv|ptv)[pn]?(?![a-z])")
_VERTEBRAE: Final = "vb"  # after which an L is lumbar


class Meaning(NamedTuple):
    """What is known of a structure; what is not is empty.

    name : after TG-263, without the side; organ : in words; code : SNOMED CT; kind : RT ROI Interpreted Type; fma : number of
    the structure on its side, or of the pair
    """

    name: str = ""
    organ: str = ""
    code: str = ""
    kind: str = ""
    colour: Colour | None = None
    fma: str = ""


class _Row(NamedTuple):
    """A line of the table: what its name means, which name the pair has, and numbers by side."""

    meaning: Meaning
    both: str
    fma: dict[Side, str]


def lookup(name: str) -> Meaning:
    """What a name means, whatever its case, its side, and how its words are joined; empty where nobody knows."""
    words = _words(name)
    table = _table()
    row, side = table.get(" ".join(words)), side_of(name)
    if row is None:
        row = table.get(" ".join(word for word in words if word not in _SIDES))
    elif not row.fma["L"]:
        side = ""  # a line of its own for each side, or nothing that has any
    if row is None and (target := _TARGET.match(name.strip().lower())):
        row = table.get(target.group(1))
    if row is None:
        return Meaning()
    if row.both and words in (_words(row.both), [row.both.lower()]):
        side = "both"
    found = row.meaning._replace(fma=row.fma[side])
    return found._replace(colour=_beside(found.colour)) if found.colour and side == "R" else found


def side_of(name: str) -> Side:
    """``L`` or ``R`` where a name says the one and not the other."""
    words = _words(name)
    if words[:1] == [_VERTEBRAE]:
        return ""
    sides = {_SIDES[word] for word in words if word in _SIDES}
    return sides.pop() if len(sides) == 1 else ""


def named_by_fma(number: str) -> tuple[str, Meaning]:
    """TG-263's name for an FMA number, with its side, and what it means; both empty where the table has no such number."""
    name = _names_by_fma().get(number.strip().upper().removeprefix("FMA").lstrip(":_ "), "")
    return name, lookup(name)


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
def _rows() -> list[tuple[_Row, list[str]]]:
    """The table's lines, each with the names that it goes by."""
    rows = []
    with _TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            red, green, blue = bytes.fromhex(row["colour"])
            meaning = Meaning(row["name"], row["organ"], row["code"], row["kind"], (red, green, blue))
            names = [row["name"], *filter(None, (row["both"], *row["synonyms"].split("|")))]
            rows.append((_Row(meaning, row["both"], {side: row[column] for side, column in _COLUMNS.items()}), names))
    return rows


@cache
def _table() -> dict[str, _Row]:
    table: dict[str, _Row] = {}
    for row, names in _rows():
        for name in names:
            key = " ".join(_words(name))
            table.setdefault(key, row)
            table.setdefault(key.replace(" ", ""), row)
    return table


@cache
def _names_by_fma() -> dict[str, str]:
    found: dict[str, str] = {}
    for row, _ in _rows():
        name = row.meaning.name
        for side, number in row.fma.items():
            found[number] = {"": name, "both": row.both}.get(side, f"{name}_{side}")
    found.pop("", None)
    return found
