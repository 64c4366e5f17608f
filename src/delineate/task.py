"""One request to run one model, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class TaskState(str, Enum):
    """Where a task stands. The database alone knows it."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the task will never change again by itself."""
        return self in (TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED)


BATCH, NORMAL, INTERACTIVE = 0, 10, 20
"""Priorities: higher goes first."""
PRIORITIES = {"batch": BATCH, "normal": NORMAL, "interactive": INTERACTIVE}

FRONT, BACKGROUND, SERVER = "front", "background", "server"
"""Lanes: what somebody waits for, what must never keep anybody waiting, and what the server does itself. A worker takes tasks of
one lane alone."""

WORK = "work"
"""The protocol of tasks that the server gives itself: `Task.model` names what is to be done, see `delineate.runners.work`."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes kept by digest: `role` is ``input``, ``result`` or ``log``; `digest` is BLAKE3 in hex; `size` in bytes."""

    role: str
    name: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a task failed: `kind` after `ModelError.KINDS`, what happened, what to do."""

    kind: str
    message: str
    advice: str = ""

    def sentence(self) -> str:
        """Both in one line."""
        text = self.message.strip()
        stop = "." if text and text[-1] not in ".!?" else ""
        return f"{text}{stop} {self.advice}".strip()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the task table.

    uid : unguessable; knowing it is the right to fetch and delete.
    id : small integer, for administration.
    owner : who posted it, for fairness; protocol : by which door it came; lane : which workers take it.
    created, started, finished : Unix seconds, None where it has not happened.
    attempt : tries begun; lost : how many of them ended without the model's fault.
    lease_holder, lease_expires : the worker whose task it is, and until when.
    not_before : Unix seconds before which it is not claimed: backoff, or the time in which a new one is left to whom the engine rings.
    fraction : progress 0 to 1; message : progress in words.
    grids : fingerprints of the inputs (`Geometry.to_dict`), known once staged.
    provenance : model version and digest, runner, device, seconds, peak memory.
    cancel_requested : whether somebody asked to stop it while it runs.
    """

    uid: str
    id: int
    model: str
    state: TaskState
    owner: str
    protocol: str
    priority: int = NORMAL
    lane: str = FRONT
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempt: int = 0
    lost: int = 0
    not_before: float = 0.0
    lease_holder: str | None = None
    lease_expires: float | None = None
    cancel_requested: bool = False
    fraction: float = 0.0
    message: str = ""
    blobs: tuple[Blob, ...] = ()
    prompts: Mapping[str, Any] = field(default_factory=dict)
    grids: tuple[Mapping[str, Any], ...] = ()
    failure: Failure | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def blob(self, role: str) -> Blob | None:
        """The first blob of a role, None where there is none."""
        return next((blob for blob in self.blobs if blob.role == role), None)


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """One change of a task: `id` grows over all tasks; `at` Unix seconds; `kind` what; `who`; `why` in words."""

    id: int
    uid: str
    at: float
    kind: str
    who: str = ""
    why: str = ""
