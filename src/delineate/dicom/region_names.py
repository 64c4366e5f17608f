"""Names of regions as a file or a planning system takes them."""

from __future__ import annotations

from collections.abc import Sequence


def region_names(names: Sequence[str], most: int, notes: list[str]) -> list[str]:
    """The names, each of at most `most` characters, without what a value may not hold, and no two the same whatever their case.

    notes : gets a sentence for each that was changed
    """
    used: set[str] = set()
    result = []
    for name in names:
        plain = " ".join("".join(letter if letter.isprintable() and letter != "\\" else " " for letter in name).split()) or "ROI"
        short = _unused(plain, most, used)
        used.add(short.casefold())
        result.append(short)
        if short != name:
            notes.append(f"{name} is called {short} in the file")
    return result


def _unused(name: str, most: int, used: set[str]) -> str:
    short, count = name[:most].rstrip(), 2
    while short.casefold() in used:
        ending = f"~{count}"
        short, count = name[: most - len(ending)].rstrip() + ending, count + 1
    return short
