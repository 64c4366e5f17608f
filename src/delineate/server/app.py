"""The application: everything is constructed here, from settings, and nothing is global."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from delineate import __version__
from delineate.errors import DelineateError
from delineate.server import openapi, problems
from delineate.server.accounts.chosen import accounts_of
from delineate.server.accounts.gate import Gate
from delineate.server.accounts.identity import Accounts
from delineate.server.accounts.static import StaticTokens
from delineate.server.administration import AdministrationRoutes
from delineate.server.feed import Feed
from delineate.server.files import Files
from delineate.server.inference_server import TaskRoutes
from delineate.server.listening import Listening
from delineate.server.metrics import Metrics
from delineate.server.middleware import Envelope
from delineate.server.monai_label.api import LabelApi
from delineate.server.pages import Pages
from delineate.server.route_index import RouteIndex
from delineate.server.security import Guard
from delineate.server.service import Engine, Service
from delineate.server.settings import Settings
from delineate.server.threads import Threads
from delineate.server.waiting import Watcher

THREADS: Final = 16
"""Blocking calls at once: writes to the store queue behind one lock anyway, and disks do not get faster with more."""

RETENTION_INTERVAL: Final = 600.0  # s between two looks for tasks that are old enough to go

_log = logging.getLogger(__name__)

DESCRIPTION: Final = """Segmentation models over HTTP: post images, wait, fetch structures.

Three dialects of the inference-server protocol are answered at once. Errors of legacy routes carry `detail` in the dialect's
nesting; all errors carry the members of RFC 9457, `advice` and `request_id`."""


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """The application on the data folder of `settings`.

    Parameters
    ----------
    engine : rung after each new task and asked for the workers' state; whoever made it starts and stops it.

    Notes
    -----
    ``app.state.service`` and ``app.state.watcher`` are for who runs the application: the watcher is closed before the
    server waits for open connections, so that long polls end at once.

    Raises
    ------
    DelineateError
        The data folder or database cannot be used.
    """
    service = Service(settings, engine)
    service.prepare()
    watcher = Watcher(Feed(service.database))
    threads = Threads(THREADS, "delineate")
    guard, files = Guard(settings), Files(service, threads)
    listening = Listening(service, watcher, longest=settings.max_wait, heartbeat=settings.heartbeat)
    accounts = accounts_of(settings, service.database, threads)
    labels = LabelApi(service, guard, accounts, listening, threads)
    gate = Gate(guard, StaticTokens(settings), accounts, lambda uid: service.tasks.get(uid).owner, threads)
    app = FastAPI(
        title="Delineate", version=__version__, description=DESCRIPTION, dependencies=[Depends(gate)],
        lifespan=_lifespan(service, watcher, threads, labels, accounts),
        docs_url=None, redoc_url=None, redirect_slashes=False, openapi_tags=openapi.TAGS, license_info={"name": "Apache-2.0"},
    )  # fmt: skip
    app.router.route_class = openapi.TwofoldRoute
    app.state.service, app.state.watcher, app.state.labels = service, watcher, labels
    problems.add_handlers(app)
    metrics = Metrics(service, watcher)
    AdministrationRoutes(service, guard, files, threads).add_to(app)
    Pages(service, guard, metrics, threads).add_to(app)
    TaskRoutes(service, guard, listening, files, metrics, threads).add_to(app)  # last: it answers whatever else is below /api/tasks
    labels.add_to(app)
    app.router.routes.insert(0, RouteIndex(tuple(app.router.routes)))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["*"],  # viewers send headers of their own, and these origins are trusted by name
            expose_headers=["Content-Disposition", "Content-Range", "Accept-Ranges", "ETag", "X-Request-ID"],
        )  # fmt: skip
    app.add_middleware(Envelope, guard=guard, metrics=metrics, root_path=settings.root_path)
    return app


def _lifespan(
    service: Service, watcher: Watcher, threads: Threads, labels: LabelApi, accounts: Accounts | None
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        retention = asyncio.create_task(_purge_now_and_then(service, labels, threads))
        await labels.begin()
        try:
            yield
        finally:
            watcher.close()
            retention.cancel()
            await labels.end()
            if accounts is not None:
                await accounts.close()
            threads.shutdown(wait=True)
            labels.close()
            service.close()

    return lifespan


async def _purge_now_and_then(service: Service, labels: LabelApi, threads: Threads) -> None:
    while True:
        for what, remove in (("tasks", lambda: service.purge(time.time())), ("sessions", labels.sweep)):
            try:
                if count := await threads.run(remove):
                    _log.info("%d %s removed after their time", count, what)
            except DelineateError as error:
                _log.error("old %s could not be removed: %s", what, error.message)
            except Exception:  # it is tried again, whatever it was
                _log.exception("old %s could not be removed", what)
        await asyncio.sleep(RETENTION_INTERVAL)
