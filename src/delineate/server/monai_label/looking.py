"""Looks at all images in the background: what each is like, and what the trained model doubts; takes scores over.

What is missing follows from the datastore, the models and what was found; what is under way from the tasks. So it goes on after
any interruption, and nothing is kept here that must not be lost. It reads the same images as those who work with them: while
somebody asks for something it holds back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from delineate.datastore.findings import DOUBT, LOOKS, Finding
from delineate.datastore.local import LocalDatastore
from delineate.datastore.names import FINAL
from delineate.datastore.records import ImageRecord
from delineate.datastore.strategies_learning import Diversity
from delineate.errors import DelineateError
from delineate.scoring.looks import COARSE
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.scores import Scores
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import Task, TaskState
from delineate.training.trainers import TRAINERS
from delineate.worker.referred import place_of

_WORK: Final = {LOOKS: "describe", DOUBT: "doubt"}
_OWNER: Final = "active learning"  # of its own: whoever trains waits for one of these tasks at most
_AHEAD: Final = 2  # tasks of a kind that wait or run
_MOST: Final = {LOOKS: (64, 64 << 20), DOUBT: (16, 16 << 20)}  # images and bytes of one task: some seconds
_COARSE_VERSION: Final = 1  # the name changes instead
_FIRST, _BUSY, _IDLE = 2.0, 0.25, 1.0  # s after the start, which has enough to do; between two steps
_QUIET, _LONGEST = 4.0, 60.0  # s without a task that somebody waits for, before there is a new one of ours; so long at most

_log = logging.getLogger(__name__)


class Looking:
    """Keeps some tasks waiting as long as there are images to look at. `step` blocks; the rest belongs to one event loop."""

    def __init__(self, service: Service, annotation: Annotation, scores: Scores, threads: Threads) -> None:
        self._service = service
        self._annotation = annotation
        self._scores = scores
        self._threads = threads
        self._alone: set[tuple[str, str]] = set()  # (kind, image) of tasks that failed whole: one by one
        self._unusable: set[tuple[str, int]] = set()  # versions of models that say nothing
        self._seen = -1
        self._asked = time.monotonic()  # when there was last something new of ours
        self._work: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The server runs."""
        settings = self._service.settings
        if self._annotation.has_datastore and (settings.active_learning or settings.auto_scoring):
            self._work = asyncio.get_running_loop().create_task(self._run())

    async def end(self) -> None:
        """The server stops; tasks that wait go on when it is back."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _run(self) -> None:
        await asyncio.sleep(_FIRST)
        while True:
            is_busy = False
            try:
                is_busy = await self._threads.run(self.step)
            except DelineateError as error:
                _log.warning("images could not be looked at: %s", error.message)
            except Exception:
                _log.exception("looking at images failed")
            await asyncio.sleep(_BUSY if is_busy and not self._holds_back() else _IDLE)

    def step(self) -> bool:
        """Take what was found, ask for what is missing: whether anything is under way."""
        changes = self._service.database.changes()
        if changes == self._seen:
            return False
        self._scores.collect()
        if self._service.settings.auto_scoring:
            self._scores.submit_new()
        is_busy = self._service.settings.active_learning and self._look(self._annotation.datastore)
        self._seen = -1 if is_busy else changes
        return is_busy

    def _look(self, store: LocalDatastore) -> bool:
        described = self._advance(LOOKS, store, "", _COARSE_VERSION)
        model, version = self._model()
        doubted = self._advance(DOUBT, store, model, version)
        chooser = store.strategies.get("diversity")
        if isinstance(chooser, Diversity):
            state = store.state()
            chooser.prepare(FINAL, {id for id, entry in state.entries.items() if FINAL in entry.labels})
        return described or doubted

    def _advance(self, kind: str, store: LocalDatastore, model: str, version: int) -> bool:
        """One kind: whether tasks of it wait or run."""
        tasks = self._service.tasks.work(_WORK[kind], limit=4 * _AHEAD)
        for task in tasks:
            if task.state.is_final:
                self._take(kind, store, task)
        waiting = [task for task in tasks if not task.state.is_final]
        room = _AHEAD - len(waiting)
        if room <= 0 or (kind == DOUBT and (not model or (model, version) in self._unusable)):
            return bool(waiting)
        if self._holds_back():
            return True
        taken = {image for task in waiting for image in task.prompts.get("images", ())}
        missing = (image for image in self._missing(kind, store, model, version) if image.id not in taken)
        portions = list(self._portions(kind, missing, room))
        for images in portions:
            self._submit(kind, store, model, version, images)
        return bool(waiting or portions)

    def _holds_back(self) -> bool:
        """Whether somebody is at work; who never rests is shared with, a task a minute."""
        now = time.monotonic()
        return now - self._service.rung < _QUIET and now - self._asked < _LONGEST

    def _model(self) -> tuple[str, int]:
        """The model that was trained last, and its version in use; empty where none was."""
        newest: tuple[float, str, int] = (0.0, "", 0)
        for name in TRAINERS:
            versions = self._service.models.versions.versions(name)
            current = next((one for one in versions if one.is_current), None)
            if current is not None:
                newest = max(newest, (versions[0].created, name, current.version))
        return newest[1], newest[2]

    def _missing(self, kind: str, store: LocalDatastore, model: str, version: int) -> Iterator[ImageRecord]:
        """Images to look at, those first that may be asked for soon."""
        if kind == LOOKS:
            known: Mapping[str, Finding] = store.findings.looks(COARSE)
            images: Sequence[ImageRecord] = store.images()
        else:
            known = store.findings.doubts(model)[1]
            images = store.images(unlabelled=True)
        stale: list[tuple[float, ImageRecord]] = []
        for image in images:
            if not store.is_here(image):  # fetched for nobody
                continue
            found = known.get(image.id)
            if found is None or found.image_version != image.version:
                yield image
            elif found.version != version:
                stale.append((found.value or 0.0, image))
        yield from (image for _, image in sorted(stale, key=lambda one: -one[0]))

    def _portions(self, kind: str, images: Iterator[ImageRecord], count: int) -> Iterable[list[ImageRecord]]:
        """At most `count` lists of images, each of a size that one task is done with soon."""
        most, largest = _MOST[kind]
        image = next(images, None)
        for _ in range(count):
            portion: list[ImageRecord] = []
            size = 0
            while image is not None and len(portion) < most and (not portion or size + image.size <= largest):
                is_alone = (kind, image.id) in self._alone
                if portion and is_alone:
                    break
                portion.append(image)
                size += largest + 1 if is_alone else image.size
                image = next(images, None)
            if portion:
                yield portion

    def _submit(self, kind: str, store: LocalDatastore, model: str, version: int, images: Sequence[ImageRecord]) -> None:
        given = []
        for image in images:
            try:
                given.append({"id": image.id, "version": image.version, "place": place_of(image.path).to_json()})
            except DelineateError:
                store.findings.keep([_nothing(kind, model, version, image.id, image.version)])
        if given:
            about = {"source": COARSE} if kind == LOOKS else {"model": model}
            shown = {one["id"]: one["version"] for one in given}
            self._asked = time.monotonic()
            self._service.submit_work(_WORK[kind], {**about, "images": given}, owner=_OWNER, prompts={**about, "images": shown})

    def _take(self, kind: str, store: LocalDatastore, task: Task) -> None:
        """Keep what a task found, or that it cannot be found, and forget the task."""
        if task.state is TaskState.FINISHED:
            with contextlib.suppress(DelineateError):  # a damaged result: again
                if answer := self._service.found(task):
                    store.findings.keep(_findings(kind, answer))
        elif task.state is TaskState.FAILED and task.failure is not None:
            self._failed(kind, store, task)
        self._service.waited_for.delete(task.uid, "collected")

    def _failed(self, kind: str, store: LocalDatastore, task: Task) -> None:
        images = task.prompts.get("images", {})
        model, version = self._model()
        if task.failure is not None and task.failure.kind == "start":
            _log.warning("images cannot be looked at: %s", task.failure.message)
            self._unusable.add((model, version))
        elif len(images) > 1:
            self._alone |= {(kind, image) for image in images}
        else:
            store.findings.keep(_nothing(kind, str(task.prompts.get("model")), version, id, at) for id, at in images.items())


def _nothing(kind: str, model: str, version: int, image: str, image_version: int) -> Finding:
    """That an image cannot be looked at: it is not tried again until it, or the model, is another one."""
    source, number = (COARSE, _COARSE_VERSION) if kind == LOOKS else (model, version)
    return Finding(image=image, image_version=image_version, kind=kind, source=source, version=number)


def _findings(kind: str, answer: Mapping[str, Any]) -> list[Finding]:
    source, version = (answer["source"], _COARSE_VERSION) if kind == LOOKS else (answer["model"], answer["version"])
    return [
        Finding(
            image=one["id"], image_version=one["version"], kind=kind, source=source, version=version, value=one.get("value"),
            vector=np.array(one["vector"], dtype=np.float32) if "vector" in one else None,
        )
        for one in answer["found"]
    ]  # fmt: skip
