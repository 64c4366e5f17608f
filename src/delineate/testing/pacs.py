"""A receiver of DICOM objects that behaves as badly as asked for, on loopback.

Needs the extra ``gateway``.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from delineate.dicom.header import EXPLICIT, IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.gateway.commitment import COMMITMENT, INSTANCE
from delineate.gateway.parts import pynetdicom

RTSTRUCT: Final = "1.2.840.10008.5.1.4.1.1.481.3"
SEG: Final = "1.2.840.10008.5.1.4.1.1.66.4"

_ENDS: Final = 10.0  # seconds

Commits = Literal["same", "other", "fails", "partly", "never", "refuses"]


@dataclass(kw_only=True)
class Pacs:
    """How it behaves, and what came.

    classes : SOP classes that it takes; syntaxes : transfer syntaxes; statuses : of its answers by SOP class, else success;
    keeps : whether it keeps what it took; commits : how it answers a request for commitment: on the same association, on
    another one to `reports_to` by `our_title`, with failure, for all objects but the last, never, or not at all; None where
    it does not know such requests; breaks : after how many objects it aborts; titles : AE titles of ours that it knows, all
    by default; objects : what it keeps, by SOP Instance UID; came : UIDs of all that was sent, in order.
    """

    title: str = "PACS"
    classes: Sequence[str] = (RTSTRUCT, SEG)
    syntaxes: Sequence[str] = (IMPLICIT, EXPLICIT)
    statuses: Mapping[str, int] = field(default_factory=dict)
    keeps: bool = True
    commits: Commits | None = None
    reports_to: int = 0
    our_title: str = "DELINEATE"
    breaks: int | None = None
    titles: Collection[str] = ()
    requires_title: bool = False
    tls: ssl.SSLContext | None = None
    port: int = 0
    objects: dict[str, Any] = field(default_factory=dict)
    came: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[Pacs]:
        """While it listens on `port`, a free one by default."""
        library = pynetdicom()
        entity = library.AE(ae_title=self.title)
        entity.require_called_aet = self.requires_title
        entity.require_calling_aet = list(self.titles)
        for sop_class in self.classes:
            entity.add_supported_context(sop_class, list(self.syntaxes))
        if self.commits is not None:
            entity.add_supported_context(COMMITMENT)
        entity.add_supported_context("1.2.840.10008.1.1")
        handlers = [(library.evt.EVT_C_STORE, self._store), (library.evt.EVT_N_ACTION, self._asked)]
        with serving(entity, handlers, self.port, self.tls) as self.port:
            yield self

    def _store(self, event: Any) -> int:
        if self.breaks is not None and len(self.came) >= self.breaks:
            event.assoc.abort()
            return 0x0110
        data = event.dataset
        data.file_meta = event.file_meta
        self.came.append(str(data.SOPInstanceUID))
        status = self.statuses.get(str(data.SOPClassUID), 0)
        if self.keeps and (status == 0 or status >> 12 == 0xB):
            self.objects[str(data.SOPInstanceUID)] = data
        return status

    def _asked(self, event: Any) -> tuple[int, None]:
        if self.commits == "refuses":
            return 0x0110, None
        if self.commits != "never":
            report = self._report(event.action_information)
            tell: Callable[[Any, Any], None] = self._elsewhere if self.commits == "other" else self._here
            threading.Thread(target=tell, args=(event.assoc, report), daemon=True).start()
        return 0, None

    def _report(self, asked: Any) -> Any:
        library = pydicom()
        data = library.Dataset()
        data.TransactionUID = asked.TransactionUID
        items = list(asked.ReferencedSOPSequence)
        if self.commits == "fails":
            for item in items:
                item.FailureReason = 0x0112
            data.FailedSOPSequence = items
        else:
            data.ReferencedSOPSequence = items[:-1] if self.commits == "partly" else items
        return data

    def _here(self, association: Any, report: Any) -> None:
        association.send_n_event_report(report, 2 if "FailedSOPSequence" in report else 1, COMMITMENT, INSTANCE)

    def _elsewhere(self, association: Any, report: Any) -> None:
        library = pynetdicom()
        entity = library.AE(ae_title=self.title)
        entity.add_requested_context(COMMITMENT)
        role = library.build_role(COMMITMENT, scp_role=True)
        other = entity.associate("127.0.0.1", self.reports_to, ae_title=self.our_title, ext_neg=[role])
        if other.is_established:
            other.send_n_event_report(report, 1, COMMITMENT, INSTANCE)
            other.release()


@contextmanager
def serving(entity: Any, handlers: list[Any], port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port at which an application entity of pynetdicom listens on loopback, meanwhile; it ends at once."""
    server = entity.make_server(("127.0.0.1", port), evt_handlers=handlers, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        socketserver.BaseServer.shutdown(server)  # the library's own wants to be in a list that it keeps
        server.server_close()
        thread.join()
        for left in server.active_associations:  # of callers that said nothing, for whose request it would wait for half a minute
            left.dul.to_user_queue.put(None)
            left.kill()
            left.join(_ENDS)


@contextmanager
def relay(port: int, *, stops_after: int | None = None, pause: float = 0.0) -> Iterator[int]:
    """A port of loopback from which all goes on to another one: for a number of bytes, or a pause after each 128 kB."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # what is not taken on is not taken in
        thread = threading.Thread(target=_relay, args=(listener, port, stops_after, pause, ended), daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _relay(listener: socket.socket, port: int, stops_after: int | None, pause: float, ended: threading.Event) -> None:
    with suppress(OSError):
        near, _ = listener.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=_carry, args=(far, near), daemon=True)
            back.start()
            _carry(near, far, stops_after, lambda: ended.wait(pause))
            if stops_after is not None:
                ended.wait()
                for end in (near, far):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)  # wakes whoever reads there
            back.join()


def _carry(source: socket.socket, target: socket.socket, most: int | None = None, after: Callable[[], object] = lambda: None) -> None:
    count = 0
    with suppress(OSError):
        while (most is None or count < most) and (data := source.recv(1 << 17)):
            target.sendall(data)
            count += len(data)
            after()
        if most is None:
            target.shutdown(socket.SHUT_WR)


@contextmanager
def silent_port() -> Iterator[int]:
    """A port of loopback that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
