"""Routes of parts that this server does not have: scoring.

They answer what a server without them answers.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import JSONResponse, Response

from delineate.protocols import monai_label as wire
from delineate.server.files import Files
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.routing import Routes
from delineate.server.service import Service

All = Annotated[bool, Query(alias="all", description="All that were started, as a list.")]
Running = Annotated[bool, Query(description="Only one that runs now.")]


class AbsentRoutes:
    """Nothing runs and nothing is known here."""

    def __init__(self, service: Service, files: Files) -> None:
        self._service = service
        self._files = files

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        for path in (wire.SCORING_PATH,):
            routes.add(path, "GET", self.status)
            routes.add(path, "POST", self.start_all)
            routes.add(path, "DELETE", self.stop)
        routes.add("/scoring/{method}", "POST", self.score)

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

    async def score(self, method: str) -> Response:
        """Score labels: there is no method."""
        raise NotHereError("this server has no scoring method of that name", "See scoring in the answer of /info/.")
