"""What a scripted server is told, and what it keeps of each request and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FINISHED, FAILED, LOST, NEVER = "finished", "failed", "lost", "never"
MODELS: Final = {"noop": FINISHED, "failing": FAILED, "losing": LOST, "sleeping": NEVER}
FAILURE: Final = "the container exited with code 137"


@dataclass(frozen=True, kw_only=True)
class Script:
    """How a scripted server behaves.

    dialect : ``seed``, ``v1`` or ``v2``; models : name → what becomes of its tasks.
    polls : how often a task is answered as not ready; late_row : v1's 554 on the first poll.
    token : what ``X-Token`` must be where v2 wants one; None for no such check.
    ranges : whether results have an entity tag and ranges; describes : whether there is ``/openapi.json``.
    prefix : path below which the server is; result : a file that is sent instead of a true result.
    keep_nesting : False answers v1's errors nested once.
    """

    dialect: str = "v1"
    models: Mapping[str, str] = field(default_factory=lambda: dict(MODELS))
    polls: int = 1
    late_row: bool = True
    token: str | None = None
    ranges: bool = False
    describes: bool = True
    prefix: str = ""
    result: Path | None = None
    keep_nesting: bool = True


@dataclass(frozen=True)
class Seen:
    """One request as it arrived: names of headers in lower case; `size` of its body."""

    method: str
    target: str
    headers: Mapping[str, str]
    size: int


@dataclass
class ScriptedTask:
    """A task of a scripted server."""

    uid: str
    number: int
    model: str
    outcome: str
    result: Path | None
    polls: int = 0
    is_late: bool = False
