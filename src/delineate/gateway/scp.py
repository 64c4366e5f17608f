"""The door: listens, decides who may come in, and what is taken of them."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any, Final, Protocol

from delineate.dicom.header import BIG_ENDIAN, EXPLICIT, IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.errors import SettingsError
from delineate.gateway import upper_layer as layer
from delineate.gateway.association import Association, Link, Refusal, Sink
from delineate.gateway.commitment import COMMITMENT, transaction_of
from delineate.gateway.dimse import EVENT_REPORT, NO_TRANSACTION, NOT_UNDERSTOOD, STORE, SUCCESS, Command
from delineate.gateway.lines import Line, Lines, Sparing, places
from delineate.gateway.node_settings import Network, NodeSettings, Tls, require_file
from delineate.gateway.store import Store
from delineate.gateway.upper_layer import Answered, Proposed, Request

_LOG: Final = logging.getLogger("delineate.gateway")

VERIFICATION: Final = "1.2.840.10008.1.1"
_DICOM: Final = "1.2.840.10008."
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_MORE_STORAGE: Final = ("1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.4.34.10")  # RT beams and deliveries
_SYNTAX: Final = re.compile(r"1\.2\.840\.10008\.1\.2(\.[0-9]{1,8}){0,4}")
_UID: Final = re.compile(r"[0-9][0-9.]{0,63}")
_EVENT: Final = 1 << 24  # bytes of a report
_EVENT_HEAD: Final = 1 << 12  # bytes in which its transaction stands
_HANDSHAKE: Final = 10.0  # seconds
_MORE: Final = 16  # connections beyond the limit of associations: those that have none yet, or are told that there are too many


class Reports(Protocol):
    """Who waits for reports of storage commitment."""

    def expects(self, uid: str) -> bool:
        """Whether a transaction is open."""

    def heard(self, dataset: Any) -> object:
        """Take a report."""


class Door:
    """What associations are for: echo, storage, and reports of storage commitment.

    reports : who takes those; others are answered, and not read.

    Attributes
    ----------
    end_idle : ends an association that is of no use, where there are too many; whether there was one.
    """

    def __init__(self, settings: NodeSettings, store: Store, reports: Reports | None = None) -> None:
        self._settings = settings
        self._store = store
        self._reports = reports
        self._lock = threading.Lock()
        self._open: set[Link] = set()
        self.end_idle: Callable[[], bool] = lambda: False

    def refusal(self, request: Request, link: Link) -> tuple[Refusal, str] | None:
        """Unknown titles and addresses for good, too many associations for now."""
        settings, user, good = self._settings, layer.BY_USER, layer.REJECTED_FOR_GOOD
        if not _is_within(link.address, settings.networks):
            return (good, user, layer.NO_REASON), "its address is not among the networks that may call"
        if request.application != layer.APPLICATION:
            return (good, user, layer.APPLICATION_UNKNOWN), "it speaks of another application"
        if settings.strict and request.called != settings.ae:
            return (good, user, layer.CALLED_UNKNOWN), f"it calls {request.called!r}; we are {settings.ae!r}"
        if settings.callers and request.calling not in settings.callers:
            return (good, user, layer.CALLING_UNKNOWN), "its title is not among the callers"
        with self._lock:
            if len(self._open) >= settings.limits.associations and not self.end_idle():
                return (layer.REJECTED_FOR_NOW, layer.BY_PRESENTATION, layer.TOO_MANY), "there are too many associations"
            self._open.add(link)
        return None

    def answers(self, request: Request) -> tuple[list[Answered], Mapping[str, tuple[bool, bool]]]:
        """Storage of every class in the first encoding that is proposed; a receiver's reports where it is the provider."""
        roles = {uid: (False, True) for uid, (_, scp) in request.roles.items() if uid == COMMITMENT and scp}
        return [self._answered(item) for item in request.contexts], roles

    def _answered(self, proposed: Proposed) -> Answered:
        uid = proposed.abstract
        if uid in (VERIFICATION, COMMITMENT):
            syntaxes = [item for item in proposed.syntaxes if item in (IMPLICIT, EXPLICIT)]
        elif _is_storage(uid):
            known = [item for item in proposed.syntaxes if _SYNTAX.fullmatch(item)]
            syntaxes = [item for item in known if item != BIG_ENDIAN] or known  # retired; few can read it
        else:
            return Answered(proposed.number, uid, IMPLICIT, 3)
        return Answered(proposed.number, uid, syntaxes[0]) if syntaxes else Answered(proposed.number, uid, IMPLICIT, 4)

    def begin(self, link: Link, context: Answered, command: Command) -> Sink | None:
        """Of a store and of a report."""
        if command.field == STORE and context.abstract not in (VERIFICATION, COMMITMENT):
            return self._store.begin(link, context, command)
        if command.field == EVENT_REPORT and context.abstract == COMMITMENT and self._reports is not None:
            return _Report(self._reports, context.syntax)
        return None

    def ended(self, link: Link, is_whole: bool) -> None:
        """One less."""
        with self._lock:
            self._open.discard(link)
        self._store.ended(link, is_whole)


def _is_storage(uid: str) -> bool:
    is_private = _UID.fullmatch(uid) is not None and not uid.startswith(_DICOM)
    return uid.startswith(_STORAGE) or uid in _MORE_STORAGE or is_private


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    if not networks:
        return True
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(found, "ipv4_mapped", None) or found
    return any(plain in network for network in networks)


class _Report:
    """Gathers the data set of a report. It is decoded where its transaction is open alone: what a stranger makes up, such as
    a million items without content, would take memory and processor for nothing."""

    def __init__(self, reports: Reports, syntax: str) -> None:
        self._reports, self._is_implicit = reports, syntax == IMPLICIT
        self._data = bytearray()
        self._is_wanted: bool | None = None

    def write(self, data: memoryview) -> None:
        if self._is_wanted is False:
            return
        if len(self._data) + len(data) > _EVENT:
            raise layer.ProtocolError("a report that does not end")
        self._data += data
        if self._is_wanted is None and len(self._data) >= _EVENT_HEAD:
            self._look()

    def _look(self) -> None:
        uid = transaction_of(bytes(self._data[:_EVENT_HEAD]), self._is_implicit)
        self._is_wanted = self._reports.expects(uid)
        if not self._is_wanted:
            self.discard()

    def end(self) -> tuple[int, str]:
        if self._is_wanted is None:
            self._look()
        if not self._is_wanted:
            return NO_TRANSACTION, "no such transaction is open"
        library = pydicom()
        try:
            data = library.filereader.read_dataset(BytesIO(bytes(self._data)), self._is_implicit, True)
            len(data)
        except Exception:  # pydicom raises whatever damaged bytes lead to
            return NOT_UNDERSTOOD, "the report cannot be read"
        self._reports.heard(data)
        return SUCCESS, ""

    def discard(self) -> None:
        self._data = bytearray()


class Listener:
    """Takes connections, a thread each, until it is closed.

    Attributes
    ----------
    port : that it listens at.
    """

    def __init__(self, settings: NodeSettings, door: Door) -> None:
        self._settings = settings
        self._door = door
        self._tls = None if settings.tls is None else _context(settings.tls)
        self._lines = Lines(places(settings.limits.associations + _MORE))
        self._strangers = Sparing()
        door.end_idle = self._lines.end_idle
        self._is_closed = False
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            self._socket = socket.create_server((settings.host, settings.port), family=family, backlog=128)
        except OSError as error:
            place = f"{settings.host}:{settings.port}"
            raise SettingsError(f"the node cannot listen at {place}: {error.strerror}", "Set another host or port.") from None
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, name="gateway-door", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Take no more, and end associations that are open: their senders will send again."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        end = time.monotonic() + seconds
        for line in self._lines.cut():
            if line.thread is not None:
                line.thread.join(max(0.0, end - time.monotonic()))

    def _listen(self) -> None:
        while not self._is_closed:
            try:
                found, address = self._socket.accept()
            except OSError:
                if self._is_closed:
                    return
                self._lines.make_room()  # out of file descriptors, most likely
                time.sleep(0.1)
                continue
            self._begin(Line(found, address[0]))

    def _begin(self, line: Line) -> None:
        if not self._lines.take(line):
            self._strangers.warning("a connection of %s was closed: there are too many", line.address)
            line.socket.close()
            return
        thread = threading.Thread(target=self._serve, args=(line,), name="gateway-association", daemon=True)
        try:
            thread.start()
            line.thread = thread  # it runs: `close` can wait for it
        except RuntimeError:  # no more threads
            self._strangers.warning("a connection of %s was closed: the system gives no more threads", line.address)
            self._lines.leave(line)
            line.socket.close()

    def _serve(self, line: Line) -> None:
        try:
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                line.socket = secured = self._tls.wrap_socket(line.socket, server_side=True, do_handshake_on_connect=False)
                secured.settimeout(_HANDSHAKE)
                secured.do_handshake()
            talk = Association(line.socket, line.address, self._door, self._settings.limits, partial(self._unheard, line))
            line.talk = talk
            talk.run()
        except OSError as error:
            words = getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
            self._unheard(line, "a connection of %s failed: %s", line.address, words)
        finally:
            self._lines.leave(line)
            line.socket.close()

    def _unheard(self, line: Line, words: str, *values: object) -> None:
        """Say what went wrong on a line without an association."""
        if line.is_dropped:
            words, values = "a connection of %s was closed: it said nothing, and others wanted its place", (line.address,)
        self._strangers.warning(words, *values)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key = None if tls.key_file is None else require_file(tls.key_file, "our key")
    try:
        context.load_cert_chain(require_file(tls.certificate_file, "our certificate"), key)
        if tls.ca_file is not None:
            context.load_verify_locations(require_file(tls.ca_file, "the callers' authority"))
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"a certificate of the node cannot be used: {error}", "Give PEM files that belong together.") from None
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}[tls.clients]
    return context
