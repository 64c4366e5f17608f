"""A DICOM application entity as a destination: C-STORE (PS3.4, annex B), and a request for storage commitment."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delineate.dicom.header import EXPLICIT, IMPLICIT
from delineate.dicom.parts import pydicom
from delineate.errors import SettingsError
from delineate.gateway.commitment import ACTION, COMMITMENT, INSTANCE, Answer, Commitments, request
from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import DicomSettings
from delineate.gateway.objects import Object, objects_of
from delineate.gateway.parts import pynetdicom
from delineate.gateway.statuses import is_there, may_pass, words

_TOGETHER: Final = 5.0  # seconds in which a commitment is waited for on the association of its request
_SLOWEST: Final = 500_000  # bytes a second at which an object may go
_TITLES: Final = {3: "does not know our AE title {calling}", 7: "has no AE title {ae}"}
_VERIFICATION: Final = "1.2.840.10008.1.1"
_AGAIN: Final = "It is tried again."
_SEE_LOG: Final = "The log of the receiver says more; correct the object's options in the rules, or send it to another destination."


@dataclass
class _Sent:
    """What became of the objects: sentences on those that are not there, and whether all of these are refused for good."""

    failures: list[str]
    is_final: bool = True

    def fails(self, text: str, is_final: bool) -> None:
        self.failures.append(text)
        self.is_final = self.is_final and is_final

    def require_all(self, peer: str) -> None:
        """`DeliveryError` where anything failed."""
        if self.failures:
            raise DeliveryError(f"{peer}: {'; '.join(self.failures)}", _SEE_LOG if self.is_final else _AGAIN, self.is_final)


class DicomDestination:
    """Sends files by C-STORE, and asks for commitment where the settings say so.

    Raises
    ------
    SettingsError
        A file of the settings for TLS cannot be used.
    """

    def __init__(self, settings: DicomSettings, commitments: Commitments) -> None:
        self.settings, self.commitments = settings, commitments
        self._network = pynetdicom()
        self._trust = _trust(settings) if settings.tls else None

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """As `Destination.deliver`. All objects are sent, also where one of them is refused."""
        objects, notes = objects_of(files), [] if notes is None else notes
        if not self.settings.commitment:
            with self._association(self._contexts(objects)) as association:
                self._send(association, objects, notes)
            return
        with self.commitments.transaction() as uid:
            with self._association(self._contexts(objects)) as association:
                self._send(association, objects, notes)
                end = time.monotonic() + self.settings.commitment_timeout
                self._ask(association, uid, objects)
                answer = self.commitments.wait(uid, min(_TOGETHER, self.settings.commitment_timeout))
            answer = answer or self.commitments.wait(uid, end - time.monotonic())
        self._judge(answer, objects)

    def ask(self) -> None:
        """As `Destination.ask`: by an association, and an echo."""
        with self._association([self._network.presentation.build_context(_VERIFICATION)]) as association:
            if association.send_c_echo().get("Status") is None:
                raise DeliveryError(f"{self._peer} does not answer", _AGAIN)

    def _send(self, association: Any, objects: Sequence[Object], notes: list[str]) -> None:
        sent = _Sent([])
        for number, item in enumerate(objects):
            if not association.is_established:
                left = len(objects) - number
                sent.fails(f"the association broke off before {left} object{'' if left == 1 else 's'}", False)
                break
            self._send_one(association, item, sent, notes)
        sent.require_all(self._peer)

    def _send_one(self, association: Any, item: Object, sent: _Sent, notes: list[str]) -> None:
        # The library counts sending in. A receiver that takes nothing for so long is given up by `_limit` before.
        association.dimse_timeout = self.settings.timeout + item.path.stat().st_size / _SLOWEST
        try:
            status = association.send_c_store(item.path if _is_taken(association, item) else pydicom().dcmread(item.path))
        except ValueError:  # what it means is that no context was accepted
            sent.fails(f"{item} is not taken ({item.encoding})", True)
            return
        except RuntimeError:
            sent.fails(f"the association broke off before {item}", False)
            return
        code = status.get("Status")
        if code is None:
            sent.fails(f"no answer to {item} within {self.settings.timeout:g} s, or the association broke off", False)
        elif not is_there(code):
            sent.fails(f"{item} was refused: {words(code)}", not may_pass(code))
        elif code:
            notes.append(f"{self._peer} took {item} with a warning: {words(code)}")

    def _ask(self, association: Any, uid: str, objects: Sequence[Object]) -> None:
        try:
            data = request(uid, [(item.sop_class, item.uid) for item in objects])
            status, _ = association.send_n_action(data, ACTION, COMMITMENT, INSTANCE)
        except ValueError:
            advice = "Switch it on there, or write commitment = false for this destination."
            raise DeliveryError(f"{self._peer} does not take requests for storage commitment", advice, True) from None
        except RuntimeError:
            raise DeliveryError(f"{self._peer} broke the association off before it was asked for commitment", _AGAIN) from None
        code = status.get("Status")
        if code is None:
            raise DeliveryError(f"{self._peer} did not answer the request for storage commitment", _AGAIN)
        if not is_there(code):
            raise DeliveryError(f"{self._peer} refused the request for storage commitment: {words(code)}", _AGAIN)

    def _judge(self, answer: Answer | None, objects: Sequence[Object]) -> None:
        if answer is None:
            raise DeliveryError(
                f"{self._peer} took {len(objects)} objects, but did not commit to them within {self.settings.commitment_timeout:g} s",
                "It is tried again. Check that the receiver knows this node's address and port, to which it reports.",
            )
        sent = _Sent([])
        for item in objects:
            if item.uid in answer.failed:
                code = answer.failed[item.uid]
                sent.fails(f"{item} was taken and is not kept: {words(code)}", not may_pass(code))
            elif item.uid not in answer.kept:
                sent.fails(f"{item} was taken, and the commitment says nothing of it", False)
        sent.require_all(self._peer)

    @property
    def _peer(self) -> str:
        return f"{self.settings.name} ({self.settings.ae} at {self.settings.host}:{self.settings.port})"

    @contextlib.contextmanager
    def _association(self, contexts: list[Any]) -> Iterator[Any]:
        settings = self.settings
        entity = _entity(self._network, settings.calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = settings.timeout
        entity.requested_contexts = contexts
        events = self._network.evt
        handlers = [(events.EVT_N_EVENT_REPORT, self.commitments.handle), (events.EVT_CONN_OPEN, self._limit)]
        arguments = {"tls_args": (self._trust, settings.host)} if self._trust else {}
        try:
            association = entity.associate(settings.host, settings.port, ae_title=settings.ae, evt_handlers=handlers, **arguments)
        except OSError as error:
            raise self._unreachable(error) from None
        if not association.is_established:
            raise self._refused(association)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()
            if not association.is_released:
                association.abort()

    def _limit(self, event: Any) -> None:
        """A receiver that takes no more bytes, or stops in the middle of an answer, is given up: the library would wait without end."""
        event.assoc.dul.socket.socket.settimeout(self.settings.timeout)

    def _contexts(self, objects: Sequence[Object]) -> list[Any]:
        """By class, the encoding that the files have; then, for those that are not compressed, the one that everybody takes.

        They stand apart, so that the receiver is asked about each: contours longer than 64 kB are at home in one only.
        """
        build = self._network.presentation.build_context
        pairs = dict.fromkeys((item.sop_class, item.syntax) for item in objects)
        for sop_class, syntax in list(pairs):
            if syntax in (IMPLICIT, EXPLICIT):
                pairs.update(dict.fromkeys([(sop_class, IMPLICIT), (sop_class, EXPLICIT)]))
        contexts = [build(sop_class, syntax) for sop_class, syntax in pairs]
        return contexts + ([build(COMMITMENT)] if self.settings.commitment else [])

    def _refused(self, association: Any) -> DeliveryError:
        """Why there is no association."""
        settings = self.settings
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            if answer.result_source == 1 and answer.diagnostic in _TITLES:
                text = _TITLES[answer.diagnostic].format(ae=settings.ae, calling=settings.calling)
                return DeliveryError(f"{self._peer} {text}", "Check the AE titles here and there. " + _AGAIN)
            return DeliveryError(f"{self._peer} rejects the association: {answer.reason_str}", _AGAIN)
        if answer is not None and answer.result == 0:  # accepted, but none of the contexts
            named = ", ".join(dict.fromkeys(str(item.abstract_syntax.name) for item in association.requestor.requested_contexts))
            return DeliveryError(f"{self._peer} takes none of {named}", _SEE_LOG, True)
        try:
            self._probe()
        except OSError as error:
            return self._unreachable(error)
        perhaps = "does not speak TLS" if self._trust else "wants TLS"
        advice = f"Perhaps it {perhaps}, or has as many associations as it takes. {_AGAIN}"
        return DeliveryError(f"{self._peer} took the connection, but no association within {settings.timeout:g} s", advice)

    def _probe(self) -> None:
        """Connect once more, because the library does not say why it could not."""
        with socket.create_connection((self.settings.host, self.settings.port), self.settings.timeout) as plain:
            if self._trust:
                with self._trust.wrap_socket(plain, server_hostname=self.settings.host):
                    pass

    def _unreachable(self, error: OSError) -> DeliveryError:
        if isinstance(error, ssl.SSLCertVerificationError):
            advice = "Name the file of its authority (ca_file), and use the host's name that the certificate is made for."
            return DeliveryError(f"{self._peer}: its certificate could not be verified: {error.verify_message}", advice)
        if isinstance(error, ssl.SSLError):
            return DeliveryError(
                f"{self._peer} does not speak TLS as it should: {error.reason}", "Check tls and certificate_file. " + _AGAIN
            )
        if isinstance(error, socket.gaierror):
            return DeliveryError(f"{self._peer}: its name cannot be resolved", "Check the host's name. " + _AGAIN)
        if isinstance(error, ConnectionRefusedError):
            return DeliveryError(f"{self._peer} refuses the connection: nothing listens there", _AGAIN)
        if isinstance(error, TimeoutError):
            return DeliveryError(f"{self._peer} does not answer within {self.settings.timeout:g} s", _AGAIN)
        return DeliveryError(f"{self._peer} cannot be reached: {error.strerror or error}", _AGAIN)


def _is_taken(association: Any, item: Object) -> bool:
    """Whether the receiver takes the object in the encoding that its file has."""
    contexts = ((one.abstract_syntax, one.transfer_syntax[0]) for one in association.accepted_contexts)
    return (item.sop_class, item.syntax) in contexts


def _entity(network: Any, title: str) -> Any:
    """An application entity whose sockets are closed also where they never were connected: the library forgets them open."""
    entity = network.AE(ae_title=title)
    create = getattr(entity, "_create_socket", None)
    if create is None:
        return entity

    def created(*arguments: Any) -> Any:
        made = create(*arguments)
        shut = made._shutdown_socket

        def closed() -> None:
            raw = made.socket
            shut()
            if raw is not None:
                raw.close()

        made._shutdown_socket = closed
        return made

    entity._create_socket = created
    return entity


def _trust(settings: DicomSettings) -> ssl.SSLContext:
    """Certificate and name of the receiver are verified, always; a file of one certificate is an authority for it."""
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        if settings.ca_file:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if settings.certificate_file:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the files for TLS of destination {settings.name} cannot be used: {error}", "Give PEM files.") from None
    return context
