"""Routes of parts that this server does not have: trainers, scoring, weights that are exchanged, models of slides.

They answer what a server without them answers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from starlette.responses import JSONResponse, Response

from delineate.errors import UnknownModelError
from delineate.protocols import monai_label as wire
from delineate.server.files import Files
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.routing import Routes
from delineate.server.service import Service

All = Annotated[bool, Query(alias="all", description="All that were started, as a list.")]
Running = Annotated[bool, Query(description="Only one that runs now.")]
Output = Annotated[Literal["dsa", "asap", "json"] | None, Query(description="Form of the answer.")]


class AbsentRoutes:
    """Nothing runs and nothing is known here."""

    def __init__(self, service: Service, files: Files) -> None:
        self._service = service
        self._files = files

    def add_to(self, routes: Routes) -> None:
        """Add the routes; those of slides before the one that holds a model's name."""
        for path in (wire.TRAIN_PATH, wire.SCORING_PATH):
            routes.add(path, "GET", self.status)
            routes.add(path, "POST", self.start_all)
            routes.add(path, "DELETE", self.stop)
        routes.add("/train/{model}", "POST", self.train)
        routes.add("/scoring/{method}", "POST", self.score)
        routes.add("/model/info/{model}", "GET", self.weights)
        for verb, endpoint in (("GET", self.weights), ("PUT", self.put_weights), ("DELETE", self.weights)):
            routes.add("/model/{model}", verb, endpoint)
        routes.add("/infer/wsi/{model}", "POST", self.slide)
        routes.add("/infer/wsi_v2/{model}", "POST", self.slide)

    async def status(self, every: All = False, check_if_running: Running = False) -> Response:
        """The last run: there never was one."""
        if every and not check_if_running:
            return JSONResponse([])
        raise NotHereError("nothing of this kind runs, or ever ran")

    async def start_all(self) -> Response:
        """Start all there are: none."""
        return JSONResponse({})

    async def stop(self) -> Response:
        """Stop what runs: nothing does."""
        return JSONResponse(None)

    async def train(self, model: str) -> Response:
        """Train a model: there is no trainer."""
        raise NotHereError("this server has no trainer of that name", "See trainers in the answer of /info/.")

    async def score(self, method: str) -> Response:
        """Score labels: there is no method."""
        raise NotHereError("this server has no scoring method of that name", "See scoring in the answer of /info/.")

    async def weights(self, model: str) -> Response:
        """The weights of a model, or what is known of them: no model has any that are exchanged."""
        await self._files.run(lambda: self._service.require_model(model))
        raise NotHereError("the model has no weights that are exchanged", "Change its folder at the server.")

    async def put_weights(self, model: str) -> Response:
        """New weights for a model: none takes any."""
        return await self.weights(model)

    async def slide(self, model: str, output: Output = None) -> Response:
        """Run a model on a slide: no model takes one."""
        raise UnknownModelError("this server has no model for slides of that name", "See models in the answer of /info/.")
