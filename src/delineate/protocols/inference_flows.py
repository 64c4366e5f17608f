"""Conversations with an inference server of any dialect, as flows (see `delineate.protocols.messages`).

::

    detect → submit → fetch

The others, which look at tasks and change them, are in `delineate.protocols.administration_flows`.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import random
import secrets
from typing import BinaryIO, Callable, Optional, Sequence, Tuple
from urllib.parse import quote

from delineate.errors import ResultLostError, UnknownTaskError
from delineate.protocols import inference_server as wire
from delineate.protocols.inference_server import (
    Dialect,
    TaskStatus,
    described_dialect,
    ended_error,
    error_from,
    is_not_ready,
    read_status,
    read_uid,
    reason_of,
    require_archive,
    wants_v2,
)
from delineate.protocols.messages import (
    Backoff,
    Clock,
    Deadline,
    Exchange,
    FileBody,
    Flow,
    Part,
    Progress,
    Request,
    Response,
    Wait,
    multipart,
)
from delineate.protocols.task_archive import tar_body

CALL_TIMEOUT = 30.0  # seconds for one small request
LONG_POLL = 20.0  # seconds one long poll is asked to last: proxies commonly cut at 30 or 60
INTERVAL, LONGEST_INTERVAL = 2.0, 10.0  # seconds between polls of servers without long poll
GRACE_POLLS = 1  # a v1 server may answer the uid before its row is there

Query = Tuple[Tuple[str, str], ...]


class InferenceServer:
    """What is known of one server, and the conversations with it.

    Parameters
    ----------
    clock : monotonic seconds; all limits are measured by it.
    dialect : None to find out.
    backoff : pauses and number of tries.
    interval : seconds between polls of servers that know no long poll.
    chance : random number 0 to 1 for jitter.

    Attributes
    ----------
    dialect : `Dialect` or None as long as nobody knows.
    is_ours : whether it said so by the header ``Delineate``: long poll, idempotent posts, cancel, logs.
    growth : how much longer each interval is than the one before; 1 where a person has chosen it.
    """

    growth = 1.2

    def __init__(
        self,
        clock: Clock,
        dialect: Optional[Dialect] = None,
        backoff: Optional[Backoff] = None,
        interval: float = INTERVAL,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.dialect = dialect
        self.is_ours = False
        self._is_certain = dialect is not None
        self._interval = interval
        self._clock = clock
        self._exchange = Exchange(clock, error_from, backoff, chance)

    def detect(self, timeout: Optional[float] = None) -> Flow[Dialect]:
        """Find out the dialect: by our header, by what is said of a task that does not exist, by ``/openapi.json``.

        Where all of that is silent it takes v1 and corrects itself when a post is refused for its field names.
        """
        deadline = Deadline(timeout, self._clock)
        if self.dialect is not None:
            return self.dialect
        answer = yield from self._ask_for_nobody(deadline)
        if self.is_ours or answer.status == wire.UNKNOWN_TASK:
            return self._settle(Dialect.V1)
        if wire.SEED_NOT_READY in reason_of(answer):
            return self._settle(Dialect.SEED)
        if 300 <= answer.status < 400 or answer.status in (401, 403) or answer.is_success or "html" in answer.media_type:
            raise error_from(answer, "a question of the protocol")
        answer = yield from self._send(Request("GET", "/openapi.json", timeout=CALL_TIMEOUT), deadline, "its description")
        dialect = described_dialect(answer)
        if dialect is None:
            self.dialect = Dialect.V1
            return self.dialect
        return self._settle(dialect)

    def _settle(self, dialect: Dialect) -> Dialect:
        self.dialect, self._is_certain = dialect, True
        return dialect

    def _ask_for_nobody(self, deadline: Deadline) -> Flow[Response]:
        """Ask for a task that cannot exist: each dialect says so in its own way."""
        nobody = wire.TASK_PATH.format(uid=secrets.token_urlsafe(32))
        request = Request("GET", nobody, timeout=CALL_TIMEOUT, peek=True)
        answer = yield from self._send(request, deadline, "the question which protocol it speaks")
        return answer

    def submit(self, model: str, archive: str, key: Optional[str] = None, timeout: Optional[float] = None) -> Flow[str]:
        """Post a task; its uid.

        Parameters
        ----------
        archive : path of a zip of stored entries (`delineate.protocols.task_archive.RequestWriter`).
        key : idempotency key, a fresh one where None. With it our server answers a repeated post with the same uid;
            strangers ignore it, so against them a post is repeated only where the server surely did nothing.

        Raises
        ------
        UnknownModelError, RejectedError, AuthorizationError, UnavailableError, ServerError
        """
        uid = yield from self._submit(model, archive, key, Deadline(timeout, self._clock))
        return uid

    def _submit(
        self, model: str, archive: str, key: Optional[str], deadline: Deadline, query: Query = (), parts: Sequence[Part] = ()
    ) -> Flow[str]:
        """`query` and `parts`: what else is said of the task."""
        yield from self._detected(deadline)
        yield Progress(None, "sending")
        key = key or secrets.token_urlsafe(32)
        answer = yield from self._post(model, archive, key, deadline, query, parts)
        if not self._is_certain and wants_v2(answer):
            self._settle(Dialect.V2)
            answer = yield from self._post(model, archive, key, deadline, query, parts)
        if not answer.is_success:
            raise error_from(answer, "the task")
        uid = read_uid(answer)
        yield Progress(None, "sent")
        return uid

    def _post(self, model: str, archive: str, key: str, deadline: Deadline, query: Query, parts: Sequence[Part]) -> Flow[Response]:
        dialect = self.dialect or Dialect.V1
        query = ((wire.MODEL_PARAMETER[dialect], model), *query)
        if dialect is Dialect.V2:
            file = Part(wire.FILE_FIELD[dialect], tar_body(archive), "input.tar", "application/x-tar")
        else:
            file = Part(wire.FILE_FIELD[dialect], FileBody(archive), "input.zip", "application/zip")
        content_type, body = multipart([*parts, file])
        request = Request("POST", wire.TASKS_PATH, query, ((wire.KEY_HEADER, key), ("Content-Type", content_type)), body)
        answer = yield from self._send(request, deadline, "the task", repeatable=self.is_ours)
        return answer

    def fetch(self, uid: str, sink: BinaryIO, timeout: Optional[float] = None) -> Flow[None]:
        """Wait for the result and write it, a zip or a tar, into `sink`; a body that breaks off is resumed.

        `sink` is an open, seekable binary file; what it held is gone. `TaskEndedError`, `ResultLostError` and
        `UnknownTaskError` say that there will never be one; after a `DeadlineError` the task goes on.
        """
        deadline = Deadline(timeout, self._clock)
        require_uid(uid)
        yield from self._detected(deadline)
        if self.is_ours:
            yield from self._wait_for_end(uid, deadline)
            yield Progress(1.0, "fetching")
        yield from self._poll(uid, sink, deadline)
        if sink.tell() == 0:
            raise ResultLostError("the server sent an empty result")

    def _wait_for_end(self, uid: str, deadline: Deadline) -> Flow[None]:
        """Long poll on our server."""
        event, pause, said = 0, 0.1, Progress(-1.0, "")
        while True:
            asked = self._clock()
            seconds = min(LONG_POLL, max(deadline.remaining(), 0.0))
            status = yield from self._status(uid, deadline, seconds, event)
            if status.state == "finished":
                return
            ended = ended_error(status)
            if ended is not None:
                raise ended
            now = Progress(status.fraction, status.message or status.state)
            if now != said:
                yield now
            is_stale = status.event == event and now == said and self._clock() - asked < min(seconds, pause)
            event, said = max(event, status.event), now
            if is_stale:  # something on the way swallows the wait: do not spin
                yield Wait(min(pause, max(deadline.remaining(), 0.0)))
                pause = min(pause * 2, LONGEST_INTERVAL)

    def _status(self, uid: str, deadline: Deadline, seconds: float, event: int) -> Flow[TaskStatus]:
        query = ((wire.WAIT_PARAMETER, "%g" % seconds), (wire.AFTER_PARAMETER, str(event)))
        request = Request("GET", wire.STATUS_PATH.format(uid=quote(uid)), query, timeout=seconds + CALL_TIMEOUT)
        answer = yield from self._send(request, deadline, "the state of the task", patient=True)
        if not answer.is_success:
            raise error_from(answer, "the state of the task")
        return read_status(answer)

    def _poll(self, uid: str, sink: Optional[BinaryIO], deadline: Deadline) -> Flow[None]:
        """Ask for the result until it is there; every server knows this."""
        grace = 0 if self.is_ours else GRACE_POLLS
        pause = self._interval
        while True:
            answer = yield from self._send(self._result_request(uid, sink), deadline, "the result", patient=True)
            if answer.is_success:
                require_archive(answer)
                return
            if not is_not_ready(answer):
                if not self._is_certain and answer.status in (404, 405):  # the path of v1 is not known here
                    self._settle(Dialect.V2)
                    continue
                error = self._refusal(answer)
                if not isinstance(error, UnknownTaskError) or not grace:
                    raise error
                grace -= 1
            yield Progress(None, "waiting for the server")
            if deadline.remaining() <= 0:
                raise deadline.error()
            yield Wait(min(pause, deadline.remaining()))
            pause = min(pause * self.growth, max(LONGEST_INTERVAL, self._interval))

    def _result_request(self, uid: str, sink: Optional[BinaryIO]) -> Request:
        # Without a sink only the status is wanted. A download may take long: no limit but the deadline and the driver's for silence.
        limit = CALL_TIMEOUT if sink is None else None
        if self.dialect is Dialect.V2:
            return Request("GET", wire.OUTPUTS_PATH, ((wire.UID_PARAMETER, uid),), sink=sink, timeout=limit, peek=sink is None)
        return Request("GET", wire.TASK_PATH.format(uid=quote(uid)), sink=sink, timeout=limit, peek=sink is None)

    def _refusal(self, answer: Response) -> Exception:
        if self.dialect is Dialect.V2 and answer.status == 500 and not self.is_ours:
            return UnknownTaskError(
                "the server does not know the task, or failed itself: servers of dialect v2 answer both with status 500"
            )
        return error_from(answer, "the result")

    def _detected(self, deadline: Deadline) -> Flow[None]:
        if self.dialect is None:
            yield from self.detect(deadline.within(None))

    def _send(self, request: Request, deadline: Deadline, what: str, patient: bool = False, repeatable: bool = True) -> Flow[Response]:
        answer = yield from self._exchange.send(request, deadline, what, patient, repeatable)
        if wire.SERVER_HEADER.lower() in answer.headers:
            self.is_ours = True
        return answer


def require_uid(uid: str) -> None:
    """`UnknownTaskError` for what cannot be a uid: it must never become part of a path."""
    if not wire.is_uid(uid):
        raise UnknownTaskError(
            "that is no uid of a task", "A uid is letters, digits, - and _ alone; take the one that sending the task gave."
        )
