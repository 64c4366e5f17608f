"""Which image to label next."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.records import Sample
from delineate.protocols import monai_label as wire
from delineate.protocols.inference_server import KEY_HEADER
from delineate.protocols.monai_label_datastore import FINAL_TAG
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.forms import json_object, small_body
from delineate.server.monai_label.patches import next_patch
from delineate.server.monai_label.repeats import Repeats
from delineate.server.monai_label.routing import Routes
from delineate.server.security import Guard
from delineate.server.threads import Threads


class SampleRoutes:
    """Active learning."""

    def __init__(self, annotation: Annotation, guard: Guard, threads: Threads) -> None:
        self._annotation = annotation
        self._guard = guard
        self._threads = threads
        self._repeats = Repeats()

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("/activelearning/{strategy}", "POST", self.next)

    async def next(self, request: Request, strategy: str) -> Response:
        """The image to label next, kept from others for a while; `{}` when nothing is left.

        JSON: `client_id` says who asks, `label_tag` which label is missing. With `image`, `image_size` and `patch_size`: a part of
        that slide, as `bbox`. Asked again under the same `Idempotency-Key` it is the same answer.
        """
        body = json_object(await small_body(request), "the request")
        wanted = wire.SampleRequest.from_json(body, strict=True)
        patch = next_patch(body)
        if patch is not None and strategy in self._annotation.datastore.strategies:
            return JSONResponse(patch.to_json())
        holder = self._holder(request, wanted.client_id)
        tag = wanted.label_tag or FINAL_TAG

        async def choose() -> dict[str, Any]:
            sample = await self._threads.run(lambda: self._annotation.datastore.next_sample(strategy, holder, tag=tag))
            return {} if sample is None else _message(sample).to_json()

        return JSONResponse(await self._repeats.once(f"sample {strategy} {tag}", holder, request.headers.get(KEY_HEADER), choose))

    def _holder(self, request: Request, client_id: str | None) -> str:
        # With accounts the user alone: a client may say anything of itself, and would have every image under as many names.
        owner = self._guard.owner(request)
        return owner if self._guard.has_accounts else client_id or owner


def _message(sample: Sample) -> wire.Sample:
    info = {name: value for name, value in sample.image.info.items() if name not in ("id", "path", "weight", "bbox")}
    return wire.Sample.from_json({"id": sample.image.id, "path": str(sample.image.path), **_weight(sample), **info})


def _weight(sample: Sample) -> dict[str, float]:
    return {} if sample.weight is None else {"weight": sample.weight}
