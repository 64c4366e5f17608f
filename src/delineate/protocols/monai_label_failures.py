"""What goes wrong at a MONAI Label server, in the words of the exception that plugins know."""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Final, List, Optional, Tuple, Type, Union

from delineate.errors import ServerError
from delineate.protocols.messages import Response

LONGEST_REASON: Final = 2000  # characters of an answer that are shown
LOG_IN: Final = "Log in again, or give a valid token."


class MONAILabelError:
    """Kinds of failure: the server answered with an error, a session is gone, anything else."""

    SERVER_ERROR = 1
    SESSION_EXPIRED = 2
    UNKNOWN = 3


class MONAILabelClientException(ServerError):  # noqa: N818 - the name that plugins import
    """A call that gave no result.

    Parameters
    ----------
    error : of `MONAILabelError`.
    msg : for a person; with an answer, ``Status: NUMBER; Response: BODY``, which plugins show.
    status_code, response : of the answer, None where there was none.

    Attributes
    ----------
    message, advice : in plain words, what happened and what to do; ``str()`` is the message.
    """

    def __init__(
        self,
        error: int,
        msg: str,
        status_code: Optional[int] = None,
        response: Optional[bytes] = None,
        message: str = "",
        advice: str = "",
    ) -> None:
        super().__init__(message or str(msg), advice, status_code or 0)
        self.error = error
        self.msg = msg
        self.status_code = status_code
        self.response = response

    def __reduce__(self) -> Tuple[Callable[..., Any], Tuple[Any, ...]]:
        fields = (self.error, self.msg, self.status_code, self.response, self.message, self.advice)
        kind: Type[MONAILabelClientException] = type(self)
        return kind, fields


def error_from(answer: Response, what: str) -> MONAILabelClientException:
    """What an answer means that is no success. `what` was asked, in words.

    The shape of Exchange's `error_from`: it is shown when a request is not repeated any more.
    """
    reason = reason_of(answer)
    kind = MONAILabelError.SERVER_ERROR
    if answer.status == 404 and re.search(r"\bsession\b", reason, re.IGNORECASE):
        kind = MONAILabelError.SESSION_EXPIRED
    message, advice = _in_words(answer, what, reason)
    body = answer.content.decode("utf-8", "replace")[:LONGEST_REASON]
    return MONAILabelClientException(
        kind, "Status: %d; Response: %s" % (answer.status, body), answer.status, answer.content, message, advice
    )


def _in_words(answer: Response, what: str, reason: str) -> Tuple[str, str]:
    status = answer.status
    if 300 <= status < 400:
        target = answer.headers.get("location", "another address").split("?")[0]
        return "the server redirects %s to %s" % (what, target[:200]), "Use that address if it is the server you mean."
    if "html" in answer.media_type:
        return "the server answered %s with a page for people (%d)" % (what, status), "Check the address, with its path prefix."
    plain, advice = _of_ours(answer)
    because = ": " + (plain or reason) if plain or reason else ""
    if status == 401:
        if plain:  # which says already that it wants to know
            return "the server refused %s%s" % (what, because), advice
        return "the server wants to know who asks" + because, LOG_IN
    if status == 403:
        text = "the server does not allow %s to this user%s" % (what, because)
        return text, advice or "Ask its administrator for the role that is needed."
    if status in (502, 503, 504, 507):
        return "the server cannot answer %s now (%d%s)" % (what, status, because), "Try again later, or tell its administrator."
    if status >= 500:
        return "the server failed at %s (%d%s)" % (what, status, because), "Its log says why; tell its administrator."
    return "the server refused %s (%d%s)" % (what, status, because), advice


def _of_ours(answer: Response) -> Tuple[str, str]:
    """What happened and what to do, which our own servers say apart; empty from others."""
    try:
        value = json.loads(answer.content.decode("utf-8"))
    except (ValueError, RecursionError):
        return "", ""
    said = [value.get(name) for name in ("message", "advice")] if isinstance(value, dict) else []
    if not said or not all(isinstance(text, str) and text for text in said):
        return "", ""
    message, advice = (" ".join(str(text).split())[:LONGEST_REASON] for text in said)
    return message, advice


def reason_of(answer: Response) -> str:
    """The server's reason in one line, empty where it gives none."""
    try:
        value = json.loads(answer.content.decode("utf-8"))
    except (ValueError, RecursionError):
        is_text = answer.media_type.startswith("text/") and "html" not in answer.media_type
        return " ".join(answer.content.decode("utf-8", "replace").split())[:LONGEST_REASON] if is_text else ""
    if isinstance(value, dict):
        value = value.get("detail") or value.get("title") or value.get("message") or ""
    return " ".join(_sentence(value).split())[:LONGEST_REASON]


def _sentence(detail: Any) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, dict) and "msg" in detail:  # how FastAPI says what is wrong with a field
        place: Union[List[Any], Any] = detail.get("loc") or []
        where = ".".join(str(step) for step in place) if isinstance(place, list) else str(place)
        return "%s: %s" % (where, detail["msg"]) if where else str(detail["msg"])
    if isinstance(detail, list):
        return "; ".join(_sentence(entry) for entry in detail)
    return "" if detail is None else json.dumps(detail)
