"""The routes of batches."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.names import check_tag
from delineate.protocols import monai_label as wire
from delineate.protocols.monai_label_datastore import ORIGINAL_TAG
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.batches import Batch, Batches
from delineate.server.monai_label.forms import json_object, small_body, with_flags
from delineate.server.monai_label.inference import IN_DICOM
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.works import All, Running, Sync, Works
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads

InDicom = Annotated[
    Literal["dicom_seg", "rtstruct"] | None, Query(description="Labels in DICOM: beside their series in the PACS, else as files.")
]
Images = Annotated[Literal["all", "labeled", "unlabeled"], Query(description="Those with or without a `final` label, or all.")]


class BatchRoutes:
    """Batches as a client of this API sees them."""

    def __init__(
        self, service: Service, annotation: Annotation, works: Works, batches: Batches, guard: Guard, threads: Threads
    ) -> None:  # fmt: skip
        self._service = service
        self._annotation = annotation
        self._works = works
        self._batches = batches
        self._guard = guard
        self._threads = threads

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("/batch/infer/{model}", "POST", self.start)
        routes.add(wire.BATCH_PATH, "GET", self.status)
        routes.add(wire.BATCH_PATH, "DELETE", self.stop)

    async def start(
        self, request: Request, model: str, images: Images = "all", run_sync: Sync = False, output: InDicom = None
    ) -> Response:  # fmt: skip
        """Run a model on many images of the datastore and save what it finds as labels.

        JSON: the model's parameters, `label_tag` (`original` where it is not given), `save_label`; `max_batch_size`, the first so many
        images by id, and `max_workers`, so many at once: 0 for no limit. 429 while one runs.
        """
        params = with_flags(json_object(await small_body(request), "the request"), ("save_label",))
        wanted = wire.BatchParams.from_json(params, strict=True)
        await self._threads.run(lambda: self._service.require_model(model))
        tag = check_tag(wanted.label_tag or ORIGINAL_TAG)
        chosen = None if images == "all" else images == "unlabeled"
        found = await self._threads.run(lambda: self._annotation.datastore.images(unlabelled=chosen))
        if (first := wanted.max_batch_size or 0) > 0:
            found = sorted(found, key=lambda image: image.id)[:first]
        own = ("save_label", "label_tag", "max_workers", "max_batch_size")
        batch = Batch(
            model=model, images=tuple(image.id for image in found), tag="" if wanted.save_label is False else tag,
            params={name: value for name, value in params.items() if name not in own}, output=IN_DICOM.get(output or "", ""),
            most=max(0, wanted.max_workers or 0),
        )  # fmt: skip
        asked = {"model": model, "images": images, **({"output": output} if output else {}), **params}
        task = await self._works.start(partial(self._batches.submit, batch, self._guard.owner(request), asked))
        if not run_sync:
            return JSONResponse(await self._works.submitted(request, task))
        return JSONResponse(await self._works.answer(await self._works.ended(task), also_failed=True))

    async def status(self, request: Request, every: All = False, check_if_running: Running = False) -> Response:
        """The last batch, and how far it is."""
        return await self._works.status(request, every=every, check_if_running=check_if_running)

    async def stop(self, request: Request) -> Response:
        """Stop the batch that runs; null where none does. Labels that were saved stay."""
        return await self._works.stop(request)
