"""What the server is and can do; what it logged."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from html import escape
from typing import Annotated, Final

from fastapi import Query
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from delineate import __version__
from delineate.datastore.snapshot import State
from delineate.model import Model
from delineate.protocols import monai_label as wire
from delineate.protocols.monai_label_datastore import DatastoreStats
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.recent_log import RecentLog
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.scores import METHODS
from delineate.server.monai_label.train_stats import TrainStatistics
from delineate.server.monai_label.training import trainer_infos
from delineate.server.service import Service
from delineate.server.threads import Threads

_STRATEGIES: Final = {
    "first": "The first image without a label, in the order of ids, that nobody else has",
    "random": "Any image without a label that nobody else has, the likelier the longer ago it was handed out",
    "uncertainty": "The image that the trained model doubts most, as far as it has looked at them in the background",
    "diversity": "The image that is least like those that are labelled or being labelled",
}
_PAGE: Final = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Log</title></head><body><pre>{}</pre></body></html>\n'


class InfoRoutes:
    """Asked before every call by some clients: kept as bytes until something changes."""

    def __init__(self, service: Service, annotation: Annotation, statistics: TrainStatistics, threads: Threads, log: RecentLog) -> None:
        self._service = service
        self._annotation = annotation
        self._statistics = statistics
        self._threads = threads
        self._log = log
        self._known: tuple[Sequence[Model], State | None, Mapping[str, wire.TrainStats], bytes] = ((), None, {}, b"")
        self._changes = -1
        self._lock = threading.Lock()

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.INFO_PATH, "GET", self.info)
        routes.add(wire.LOGS_PATH, "GET", self.log)
        routes.add(wire.GPU_PATH, "GET", self.gpu)

    async def info(self) -> Response:
        """Name, labels, models, trainers, strategies, scoring, and counts of the datastore."""
        # A look at whether anything changed takes some 10 µs, changing threads ten times as long.
        body = self._known[3] if self._is_fresh() else await self._threads.run(self._info)
        return Response(body, media_type="application/json")

    def _is_fresh(self) -> bool:
        return self._service.shelf.is_listed and self._service.database.changes() == self._changes

    def _info(self) -> bytes:
        with self._lock:
            changes = self._service.database.changes()  # before anything is read: what comes between is looked at again
            body = self._rendered()
            self._changes = changes
            return body

    def _rendered(self) -> bytes:
        models = self._service.shelf.models()
        state = self._annotation.datastore.state() if self._annotation.has_datastore else None
        progress = self._statistics.all() if state is not None else {}
        known_models, known_state, known_progress, body = self._known
        if body and known_models is models and known_state is state and known_progress == progress:
            return body
        body = json.dumps(self._message(models, state, progress).to_json()).encode()
        self._known = (models, state, progress, body)
        return body

    def _message(self, models: Sequence[Model], state: State | None, progress: Mapping[str, wire.TrainStats]) -> wire.Info:
        labels = {label: None for model in models for label in model.labels}
        strategies = self._annotation.datastore.strategies if state is not None else {}
        return wire.Info(
            name="Delineate",
            description="Images leave the workstation, a model delineates, structures come back where they belong",
            version=__version__,
            labels=list(labels),
            models={model.name: _model_info(model) for model in models},
            trainers=(trainers := trainer_infos(self._annotation)),
            train_stats={name: stats for name, stats in progress.items() if name in trainers},
            strategies={name: wire.Described(description=_STRATEGIES.get(name, name)) for name in strategies},
            scoring={name: wire.Described(description=text) for name, text in METHODS.items()} if state is not None else {},
            datastore=stats_of(state) if state is not None else DatastoreStats(),
        )

    async def log(
        self,
        lines: Annotated[int, Query(description="How many, the newest; 0 and below for all that are kept.")] = 300,
        html: Annotated[bool, Query(description="As a page.")] = True,
        text: Annotated[bool, Query(description="As plain text.")] = False,
    ) -> Response:
        """The last lines of the server's log. For administrators; a page unless `text` is set, `html` is not, or `lines` is 0."""
        said = "\n".join(self._log.lines(max(0, lines)))
        return PlainTextResponse(said) if text or not html or lines <= 0 else HTMLResponse(_PAGE.format(escape(said)))

    async def gpu(self) -> Response:
        """What GPUs the server has: not told here."""
        raise NotHereError("this server does not watch GPUs", "Ask the machine it runs on.")


def stats_of(state: State) -> DatastoreStats:
    """Counts as they are sent."""
    counts = state.statistics
    tags: Mapping[str, int] = dict(counts.label_tags)
    return DatastoreStats(total=counts.total, completed=counts.completed, label_tags=tags)


def _model_info(model: Model) -> wire.ModelInfo:
    return wire.ModelInfo(
        type=model.kind, labels=model.labels, dimension=model.dimension, description=model.description, config=dict(model.config),
        more={"pathology": True} if model.takes_slides else {},
    )  # fmt: skip
