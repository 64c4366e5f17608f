"""Deadlines and retries: the one place that decides whether a request is tried again.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import math
import random
from typing import Callable, NamedTuple, Optional, Tuple

from delineate.errors import ConnectionFailedError, DeadlineError, DelineateError
from delineate.protocols.inference_server import error_from
from delineate.protocols.messages import Flow, Request, Response, Wait

TRANSIENT = (429, 502, 503, 504, 507)
REFUSED_UNPROCESSED = (429, 503)  # what a server says before it has done anything
FIRST_CONTACT = 3.0  # seconds in which a server that is just starting may begin to listen
LONGEST_RETRY_AFTER = 60.0

Clock = Callable[[], float]


class Backoff(NamedTuple):
    """Pauses between tries: `first` seconds, `factor` times longer each, at most `highest`, plus up to half as jitter.

    tries : how often one request is sent at most; while a task is awaited, only the deadline counts.
    """

    first: float = 0.5
    factor: float = 2.0
    highest: float = 10.0
    tries: int = 6

    def pause(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures; `chance` 0 to 1 spreads clients that failed together."""
        return min(self.highest, self.first * self.factor ** (failures - 1)) * (1.0 + chance / 2.0)


class Deadline:
    """A limit on the clock over a whole conversation. `seconds` None: no limit."""

    def __init__(self, seconds: Optional[float], clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds

    def remaining(self) -> float:
        """Seconds left; infinite without a limit."""
        return self._end - self._clock()

    def within(self, seconds: Optional[float]) -> Optional[float]:
        """The smaller of `seconds` and what is left; None where neither limits."""
        left = min(math.inf if seconds is None else seconds, self.remaining())
        return None if left == math.inf else max(left, 0.001)

    def error(self, last: Optional[Exception] = None) -> DeadlineError:
        """That the limit has passed, with what went wrong last."""
        because = "; last, " + str(last) if last is not None and not isinstance(last, DeadlineError) else ""
        seconds = self.seconds or 0.0
        return DeadlineError("the time limit of %s s passed%s" % ("%.0f" % seconds if seconds >= 10 else "%.2g" % seconds, because))


class Exchange:
    """Sends requests of one conversation partner until they are answered, or until it makes no sense any more.

    clock : monotonic seconds; chance : random number 0 to 1 for jitter.
    """

    def __init__(self, clock: Clock, backoff: Optional[Backoff] = None, chance: Callable[[], float] = random.random) -> None:
        self.clock = clock
        self.backoff = backoff or Backoff()
        self.has_contact = False
        self._chance = chance

    def send(self, request: Request, deadline: Deadline, what: str, patient: bool = False, repeatable: bool = True) -> Flow[Response]:
        """Send until there is an answer that trying again would not change.

        Parameters
        ----------
        what : the request in words, for messages.
        patient : try on until the deadline (while a task is awaited), not a few times.
        repeatable : whether sending it twice does no harm. If not, it is sent again only where the server surely did nothing.

        Raises
        ------
        ServerError
            The last failure, or `DeadlineError`.
        """
        begin, failures = self.clock(), 0
        last: Optional[DelineateError] = None
        while True:
            if deadline.remaining() <= 0:
                raise deadline.error(last)
            received = 0 if request.sink is None else request.sink.tell()
            try:
                response = yield request._replace(timeout=deadline.within(request.timeout))
            except (ConnectionFailedError, DeadlineError) as error:
                last, pause = error, 0.0
                harmless = repeatable or bool(getattr(error, "is_refused", False))
                self.has_contact = self.has_contact or bool(getattr(error, "headers", None))
            else:
                self.has_contact = True
                if response is None:
                    raise TypeError("a driver sends a Response for each Request") from None
                if response.status not in TRANSIENT:
                    return response
                last, pause = error_from(response, what), _retry_after(response)
                harmless = repeatable or response.status in REFUSED_UNPROCESSED
            if deadline.remaining() <= 0:
                raise deadline.error(last)
            request, has_grown = _resumed(request, last, received)
            failures = 1 if has_grown else failures + 1
            if not harmless or not self._goes_on(last, failures, patient, begin):
                raise last
            yield Wait(min(max(pause, self._pause(failures)), deadline.remaining()))

    def _goes_on(self, last: Exception, failures: int, patient: bool, begin: float) -> bool:
        if not self.has_contact:  # a wrong address must be told soon, a server that just starts deserves a moment
            return isinstance(last, ConnectionFailedError) and self.clock() - begin < FIRST_CONTACT
        is_broken_off = bool(getattr(last, "headers", None))  # an answer that breaks off each time would do so for ever
        return failures < self.backoff.tries or (patient and not is_broken_off)

    def _pause(self, failures: int) -> float:
        pause = self.backoff.pause(failures, self._chance())
        return pause if self.has_contact else min(pause, FIRST_CONTACT / 4)


def _retry_after(response: Response) -> float:
    """Seconds the server asks for (RFC 9110, 10.2.3), 0 where it does not; dates are not worth a parser here."""
    text = response.headers.get("retry-after", "").strip()
    return min(float(text), LONGEST_RETRY_AFTER) if text.isdigit() else 0.0


def _resumed(request: Request, last: Exception, received: int) -> Tuple[Request, bool]:
    """The request for the rest of a body that broke off, and whether this try brought it further.

    Only against a server that promises to continue the same bytes: ranges and a strong entity tag, no content coding.
    """
    if request.sink is None:
        return request, False
    headers = getattr(last, "headers", {})
    others = tuple((k, v) for k, v in request.headers if k not in ("Range", "If-Range"))
    known = dict(request.headers).get("If-Range", "")
    tag = headers.get("etag", "") if headers.get("accept-ranges", "").lower() == "bytes" or headers.get("content-range") else ""
    tag = "" if headers.get("content-encoding", "identity") != "identity" else (tag or ("" if headers else known))
    have = request.sink.tell()
    if not have or not tag.startswith('"'):
        return request._replace(headers=others), False
    return request._replace(headers=(*others, ("Range", "bytes=%d-" % have), ("If-Range", tag))), have > received
