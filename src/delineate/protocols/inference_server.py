"""The inference-server protocol on the wire: paths, fields, codes, and what a server answers.

Three dialects are in use (`Dialect`); one server answers all of them. The codes 550-554 and the
status integers of v2 are defined in this module and nowhere else. How a client reads the answers is
in `delineate.protocols.inference_answers`, the conversations are in `delineate.protocols.inference_flows`.

Source: observed requests and answers of servers and clients of the three dialects.
Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import datetime
import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Type

from delineate.errors import (
    ArchiveLimitError,
    AuthorizationError,
    BlobError,
    DelineateError,
    InputError,
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

if TYPE_CHECKING:
    from delineate.model import Model
    from delineate.task import Failure, Task


class Dialect(str, Enum):
    """Which form of the protocol a server or client speaks."""

    SEED = "seed"
    V1 = "v1"
    V2 = "v2"

    def __str__(self) -> str:
        return self.value


# Paths, joined to the server's URL with its prefix.
TASKS_PATH = "/api/tasks/"
TASK_PATH = "/api/tasks/{uid}"
STATUS_PATH = "/api/tasks/{uid}/status"
EVENTS_PATH = "/api/tasks/{uid}/events"
LOG_PATH = "/api/tasks/{uid}/log"
CANCEL_PATH = "/api/tasks/{uid}/cancel"
OUTPUTS_PATH = "/api/tasks/outputs/"
INPUTS_PATH = "/api/tasks/inputs/"
MODELS_PATH = "/api/models/"
MODEL_TARS_PATH = "/api/models/tars/"

# Query parameters and multipart fields.
MODEL_PARAMETER = {Dialect.SEED: "model_human_readable_id", Dialect.V1: "model_human_readable_id", Dialect.V2: "human_readable_id"}
FILE_FIELD = {Dialect.SEED: "zip_file", Dialect.V1: "zip_file", Dialect.V2: "tar_file"}
UID_PARAMETER = "uid"
WAIT_PARAMETER = "wait"
AFTER_PARAMETER = "after"
PRIORITY_PARAMETER = "priority"  # ours: batch, normal or interactive
PROMPTS_FIELD = "prompts"  # ours: a plain multipart field before the file, a JSON object

PRIORITIES = {"batch": 0, "normal": 10, "interactive": 20}  # the values of delineate.task

# Headers.
SERVER_HEADER = "Delineate"
SERVER_HEADER_VALUE = "1"
TOKEN_HEADER = "X-Token"  # noqa: S105 - a header's name
KEY_HEADER = "Idempotency-Key"

# Status codes of the protocol's own.
UNKNOWN_MODEL = 550
NOT_READY = 551
TASK_FAILED = 552
RESULT_LOST = 553
UNKNOWN_TASK = 554

SEED_NOT_READY = "TaskOutputZipNotFound"

# Status integers of v2.
PENDING_NUMBER, FAILED_NUMBER, FINISHED_NUMBER, RUNNING_NUMBER = -1, 0, 1, 2
STATE_NUMBERS = {
    "pending": PENDING_NUMBER,
    "running": RUNNING_NUMBER,
    "finished": FINISHED_NUMBER,
    "failed": FAILED_NUMBER,
    "cancelled": FAILED_NUMBER,
}
STATES_BY_NUMBER = {PENDING_NUMBER: "pending", RUNNING_NUMBER: "running", FINISHED_NUMBER: "finished", FAILED_NUMBER: "failed"}

UID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")  # ours are 43 characters; strangers' lengths are their own
PROBLEM_PREFIX = "urn:delineate:error:"
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
    (StorageFullError, 507),
    (StoreBusyError, 503),
    (AuthorizationError, 401),
    (RejectedError, 422),
    (UnavailableError, 503),
)


def is_uid(text: str) -> bool:
    """Whether `text` can be a uid at all; anything else must never become part of a path."""
    return UID_PATTERN.match(text) is not None


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


def not_ready_body(dialect: Dialect) -> Dict[str, Any]:
    """The body of a 551."""
    return detail_body("the task is pending or running", dialect)


def problem(error: DelineateError, request_id: str = "") -> Dict[str, Any]:
    """RFC 9457 members of an error: what stands in a body beside or instead of the dialect's ``detail``.

    ``message`` and ``advice`` are kept apart for our own client; ``detail`` is both, for people who read raw answers.
    """
    slug = error_slug(type(error))
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


def error_answer(error: DelineateError, dialect: Dialect, request_id: str = "") -> Tuple[int, Dict[str, Any]]:
    """Status and JSON body with which a server of `dialect` answers an error."""
    body = problem(error, request_id)
    body.update(detail_body(error.sentence(), dialect))
    return status_of(error), body


def failure_error(failure: Optional[Failure]) -> DelineateError:
    """The error with which a failed task is answered."""
    if failure is None:
        return TaskFailedError("the task failed and left no reason")
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


def error_slug(kind: Type[DelineateError]) -> str:
    """The name of an error class in a problem's ``type``: ``task-cancelled`` of `TaskCancelledError`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", re.sub(r"Error$", "", kind.__name__)).lower() or "error"
