"""What a server of the protocol answers: tasks, models and errors as JSON, in the dialect of whoever asked.

The workstation does not need this half; the names and codes are in `delineate.protocols.inference_server`.

Source: observed answers of servers of the three dialects; RFC 9457 for the members of a problem.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Type

from delineate.errors import (
    ArchiveLimitError,
    AuthorizationError,
    BlobError,
    DelineateError,
    InputError,
    MissingPartError,
    ModelError,
    RejectedError,
    ResultLostError,
    ServerError,
    StorageFullError,
    StoreBusyError,
    TaskEndedError,
    TaskFailedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.protocols.inference_server import (
    PROBLEM_PREFIX,
    RESULT_LOST,
    STATE_NUMBERS,
    TASK_FAILED,
    UNKNOWN_MODEL,
    UNKNOWN_TASK,
    Dialect,
    error_slug,
)

if TYPE_CHECKING:
    from delineate.model import Model
    from delineate.task import Failure, Task

RETRY_AFTER_SECONDS = 2

# The first class an error belongs to decides; subclasses stand before their bases.
_STATUS_BY_ERROR: Tuple[Tuple[Type[DelineateError], int], ...] = (
    (UnknownModelError, UNKNOWN_MODEL),
    (UnknownTaskError, UNKNOWN_TASK),
    (ResultLostError, RESULT_LOST),
    (BlobError, RESULT_LOST),
    (ModelError, TASK_FAILED),
    (TaskEndedError, TASK_FAILED),
    (ArchiveLimitError, 413),
    (InputError, 422),
    (MissingPartError, 501),
    (StorageFullError, 507),
    (StoreBusyError, 503),
    (AuthorizationError, 401),
    (RejectedError, 422),
    (UnavailableError, 503),
)


def status_of(error: DelineateError) -> int:
    """The HTTP status with which an error is answered; 500 for what nobody foresaw."""
    if isinstance(error, ServerError) and error.status:
        return error.status
    return next((status for kind, status in _STATUS_BY_ERROR if isinstance(error, kind)), 500)


def retry_after(status: int) -> Optional[int]:
    """Seconds for the header ``Retry-After`` of an answer that may heal, None for the others."""
    return RETRY_AFTER_SECONDS if status in (503, 507) else None


def detail_body(detail: str, dialect: Dialect) -> Dict[str, Any]:
    """An error body in the dialect's nesting: v1 (and seed, read by the same clients) nests ``detail`` twice, v2 once."""
    return {"detail": detail} if dialect is Dialect.V2 else {"detail": {"detail": detail}}


def _known_kind(error: DelineateError) -> Type[DelineateError]:
    """The class that a client knows: what the server alone tells apart by classes of its own, a client does by the status."""
    if not isinstance(error, ServerError):
        return type(error)
    return next(kind for kind in type(error).__mro__ if kind.__module__ == ServerError.__module__)


def problem(error: DelineateError, request_id: str = "") -> Dict[str, Any]:
    """RFC 9457 members of an error: what stands in a body beside or instead of the dialect's ``detail``.

    ``message`` and ``advice`` are kept apart for our own client; ``detail`` is both, for people who read raw answers.
    """
    slug = error_slug(_known_kind(error))
    body = {
        "type": PROBLEM_PREFIX + slug,
        "title": slug.replace("-", " "),
        "status": status_of(error),
        "detail": error.sentence(),
        "message": error.message,
        "advice": error.advice,
    }
    if isinstance(error, ModelError):
        body["kind"] = error.kind
    if request_id:
        body["request_id"] = request_id
    return body


def failure_error(failure: Optional[Failure]) -> DelineateError:
    """The error with which a failed task is answered."""
    if failure is None:
        return TaskFailedError("the task failed and left no reason")
    if failure.kind == "stored":
        return ResultLostError(failure.message, failure.advice)
    return ModelError(failure.message, failure.advice, failure.kind if failure.kind in ModelError.KINDS else "model")


def task_to_json(task: Task, model: Optional[Model] = None) -> Dict[str, Any]:
    """A task as the JSON object of v2; our own members (``state`` … ``failure``) stand beside v2's.

    `model` is its record where it is still registered.
    """
    result = task.blob("result")
    source = task.blob("input")
    return {
        "id": task.id,
        "uid": task.uid,
        "model_id": model_id(task.model),
        "model": model_to_json(model) if model else {"id": model_id(task.model), "human_readable_id": task.model},
        "datetime_created": _iso(task.created),
        "datetime_dispatched": _iso(task.started),
        "datetime_finished": _iso(task.finished),
        "input_tar": source.name if source else None,
        "output_tar": result.name if result else None,
        "status": STATE_NUMBERS[task.state.value],
        "is_deleted": source is None,
        "state": task.state.value,
        "priority": task.priority,
        "attempt": task.attempt,
        "created": task.created,
        "started": task.started,
        "finished": task.finished,
        "fraction": task.fraction,
        "message": task.message,
        "failure": _failure_to_json(task.failure),
    }


def model_to_json(model: Model) -> Dict[str, Any]:
    """A model as v1 and v2 list it; our own members stand beside theirs."""
    return {
        "id": model_id(model.name),
        "human_readable_id": model.name,
        "description": model.description,
        "container_tag": str(model.parameters.get("image", "")),
        "use_gpu": model.resources.gpu,
        "model_available": model.source == "http",
        "version": model.version,
        "source": model.source,
        "inputs": [{"modality": i.modality, "units": i.units, "description": i.description} for i in model.inputs],
        "structures": [s.name for s in model.structures],
        "prompts": list(model.prompts),
    }


def model_id(name: str) -> int:
    """A stable positive integer for a model's name: v2 wants integers, our registry knows names (FNV-1a, 31 bits)."""
    value = 0x811C9DC5
    for byte in name.encode("utf-8"):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


def status_to_json(task: Task, event: int) -> Dict[str, Any]:
    """The answer of ``GET /api/tasks/{uid}/status``; `event` is the id of the task's last event, to be sent as ``after``."""
    return {
        "uid": task.uid,
        "model": task.model,
        "state": task.state.value,
        "fraction": task.fraction,
        "message": task.message,
        "failure": _failure_to_json(task.failure),
        "attempt": task.attempt,
        "event": event,
    }


def _failure_to_json(failure: Optional[Failure]) -> Optional[Dict[str, str]]:
    return {"kind": failure.kind, "message": failure.message, "advice": failure.advice} if failure else None


def _iso(seconds: Optional[float]) -> Optional[str]:
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()
