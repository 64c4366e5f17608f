"""The server about itself: health, figures, and a page for those who open its address in a browser."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from delineate import __version__
from delineate.server import openapi
from delineate.server.metrics import CONTENT_TYPE, Metrics
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads

_HEAD: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Delineate</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44em; margin: 3em auto; padding: 0 1em; color: #222; background: #fff }}
table {{ border-collapse: collapse }} td {{ padding: .2em 1.5em .2em 0; vertical-align: top }} code {{ background: #f2f2f2 }}
</style></head><body>
"""
_PAGE: Final = (
    _HEAD
    + """<h1>Delineate {version}</h1>
<p>Images leave the workstation, a model delineates, structures come back where they belong. This server speaks the inference-server
protocol in its three dialects, and the API of MONAI Label: the plugins of 3D Slicer, QuPath and others take this very address.</p>
<h2>Models</h2>
{models}
<h2>For programs</h2>
<p>Post an archive with images to <code>{root}/api/tasks/?model_human_readable_id=NAME</code> and ask for the answered uid at
<code>{root}/api/tasks/UID?wait=30</code>; or run <code>delineate segment IMAGE --server URL --model NAME -o OUT</code>.</p>
<ul><li><a href="{root}/docs">All routes</a>, <a href="{root}/openapi.json">as OpenAPI</a></li>
<li><a href="{root}/healthz">Health</a></li><li><a href="{root}/metrics">Figures for Prometheus</a></li></ul>
</body></html>
"""
)
_ROUTES: Final = _HEAD + '<h1>Routes</h1>\n<table>{rows}</table>\n<p>As <a href="{root}/openapi.json">OpenAPI</a>.</p>\n</body></html>\n'


class Pages:
    """Health, metrics, landing page."""

    def __init__(self, service: Service, guard: Guard, metrics: Metrics, threads: Threads) -> None:
        self._service = service
        self._guard = guard
        self._metrics = metrics
        self._threads = threads

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        add = partial(openapi.add_route, app, "server")
        add("/healthz", "GET", self.health)
        add("/metrics", "GET", self.figures, openapi.TEXT)
        for path, page in (("/", self.landing), ("/docs", self.routes)):
            app.add_api_route(path, page, methods=["GET"], include_in_schema=False, response_model=None)

    async def health(self, ready: Annotated[str | None, Query(description="Answer 503 unless tasks can be worked on.")] = None) -> Response:
        """Whether the server lives, and how it is. Always 200 while it answers; with `?ready` 503 when something is missing."""
        engine = self._service.engine.status() if self._service.engine else None
        free = self._service.disk_free()
        checks = {
            "database": self._service.is_database_well(),
            "disk": free >= self._service.settings.min_free_mb << 20,
            "workers": engine is None or engine["ready"] > 0 or self._service.settings.workers == 0,
        }
        is_ready = all(checks.values())
        body: dict[str, Any] = {"status": "ok" if is_ready else "degraded", "version": __version__, "checks": checks, "disk_free": free}
        if engine is not None:
            body["workers"] = {"alive": engine["alive"], "ready": engine["ready"], "all": len(engine["workers"])}
        wanted = ready is not None and ready.lower() not in ("0", "false", "no")
        return JSONResponse(body, 503 if wanted and not is_ready else 200)

    async def figures(self) -> Response:
        """Figures for Prometheus."""
        return Response(await self._threads.run(self._metrics.text), headers={"content-type": CONTENT_TYPE})

    async def landing(self, request: Request) -> Response:
        """A page for a browser."""
        root = escape(str(request.scope.get("root_path", "")), quote=True)
        if self._guard.has_accounts:
            models = "<p>Listed for those whom the server knows only.</p>"
        else:
            known = await self._threads.run(self._service.models.models)
            rows = "".join(f"<tr><td><code>{escape(model.name)}</code></td><td>{escape(model.description)}</td></tr>" for model in known)
            models = f"<table>{rows}</table>" if rows else "<p>None yet.</p>"
        return HTMLResponse(_PAGE.format(version=escape(__version__), models=models, root=root))

    async def routes(self, request: Request) -> Response:
        """All routes with a sentence each; without scripts from elsewhere, which a clinic's network keeps out."""
        root = escape(str(request.scope.get("root_path", "")), quote=True)
        paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
        rows = "".join(
            f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(about.get('summary', ''))}</td></tr>\n"
            for path, methods in paths.items()
            for method, about in methods.items()
        )
        return HTMLResponse(_ROUTES.format(rows=rows, root=root))
