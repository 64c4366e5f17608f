"""The routes of batches."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.names import check_tag
from delineate.errors import UnavailableError
from delineate.protocols import monai_label as wire
from delineate.protocols.monai_label_datastore import ORIGINAL_TAG
from delineate.server.files import Files
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.batch_records import BatchRecord
from delineate.server.monai_label.batches import Batches, Run
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import json_object, small_body
from delineate.server.monai_label.inference import IN_DICOM
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.works import All, Running, Sync
from delineate.server.security import Guard
from delineate.server.service import Service

InDicom = Annotated[
    Literal["dicom_seg", "rtstruct"] | None, Query(description="Labels in DICOM: beside their series in the PACS, else as files.")
]
Images = Annotated[Literal["all", "labeled", "unlabeled"], Query(description="Those with or without a `final` label, or all.")]


class BatchRoutes:
    """Batches as a client of this API sees them."""

    def __init__(self, service: Service, annotation: Annotation, batches: Batches, guard: Guard, files: Files) -> None:
        self._service = service
        self._annotation = annotation
        self._batches = batches
        self._guard = guard
        self._files = files

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("/batch/infer/{model}", "POST", self.start)
        routes.add(wire.BATCH_PATH, "GET", self.status)
        routes.add(wire.BATCH_PATH, "DELETE", self.stop)

    async def start(
        self, request: Request, model: str, images: Images = "unlabeled", run_sync: Sync = False, output: InDicom = None
    ) -> Response:  # fmt: skip
        """Run a model on many images of the datastore and save what it finds as labels.

        JSON: the model's parameters, `label_tag` (`original` where it is not given), `save_label`; `max_batch_size`, the first so many
        images by id, and `max_workers`, so many at once: 0 for no limit. 429 while one runs.
        """
        params = json_object(await small_body(request), "the request")
        wanted = wire.BatchParams.from_json(params, strict=True)
        await self._files.run(lambda: self._service.require_model(model))
        tag = check_tag(wanted.label_tag or ORIGINAL_TAG)
        chosen = None if images == "all" else images == "unlabeled"
        found = await self._files.run(lambda: self._annotation.datastore.images(unlabelled=chosen))
        if (first := wanted.max_batch_size or 0) > 0:
            found = sorted(found, key=lambda image: image.id)[:first]
        asked = {"model": model, "images": images, **({"output": output} if output else {}), **params}
        own = ("save_label", "label_tag", "max_workers", "max_batch_size")
        record = BatchRecord(
            id=self._batches.records.new_id(), model=model, images=tuple(image.id for image in found),
            tag="" if wanted.save_label is False else tag, params={name: value for name, value in params.items() if name not in own},
            request=asked, owner=self._guard.owner(request), started=time.time(), output=IN_DICOM.get(output or "", ""),
            most=max(0, wanted.max_workers or 0),
        )  # fmt: skip
        run = await self._batches.start(record)
        if not run_sync:
            return JSONResponse(_view(record, "SUBMITTED", ()).to_json())
        await run.ended.wait()
        if run.record.ended is None:
            raise UnavailableError("the server is stopping; the batch goes on when it is back", "Ask for it then.", 503)
        return JSONResponse(run.results)

    async def status(self, every: All = False, check_if_running: Running = False) -> Response:
        """The last batch, and how far it is."""
        run = self._batches.current
        if run is not None and not every:
            return JSONResponse(_running(run).to_json())
        if check_if_running:
            raise NotHereError("no batch runs")
        ended = [record for record in await self._files.run(self._batches.records.all) if run is None or record.id != run.record.id]
        views = [_view(record, record.state, record.details) for record in ended] + ([_running(run)] if run is not None else [])
        if every:
            return JSONResponse([view.to_json() for view in views])
        if not views:
            raise NotHereError("there was no batch yet")
        return JSONResponse(views[-1].to_json())

    async def stop(self) -> Response:
        """Stop the batch that runs; null where none does."""
        run = await self._batches.stop()
        return JSONResponse(None if run is None else _view(run.record, run.record.state, run.record.details).to_json())


def _running(run: Run) -> wire.TaskView:
    return _view(run.record, "RUNNING", run.details)


def _view(record: BatchRecord, state: str, details: tuple[str, ...]) -> wire.TaskView:
    ended: dict[str, Any] = {}
    if record.ended is not None:
        ended = {"end_ts": wire.timestamp(record.ended), "exit_code": 0 if state == "DONE" else 1}
    shown = {"details": list(details)} if details else {}
    return wire.TaskView.from_json(
        {"id": record.id, "status": state, "request": dict(record.request), "start_ts": wire.timestamp(record.started), **shown, **ended}
    )
