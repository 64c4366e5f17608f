"""Grids of series, which only a worker can read: asked for when a label is saved for one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from delineate.datastore.faults import UnknownItemError
from delineate.datastore.records import ImageRecord
from delineate.errors import DelineateError
from delineate.geometry import Geometry
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.works import Works
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import FRONT, Task
from delineate.worker.referred import place_of

WORK_NAME: Final = "series-grid"
_OWNER: Final = "server"
_PATIENCE: Final = 30.0  # s; workers may be busy for longer, and somebody waits
_SHORT: Final = 5.0  # s; for a label that can be kept without it
_REMEMBERED: Final = 10_000


class SeriesGrids:
    """Asks workers, and has the datastore remember what they say. Belongs to one event loop."""

    def __init__(self, service: Service, annotation: Annotation, works: Works, threads: Threads) -> None:
        self._service = service
        self._annotation = annotation
        self._works = works
        self._threads = threads
        self._without: dict[tuple[str, int, float], None] = {}  # versions of images of which nothing came out, the oldest first

    async def try_to_learn(self, image: str) -> None:
        """As `learn`, for a label that says itself where it lies: nothing is raised, and nobody waits twice for a series
        that cannot be read, has no grid, or found all workers busy."""
        if not self._annotation.datastore.may_be_series(image):
            return
        key = await self._threads.run(lambda: self._key(image))
        if key is None or key in self._without:
            return
        with contextlib.suppress(DelineateError):
            if await self.learn(image, _SHORT):
                return
        self._without[key] = None
        if len(self._without) > _REMEMBERED:
            del self._without[next(iter(self._without))]

    async def learn(self, image: str, patience: float = _PATIENCE) -> bool:
        """Have the grid of an image known to the datastore, if it is a series whose slices are on one: whether it is known now.

        `patience` : how long to wait for a worker, seconds.

        Raises
        ------
        ModelError
            The series cannot be read.
        """
        with contextlib.suppress(UnknownItemError):  # whoever asked says so in its own words
            record = await self._threads.run(lambda: self._unknown(image))
            if record is None:
                return True
            task = await self._threads.run(lambda: self._submit(record))
            try:
                ended = await asyncio.wait_for(self._works.ended(task), patience)
                grid = (await self._works.answer(ended)).get("grid")
            except asyncio.TimeoutError:
                return False
            finally:
                await self._threads.run(lambda: self._forget(task))
            if grid is not None:
                self._annotation.datastore.learn_grid(record, Geometry(**{name: tuple(values) for name, values in grid.items()}))
                return True
        return False

    def _key(self, image: str) -> tuple[str, int, float] | None:
        """The version of a series whose grid is not known; None for any other image, or none."""
        with contextlib.suppress(UnknownItemError):
            record = self._unknown(image)
            return None if record is None else (record.id, record.version, record.mtime)
        return None

    def _unknown(self, image: str) -> ImageRecord | None:
        record = self._annotation.datastore.image(image)
        return record if record.is_series and self._annotation.datastore.grid(image) is None else None

    def _submit(self, record: ImageRecord) -> Task:
        given = {"image": place_of(record.path).to_json()}
        return self._service.submit_work(WORK_NAME, given, owner=_OWNER, prompts={"image": record.id}, lane=FRONT)

    def _forget(self, task: Task) -> None:
        with contextlib.suppress(DelineateError):
            self._service.waited_for.delete(task.uid, "answered")
