"""Labels of a DICOMweb datastore in DICOM: which are still to be sent there, and those that are found there.

What was sent stands with the label, under `NOTE`, with its version; so what is to be sent follows from the index, whatever was
interrupted. Series of segmentations and contours that were looked at once, or made here, are remembered in a file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from delineate.datastore import names
from delineate.datastore.dicomweb_client import path_of
from delineate.datastore.dicomweb_json import RemoteSeries, is_uid, moment_of, text, values
from delineate.datastore.faults import DicomWebError
from delineate.datastore.local import LocalDatastore
from delineate.datastore.names import FINAL
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.errors import DelineateError
from delineate.store.writer import BlobWriter

if TYPE_CHECKING:
    from delineate.datastore.dicomweb import DicomWebDatastore

NOTE: Final = "dicomweb"
"""In a label's information: what is known of it in the server."""

WANTED: Final = "as"
"""In such a note: as what the label is to be sent, whatever its tag."""

DERIVED: Final = ("SEG", "RTSTRUCT")
"""Modalities of series that hold labels."""

LABEL_MAPS: Final = (".nii.gz", ".nii", ".nrrd", ".mha")
_TOLD: Final = re.compile(r"delineate label (\S.*)\Z")
_MOMENTS: Final = (("00080023", "00080033"), ("30060008", "30060009"))  # of content, of a structure set
_MOST: Final = 500  # series looked at in one turn

_log = logging.getLogger(__name__)


def description(tag: str) -> str:
    """What is written into a file to know the label's tag again."""
    return f"delineate label {tag}"


def instance_uid(owner: str, label: LabelRecord, kind: str) -> str:
    """The UID of a label's file, the same at every try: what was sent twice is there once. owner : of the images."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([owner, label.image, label.tag, label.version, label.at, kind])).int}"


def unsent(store: LocalDatastore, tags: Collection[str]) -> list[tuple[ImageRecord, LabelRecord]]:
    """Labels of these tags, or that are to be sent whatever theirs, of which the server has not heard in their newest version."""
    return [
        (entry.image, label)
        for entry in store.state().entries.values()
        for label in entry.labels.values()
        if (label.tag in tags or note_of(label).get(WANTED)) and label.extension.lower() in LABEL_MAPS and not _is_told(label)
    ]


def unread(store: LocalDatastore, tag: str = "") -> list[tuple[ImageRecord, LabelRecord]]:
    """Labels that were found in the server and are still DICOM, of images that are here; of one tag where it is given."""
    return [
        (entry.image, label)
        for entry in store.state().entries.values()
        for label in entry.labels.values()
        if tag in ("", label.tag) and label.extension == ".dcm" and note_of(label).get("found") and not note_of(label).get("failed")
        if store.is_here(entry.image)
    ]


def note_of(label: LabelRecord) -> Mapping[str, Any]:
    """What is known of a label in the server."""
    note = label.info.get(NOTE)
    return note if isinstance(note, Mapping) else {}


def _is_told(label: LabelRecord) -> bool:
    """Whether this version came from the server, was sent there, or cannot be."""
    return bool(note_of(label).get("found")) or note_of(label).get("version") == label.version


class FoundThere:
    """Takes over labels that others put into the server. One thread."""

    def __init__(self, store: DicomWebDatastore) -> None:
        self._store = store
        self._path = store.layout.hidden / "web" / "labels-seen"
        self._seen: set[str] = set()
        self._refers: dict[str, list[_Label]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._seen = {str(uid) for uid in json.loads(self._path.read_bytes())}

    def saw(self, uids: Iterable[str]) -> None:
        """These series were made here."""
        self._seen |= set(uids)
        self._store.write_note(self._path, json.dumps(sorted(self._seen)).encode("ascii"))

    def look(self, derived: Sequence[RemoteSeries]) -> int:
        """Take over those that were not seen before: how many labels are new. Raises `DicomWebError`, `StoreError`."""
        count, fresh = 0, set[str]()
        there = {one.uid for one in derived}
        self._refers = {uid: found for uid, found in self._refers.items() if uid in there}
        unseen = [one for one in derived if one.uid not in self._seen]
        for one in sorted(unseen, key=lambda one: (one.modality != "SEG", -one.moment))[:_MOST]:
            try:
                labels = self._refers.get(one.uid)
                if labels is None:
                    labels = self._refers[one.uid] = [_Label(data, one) for data in self._store.web.metadata(one.study, one.uid)]
                if not any(label.image in self._store.state().entries for label in labels):
                    continue  # of an image that is not here, or not yet
                count += sum(self._take(label) for label in labels)
            except DelineateError as error:
                if isinstance(error, DicomWebError) and error.is_passing:
                    raise
                _log.warning("a label in the DICOMweb server cannot be taken over: %s", error.message)
            fresh.add(one.uid)
        if fresh:
            self.saw(fresh)
        return count

    def _take(self, label: _Label) -> bool:
        """Whether it became the image's label: the first of its tag, or newer than one that was found before."""
        entry = self._store.state().entries.get(label.image)
        if entry is None or not is_uid(label.instance):
            return False
        known = entry.labels.get(label.tag)
        if known is not None and not _is_older(known, label):
            return False
        with self._store.incoming("label.dcm") as writer:
            self._store.web.retrieve(path_of(label.series.study, label.series.uid, label.instance), _Single(writer))
            note = {"found": label.series.uid, "modality": label.series.modality, "moment": label.moment}
            LocalDatastore.save_label(self._store, label.image, label.tag, writer, info={NOTE: note}, who="DICOMweb")
        return True


class _Label:
    """One instance of a derived series, as its metadata tell."""

    def __init__(self, data: Any, series: RemoteSeries) -> None:
        self.series = series
        self.instance = text(data, "00080018")
        self.image = next(iter(_referred(data)), "")
        self.moment = max(series.moment, *(moment_of(text(data, date), text(data, time)) for date, time in _MOMENTS))
        told = _TOLD.match(text(data, "00700081") or text(data, "30060006"))
        self.tag = FINAL
        if told:
            with contextlib.suppress(DelineateError):
                self.tag = names.check_tag(told[1].strip())


def _referred(data: Any) -> list[str]:
    """Series that an instance of SEG (Referenced Series Sequence) or RTSTRUCT (by frame of reference and study) is of."""
    found = [text(item, "0020000E") for item in values(data, "00081115")]
    for frame in values(data, "30060010"):
        for study in values(frame, "30060012"):
            found += [text(item, "0020000E") for item in values(study, "30060014")]
    return [uid for uid in found if uid]


def _is_older(known: LabelRecord, label: _Label) -> bool:
    note = note_of(known)
    moment = note.get("moment")
    return bool(note.get("found")) and isinstance(moment, int) and moment < label.moment


class _Single:
    """Takes one instance into an upload; see `dicomweb_client.FreshSink`."""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer
        self._count = 0

    def restart(self) -> None:
        if self._count:
            raise DicomWebError("the label broke off while it came", "It is tried again later.")

    def begin(self) -> None:
        self._count += 1
        if self._count > 1:
            raise DicomWebError("the DICOMweb server sent several instances in place of one", "Look into its log.")

    def write(self, data: memoryview) -> None:
        self._writer.write(data)

    def end(self) -> None:
        return
