"""What these routes refuse, and with which status: old clients of this API know plain HTTP, not the codes of tasks."""

from __future__ import annotations

from typing import Final

from delineate.datastore.faults import DicomWebError, GridMismatchError, UnknownItemError, UnknownStrategyError
from delineate.errors import (
    BlobError,
    DelineateError,
    ModelError,
    ResultLostError,
    TaskCancelledError,
    TaskEndedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.protocols import inference_replies as replies

FIRST_SEGMENTS: Final = frozenset(
    {"info", "infer", "batch", "train", "scoring", "activelearning", "session", "datastore", "model", "auth", "logs", "proxy", "ohif"}
)
"""Of the paths of this API."""


class NotHereError(DelineateError):
    """A part of the API that this server does not have, or not switched on."""


class SessionsOffError(DelineateError):
    """Sessions are switched off."""

    default_advice = "Send the image with each request, or ask the server's administrator to set session_expiry."


class BusyError(DelineateError):
    """One of its kind runs already."""

    default_advice = "Wait for its end, or stop it."


# The first class an error belongs to decides.
_STATUS: Final[tuple[tuple[type[DelineateError], int], ...]] = (
    (UnknownItemError, 404),
    (UnknownStrategyError, 404),
    (UnknownModelError, 404),
    (UnknownTaskError, 404),
    (NotHereError, 404),
    (SessionsOffError, 406),
    (GridMismatchError, 409),
    (TaskCancelledError, 409),
    (BusyError, 429),
    (DicomWebError, 502),
    (ResultLostError, 500),
    (BlobError, 500),
    (UnavailableError, 503),
)

_STATUS_OF_MODEL: Final = {"input": 422, "missing": 501}
"""By the kind of the failure; all others are 500."""


def is_label_path(path: str) -> bool:
    """Whether a path, without a proxy's prefix, is of this API."""
    return path.split("/", 2)[1:2] != [] and path.split("/", 2)[1] in FIRST_SEGMENTS


def status_of(error: DelineateError) -> int:
    """The HTTP status with which these routes answer an error."""
    if isinstance(error, ModelError):
        return _STATUS_OF_MODEL.get(error.kind, 500)
    found = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if found is None:
        found = 500 if isinstance(error, TaskEndedError) else replies.status_of(error)
    return found
