"""C-STORE: an object is on the disk, with all that is known of it, before its sender hears so."""

from __future__ import annotations

import errno
import logging
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

from delineate.dicom.header import Header, NotDicomError
from delineate.errors import ImageError, StoreError
from delineate.gateway.association import Link
from delineate.gateway.completion import Completion
from delineate.gateway.dimse import DOES_NOT_MATCH, KEPT_ASIDE, NOT_UNDERSTOOD, OUT_OF_RESOURCES, SUCCESS, Command
from delineate.gateway.holdings import Holdings
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.spool import Part, Spool, TooLargeError, meta, same_object
from delineate.gateway.upper_layer import Answered

_LOG: Final = logging.getLogger("delineate.gateway")
_UID: Final = re.compile(r"[0-9][0-9.]{0,63}")

_MODALITY: Final = re.compile(r"[A-Z0-9_]{0,16}")

_OTHER: Final = "other content than before came for one instance: kept aside, the first stays"


class Store:
    """Takes objects. For several threads."""

    def __init__(self, settings: NodeSettings, holdings: Holdings, spool: Spool, completion: Completion) -> None:
        self._settings = settings
        self._holdings = holdings
        self._spool = spool
        self._completion = completion
        self._refused: set[Link] = set()
        self._unsynced: dict[Link, list[Path]] = defaultdict(list)  # each list is its link's thread's

    def begin(self, link: Link, context: Answered, command: Command) -> Arrival:
        """What takes one object."""
        arrival = Arrival(self, link, command)
        if not _UID.fullmatch(command.sop_class) or not _UID.fullmatch(command.instance):
            arrival.fault = NOT_UNDERSTOOD, "the command has no proper SOP class and instance UID"
        elif command.sop_class != context.abstract:
            arrival.fault = DOES_NOT_MATCH, "the SOP class is not that of the presentation context"
        elif self._is_full():
            arrival.fault = OUT_OF_RESOURCES, "the node's disk is full, or its limit is reached"
        else:
            before = meta(command.sop_class, command.instance, context.syntax, link.calling)
            arrival.part = self._spool.part(before, self._settings.limits.instance)
        return arrival

    def _is_full(self) -> bool:
        settings = self._settings
        return self._spool.free() < settings.spare or (math.isfinite(settings.most) and self._holdings.held() > settings.most)

    def ended(self, link: Link, is_whole: bool) -> None:
        """An association is over; what it brought is on the disk before it hears so."""
        is_whole = is_whole and link not in self._refused
        self._refused.discard(link)
        try:
            self._spool.sync(self._unsynced.pop(link, []))
        except OSError as error:
            _LOG.error("what %s sent may not stay on the disk: %s", link, error.strerror)
            is_whole = False
        try:
            self._completion.ended(link, is_whole)
        except StoreError as error:
            _LOG.error("%s", error.sentence())

    def refused(self, link: Link, uid: str) -> None:
        """An object was not taken: what its association brought is not all there is, whatever its end."""
        self._refused.add(link)
        self._completion.refused(link, uid)

    def keep(self, link: Link, command: Command, part: Part, header: Header) -> tuple[int, str]:
        """Bring an object to the disk and note it; what to answer."""
        uid = header.text("SeriesInstanceUID")
        series = self._holdings.series(uid, link.calling, _shown(header.text("Modality")))
        self._completion.arrived(series, link)
        is_synced = self._settings.disk == "object"
        path = part.keep(self._spool.series(series), is_synced)
        known = self._holdings.add(series, command.instance, path.name, part.size)
        self._completion.taken(link, command.instance)
        if known == path.name:
            if not is_synced:
                self._unsynced[link].append(path)
            return SUCCESS, ""
        if same_object(path, path.with_name(known)):
            part.discard()
            return SUCCESS, ""
        before = self._holdings.rows("SELECT file FROM aside WHERE series = ? AND uid = ?", series, command.instance)
        if any(same_object(path, self._spool.aside / row["file"]) for row in before):
            part.discard()
        else:
            self._holdings.set_aside(series, command.instance, self._spool.set_aside(path, series).name, _OTHER)
        return KEPT_ASIDE, "another object of this UID is here; this one is kept aside"


class Arrival:
    """An object that comes. After a fault the rest of it is read and forgotten."""

    def __init__(self, store: Store, link: Link, command: Command) -> None:
        self._store, self._link, self._command = store, link, command
        self.part: Part | None = None
        self.fault: tuple[int, str] | None = None

    def write(self, data: memoryview) -> None:
        """The next piece."""
        if self.part is None or self.fault is not None:
            return
        try:
            self.part.write(data)
        except TooLargeError:
            self._fail(OUT_OF_RESOURCES, "the object is larger than the node takes")
        except OSError as error:
            self._fail(*_fault(error))

    def _fail(self, status: int, words: str) -> None:
        self.fault = status, words
        self._drop()

    def end(self) -> tuple[int, str]:
        """Keep it."""
        if self.fault is None and self.part is not None:
            try:
                self._keep(self.part)
            except OSError as error:
                self._fail(*_fault(error))
            except StoreError as error:
                _LOG.error("%s", error.sentence())
                self._fail(OUT_OF_RESOURCES, "the node's database cannot take it")
        if self.fault is not None and self.fault[0] != KEPT_ASIDE:
            self._store.refused(self._link, self._command.instance)
        return self.fault or (SUCCESS, "")

    def _keep(self, part: Part) -> None:
        try:
            header = part.header()
        except (ImageError, NotDicomError):
            self._fail(NOT_UNDERSTOOD, "the data set cannot be read")
            return
        words = _mismatch(header, self._command)
        if words:
            self._fail(DOES_NOT_MATCH, words)
        elif header.packed < 0 and header.length > 0 and header.offset + header.length > header.size:
            self._fail(NOT_UNDERSTOOD, "the data set is cut off")
        else:
            status, said = self._store.keep(self._link, self._command, part, header)
            self.fault = (status, said) if status else None

    def discard(self) -> None:
        """It broke off."""
        self._drop()
        self._store.refused(self._link, self._command.instance)

    def _drop(self) -> None:
        if self.part is not None:
            self.part.discard()
            self.part = None


def _mismatch(header: Header, command: Command) -> str:
    if header.text("SOPClassUID") != command.sop_class:
        return "the data set is not of the SOP class that was announced"
    if header.text("SOPInstanceUID") != command.instance:
        return "the data set is not the instance that was announced"
    if not _UID.fullmatch(header.text("SeriesInstanceUID")):
        return "the data set has no SeriesInstanceUID"
    return ""


def _shown(modality: str) -> str:
    """As lists and the log show it, whatever a sender wrote there: a terminal might obey it, or a name be read."""
    return modality if _MODALITY.fullmatch(modality) else "?"


def _fault(error: OSError) -> tuple[int, str]:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    _LOG.error("an object was not kept: %s", error.strerror)
    return OUT_OF_RESOURCES, "the node's disk is full" if is_full else "the node's disk refuses"
