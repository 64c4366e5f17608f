"""How these routes stand in the application: their paths exactly as old clients know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from delineate.server import openapi

TAG: Final = "monai label"

_EVERY: Final = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]


class Routes:
    """Collects the routes; `add_to` puts them into the application.

    Unlike the other routes a path ends as it is written: one without its slash, or with one too many, is redirected (307),
    whatever the method, and a ``HEAD`` is a question of its own, not a ``GET`` without the body.
    """

    def __init__(self) -> None:
        self._routes: list[Callable[[APIRouter], None]] = []
        self._paths: dict[str, None] = {}

    def add(self, path: str, method: str, endpoint: Callable[..., Any], extra: Mapping[str, Any] | None = None) -> None:
        """Add a route whose description is its endpoint's docstring."""
        options: dict[str, Any] = {"openapi_extra": dict(extra or {}), "summary": openapi.summary(endpoint)}
        self._routes.append(
            lambda router: router.add_api_route(
                path, endpoint, methods=[method], tags=[TAG], response_model=None, operation_id=f"{method}{path}",
                route_class_override=APIRoute, **options,
            )
        )  # fmt: skip
        self._paths[path] = None

    def add_to(self, app: FastAPI) -> None:
        """Put them into the application."""
        app.add_exception_handler(ClientDisconnect, _nobody_listens)
        for add in self._routes:  # into the application's own router: one within it is asked twice for each request
            add(app.router)
        for path in self._paths:
            other = path[:-1] if path.endswith("/") else path + "/"
            if not path.endswith(":path}") and other not in self._paths:
                app.router.add_route(other, _elsewhere, methods=_EVERY, include_in_schema=False)


async def _elsewhere(request: Request) -> Response:
    # Relative, so that it holds behind any proxy; 307 keeps method and body.
    path = str(request.scope["path"])
    last = quote(path.rstrip("/").rpartition("/")[2], safe="")
    target = f"../{last}" if path.endswith("/") else f"{last}/"
    query = request.url.query
    return Response(status_code=307, headers={"location": f"{target}?{query}" if query else target})


async def _nobody_listens(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nothing is left of what was sent
