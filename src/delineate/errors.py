"""Every error Delineate raises on purpose, each with a sentence on what to do.

::

    DelineateError
    ├── InputError (422)
    │   ├── ImageError
    │   ├── GeometryError
    │   ├── ArchiveError
    │   │   └── ArchiveLimitError (413)
    │   └── SettingsError
    ├── UnknownModelError (550)
    ├── UnknownTaskError (554)
    ├── ModelError (552)
    ├── StoreError
    │   ├── StorageFullError (507)
    │   ├── StoreBusyError (503)
    │   ├── BlobError (553 for a result)
    │   └── LeaseLostError
    ├── TaskEndedError
    │   ├── TaskFailedError (552)
    │   ├── TaskCancelledError
    │   └── ResultLostError (553)
    ├── ServerError
    │   ├── ConnectionFailedError
    │   ├── CertificateError
    │   ├── AddressError
    │   ├── AnswerError
    │   ├── UnavailableError
    │   ├── AuthorizationError
    │   ├── RejectedError
    │   └── DeadlineError
    └── MissingPartError

In brackets: the status that our server answers with. ``str(error)`` is what happened; ``error.advice`` is what to do
about it. Runs on Python 3.7 and newer: the workstation extension imports it.
"""

from __future__ import annotations

from typing import Dict, Optional


class DelineateError(Exception):
    """Base of all errors. `message` says what happened, `advice` what to do."""

    default_advice = ""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice or self.default_advice

    def sentence(self) -> str:
        """What happened and what to do, in one line for a person."""
        text = self.message.strip()
        if text and text[-1] not in ".!?":
            text += "."
        return (text + " " + self.advice).strip() if self.advice else text


class InputError(DelineateError):
    """What was given cannot be used."""


class ImageError(InputError):
    """A file that is not a readable three-dimensional image."""

    default_advice = "Send a three-dimensional image in NIfTI, NRRD or MetaImage format."


class GeometryError(InputError):
    """Two grids that should agree do not, or a grid makes no sense."""

    default_advice = "Use images and structures of one grid."


class ArchiveError(InputError):
    """Not an archive, empty, cut off, or with entries that are not safe to unpack."""

    default_advice = "Send a .zip or .tar(.gz) archive with tmp_0000.nii.gz, tmp_0001.nii.gz, … in it."


class ArchiveLimitError(ArchiveError):
    """An archive over a limit on the count, ratio or size of its entries."""

    default_advice = "Send less at once, or ask the server's administrator to raise the limit."


class SettingsError(InputError):
    """A setting, an argument or a model.toml that makes no sense."""


class UnknownModelError(DelineateError):
    """No model of that name is registered."""

    default_advice = "List the models with `delineate models`."


class UnknownTaskError(DelineateError):
    """No task of that uid exists, or it was deleted."""

    default_advice = "Check the uid, which submit printed (not the number in a list); finished tasks are kept for a limited time only."


class ModelError(DelineateError):
    """The model failed on this task.

    `kind` is one of `ModelError.KINDS`; it is stored with the task and decides about retries. ``stored`` is none of the
    model's faults: the server no longer has what was sent.
    """

    KINDS = ("input", "model", "exit", "crash", "timeout", "memory", "output", "grid", "labels", "lost", "start", "missing", "stored")

    def __init__(self, message: str, advice: str = "", kind: str = "model") -> None:
        super().__init__(message, advice)
        if kind not in self.KINDS:
            raise ValueError("unknown kind of model error: " + kind)
        self.kind = kind


class StoreError(DelineateError):
    """The server's own storage."""


class StorageFullError(StoreError):
    """No space is left on the server's disk."""

    default_advice = "Free space on the server's data folder or shorten the retention, then try again."


class StoreBusyError(StoreError):
    """The database stayed locked longer than we wait."""

    default_advice = "Try again in a moment."


class BlobError(StoreError):
    """A stored file is missing or no longer has the digest it was stored with."""

    default_advice = "Submit the task again and check the server's disk."


class LeaseLostError(StoreError):
    """The task is no longer this worker's: its lease expired, or it was cancelled or deleted."""


class TaskEndedError(DelineateError):
    """A task that gives no result."""


class TaskFailedError(TaskEndedError):
    """The model, or the server on its behalf, failed; the message is the server's reason."""


class TaskCancelledError(TaskEndedError):
    """Somebody cancelled the task."""

    default_advice = "Submit it again if it is still wanted."


class ResultLostError(TaskEndedError):
    """The task finished, but its result is gone from the server."""

    default_advice = "Submit the task again."


class ServerError(DelineateError):
    """What a client hears of the server. `status` is the HTTP status, 0 where there was none."""

    def __init__(self, message: str, advice: str = "", status: int = 0) -> None:
        super().__init__(message, advice)
        self.status = status


class ConnectionFailedError(ServerError):
    """Refused, unresolved, unreachable or dropped.

    `is_refused`: nothing of the request reached the server. `headers`: of the answer, where its body broke off.
    """

    default_advice = "Check the server's address and port, and that the server runs."

    def __init__(
        self, message: str, advice: str = "", status: int = 0, is_refused: bool = False, headers: Optional[Dict[str, str]] = None
    ) -> None:
        super().__init__(message, advice, status)
        self.is_refused = is_refused
        self.headers = headers or {}


class CertificateError(ServerError):
    """The server's TLS certificate could not be verified."""

    default_advice = "Give the certificate authority's file if the server uses a private one."


class AddressError(ServerError):
    """The server's URL makes no sense."""

    default_advice = "Write it like https://server.example:8443/prefix."


class AnswerError(ServerError):
    """An answer that is not of the protocol: an HTML page, a redirect to a login, broken JSON."""

    default_advice = "Check that the address is that of an inference server, with its path prefix."


class UnavailableError(ServerError):
    """The server, or a proxy before it, could not answer now (502, 503, 504, 507)."""

    default_advice = "Try again later, or tell the server's administrator."


class AuthorizationError(ServerError):
    """The server wants another or any token (401, 403)."""

    default_advice = "Give a valid token."


class RejectedError(ServerError):
    """The server refused the request and said why."""


class DeadlineError(ServerError):
    """The time limit passed on the wall clock."""

    default_advice = "The task goes on at the server: ask again with its uid, or allow more time."


class MissingPartError(DelineateError):
    """An optional part is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            "%s is not installed" % what,
            'Install it with: pip install "delineate[%s]"' % extra,
        )
