"""``info.properties``, read by the rules of ``java.util.Properties``.

`delineate.mim.packaging.manifest` reads it too. The stand-in does not use that: a writer and a reader that share a mistake agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SPLIT = re.compile(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|u|.)", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(data: bytes) -> dict[str, str]:
    """Keys and values; the last of two equal keys counts, as in Java.

    Raises
    ------
    ValueError
        A broken escape.
    """
    values = {}
    for line in _logical_lines(data.decode("latin-1")):
        split = _SPLIT.fullmatch(line)
        assert split is not None
        values[_plain(split[1])] = _plain(split[2])
    return values


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments and blank ones, those that end with an odd number of backslashes joined with the next."""
    begun: str | None = None
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(" \t\f")
        if begun is None and (not line or line[0] in "#!"):
            continue
        line = (begun or "") + line
        begun = line[:-1] if (len(line) - len(line.rstrip("\\"))) % 2 else None
        if begun is None:
            yield line
    if begun:
        yield begun


def _plain(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1] == "u":
            raise ValueError(r"a broken \u escape in info.properties")
        return chr(int(match[1][1:], 16)) if match[1][0] == "u" else _LETTERS.get(match[1], match[1])

    units = _ESCAPE.sub(character, text)
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
