"""One association, from its first byte to its last, in a thread of its own: bytes in, answers out, nothing kept of what is received."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from delineate.gateway import upper_layer as layer
from delineate.gateway.dimse import CANCEL, ECHO, NOT_UNDERSTOOD, SUCCESS, UNKNOWN_OPERATION, Command, answer, read_command
from delineate.gateway.node_settings import Limits
from delineate.gateway.upper_layer import Answered, ProtocolError, Request

_LOG: Final = logging.getLogger("delineate.gateway")
_COMMAND: Final = 1 << 16  # bytes of a command
_FIRST: Final = 10.0  # seconds for a caller to say what it wants: who says nothing must not keep others out
_PATIENCE: Final = 5.0  # seconds in which an association that brings nothing does not count as idle
_LINGER: Final = 2.0  # seconds that a caller has to hang up

Refusal = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Link:
    """Who is at the other end: title and address. Each association has one of its own."""

    calling: str
    address: str

    def __str__(self) -> str:
        return f"{self.calling!r} at {self.address}"


class Sink(Protocol):
    """Takes a data set, in pieces."""

    def write(self, data: memoryview) -> None:
        """The next piece, which is lent."""

    def end(self) -> tuple[int, str]:
        """All is there: what to answer, as status and words of at most 64 letters."""

    def discard(self) -> None:
        """It broke off."""


class Services(Protocol):
    """What associations are for. Called by their threads."""

    def refusal(self, request: Request, link: Link) -> tuple[Refusal, str] | None:
        """Why an association is refused: what is answered, and words for the log."""

    def answers(self, request: Request) -> tuple[list[Answered], Mapping[str, tuple[bool, bool]]]:
        """What becomes of the proposed contexts and roles."""

    def begin(self, link: Link, context: Answered, command: Command) -> Sink | None:
        """What takes the data set of a command, None where it is of no kind that is served."""

    def ended(self, link: Link, is_whole: bool) -> None:
        """The association is over; `is_whole`: as the protocol has it."""


class Association:
    """Serves one connection until it ends.

    unheard : says in the log what goes wrong before there is an association.
    """

    def __init__(
        self, line: socket.socket, address: str, services: Services, limits: Limits, unheard: Callable[..., None] = _LOG.warning
    ) -> None:
        self._line = line
        self._services = services
        self._limits = limits
        self._link = Link("", address)
        self._end = time.monotonic() + limits.association
        self._buffer = memoryview(bytearray(limits.pdu))
        self._accepted: dict[int, Answered] = {}
        self._longest = 0
        self._command = bytearray()
        self._asked: tuple[int, Command] | None = None
        self._sink: Sink | None = None
        self._is_open = self._is_used = self._is_ending = False
        self._since = time.monotonic()
        self._unheard = unheard

    @property
    def is_open(self) -> bool:
        """Whether there is an association: it was accepted, and its end is not told yet."""
        return self._is_open or self._is_ending

    @property
    def is_idle(self) -> bool:
        """Whether there is one that brought no data set yet, though it had time."""
        return self._is_open and not self._is_used and time.monotonic() - self._since > _PATIENCE

    def run(self) -> None:
        """Until the caller releases, aborts or breaks off, or breaks the protocol; raises nothing."""
        try:
            self._line.settimeout(min(_FIRST, self._limits.idle))
            if self._negotiate():
                self._line.settimeout(self._limits.idle)
                self._serve()
        except ProtocolError as error:
            self._warn("association of %s ended: it sent %s", error)
            self._say_last(layer.abort(layer.ABORTED_BY_PROVIDER, layer.INVALID))
        except OSError as error:
            self._warn("association of %s broke off: %s", error.strerror or str(error) or type(error).__name__)
            self._say_last(layer.abort(layer.ABORTED_BY_PROVIDER))
        except Exception as error:  # its words might hold a patient's
            _LOG.error("association of %s failed: %s", self._link, type(error).__name__)
            self._say_last(layer.abort(layer.ABORTED_BY_PROVIDER))
        finally:
            if self._sink is not None:
                self._sink.discard()
            self._over(is_whole=False)
            self._is_ending = False
            self._hang_up()

    def _warn(self, words: str, reason: object) -> None:
        (_LOG.warning if self._is_open else self._unheard)(words, self._link, reason)

    def _over(self, is_whole: bool) -> None:
        if self._is_open:
            self._is_open = False
            self._services.ended(self._link, is_whole)

    def _negotiate(self) -> bool:
        kind, body = self._unit(layer.REQUEST)
        if kind == layer.ABORT:
            return False
        request = layer.read_request(bytes(body))
        self._link = Link(request.calling, self._link.address)
        refusal = self._services.refusal(request, self._link)
        if refusal is not None:
            self._warn("association of %s refused: %s", refusal[1])
            self._line.sendall(layer.reject(*refusal[0]))
            return False
        self._is_open, self._since = True, time.monotonic()
        answers, roles = self._services.answers(request)
        self._accepted = {item.number: item for item in answers if item.result == 0}
        self._longest = request.longest
        self._line.sendall(layer.accept(request, answers, self._limits.pdu, roles))
        _LOG.info("association of %s: %d of %d contexts", self._link, len(self._accepted), len(answers))
        return True

    def _serve(self) -> None:
        while True:
            kind, body = self._unit(layer.DATA)
            if kind == layer.DATA:
                for number, control, data in layer.fragments(body):
                    self._take(number, control, data)
            elif kind == layer.RELEASE:
                self._is_ending = True
                self._over(is_whole=self._asked is None and not self._command)  # before it is told so
                self._line.sendall(layer.released())
                return
            else:
                _LOG.warning("association of %s was aborted by it", self._link)
                return

    def _unit(self, expected: int) -> tuple[int, memoryview]:
        """The next unit: of the kind that is expected, a release or an abort. Its bytes are good until the next one."""
        if time.monotonic() > self._end:
            raise TimeoutError("it lasted too long")
        first = time.monotonic() + _FIRST if expected == layer.REQUEST else None
        head = self._exactly(memoryview(bytearray(layer.HEADER.size)), first)
        kind, length = layer.HEADER.unpack(head)
        layer.require_length(kind, length, self._limits.pdu)
        allowed = (expected, layer.ABORT) if expected == layer.REQUEST else (expected, layer.ABORT, layer.RELEASE)
        if kind not in allowed:
            raise ProtocolError(f"a unit of the kind {kind} where none may be")
        space = self._buffer if length <= len(self._buffer) else memoryview(bytearray(length))
        return kind, self._exactly(space[:length], time.monotonic() + self._limits.unit)

    def _exactly(self, view: memoryview, end: float | None) -> memoryview:
        at = 0
        while at < len(view):
            count = self._line.recv_into(view[at:])
            if count == 0:
                raise ConnectionError("it hung up")
            at += count
            if at < len(view) and end is not None and time.monotonic() > end:
                raise TimeoutError("it sends too slowly")
        return view

    def _take(self, number: int, control: int, data: memoryview) -> None:
        if control & layer.COMMAND:
            if self._asked is not None:
                raise ProtocolError("a command in the middle of a data set")
            self._command += data
            if len(self._command) > _COMMAND:
                raise ProtocolError("a command that does not end")
            if control & layer.LAST:
                self._begin(number, read_command(bytes(self._command)))
                self._command = bytearray()
            return
        if self._asked is None or self._asked[0] != number:
            raise ProtocolError("a data set without its command")
        if self._sink is not None:
            self._sink.write(data)
        if control & layer.LAST:
            self._finish()

    def _begin(self, number: int, command: Command) -> None:
        context = self._accepted.get(number)
        if context is None:
            raise ProtocolError("a command in a context that was not accepted")
        if command.field & 0x8000:
            raise ProtocolError("an answer that nobody asked for")
        if command.has_data:
            self._asked = number, command
            self._sink = self._services.begin(self._link, context, command)
            self._is_used |= self._sink is not None
        elif command.field == ECHO:
            self._answer(number, command, SUCCESS)
        elif command.field != CANCEL:  # of what is done already
            self._answer(number, command, UNKNOWN_OPERATION)

    def _finish(self) -> None:
        assert self._asked is not None
        (number, command), sink = self._asked, self._sink
        status, words = (UNKNOWN_OPERATION, "") if sink is None else sink.end()
        self._asked = self._sink = None
        if status != SUCCESS:
            _LOG.warning("%s: answered %04X: %s", self._link, status, words or "not served")
        self._answer(number, command, status, words)

    def _answer(self, number: int, command: Command, status: int, words: str = "") -> None:
        try:
            said = answer(command, status, words)
        except ProtocolError:
            said = answer(command, NOT_UNDERSTOOD)
        self._line.sendall(layer.command_units(number, said, self._longest))

    def _say_last(self, unit: bytes) -> None:
        with contextlib.suppress(OSError):
            self._line.settimeout(_LINGER)
            self._line.sendall(unit)

    def _hang_up(self) -> None:
        """Wait a moment for the caller to hang up first: what we said last would be lost with bytes that nobody read."""
        with contextlib.suppress(OSError):
            self._line.settimeout(_LINGER)
            self._line.shutdown(socket.SHUT_WR)
            end = time.monotonic() + _LINGER
            while time.monotonic() < end and self._line.recv(1 << 16):
                pass
        with contextlib.suppress(OSError):
            self._line.close()
