"""What a server answers to STOW-RS (PS3.18, 10.5.3): which of the instances it has, and why not the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

_THERE: Final = 0x0111  # it is there already: sent before, since nobody else makes its UID
_FAILED: Final = 0x0110  # a failure without a reason
_STORED_LIST, _FAILED_LIST, _REASON, _WARNING, _UID = "00081199", "00081198", "00081197", "00081196", "00081155"


@dataclass(frozen=True)
class Stored:
    """What became of an instance: whether the server has it, and the code of its warning, 0 for none, or of its failure."""

    is_there: bool
    code: int = 0


def read_stow_answer(content: bytes) -> dict[str, Stored] | None:
    """By SOP Instance UID, what became of each instance that the answer names; None where it is no such answer, or names none."""
    try:
        value = json.loads(content)
        data: Any = value[0] if isinstance(value, list) and value else value
        failed = {_first(item, _UID): int(_first(item, _REASON) or _FAILED) for item in data.get(_FAILED_LIST, {}).get("Value", ())}
        stored = {_first(item, _UID): int(_first(item, _WARNING) or 0) for item in data.get(_STORED_LIST, {}).get("Value", ())}
    except (ValueError, AttributeError, TypeError, IndexError, KeyError, OverflowError, RecursionError):
        return None
    told = {uid: Stored(True) if code == _THERE else Stored(False, code) for uid, code in failed.items()}
    told.update({uid: Stored(True, code) for uid, code in stored.items()})
    return told or None


def _first(item: Any, tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [""]
    return values[0]
