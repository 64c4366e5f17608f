"""All of it, put together."""

from __future__ import annotations

from fastapi import FastAPI

from delineate.server.accounts.identity import Accounts
from delineate.server.listening import Listening
from delineate.server.monai_label.accounts import AccountRoutes
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.asking import Asking
from delineate.server.monai_label.batch import BatchRoutes
from delineate.server.monai_label.batches import BATCH, Batches
from delineate.server.monai_label.datastore import DatastoreRoutes
from delineate.server.monai_label.downloads import Downloads
from delineate.server.monai_label.inference import InferRoutes
from delineate.server.monai_label.infers import Infers
from delineate.server.monai_label.info import InfoRoutes
from delineate.server.monai_label.keeping import Keeping
from delineate.server.monai_label.label_names import AnsweredNames
from delineate.server.monai_label.looking import Looking
from delineate.server.monai_label.proxy import ProxyRoutes
from delineate.server.monai_label.recent_log import RecentLog
from delineate.server.monai_label.returning import Returning
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.samples import SampleRoutes
from delineate.server.monai_label.saving import SavingRoutes
from delineate.server.monai_label.scores import SCORE, Scores
from delineate.server.monai_label.scoring import ScoringRoutes
from delineate.server.monai_label.series_grids import WORK_NAME as GRID
from delineate.server.monai_label.series_grids import SeriesGrids
from delineate.server.monai_label.sessions import SessionRoutes
from delineate.server.monai_label.slides import SlideRoutes
from delineate.server.monai_label.train_stats import TrainStatistics
from delineate.server.monai_label.training import TrainRoutes
from delineate.server.monai_label.viewer import ViewerRoutes
from delineate.server.monai_label.weights import WeightRoutes
from delineate.server.monai_label.works import Works
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.training.trainers import TRAIN, WEIGHTS


class LabelApi:
    """The MONAI Label API over a prepared service.

    Raises
    ------
    StoreError, SettingsError
        The folder of images cannot be used.
    """

    def __init__(
        self, service: Service, guard: Guard, accounts: Accounts | None, listening: Listening, threads: Threads
    ) -> None:  # fmt: skip
        self.annotation = Annotation(service.settings, service.database)
        self._log = RecentLog()
        annotation, downloads, limit = self.annotation, Downloads(threads), service.settings.max_upload_mb << 20
        answered = AnsweredNames()
        asking, keeping = Asking(service, annotation), Keeping(service, annotation, answered)
        self._keeping = keeping
        infers = Infers(service, asking, keeping, guard, listening, threads)
        self._batches = Batches(service, annotation, asking, keeping, listening, threads)
        batches = Works(BATCH, service, guard, listening, threads, self._batches.log)
        statistics, trainings = TrainStatistics(service), Works(TRAIN, service, guard, listening, threads)
        scores = Scores(service, annotation)
        grids = SeriesGrids(service, annotation, Works(GRID, service, guard, listening, threads), threads)
        self._looking = Looking(service, annotation, scores, threads)
        self._proxy, self._returning = ProxyRoutes(annotation, guard, limit), Returning(service, annotation, listening, threads)
        self._groups = (
            AccountRoutes(accounts, guard),
            InfoRoutes(service, annotation, statistics, threads, self._log),
            SampleRoutes(annotation, guard, threads),
            DatastoreRoutes(annotation, guard, threads, downloads),
            SavingRoutes(annotation, answered, grids, guard, threads, limit),
            SessionRoutes(annotation, service, guard, downloads, threads, limit),
            BatchRoutes(service, annotation, batches, self._batches, guard, threads),
            TrainRoutes(service, annotation, trainings, statistics, guard, threads),
            WeightRoutes(service, Works(WEIGHTS, service, guard, listening, threads), guard, threads),
            ScoringRoutes(scores, Works(SCORE, service, guard, listening, threads), guard, threads),
            self._proxy,
            ViewerRoutes(service.settings, threads),
            SlideRoutes(infers, threads),  # before the route that holds a model's name
            InferRoutes(infers, threads),
        )

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        routes = Routes()
        for group in self._groups:
            group.add_to(routes)
        routes.add_to(app)

    async def begin(self) -> None:
        """The server runs."""
        self._log.begin()
        await self._batches.begin()
        self._looking.begin()
        self._returning.begin()

    async def end(self) -> None:
        """The server stops; nobody may wait for a task any more."""
        await self._looking.end()
        await self._returning.end()
        await self._batches.end()
        await self._proxy.close()

    def sweep(self) -> int:
        """Remove what expired: how many."""
        return self.annotation.sweep()

    def close(self) -> None:
        """Nothing runs any more."""
        self._keeping.close()
        self._log.end()
        self.annotation.close()
