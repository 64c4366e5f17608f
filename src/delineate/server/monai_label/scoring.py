"""The routes of scoring: labels are compared, or counted, by a task in the background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.names import check_tag
from delineate.errors import InputError
from delineate.protocols import monai_label as wire
from delineate.protocols.monai_label_datastore import FINAL_TAG, ORIGINAL_TAG
from delineate.scoring.tolerance import TOLERANCE
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import json_object, small_body
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.scores import METHODS, Scores, result_of
from delineate.server.monai_label.works import All, Running, Sync, Works
from delineate.server.security import Guard
from delineate.server.threads import Threads
from delineate.task import Task

_LARGEST_TOLERANCE: Final = 1000.0  # mm


class ScoringRoutes:
    """Scores, one run after the other."""

    def __init__(self, scores: Scores, works: Works, guard: Guard, threads: Threads) -> None:
        self._scores = scores
        self._works = works
        self._guard = guard
        self._threads = threads

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.SCORING_PATH, "GET", self.status)
        routes.add(wire.SCORING_PATH, "POST", self.start_all)
        routes.add(wire.SCORING_PATH, "DELETE", self.stop)
        routes.add("/scoring/{method}", "POST", self.start)

    async def status(self, request: Request, every: All = False, check_if_running: Running = False) -> Response:
        """The last run, and how far it is. Once it is `DONE`, what it found is in the information of labels and images."""
        answer = await self._works.status(request, every=every, check_if_running=check_if_running)
        await self._threads.run(self._scores.collect)  # before anyone hears that it is done
        return answer

    async def stop(self, request: Request) -> Response:
        """Stop the run, and those that wait; null where none does."""
        return await self._works.stop(request)

    async def start(self, request: Request, method: str, run_sync: Sync = False) -> Response:
        """Score all labels by a method: `dice` compares those of tag `y` (`final`) with those of `y_pred` (`original`), `sum` counts both.

        JSON: `y`, `y_pred`, and `tolerance` in mm, within which surfaces agree (2). 429 while a run is under way.
        """
        params = json_object(await small_body(request), "the request")
        task = await self._started(method, params, self._guard.owner(request), enqueue=False)
        if run_sync:
            return JSONResponse(await self._result(task))
        return JSONResponse(await self._works.submitted(request, task))

    async def start_all(self, request: Request, run_sync: Sync = False) -> Response:
        """Score by every method, one after the other; parameters of one under its name."""
        params = json_object(await small_body(request), "the request")
        owner, answers = self._guard.owner(request), {}
        for method in METHODS:
            own = params.get(method)
            task = await self._started(method, own if isinstance(own, dict) else {}, owner, enqueue=True)
            answers[method] = {"result": await (self._result(task) if run_sync else self._works.submitted(request, task)), "detail": None}
        return JSONResponse(answers)

    async def _started(self, method: str, params: Mapping[str, Any], owner: str, *, enqueue: bool) -> Task:
        if method not in METHODS:
            raise NotHereError("this server has no scoring method of that name", "See scoring in the answer of /info/.")
        wanted = wire.ScoringParams.from_json(dict(params), strict=True)
        tolerance = TOLERANCE if wanted.tolerance is None else wanted.tolerance
        if not 0 <= tolerance <= _LARGEST_TOLERANCE:
            raise InputError("the tolerance makes no sense", f"Give millimetres, 0 to {_LARGEST_TOLERANCE:g}.")
        tags = (check_tag(wanted.y or FINAL_TAG), check_tag(wanted.y_pred or ORIGINAL_TAG))
        asked = {name: value for name, value in params.items() if name != "method"}

        def submit() -> Task:
            return self._scores.submit(method, self._scores.items(method, tags), tolerance, owner, asked)

        return await self._works.start(submit, enqueue=enqueue)

    async def _result(self, task: Task) -> dict[str, Any]:
        answer = await self._works.answer(await self._works.ended(task))  # raises where it failed
        await self._threads.run(self._scores.collect)
        return result_of(answer)
