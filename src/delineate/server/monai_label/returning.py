"""Labels of a DICOMweb server: ours go back there, written as DICOM by a worker; those that were found there become label maps.

What is to be done follows from the datastore and is noted with each label once it is done, so it goes on after any
interruption; files have the same UIDs at every try.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from delineate.datastore.faults import DicomWebError, UnknownItemError
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.errors import BlobError, DelineateError, ModelError
from delineate.runners.work import read_answer
from delineate.server.listening import Listening
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.errands import OWNER, Errand, errands_of
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import Task, TaskState

_PAUSE: Final = 1.0  # s between two looks for what is to be done
_LATER: Final = 60.0  # s until a label is tried again that could not be sent
_LONGER: Final = 10  # times as long where the server said no
_RECENT: Final = 100

_log = logging.getLogger(__name__)


class Returning:
    """One label after the other. Belongs to one event loop."""

    def __init__(self, service: Service, annotation: Annotation, listening: Listening, threads: Threads) -> None:
        self._service = service
        self._annotation = annotation
        self._listening = listening
        self._threads = threads
        self._not_before: dict[tuple[str, ...], float] = {}
        self._run: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The server runs."""
        if self._annotation.web is not None:
            self._run = asyncio.get_running_loop().create_task(self._all(errands_of(self._annotation.web, self._service.settings)))

    async def end(self) -> None:
        """The server stops; what is left is done when it is back."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait([self._run])

    async def _all(self, errands: Sequence[Errand]) -> None:
        while True:
            for errand in errands:
                try:
                    for image, label in await self._threads.run(partial(self._due, errand)):
                        await self._one(errand, image, label)
                except DelineateError as error:
                    _log.error("labels of the DICOMweb server: %s", error.sentence())
                except Exception:
                    _log.exception("labels of the DICOMweb server: %s failed", errand.work)
            await asyncio.sleep(_PAUSE)

    def _due(self, errand: Errand) -> list[tuple[ImageRecord, LabelRecord]]:
        now = time.monotonic()
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        return [(image, label) for image, label in errand.due() if _key(errand, label) not in self._not_before]

    async def _one(self, errand: Errand, image: ImageRecord, label: LabelRecord) -> None:
        later = _LATER * _LONGER
        try:
            await self._annotation.fetch(image.id)
            task = await self._threads.run(partial(self._submit, errand, image, label))
            ended = await self._listening.finished(None, task.uid)
            if ended is None:
                await asyncio.Event().wait()  # the server stops: until `end`
                return
            await self._threads.run(partial(self._settle, errand, image, label, ended))
            return
        except UnknownItemError:
            return  # removed meanwhile
        except DicomWebError as error:
            _log.warning("a label is not in the DICOMweb server: %s", error.sentence())
            later = _LATER if error.is_passing else later
        except ModelError as error:
            # The words may hold names of files, which are UIDs: they stand in the label's information.
            _log.warning("%s: a label cannot be written or read as DICOM (%s)", errand.work, error.kind)
            if error.kind == "input":  # it never can
                await self._threads.run(partial(errand.give_up, label, error.message))
        except DelineateError as error:
            _log.error("a label of the DICOMweb server: %s", error.sentence())
        self._not_before[_key(errand, label)] = time.monotonic() + later

    def _submit(self, errand: Errand, image: ImageRecord, label: LabelRecord) -> Task:
        """The task of this label, also one from before a restart."""
        prompts = {"image": label.image, "tag": label.tag, "version": label.version, "image_version": image.version}
        for task in self._service.tasks.work(errand.work, limit=_RECENT):
            if dict(task.prompts) == prompts and task.state not in (TaskState.FAILED, TaskState.CANCELLED):
                return task
        return self._service.submit_work(errand.work, errand.given(image, label), owner=OWNER, prompts=prompts)

    def _settle(self, errand: Errand, image: ImageRecord, label: LabelRecord, task: Task) -> None:
        try:
            blob = self._service.result(task)
            if blob is None:
                raise BlobError("the label's files are gone")
            archive = self._service.file(blob)
            with tempfile.TemporaryDirectory(prefix="label-", dir=self._service.settings.data) as folder:
                errand.take(image, label, read_answer(archive), _unpacked(archive, Path(folder)))
        except DicomWebError:
            raise  # the files stay, for the next try
        except DelineateError:
            self._service.tasks.delete(task.uid, OWNER)
            raise
        self._service.tasks.delete(task.uid, OWNER)


def _key(errand: Errand, label: LabelRecord) -> tuple[str, ...]:
    return errand.work, label.image, label.tag, str(label.version)


def _unpacked(archive: Path, folder: Path) -> list[Path]:
    """The files of a work's result beside its answer."""
    try:
        with zipfile.ZipFile(archive) as entries:
            return [Path(entries.extract(name, folder)) for name in entries.namelist() if name.startswith(("seg.", "rtstruct.", "label."))]
    except (OSError, zipfile.BadZipFile) as error:
        raise BlobError("the files of a label cannot be read", "They are made again.") from error
