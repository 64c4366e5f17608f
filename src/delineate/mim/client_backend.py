"""Carries the conversations of `delineate.protocols` over ``http.client``: the I/O, the words for a person, the limits.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
import os
import select
import shutil
import socket
import ssl
import time
import traceback
from typing import Any, BinaryIO, Callable, Dict, Iterator, Optional, Tuple, TypeVar
from urllib.parse import quote, unquote

from delineate import __version__
from delineate.errors import (
    AddressError,
    AnswerError,
    AuthorizationError,
    CertificateError,
    ConnectionFailedError,
    DeadlineError,
    DelineateError,
    SettingsError,
)
from delineate.mim.inference_client import INI, SILENCE, Connection
from delineate.protocols.inference_flows import InferenceServer
from delineate.protocols.inference_server import CANCEL_PATH, TOKEN_HEADER
from delineate.protocols.messages import Flow, Progress, Request, Response, Step, Wait, begin_body, drive

Result = TypeVar("Result")

CONNECT_TIMEOUT, KEPT = 10.0, 4.0  # seconds; the latter is how long an idle connection is used again: servers commonly close at 5
LARGEST_TEXT, LARGEST_RESULT, SPARE = 16 << 20, 20 << 30, 256 << 20  # bytes: an answer in memory, one on disk, what stays free there
BLOCK, SHOWN_FROM = 1 << 18, 8 << 20  # bytes of one step; from which sending is worth a line
QUIET = Progress(None, "")
SAY_EVERY, SAY_NEW = 5.0, 1.0  # seconds between lines of the log: of the same message at first, of another one
USE_NAME = "Use the name that the certificate is made for in the server's address."
CERTIFICATE_ADVICE = {  # by OpenSSL's code: what another authority would not cure
    9: "Check the clock of this machine.",
    10: "The server's administrator has to renew it; check the clock of this machine, too.",
    62: USE_NAME,
    64: USE_NAME,
}
ADVICE = {  # for whoever stands at the workstation, where errors.py speaks to those at a command line
    "AuthorizationError": "Write a valid token into %s, below url= of this very server." % INI,
    "DeadlineError": "The task goes on at the server: run InferenceServerGetFromUid with its uid again, or give a larger timeout_sec.",
    "UnknownModelError": "Check model_human_readable_id letter by letter, or ask the server's administrator which models there are.",
    "UnknownTaskError": "Check that uid and server_url are those of the task; finished tasks are kept for a limited time only.",
}


class ClientBackend:
    """Drives the conversations with one server. Not for use by several threads at once.

    `say` takes a line of progress for a person; `clock` and `sleep` are monotonic seconds, and how they pass.
    Errors are those of `delineate.errors`; neither uid nor token stands in their words.
    """

    def __init__(
        self,
        connection: Connection,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self._say, self._sleep = say, sleep
        self._kept: Optional[http.client.HTTPConnection] = None
        self._idle_since = self._begin = self._said_at = clock()
        self._said, self._progress, self._trouble = "", QUIET, QUIET

    def post(self, model: str, archive: str, timeout: float) -> str:
        """Send the archive at the path `archive`; the task's uid. At most `timeout` seconds."""
        with self._worded(DeadlineError="The connection is slow or the server busy: try again later."):
            return self._run(InferenceServer(self.clock).submit(model, archive, timeout=timeout))

    def get(self, uid: str, sink: BinaryIO, timeout: float, interval: float) -> None:
        """Wait for the result, at most `timeout` seconds, and write it into `sink`, an open, seekable binary file.

        interval : seconds between questions to servers that do not answer of their own accord when it is there.
        """
        server = InferenceServer(self.clock, interval=interval)
        server.growth = 1.0
        with self._worded(uid):
            self._run(server.fetch(uid, sink, timeout))

    def withdraw(self, uid: str) -> None:
        """Nobody waits for the task any more: a server of ours stops it. What goes wrong is of no interest then."""
        with contextlib.suppress(DelineateError), self._worded(uid):
            self._send(Request("POST", CANCEL_PATH.format(uid=quote(uid)), timeout=CONNECT_TIMEOUT))

    @contextlib.contextmanager
    def _worded(self, uid: str = "", **advice: str) -> Iterator[None]:
        try:
            yield
        except DelineateError as error:
            if error.advice == error.default_advice or isinstance(error, AuthorizationError):
                error.advice = advice.get(type(error).__name__) or ADVICE.get(type(error).__name__, error.advice)
            for secret in filter(None, (uid, self.connection.token)):  # in the target of a redirect, say
                error.message, error.advice = error.message.replace(secret, "…"), error.advice.replace(secret, "…")
            error.args = (error.message,)
            raise
        finally:
            self._keep(None)

    def _run(self, flow: Flow[Result]) -> Result:
        """Drive a flow to its end; its result."""
        self._begin, self._said, self._progress, self._trouble = self.clock(), "", QUIET, QUIET
        return drive(flow, self._perform)

    def _perform(self, step: Step) -> Optional[Response]:
        if isinstance(step, Progress):
            self._progress = step
        self._tell(self._trouble if self._trouble.message else self._progress)
        if isinstance(step, Request):
            try:
                answer = self._send(step)
            except DelineateError as error:
                self._trouble = Progress(None, "trying again: " + error.message)
                raise
            self._trouble = QUIET
            return answer
        if isinstance(step, Wait):
            self._sleep(step.seconds)
        return None

    def _tell(self, progress: Progress) -> None:
        """A line for the person: what is new soon, the same again and again, but less and less often."""
        now = self.clock()
        waited = now - self._begin
        pause = SAY_NEW if progress.message != self._said else max(SAY_EVERY, waited / 10)
        if not progress.message or (self._said and now - self._said_at < pause):
            return
        self._said, self._said_at = progress.message, now
        line = "".join(c if c.isprintable() else " " for c in progress.message)[:200]
        percent = ", %d %%" % (100 * progress.fraction) if progress.fraction and progress.fraction < 1 else ""
        self._say(line[:1].upper() + line[1:] + percent + (", %d s" % waited if waited >= 1 else ""))

    def _keep(self, line: Optional[http.client.HTTPConnection]) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept, self._idle_since = line, self.clock()

    def _send(self, request: Request) -> Response:
        call = _Call(self.connection, request, self.clock, self._tell)
        line, self._kept = self._kept, None
        # A server closes what is idle whenever it likes: a post never goes onto a used connection, and what is lost on one says nothing.
        if line is not None and (request.body is not None or self.clock() - self._idle_since > KEPT or _has_ended(line.sock)):
            line.close()
            line = None
        try:
            answer = call.perform(line or call.connected())
        except ConnectionFailedError:
            if line is None or call.headers is not None:
                raise
            answer = call.perform(call.connected())
        self._keep(call.reusable)
        return answer


def _has_ended(sock: Any) -> bool:
    """Whether an idle connection has something to say, which can only be its end."""
    try:
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


class _Call:
    """One request under way: its limits on the clock, where its answer goes, and what an error means by how far it came."""

    def __init__(self, place: Connection, request: Request, clock: Callable[[], float], tell: Callable[[Progress], None]) -> None:
        self.headers: Optional[Dict[str, str]] = None
        self.reusable: Optional[http.client.HTTPConnection] = None
        self._place, self._request, self._clock, self._tell = place, request, clock, tell
        self._end = None if request.timeout is None else clock() + request.timeout
        self._proxy = place.proxy()

    def patience(self, most: Optional[float] = None) -> float:
        """Seconds the next step may take; `DeadlineError` when the time is up."""
        left = self._place.timeout if most is None else most
        if self._end is not None:
            left = min(left, self._end - self._clock())
        if left <= 0:
            raise DeadlineError("%s took longer than %g s for one answer" % (self._place.origin, self._request.timeout or 0.0))
        return left

    def connected(self) -> http.client.HTTPConnection:
        """A connection, through the system's proxy if it has one."""
        place, proxy = self._place, self._proxy
        host, port = (place.host, place.port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
        limit = self.patience(CONNECT_TIMEOUT)
        line = http.client.HTTPConnection(host, port, timeout=limit)
        if place.scheme == "https":
            line = http.client.HTTPSConnection(host, port, timeout=limit, context=place.trust())
            if proxy is not None:
                line.set_tunnel(place.host, place.port, dict(self._proxy_headers()))
        line.response_class = functools.partial(_Answer, call=self)  # type: ignore[assignment]
        try:
            line.connect()
        except BaseException as error:
            line.close()
            traceback.clear_frames(error.__traceback__)  # a proxy's refusal is held there, and with it the socket
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise self._not_connected(error) from None
            raise
        return line

    def perform(self, line: http.client.HTTPConnection) -> Response:
        """Send the request, receive the answer; the connection is closed if it cannot be used again."""
        line.response_class = functools.partial(_Answer, call=self)  # type: ignore[assignment]
        self.reusable, answer = None, None
        try:
            answer = self._asked(line)
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            result = Response(answer.status, self.headers, self._received(answer))
            self.reusable = None if answer.will_close else line
            return result
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error) from None
        finally:
            if answer is not None:  # http.client leaves it open where the server said that it will close
                answer.close()
            if self.reusable is None:
                line.close()

    def _asked(self, line: http.client.HTTPConnection) -> http.client.HTTPResponse:
        place, request = self._place, self._request
        target = place.prefix + request.target
        is_relayed = self._proxy is not None and place.scheme == "http"
        line.sock.settimeout(self.patience())
        line.putrequest(request.method, place.origin + target if is_relayed else target, skip_host=True, skip_accept_encoding=True)
        headers = [("Host", place.netloc), ("User-Agent", "delineate-mim/" + __version__), ("Accept-Encoding", "identity")]
        if place.token:  # goes to this server only: no redirect is followed
            headers += [("Authorization", "Bearer " + place.token), (TOKEN_HEADER, place.token)]
        if request.body is not None:
            headers.append(("Content-Length", str(request.body.length)))
        for name, value in [*headers, *request.headers, *(self._proxy_headers() if is_relayed else ())]:
            line.putheader(name, value)
        try:
            line.endheaders()
            self._pour(line)
        except ConnectionError:  # a server may refuse before it has read all, and close
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = line.getresponse()
                answer.will_close = True  # of the request there is more to come
                return answer
            raise
        return line.getresponse()

    def _proxy_headers(self) -> Iterator[Tuple[str, str]]:
        if self._proxy is not None and self._proxy.username is not None:
            pair = unquote(self._proxy.username) + ":" + unquote(self._proxy.password or "")
            yield "Proxy-Authorization", "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")

    def _pour(self, line: http.client.HTTPConnection) -> None:
        body, sent = self._request.body, 0
        for block in body or ():
            for start in range(0, len(block), BLOCK):
                line.sock.settimeout(self.patience())
                line.send(memoryview(block)[start : start + BLOCK])
            sent += len(block)
            if body is not None and body.length >= SHOWN_FROM:
                self._tell(Progress(sent / body.length, "sending %.0f MB" % (body.length / 1e6)))

    def _received(self, answer: http.client.HTTPResponse) -> bytes:
        """The body: into the sink where there is one, else in memory."""
        is_success, content, done, room = 200 <= answer.status < 300, bytearray(), 0, 0
        if self._request.peek and is_success:
            answer.will_close = True  # its body is left there
            return b""
        if (self.headers or {}).get("content-encoding", "identity") != "identity":
            raise AnswerError(
                "the server packs its answers, although it was asked not to", "Ask its administrator about a proxy before it."
            )
        sink = self._request.sink if is_success else None
        if sink is not None:
            begin_body(sink, answer.status, self.headers or {})
        length = answer.length or 0
        for block in _blocks(answer):
            done += len(block)
            if sink is not None:
                if done > room:
                    room = done + _room(sink, max(length, done) - done)
                _write(sink, block)
                continue
            content += block
            if done > LARGEST_TEXT:
                raise AnswerError("the server answered with more than %d MB where a few words were expected" % (LARGEST_TEXT >> 20))
        return bytes(content)

    def _failure(self, error: Exception) -> DelineateError:
        """What an error means once there is a connection."""
        where, is_late = self._place.origin, isinstance(error, socket.timeout)
        if is_late and self.headers is None:
            advice = "Try again later, allow more time, or check what stands between here and the server."
            return DeadlineError("%s was silent for %g s" % (where, min(self._place.timeout, self._request.timeout or SILENCE)), advice)
        if isinstance(error, (http.client.BadStatusLine, http.client.LineTooLong)) and not isinstance(error, ConnectionError):
            if "x15" in repr(str(error)):  # a TLS alert where a status line should be
                return AddressError("%s wants TLS" % where, "Write https:// instead of http:// in the server's address.")
            return AnswerError("%s does not speak HTTP" % where)
        advice = "The server or a proxy closed it; try again."
        if self._place.scheme == "http" and self.headers is None:
            advice += " If the server wants TLS, write https:// in its address."
        what = "%s stopped sending in the middle of an answer" if is_late else "the connection to %s was dropped"
        return ConnectionFailedError(what % where, advice, headers=self.headers)

    def _not_connected(self, error: Exception) -> DelineateError:
        """What an error means before there is a connection."""
        place, reason = self._place, getattr(error, "reason", None) or ""
        name = place.host if self._proxy is None else self._proxy.hostname
        where = place.origin if self._proxy is None else "the proxy %s on the way to %s" % (name, place.origin)
        if isinstance(error, ssl.SSLCertVerificationError):
            advice = CERTIFICATE_ADVICE.get(error.verify_code, "Write the file of its certificate authority into %s (ca_file)." % INI)
            return CertificateError(
                "the certificate of %s could not be verified: %s" % (place.origin, error.verify_message or reason), advice
            )
        if isinstance(error, ssl.SSLError):
            advice = "Perhaps it is http://%s%s" % (place.netloc, place.prefix)
            return AddressError("%s does not speak TLS (%s)" % (place.origin, reason or "broken handshake"), advice)
        what, advice = "no connection to %s: " + (getattr(error, "strerror", None) or "unreachable"), ""
        if isinstance(error, socket.timeout):
            what = "%s does not answer: no connection in time"
        elif isinstance(error, socket.gaierror):
            what, where, advice = "the name %s cannot be resolved", str(name), "Check the server's name."
        elif isinstance(error, ConnectionRefusedError):
            what = "%s refuses the connection: nothing listens there"
        elif self._proxy is not None:
            what, advice = "%s refuses to go on", "Check the system's proxy, or name this server among its exceptions (NO_PROXY)."
        return ConnectionFailedError(what % where, advice, is_refused=True)


class _Stream(io.RawIOBase):
    """What arrives on a socket, the call's limits looked at before each read: a server that drips bytes holds nobody."""

    def __init__(self, sock: Any, call: _Call) -> None:
        self._sock, self._call, self._raw = sock, call, sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._sock.settimeout(self._call.patience())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that is read through a `_Stream`."""

    def __init__(self, sock: Any, *arguments: Any, call: _Call, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Stream(sock, call))


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives; counted here, because not every Python does it for `read1`."""
    left = answer.length
    while left is None or left:
        block = answer.read1(BLOCK if left is None else min(BLOCK, left))
        if not block and left:
            raise http.client.IncompleteRead(b"")
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def _room(sink: BinaryIO, more: int) -> int:
    """Bytes that may come until the next look at the disk: a server may send without end."""
    if sink.tell() + more > LARGEST_RESULT:
        raise AnswerError("the server sent a result of more than %d GiB" % (LARGEST_RESULT >> 30), "Ask its administrator about the model.")
    with contextlib.suppress(OSError, TypeError, AttributeError):  # a sink without a place on a disk
        if shutil.disk_usage(os.path.dirname(os.path.abspath(sink.name))).free - more < SPARE:
            raise AnswerError("the result would fill the disk of the temporary folder", "Free space: %d MiB are kept free." % (SPARE >> 20))
    return 64 << 20


def _write(sink: BinaryIO, block: bytes) -> None:
    try:
        sink.write(block)
    except OSError as error:
        raise SettingsError("the result cannot be written: %s" % error.strerror, "Check the disk of the temporary folder.") from None
