"""What both MONAI Label clients are made of: the server's address, limits, and the one kind of exception they raise."""

from __future__ import annotations

import contextlib
import enum
import math
import time
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from delineate.client.address import parse_address
from delineate.client.transport import IDLE_TIMEOUT, Line, ProgressCallback
from delineate.errors import AddressError, DeadlineError, DelineateError, InputError, SettingsError
from delineate.protocols.messages import Backoff
from delineate.protocols.monai_label_failures import MONAILabelClientException, MONAILabelError
from delineate.protocols.monai_label_flows import LabelServer

DEFAULT_TIMEOUT = 3600.0
LONGEST_SILENCE = 7 * 86_400.0  # an infer without a limit; sockets take no infinity


class Way(enum.Enum):
    """How a request goes to the server.

    KEPT, for what may be sent again: connections are used again. ONCE, for what may not: a connection of its own.
    PATIENT: that too, and only the limit of the call ends the silence of a model that computes.
    """

    KEPT = "kept"
    ONCE = "once"
    PATIENT = "patient"


class LabelSession:
    """Arguments of a client, and what is known of its server. An address is read when it is used, not before."""

    def __init__(
        self,
        server_url: str,
        client_id: str | None,
        token: str | None,
        ca_file: str | PathLike[str] | None,
        verify: bool,
        timeout: float | None,
        progress: ProgressCallback | None,
        backoff: Backoff | None,
    ) -> None:
        self.url = _trimmed(server_url)
        self._ca_file = Path(ca_file) if ca_file else None
        self._verify = verify
        self._timeout = timeout
        self._progress = progress
        self._backoff = backoff
        self.server = LabelServer(time.monotonic, client_id, backoff=backoff)
        if token is not None:
            self.authorize("Bearer", token)

    def line(self, way: Way) -> Line:
        """How the server is reached; `AddressError` for a URL that makes no sense."""
        idle = LONGEST_SILENCE if way is Way.PATIENT else IDLE_TIMEOUT
        return Line(parse_address(self.url), None, self._ca_file, self._verify, self._progress, idle, way is Way.KEPT)

    def limit(self, timeout: float | None) -> float | None:
        """Seconds for one call: those given, or the client's; None for no limit."""
        seconds = self._timeout if timeout is None else timeout
        if seconds is not None and not seconds > 0:
            raise SettingsError(f"a time limit of {seconds} s makes no sense", "Give seconds above zero.")
        return None if seconds is None or math.isinf(seconds) else seconds

    def authorize(self, token_type: str, token: str) -> None:
        """Send this token from now on."""
        value = f"{token_type} {token}".strip()
        if not (value.isascii() and value.isprintable() and token.strip()):
            raise SettingsError("the token has characters that cannot be sent", "Give the token as it was issued, without line breaks.")
        self.server.authorization = value

    def move(self, server_url: str) -> None:
        """Speak to another server; a token goes along only where it is the same host and port under the same scheme."""
        before, self.url = self._origin(), _trimmed(server_url)
        authorization = self.server.authorization if before == self._origin() else None
        self.server = LabelServer(time.monotonic, self.server.client_id, authorization, self._backoff)

    def _origin(self) -> str:
        try:
            return parse_address(self.url).origin
        except AddressError:
            return self.url


def _trimmed(server_url: str) -> str:
    return str(server_url).strip().rstrip("/")


def token_of(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Type and token of what `auth_token` gave; `SettingsError` where it is something else."""
    token_type, token = answer.get("token_type"), answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise SettingsError("that is no token: it has no access_token", "Give what auth_token returned.")
    return (token_type if isinstance(token_type, str) else "Bearer"), token


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Every error of `delineate.errors`, and of files, leaves as the exception that plugins catch."""
    try:
        yield
    except MONAILabelClientException:
        raise
    except DelineateError as error:
        raise _told(error) from error
    except OSError as error:
        place = f"{Path(str(error.filename)).name}: " if error.filename else ""
        raise _told(InputError(f"{place}{error.strerror or error}", "Check the file, its folder, and the space there.")) from error


def _told(error: DelineateError) -> MONAILabelClientException:
    status = getattr(error, "status", 0) or None
    kind = MONAILabelError.UNKNOWN if status is None else MONAILabelError.SERVER_ERROR
    advice = error.advice
    if isinstance(error, DeadlineError) and advice == DeadlineError.default_advice:
        advice = "Allow more time, or look at what the server is doing."
    told = DelineateError(error.message, advice)
    return MONAILabelClientException(kind, told.sentence(), status, None, error.message, advice)
