"""What is done with labels of a DICOMweb server, by a worker and after it; `returning` says when."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from delineate.datastore.faults import UnknownItemError
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.errors import BlobError, ModelError
from delineate.server.monai_label.label_names import LABEL_NAMES, likely_names_of, names_of
from delineate.server.settings import Settings
from delineate.worker.referred import place_of

if TYPE_CHECKING:
    from delineate.datastore.dicomweb import DicomWebDatastore

OWNER: Final = "DICOMweb"
"""In whose name it is done."""

Pairs = list[tuple[ImageRecord, LabelRecord]]


class Errand(Protocol):
    """One kind. All of it blocks; `work` is the name of what the worker does."""

    work: str

    def due(self) -> Pairs:
        """Labels with which it is to be done."""

    def given(self, image: ImageRecord, label: LabelRecord) -> dict[str, Any]:
        """The work's input. Raises `ModelError` where there is none."""

    def take(self, image: ImageRecord, label: LabelRecord, answer: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Do with the work's result what is to be done, and note it."""

    def give_up(self, label: LabelRecord, reason: str) -> None:
        """Note that it cannot be done."""


def errands_of(store: DicomWebDatastore, settings: Settings) -> list[Errand]:
    """What there is to be done for a datastore."""
    return [Sending(store, settings), Reading(store)]


def sent_as(kind: str) -> dict[str, Any]:
    """What stands with a label that goes to the server whatever its tag. kind : ``seg`` or ``rtstruct``."""
    from delineate.datastore.dicomweb_labels import NOTE, WANTED

    return {NOTE: {WANTED: [kind]}}


class Sending:
    """Labels go to the server."""

    work = "dicom-label"

    def __init__(self, store: DicomWebDatastore, settings: Settings) -> None:
        self._store = store
        self._kinds = settings.dicomweb_labels
        self._tags = settings.dicomweb_label_tags if self._kinds else ()

    def due(self) -> Pairs:
        """Those that are not there in their newest version."""
        from delineate.datastore.dicomweb_labels import unsent

        return unsent(self._store, self._tags)

    def given(self, image: ImageRecord, label: LabelRecord) -> dict[str, Any]:
        """See `delineate.datastore.dicomweb_work.WriteLabel`."""
        from delineate.datastore.dicomweb_labels import description

        named = {"names": names_of(label), "likely": likely_names_of(label)}
        return {**_places(image, label), **named, "uids": self._uids(label), "description": description(label.tag)}

    def take(self, image: ImageRecord, label: LabelRecord, answer: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Store the files there. Raises `DicomWebError`."""
        self._store.send(image, files)
        _note(self._store, label, {"version": label.version, "sent": int(time.time()), "instances": self._uids(label)})

    def give_up(self, label: LabelRecord, reason: str) -> None:
        """Until there is another version."""
        _note(self._store, label, {"version": label.version, "failed": reason})

    def _uids(self, label: LabelRecord) -> dict[str, str]:
        from delineate.datastore.dicomweb_labels import WANTED, instance_uid, note_of

        always = self._kinds if label.tag in self._tags else ()
        kinds = dict.fromkeys([*always, *note_of(label).get(WANTED, ())])
        return {kind: instance_uid(self._store.uid, label, kind) for kind in kinds}


class Reading:
    """Labels that were found in the server become label maps on the grids of their images."""

    work = "dicom-label-read"

    def __init__(self, store: DicomWebDatastore) -> None:
        self._store = store

    def due(self) -> Pairs:
        """Those of images that are here: nothing is fetched for it."""
        from delineate.datastore.dicomweb_labels import unread

        return unread(self._store)

    def given(self, image: ImageRecord, label: LabelRecord) -> dict[str, Any]:
        """See `delineate.datastore.dicomweb_work.ReadLabel`."""
        return _places(image, label)

    def take(self, image: ImageRecord, label: LabelRecord, answer: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Save it as the label's next version, unless somebody saved one meanwhile."""
        from delineate.datastore.dicomweb_labels import NOTE, note_of

        if len(files) != 1:
            raise BlobError("the label's file is gone")
        if self._store.label(label.image, label.tag).version != label.version:
            return
        with self._store.incoming(files[0].name) as writer:
            writer.write(files[0].read_bytes())
            info = {NOTE: dict(note_of(label)), LABEL_NAMES: dict(answer.get("names", {}))}
            self._store.save_label(label.image, label.tag, writer, info=info, who=OWNER)

    def give_up(self, label: LabelRecord, reason: str) -> None:
        """It stays as it is."""
        from delineate.datastore.dicomweb_labels import note_of

        _note(self._store, label, {**note_of(label), "failed": reason})


def _places(image: ImageRecord, label: LabelRecord) -> dict[str, Any]:
    if label.path is None:
        raise ModelError("the label's file is gone", "Save it again.", "input")
    return {"series": place_of(image.path).to_json(), "label": place_of(label.path).to_json()}


def _note(store: DicomWebDatastore, label: LabelRecord, note: Mapping[str, Any]) -> None:
    from delineate.datastore.dicomweb_labels import NOTE

    with contextlib.suppress(UnknownItemError):  # removed, or somebody saved another version: that one is not what was read or sent
        store.update_label_info(label.image, label.tag, {NOTE: note}, who=OWNER, version=label.version)
