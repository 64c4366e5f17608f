"""Grids of series, which only a worker can read: asked for when a label is a bare array on one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from delineate.datastore.faults import UnknownItemError
from delineate.datastore.records import ImageRecord
from delineate.errors import DelineateError
from delineate.geometry import Geometry
from delineate.server.files import Files
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.works import Works
from delineate.server.service import Service
from delineate.task import Task
from delineate.worker.referred import place_of

WORK_NAME: Final = "series-grid"
_OWNER: Final = "server"
_PATIENCE: Final = 30.0  # s; workers may be busy for longer, and somebody waits


class SeriesGrids:
    """Asks workers, and has the datastore remember what they say. Belongs to one event loop."""

    def __init__(self, service: Service, annotation: Annotation, works: Works, files: Files) -> None:
        self._service = service
        self._annotation = annotation
        self._works = works
        self._files = files

    async def learn(self, image: str) -> None:
        """Have the grid of an image known to the datastore, if it is a series whose slices are on one.

        Raises
        ------
        ModelError
            The series cannot be read.
        """
        with contextlib.suppress(UnknownItemError):  # whoever asked says so in its own words
            record = await self._files.run(lambda: self._unknown(image))
            if record is None:
                return
            task = await self._files.run(lambda: self._submit(record))
            try:
                ended = await asyncio.wait_for(self._works.ended(task), _PATIENCE)
                grid = (await self._works.answer(ended)).get("grid")
            except asyncio.TimeoutError:
                return
            finally:
                await self._files.run(lambda: self._forget(task))
            if grid is not None:
                self._annotation.datastore.learn_grid(record, Geometry(**{name: tuple(values) for name, values in grid.items()}))

    def _unknown(self, image: str) -> ImageRecord | None:
        record = self._annotation.datastore.image(image)
        return record if record.is_series and self._annotation.datastore.grid(image) is None else None

    def _submit(self, record: ImageRecord) -> Task:
        given = {"image": place_of(record.path).to_json()}
        return self._service.submit_work(WORK_NAME, given, owner=_OWNER, prompts={"image": record.id}, is_waited_for=True)

    def _forget(self, task: Task) -> None:
        with contextlib.suppress(DelineateError):
            self._service.waited_for.delete(task.uid, "answered")
