"""Text of a server, made safe to print: a terminal obeys control characters, and people believe what they see."""

from __future__ import annotations

import re

# C0 and C1 controls, what turns the direction of writing, line and paragraph separators, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with control characters as ``\\u001b``, which is right inside JSON too; `lines` keeps line breaks and tabs."""
    return (_UNSAFE_IN_LINES if lines else _UNSAFE).sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def as_file_name(text: str) -> str:
    """`text` as one part of a path: no separators, no control characters, not hidden, no longer than a file name may be."""
    return re.sub(r'[/\\:*?"<>|]', "_", _UNSAFE.sub("_", text)).lstrip(".")[:100] or "result"
