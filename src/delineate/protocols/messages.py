"""What a flow yields and receives, and how long it tries. No I/O happens here; drivers do it.

A *flow* is a generator. It yields a `Request` and is sent the `Response`; it yields `Wait` to let time pass; it yields
`Progress` to tell a person how far it is. Transport errors are thrown into it at the yield, as `delineate.errors`. Its
return value is the conversation's result. `Exchange.send` alone decides whether a request is sent again.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import secrets
from typing import Any, BinaryIO, Callable, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union
from urllib.parse import quote

from delineate.errors import AnswerError, ConnectionFailedError, DeadlineError, DelineateError

BLOCK = 1 << 20  # bytes a body yields at once: large enough that the per-block cost vanishes

TRANSIENT = (429, 502, 503, 504, 507)
REFUSED_UNPROCESSED = (429, 503)  # what a server says before it has done anything
FIRST_CONTACT = 3.0  # seconds in which a server that is just starting may begin to listen
LONGEST_RETRY_AFTER = 60.0

Clock = Callable[[], float]


class Body:
    """Bytes of known length that can be iterated again for a retry. Base: bytes in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self.length = len(data)

    def __iter__(self) -> Iterator[bytes]:
        if self._data:
            yield self._data


class FileBody(Body):
    """A file, or `length` bytes of it from `offset` on, read in blocks."""

    def __init__(self, path: str, offset: int = 0, length: Optional[int] = None) -> None:
        super().__init__()
        self.path = str(path)
        self.offset = offset
        self.length = os.path.getsize(self.path) - offset if length is None else length

    def __iter__(self) -> Iterator[bytes]:
        left = self.length
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise OSError("%s became shorter while it was read" % self.path)
                left -= len(block)
                yield block


class JoinedBody(Body):
    """Several bodies, one after the other."""

    def __init__(self, parts: Iterable[Body]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.length = sum(part.length for part in self.parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield from part


class Part(NamedTuple):
    """One part of a multipart/form-data body. `filename` None makes it a plain field."""

    name: str
    body: Body
    filename: Optional[str] = None
    content_type: Optional[str] = None


def multipart(parts: Sequence[Part]) -> Tuple[str, Body]:
    """Encode parts as multipart/form-data (RFC 7578): (content type, body), streamed, of known length.

    ``Content-Type`` is the last header of each part and the boundary is unquoted: some clients parse by string search.
    """
    boundary = "delineate-" + secrets.token_hex(16)
    pieces: List[Body] = []
    for part in parts:
        head = '--%s\r\nContent-Disposition: form-data; name="%s"' % (boundary, _quoted(part.name))
        if part.filename is not None:
            head += '; filename="%s"' % _quoted(part.filename)
        if part.content_type:
            head += "\r\nContent-Type: " + part.content_type
        pieces += [Body((head + "\r\n\r\n").encode("utf-8")), part.body, Body(b"\r\n")]
    pieces.append(Body(("--%s--\r\n" % boundary).encode("ascii")))
    return "multipart/form-data; boundary=" + boundary, JoinedBody(pieces)


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


class Request(NamedTuple):
    """One HTTP request of a flow.

    path, query : the driver joins `target` to the server's URL, its prefix kept.
    sink : an open, seekable binary file that receives the body of a 2xx answer, so that it is never whole in memory;
        the driver calls `begin_body` before it writes.
    timeout : seconds until the driver gives up on this one call, measured over all of it.
    peek : the body of a 2xx answer is not wanted; the driver may close the connection instead of reading it.
    """

    method: str
    path: str
    query: Tuple[Tuple[str, str], ...] = ()
    headers: Tuple[Tuple[str, str], ...] = ()
    body: Optional[Body] = None
    sink: Optional[BinaryIO] = None
    timeout: Optional[float] = None
    peek: bool = False

    @property
    def target(self) -> str:
        """`path` and `query`, quoted."""
        pairs = "&".join("%s=%s" % (quote(name, safe=""), quote(value, safe="")) for name, value in self.query)
        return self.path + ("?" + pairs if pairs else "")


class Response(NamedTuple):
    """The answer: `headers` with lower-case names; `content` is empty where a sink took it."""

    status: int
    headers: Dict[str, str]
    content: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """Content type without parameters, lower case; ``?`` where it is none, since it is shown to people."""
        text = self.headers.get("content-type", "").split(";")[0].strip().lower()
        return text if re.match(r"[!-~]{0,100}\Z", text) else "?"

    def json(self) -> Any:
        """The body as JSON; `AnswerError` where it is not."""
        try:
            return json.loads(self.content.decode("utf-8"))
        except (ValueError, RecursionError):  # a hostile answer nests without end
            raise AnswerError(
                "the server answered %d with something that is not JSON (%s)" % (self.status, self.media_type or "no content type"),
                status=self.status,
            ) from None


def begin_body(sink: BinaryIO, status: int, headers: Dict[str, str]) -> None:
    """Go to where the body of an answer begins, 0 or the first byte of a 206 (RFC 9110, 14.4), and cut off what stood there."""
    start = 0
    if status == 206:
        match = re.match(r"bytes (\d{1,18})-", headers.get("content-range", ""))
        if match is None:
            raise AnswerError("the server answered with a part of the result and does not say which", status=status)
        start = int(match.group(1))
    if start > sink.seek(0, 2):
        raise AnswerError("the server continues a result behind its end", status=status)
    sink.seek(start)
    sink.truncate()


class Wait(NamedTuple):
    """Let this many seconds pass."""

    seconds: float


class Progress(NamedTuple):
    """How far it is: `fraction` 0 to 1 or None where unknown, and a phrase."""

    fraction: Optional[float]
    message: str


Result = TypeVar("Result")
Step = Union[Request, Wait, Progress]
Flow = Generator[Step, Optional[Response], Result]


def drive(flow: Flow[Result], perform: Callable[[Step], Optional[Response]]) -> Result:
    """Run a flow to its end; its result. What `perform` raises is thrown into it; an interruption closes it."""
    answer: Optional[Response] = None
    failure: Optional[DelineateError] = None
    with contextlib.closing(flow):
        while True:
            try:
                step = flow.send(answer) if failure is None else flow.throw(failure)
            except StopIteration as end:
                result: Result = end.value
                return result
            answer, failure = None, None
            try:
                answer = perform(step)
            except DelineateError as error:
                failure = error


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

    clock : monotonic seconds; error_from : what an answer means, of which that was asked in words; chance : random
    number 0 to 1 for jitter.
    """

    def __init__(
        self,
        clock: Clock,
        error_from: Callable[[Response, str], DelineateError],
        backoff: Optional[Backoff] = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._error_from = error_from
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
                last, pause = self._error_from(response, what), _retry_after(response)
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
    return min(float(text), LONGEST_RETRY_AFTER) if text.isdecimal() else 0.0


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
    if not have or not re.match(r'"[!#-~]*"\Z', tag):
        return request._replace(headers=others), False
    return request._replace(headers=(*others, ("Range", "bytes=%d-" % have), ("If-Range", tag))), have > received
