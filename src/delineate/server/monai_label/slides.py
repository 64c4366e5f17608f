"""Infer on slides: an infer like any other, asked for in other words and answered with a document of outlines."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from delineate.errors import InputError, ResultLostError
from delineate.protocols import monai_label as wire
from delineate.server.monai_label.forms import json_object
from delineate.server.monai_label.infers import Infers
from delineate.server.monai_label.routing import Routes
from delineate.server.openapi import BINARY, form_body
from delineate.server.results import BodyResponse
from delineate.slides.part import DOCUMENT, USUAL_SIZE, read_part

Output = Annotated[Literal["dsa", "asap", "json"] | None, Query(description="Form of the outlines; JSON where not given.")]
Image = Annotated[str, Query(description="Id of an image in the datastore.")]
Session = Annotated[str, Query(description="Id of a session, which goes before a file.")]

_KINDS: Final = {"asap": "application/xml", "dsa": "application/json", "json": "application/json"}
_SAVING: Final = ("save_label", "label_tag")  # where other clients say it: beside the part, or among the model's parameters
_PART: Final = {
    "type": "object",
    "properties": {
        "level": {"type": "integer", "default": 0, "description": "The finest level that is read."},
        "location": {"type": "array", "items": {"type": "integer"}, "default": [0, 0], "description": "x, y in pixels of level 0."},
        "size": {
            "type": "array", "items": {"type": "integer"}, "default": list(USUAL_SIZE),
            "description": "Width, height in pixels of level 0; zeros reach to the edge.",
        },
        "tile_size": {"type": "array", "items": {"type": "integer"}, "default": [1024, 1024]},
        "min_poly_area": {"type": "number", "default": 80, "description": "Pixels of level 0 below which an outline is left out."},
        "params": {"type": "object", "description": "The model's parameters."},
    },
}  # fmt: skip
_BODY: Final = {"requestBody": {"content": {"application/json": {"schema": _PART}}}}
_FORM: Final = form_body(
    {
        wire.WSI_FIELD: {"type": "string", "description": "JSON, as the body of /infer/wsi/{model}."},
        wire.FILE_FIELD: {**BINARY, "description": "A slide, where no id names one."},
    }
)


class SlideRoutes:
    """Infer on slides."""

    def __init__(self, infers: Infers, threads: Executor) -> None:
        self._infers = infers
        self._threads = threads

    def add_to(self, routes: Routes) -> None:
        """Add the routes; before the one that holds a model's name."""
        routes.add("/infer/wsi/{model}", "POST", self.infer, _BODY)
        routes.add("/infer/wsi_v2/{model}", "POST", self.infer_file, _FORM)

    async def infer(self, request: Request, model: str, image: Image = "", session_id: Session = "", output: Output = None) -> Response:
        """Run a model on a part of a slide and answer the outlines of what it found, in pixels of the slide's finest level.

        `dsa`: an annotation of the Digital Slide Archive; `asap`: XML for ASAP and QuPath. With `save_label` the outlines are kept as a
        label of the image too, under `label_tag`. Who hangs up cancels.
        """
        return await self._run(request, model, image, session_id, output)

    async def infer_file(
        self, request: Request, model: str, image: Image = "", session_id: Session = "", output: Output = None
    ) -> Response:  # fmt: skip
        """The same with a form, which may bring the slide along."""
        return await self._run(request, model, image, session_id, output)

    async def _run(self, request: Request, model: str, image: str, session: str, output: str | None) -> Response:
        record = await self._infers.model(model)
        if not record.takes_slides:
            raise InputError("the model does not work on slides", "Ask at /infer/{model}; models of slides have pathology in /info/.")
        task, asked = await self._infers.ended(
            request,
            {wire.FILE_FIELD},
            lambda fields: self._infers.asked(request, model, record, _params(fields, output), image, session),
        )
        stored = await self._infers.answer(task, asked.image, asked.save_tag)
        if stored.file is None:
            raise ResultLostError("the model's outlines are not there any more")
        kind = output or "json"
        name = "" if kind == "json" else stored.filename or "outlines"
        answer = BodyResponse(stored.file, media_type=_KINDS[kind], filename=name, threads=self._threads)
        return self._infers.last(answer, task)


def _params(fields: Mapping[str, str], output: str | None) -> dict[str, Any]:
    """All that is said of the part and to the model, in one object, as the worker reads it. Raises `InputError`."""
    body = json_object(fields.get(wire.WSI_FIELD) or fields.get(wire.PARAMS_FIELD, ""), "the request")
    wanted = wire.WsiRequest.from_json({name: value for name, value in body.items() if value is not None}, strict=True)
    size = body.get("size")
    params: dict[str, Any] = {
        "level": wanted.level, "location": wanted.location, "size": list(USUAL_SIZE) if size is None else wanted.size,
        "tile_size": wanted.tile_size, "min_poly_area": wanted.min_poly_area,
        **{name: body[name] for name in _SAVING if name in body}, **wanted.params,
        "output": output or "json", DOCUMENT: True,
    }  # fmt: skip
    read_part(params)
    return params
