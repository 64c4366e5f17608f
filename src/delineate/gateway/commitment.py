"""Storage commitment (PS3.4, annex J): a receiver says that it keeps what it was sent.

The request is an N-ACTION; the answer is an N-EVENT-REPORT, on the association of the request or, soon or much later, on
one that the receiver opens to the node. A receiver that accepts objects and drops them is found out by it alone.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from delineate.dicom.header import LONG
from delineate.dicom.parts import pydicom
from delineate.dicom.uids import new_uid
from delineate.gateway.dimse import NO_TRANSACTION

COMMITMENT: Final = "1.2.840.10008.1.20.1"
"""SOP Class UID of the Storage Commitment Push Model."""
INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""Its one well-known instance."""

_TRANSACTION: Final = (0x0008, 0x1195)
ACTION: Final = 1  # request for commitment
_SUCCESS: Final = 0x0000
_UNKNOWN: Final = 0x0110  # a failure without a reason


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a receiver said of one request: SOP Instance UIDs that it keeps, and those that it does not with the reason's code."""

    kept: frozenset[str] = frozenset()
    failed: Mapping[str, int] = field(default_factory=dict)


class Commitments:
    """What receivers were asked to commit to, and what they answered. For several threads.

    A request that a killed process left open is answered to nobody; what it was about is sent and asked for again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answers: dict[str, Answer | None] = {}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[str]:
        """The UID of a new request; answers to it are kept until the end of this."""
        uid = new_uid()
        with self._changed:
            self._answers[uid] = None
        try:
            yield uid
        finally:
            with self._changed:
                del self._answers[uid]

    def expects(self, uid: str) -> bool:
        """Whether a request is open."""
        with self._changed:
            return uid in self._answers

    def heard(self, dataset: Any) -> bool:
        """Take the answer of a receiver: the data set of an N-EVENT-REPORT, on whatever association it came.

        Returns
        -------
        bool
            Whether it belongs to an open request.
        """
        uid = str(dataset.get("TransactionUID", ""))
        kept = frozenset(str(item.get("ReferencedSOPInstanceUID", "")) for item in dataset.get("ReferencedSOPSequence") or ())
        failed = {
            str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or _UNKNOWN)
            for item in dataset.get("FailedSOPSequence") or ()
        }
        with self._changed:
            if uid not in self._answers:
                return False
            self._answers[uid] = Answer(kept=kept, failed=failed)
            self._changed.notify_all()
            return True

    def handle(self, event: Any) -> tuple[int, None]:
        """A handler for pynetdicom's EVT_N_EVENT_REPORT, of a node's SCP as of an association of its own."""
        try:
            is_known = self.heard(event.event_information)
        except Exception:  # a damaged data set, whatever it leads to
            is_known = False
        return (_SUCCESS if is_known else NO_TRANSACTION), None

    def wait(self, uid: str, seconds: float) -> Answer | None:
        """The answer to an open request, None where there is none in time."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._answers[uid] is None:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._answers[uid]


def transaction_of(data: bytes, is_implicit: bool) -> str:
    """The transaction that a report is about, by its first bytes; empty where none stands there."""
    at = 0
    while at + 8 <= len(data):
        group, element, vr, short = struct.unpack_from("<HH2sH", data, at)
        (length,) = struct.unpack_from("<I", data, at + 4)
        if not is_implicit:
            length = short
        if (group, element) == _TRANSACTION:
            return data[at + 8 : at + 8 + length].decode("latin-1").strip(" \0")
        if (group, element) > _TRANSACTION or (not is_implicit and vr in LONG):
            break
        at += 8 + length
    return ""


def request(uid: str, objects: Sequence[tuple[str, str]]) -> Any:
    """The data set of a request: objects by SOP Class and Instance UID (PS3.4, table J.3-1)."""
    library = pydicom()
    data = library.Dataset()
    data.TransactionUID = uid
    items = []
    for sop_class, instance in objects:
        item = library.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        items.append(item)
    data.ReferencedSOPSequence = items
    return data
