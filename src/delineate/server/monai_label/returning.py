"""Labels go back to the DICOMweb server that their images came from: written as DICOM by a worker, then stored there.

What is to be sent follows from the datastore and is noted with each label once the server has it, so it goes on after any
interruption; files have the same UIDs at every try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delineate.datastore.faults import DicomWebError, UnknownItemError
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.errors import BlobError, DelineateError, ModelError
from delineate.server.files import Files
from delineate.server.listening import Listening
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.label_names import likely_names_of, names_of
from delineate.server.service import Service
from delineate.task import Task, TaskState
from delineate.worker.referred import place_of

if TYPE_CHECKING:
    from delineate.datastore.dicomweb import DicomWebDatastore

WORK_NAME: Final = "dicom-label"
_OWNER: Final = "DICOMweb"
_PAUSE: Final = 1.0  # s between two looks for what is to be sent
_LATER: Final = 60.0  # s until a label is tried again that could not be sent
_LONGER: Final = 10  # times as long where the server said no
_RECENT: Final = 100

_log = logging.getLogger(__name__)


class Returning:
    """One label after the other. Belongs to one event loop."""

    def __init__(self, service: Service, annotation: Annotation, listening: Listening, files: Files, *, later: float = _LATER) -> None:
        self._service = service
        self._annotation = annotation
        self._listening = listening
        self._files = files
        self._later = later
        self._not_before: dict[tuple[str, str, int], float] = {}
        self._seen = -1
        self._run: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The server runs."""
        if self._annotation.web is not None and self._service.settings.dicomweb_labels:
            self._run = asyncio.get_running_loop().create_task(self._send_all(self._annotation.web))

    async def end(self) -> None:
        """The server stops; what is left is sent when it is back."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait([self._run])

    async def _send_all(self, store: DicomWebDatastore) -> None:
        while True:
            try:
                for image, label in await self._files.run(lambda: self._due(store)):
                    await self._send(store, image, label)
            except DelineateError as error:
                _log.error("labels cannot be sent to the DICOMweb server: %s", error.message)
            except Exception:
                _log.exception("sending labels to the DICOMweb server failed")
            await asyncio.sleep(_PAUSE)

    def _due(self, store: DicomWebDatastore) -> list[tuple[ImageRecord, LabelRecord]]:
        from delineate.datastore.dicomweb_labels import unsent

        now = time.monotonic()
        changes = self._service.database.changes()
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        if changes == self._seen:
            return []
        found = unsent(store, self._service.settings.dicomweb_label_tags)
        due = [(image, label) for image, label in found if _key(label) not in self._not_before]
        self._seen = -1 if found else changes
        return due

    async def _send(self, store: DicomWebDatastore, image: ImageRecord, label: LabelRecord) -> None:
        try:
            await self._annotation.fetch(image.id)
            task = await self._files.run(partial(self._submit, store, image, label))
            ended = await self._listening.finished(None, task.uid)
            if ended is None:
                await asyncio.Event().wait()  # the server stops: until `end`
                return
            await self._files.run(partial(self._store, store, image, label, ended))
        except DicomWebError as error:
            _log.warning("a label was not sent to the DICOMweb server: %s", error.sentence())
            self._not_before[_key(label)] = time.monotonic() + self._later * (1 if error.is_passing else _LONGER)
        except ModelError as error:
            _log.warning("a label cannot be written as DICOM: %s", error.sentence())
            if error.kind == "input":  # it never will be
                await self._files.run(partial(_note, store, label, {"failed": error.message}))
            self._not_before[_key(label)] = time.monotonic() + self._later * _LONGER
        except UnknownItemError:
            return  # removed meanwhile
        except DelineateError:
            self._not_before[_key(label)] = time.monotonic() + self._later
            raise

    def _submit(self, store: DicomWebDatastore, image: ImageRecord, label: LabelRecord) -> Task:
        from delineate.datastore.dicomweb_labels import description

        prompts = {"image": label.image, "tag": label.tag, "version": label.version, "image_version": image.version}
        for task in self._service.tasks.work(WORK_NAME, limit=_RECENT):
            if dict(task.prompts) == prompts and task.state is not TaskState.FAILED and task.state is not TaskState.CANCELLED:
                return task
        if label.path is None:
            raise ModelError("the label's file is gone", "Save it again.", "input")
        given = {
            "series": place_of(image.path).to_json(),
            "label": place_of(label.path).to_json(),
            "names": names_of(label),
            "likely": likely_names_of(label),
            "uids": self._uids(store, label),
            "description": description(label.tag),
        }
        return self._service.submit_work(WORK_NAME, given, owner=_OWNER, prompts=prompts)

    def _uids(self, store: DicomWebDatastore, label: LabelRecord) -> dict[str, str]:
        from delineate.datastore.dicomweb_labels import instance_uid

        return {kind: instance_uid(store.uid, label, kind) for kind in self._service.settings.dicomweb_labels}

    def _store(self, store: DicomWebDatastore, image: ImageRecord, label: LabelRecord, task: Task) -> None:
        try:
            blob = self._service.result(task)
            if blob is None:
                raise BlobError("the label's files are gone")
            with tempfile.TemporaryDirectory(prefix="label-", dir=self._service.settings.data) as folder:
                paths = _unpacked(self._service.file(blob), Path(folder))
                store.send(image, paths)
        finally:
            if task.state is not TaskState.FINISHED:
                self._service.tasks.delete(task.uid, _OWNER)
        _note(store, label, {"sent": int(time.time()), "instances": self._uids(store, label)})
        self._service.tasks.delete(task.uid, _OWNER)


def _note(store: DicomWebDatastore, label: LabelRecord, note: Mapping[str, Any]) -> None:
    from delineate.datastore.dicomweb_labels import NOTE

    with contextlib.suppress(UnknownItemError):
        store.update_label_info(label.image, label.tag, {NOTE: {"version": label.version, **note}}, who=_OWNER)


def _key(label: LabelRecord) -> tuple[str, str, int]:
    return label.image, label.tag, label.version


def _unpacked(archive: Path, folder: Path) -> list[Path]:
    """The DICOM files of a work's result."""
    try:
        with zipfile.ZipFile(archive) as entries:
            return [Path(entries.extract(name, folder)) for name in entries.namelist() if name.endswith(".dcm")]
    except (OSError, zipfile.BadZipFile) as error:
        raise BlobError("the files of a label cannot be read", "They are made again.") from error
