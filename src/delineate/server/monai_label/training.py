"""The routes of training: labels of the datastore go to a task in the background, which makes a model's new version."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.names import check_tag
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.errors import DelineateError, InputError
from delineate.protocols import monai_label as wire
from delineate.protocols.monai_label_datastore import FINAL_TAG
from delineate.protocols.reference import Place
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import json_object, small_body
from delineate.server.monai_label.label_names import likely_names_of, names_of
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.train_stats import TrainStatistics
from delineate.server.monai_label.works import All, Running, Sync, Works
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import Task
from delineate.training.trainers import TRAIN, TRAINERS, is_installed
from delineate.worker.referred import place_of

Enqueue = Annotated[bool, Query(description="Wait for the one that runs, where one does, instead of being refused.")]

_ANNOTATED: Final = "annotated"


class TrainRoutes:
    """Trainings, one after the other."""

    def __init__(
        self, service: Service, annotation: Annotation, works: Works, statistics: TrainStatistics, guard: Guard, threads: Threads
    ) -> None:  # fmt: skip
        self._service = service
        self._annotation = annotation
        self._works = works
        self._statistics = statistics
        self._guard = guard
        self._threads = threads

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.TRAIN_PATH, "GET", self.status)
        routes.add(wire.TRAIN_PATH, "POST", self.start_all)
        routes.add(wire.TRAIN_PATH, "DELETE", self.stop)
        routes.add("/train/{model}", "POST", self.start)

    async def status(self, request: Request, every: All = False, check_if_running: Running = False) -> Response:
        """The last training, and how far it is."""
        return await self._works.status(request, every=every, check_if_running=check_if_running)

    async def stop(self, request: Request) -> Response:
        """Stop the training, and those that wait; null where none does. The model stays as it was."""
        return await self._works.stop(request)

    async def start(self, request: Request, model: str, run_sync: Sync = False, enqueue: Enqueue = False) -> Response:
        """Learn from the labelled images of the datastore.

        JSON: `label_tag`, whose labels are learned from (`final` where it is not given); `anew` to forget what was computed of
        the images before. 429 while one runs, unless `enqueue` is set. Once it has ended, `/infer/` uses the new version.
        """
        params = json_object(await small_body(request), "the request")
        task = await self._started(model, params, self._guard.owner(request), enqueue)
        if not run_sync:
            return JSONResponse(await self._works.submitted(request, task))
        ended = await self._works.ended(task)
        await self._works.answer(ended)  # raises where it failed
        return JSONResponse(await self._threads.run(lambda: self._statistics.of(ended, in_full=True)))

    async def start_all(self, request: Request, run_sync: Sync = False) -> Response:
        """Start every trainer, one after the other; parameters of one under its name."""
        params = json_object(await small_body(request), "the request")
        owner, answers = self._guard.owner(request), {}
        for name in _trainers(self._annotation):
            own = params.get(name)
            given = {**params, **(own if isinstance(own, dict) else {})}
            task = await self._started(name, given, owner, enqueue=True)
            result = self._works.shown(request, await self._works.ended(task)) if run_sync else self._works.submitted(request, task)
            answers[name] = {"result": await result, "detail": None}
        return JSONResponse(answers)

    async def _started(self, model: str, params: Mapping[str, Any], owner: str, enqueue: bool) -> Task:
        if model not in _trainers(self._annotation):
            raise NotHereError("this server has no trainer of that name", "See trainers in the answer of /info/.")
        wanted = wire.TrainParams.from_json(dict(params), strict=True)
        tag = check_tag(wanted.label_tag or FINAL_TAG)
        await self._annotation.fetch_labelled(tag)
        given = await self._threads.run(lambda: self._given(model, tag, anew=bool(wanted.anew)))
        asked = {"model": model, **{name: value for name, value in params.items() if name != "model"}}
        submit = partial(self._service.submit_work, TRAIN, given, owner=owner, prompts=asked)
        return await self._works.start(submit, enqueue=enqueue)

    def _given(self, model: str, tag: str, *, anew: bool) -> dict[str, Any]:
        """The input of the work; see `delineate.training.work.Train`."""
        store = self._annotation.datastore
        examples = [found for image, label in store.pairs(tag) if (found := _example(image, label)) is not None]
        if not examples:
            raise InputError(f"no image has a label {tag} that can be learned from", "Label an image, or name another label_tag.")
        description = f"Learned from the labels {tag}"
        project = f"{store.layout.folder}\n{tag}"
        return {"model": model, "description": description, "project": project, "anew": anew, "examples": examples}


def _trainers(annotation: Annotation) -> list[str]:
    return list(TRAINERS) if annotation.has_datastore and is_installed() else []


def trainer_infos(annotation: Annotation) -> dict[str, wire.TrainerInfo]:
    """The trainers as they are told of."""
    return {
        name: wire.TrainerInfo(description=TRAINERS[name].description, config=dict(TRAINERS[name].config)) for name in _trainers(annotation)
    }


def _example(image: ImageRecord, label: LabelRecord) -> dict[str, Any] | None:
    """A `delineate.training.work.Labelled` as JSON; None where a file is gone, or the label was drawn on an image since replaced."""
    if label.path is None or label.image_version != image.version:
        return None
    try:
        places: list[Place] = [place_of(image.path), place_of(label.path)]
    except DelineateError:
        return None
    annotated = label.info.get(_ANNOTATED)
    return {
        "id": image.id,
        "image": places[0].to_json(),
        "label": places[1].to_json(),
        "names": names_of(label),
        "likely": likely_names_of(label),
        "annotated": annotated if _is_stretches(annotated) else None,
    }


def _is_stretches(value: Any) -> bool:
    """Whether it is like ``[[0, 40], [55, 60]]``."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, int) and 0 <= end < 1 << 31 for end in pair) for pair in value
    )
