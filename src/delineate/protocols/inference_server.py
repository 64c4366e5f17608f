"""The inference-server protocol on the wire: paths, fields and codes, and how a client reads what servers answer.

Three dialects are in use (`Dialect`); one server answers all of them. The codes 550-554 and the status integers of v2
are defined in this module and nowhere else. Reading is strict about what must be right (a uid, a state) and tolerant about
what servers word differently. What our server answers is in `delineate.protocols.inference_replies`.

Source: observed requests and answers of servers and clients of the three dialects.
Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Iterator, NamedTuple, Optional, Tuple, Type

from delineate.errors import (
    AnswerError,
    AuthorizationError,
    BlobError,
    CertificateError,
    ConnectionFailedError,
    DelineateError,
    InputError,
    ModelError,
    RejectedError,
    ResultLostError,
    ServerError,
    TaskCancelledError,
    TaskEndedError,
    TaskFailedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.protocols.messages import Response


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
MODELS_PATH = "/api/models/"

# Query parameters and multipart fields.
MODEL_PARAMETER = {Dialect.SEED: "model_human_readable_id", Dialect.V1: "model_human_readable_id", Dialect.V2: "human_readable_id"}
FILE_FIELD = {Dialect.SEED: "zip_file", Dialect.V1: "zip_file", Dialect.V2: "tar_file"}
UID_PARAMETER = "uid"
WAIT_PARAMETER = "wait"
AFTER_PARAMETER = "after"
PRIORITY_PARAMETER = "priority"  # ours: batch, normal or interactive
PROMPTS_FIELD = "prompts"  # ours: a plain multipart field before the file, a JSON object

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


def is_uid(text: str) -> bool:
    """Whether `text` can be a uid at all; anything else must never become part of a path."""
    return UID_PATTERN.match(text) is not None


def error_slug(kind: Type[DelineateError]) -> str:
    """The name of an error class in a problem's ``type``: ``task-cancelled`` of `TaskCancelledError`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", re.sub(r"Error$", "", kind.__name__)).lower() or "error"


class TaskStatus(NamedTuple):
    """How a task stands, as a client sees it.

    state : a value of `delineate.task.TaskState`; servers that are not ours say ``pending`` until it has ended.
    fraction : 0 to 1; message : progress in words; reason, advice, kind : why it failed; event : id of its last event.
    """

    state: str
    fraction: float = 0.0
    message: str = ""
    reason: str = ""
    advice: str = ""
    event: int = 0
    kind: str = ""


def read_status(response: Response) -> TaskStatus:
    """What ``GET /api/tasks/{uid}/status`` answers; `AnswerError` where it is something else."""
    body = response.json()
    state = _text(body.get("state")) if isinstance(body, dict) else ""
    if state not in STATE_NUMBERS:
        raise AnswerError("the server answered a question about a task with something else", status=response.status)
    failure = body.get("failure")
    if not isinstance(failure, dict):
        failure = {}
    return TaskStatus(
        state,
        min(_number(body.get("fraction")), 1.0),
        _text(body.get("message")),
        _text(failure.get("message")),
        _text(failure.get("advice")),
        int(_number(body.get("event"))),
        _text(failure.get("kind")),
    )


def ended_error(status: TaskStatus) -> Optional[TaskEndedError]:
    """What a state without a result means for whoever waits, None while there is hope."""
    if status.state == "cancelled":
        return TaskCancelledError(status.reason or status.message or "the task was cancelled", status.advice)
    if status.state == "failed" and status.kind == "stored":  # what the server answers with 553
        return ResultLostError(status.reason, status.advice)
    if status.state == "failed":
        return TaskFailedError(status.reason or "the task failed; the server gave no reason", status.advice)
    return None


def read_uid(response: Response) -> str:
    """The uid in the answer to a post: a bare JSON string (seed, v1) or a member of an object (v2 and the oldest)."""
    require_type(response, ("application/json", "text/plain", ""))
    body = response.json()
    uid = body.get("uid") if isinstance(body, dict) else body
    if not isinstance(uid, str) or not is_uid(uid):
        raise AnswerError("the server answered the post of a task with something that is no uid", status=response.status)
    return uid


def require_type(response: Response, allowed: Tuple[str, ...]) -> None:
    """`AnswerError` where a successful answer has a content type that cannot be meant."""
    if response.media_type not in allowed:
        what = "an HTML page" if "html" in response.media_type else "content of type " + response.media_type
        raise AnswerError("the server answered with %s, not with what was asked for" % what, status=response.status)


def require_archive(response: Response) -> None:
    """`AnswerError` where the answer to a fetch cannot be an archive, whatever its bytes."""
    if "html" in response.media_type or response.media_type in ("application/json", "application/problem+json"):
        what = "an HTML page" if "html" in response.media_type else "JSON"
        raise AnswerError("the server answered with %s instead of a result archive" % what, status=response.status)


def reason_of(response: Response) -> str:
    """The server's own words: ``detail`` in either nesting, or a list of validation errors; at most 500 characters."""
    try:
        body = response.json()
    except AnswerError:
        text = response.content[:2000].decode("utf-8", "replace") if response.media_type == "text/plain" else ""
        return _clean(text)
    return _clean("; ".join(_words(body)))


def is_not_ready(response: Response) -> bool:
    """Whether an answer to a fetch means: ask again later."""
    return response.status == NOT_READY or (response.status == 404 and SEED_NOT_READY in reason_of(response))


def error_from(response: Response, what: str = "the request") -> DelineateError:
    """The error that an answer without success means; `what` was asked, in words."""
    status, reason = response.status, reason_of(response)
    if 300 <= status < 400:
        target = _clean(re.sub(r"[?#].*", "", response.headers.get("location", ""))) or "nowhere"  # a query may hold secrets
        return AnswerError(
            "the server redirects to %s instead of answering %s" % (target, what),
            "Give the address of the server itself; a login page or another address stands before it.",
            status=status,
        )
    known = _from_problem(response, reason)
    if known is not None:
        return known
    if response.is_success:
        kind = "an HTML page" if "html" in response.media_type else "something else"
        return AnswerError("the server answered %s with %s: no inference server is at this address" % (what, kind), status=status)
    if "html" in response.media_type and status not in (401, 403, 502, 503, 504):
        return AnswerError("the server answered %s with an HTML page (status %d)" % (what, status), status=status)
    return _from_status(status, reason, what)


def _from_status(status: int, reason: str, what: str) -> DelineateError:
    because = ": " + reason if reason else ""
    if status == UNKNOWN_MODEL:
        return UnknownModelError(reason or "the server does not know the model")
    if status == UNKNOWN_TASK:
        return UnknownTaskError(reason or "the server does not know the task")
    if status == TASK_FAILED:
        return TaskFailedError(reason or "the task failed; the server gave no reason")
    if status == RESULT_LOST:
        return ResultLostError(reason or "the task finished, but its result is gone from the server")
    if status in (401, 403):
        return AuthorizationError("the server refused %s (status %d)%s" % (what, status, because), status=status)
    if status in (404, 405):
        return AnswerError("the server does not know the path of %s (status %d)%s" % (what, status, because), status=status)
    if 400 <= status < 500:
        return RejectedError("the server refused %s (status %d)%s" % (what, status, because), status=status)
    return UnavailableError("the server could not answer %s (status %d)%s" % (what, status, because), status=status)


def _from_problem(response: Response, reason: str) -> Optional[DelineateError]:
    """The very error that our own server raised, None where the answer is not ours."""
    if "json" not in response.media_type or not response.content:
        return None
    try:
        body = response.json()
    except AnswerError:
        return None
    name = body.get("type", "") if isinstance(body, dict) else ""
    if not isinstance(name, str) or not name.startswith(PROBLEM_PREFIX):
        return None
    message, advice = _clean(_text(body.get("message"))) or reason or "the server gave no reason", _clean(_text(body.get("advice")))
    kind = next((c for c in _classes(DelineateError) if error_slug(c) == name[len(PROBLEM_PREFIX) :]), DelineateError)
    if issubclass(kind, ServerError) and kind not in (ConnectionFailedError, CertificateError):
        return kind(message, advice, status=response.status)
    if issubclass(kind, ModelError):
        return TaskFailedError(message, advice)
    if issubclass(kind, (TaskEndedError, UnknownModelError, UnknownTaskError)):
        return kind(message, advice)
    if kind is BlobError:
        return ResultLostError(message, advice)
    if issubclass(kind, InputError):
        return RejectedError(message, advice, status=response.status)
    return UnavailableError(message, advice, status=response.status)


def wants_v2(answer: Response) -> bool:
    """Whether a post as v1 was refused because the server wants the names of v2."""
    if answer.status not in (404, 422):
        return False
    reason = reason_of(answer)
    return "tar_file" in reason or re.search(r"(?<!model_)human_readable_id", reason) is not None


def described_dialect(answer: Response) -> Optional[Dialect]:
    """The dialect that an OpenAPI description shows, None where it shows none."""
    if not answer.is_success or "json" not in answer.media_type:
        return None
    description = answer.json()
    paths = description.get("paths") if isinstance(description, dict) else None
    if not isinstance(paths, dict):
        return None
    plain = {str(path).rstrip("/"): methods for path, methods in paths.items() if isinstance(methods, dict)}
    post = plain.get("/api/tasks", {}).get("post", {})
    parameters = post.get("parameters") if isinstance(post, dict) else None
    names = [p.get("name") for p in parameters if isinstance(p, dict)] if isinstance(parameters, list) else []
    if OUTPUTS_PATH.rstrip("/") in plain or MODEL_PARAMETER[Dialect.V2] in names:
        return Dialect.V2
    if MODEL_PARAMETER[Dialect.V1] not in names:
        return None
    return Dialect.V1 if any("delete" in methods for path, methods in plain.items() if path.startswith("/api/tasks/{")) else Dialect.SEED


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    """A number of a server as far as it makes sense, else 0; JSON has NaN and infinity for Python."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 53 else 0.0


def _words(value: Any, depth: int = 8) -> Iterator[str]:
    """Readable parts of an error body of any shape, not of any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and "msg" in value:  # one of FastAPI's validation errors
        place = value.get("loc")
        place = [str(p) for p in place if isinstance(p, (str, int))] if isinstance(place, list) else []
        yield "%s %s" % (".".join(place), _text(value["msg"]))
    elif isinstance(value, (dict, list)) and depth:
        for item in value if isinstance(value, list) else [value.get("detail", value.get("message"))]:
            yield from _words(item, depth - 1)


def _clean(text: str) -> str:
    """One printable line of at most 500 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 500 else line[:497] + "..."


def _classes(kind: Type[DelineateError]) -> Iterator[Type[DelineateError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)
