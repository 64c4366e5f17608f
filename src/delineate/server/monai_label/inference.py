"""Infer: a task that somebody waits on, and its answer out of the result archive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from delineate.errors import InputError, UnavailableError
from delineate.model import Model
from delineate.protocols import monai_label as wire
from delineate.protocols.infer_result import StoredResult
from delineate.protocols.inference_server import KEY_HEADER
from delineate.protocols.monai_label_answers import infer_answer
from delineate.server.accounts.identity import Role, RoleMissingError
from delineate.server.files import Files
from delineate.server.listening import Listening
from delineate.server.monai_label.asking import Asked, Asking
from delineate.server.monai_label.downloads import OCTETS
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import Form, json_object
from delineate.server.monai_label.keeping import Keeping
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.sessions import owner_of
from delineate.server.monai_label.takers import BlobTaker, Named
from delineate.server.results import BodyResponse
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.task import Task

Output = Annotated[
    Literal["image", "json", "all", "dicom_seg"] | None, Query(description="Which part of the answer; all of it where not given.")
]

SAVES: Final = Role.ANNOTATOR
"""The least that may keep an answer as a label, as at ``PUT /datastore/label``."""

_FORM: Final = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "params": {"type": "string", "description": "A JSON object: the model's parameters, and how the file is wanted."},
                        "file": {"type": "string", "format": "binary", "description": "The image, where no id names it."},
                        "label": {"type": "string", "format": "binary", "description": "Scribbles, or a mask to go on from."},
                    },
                }
            }
        }
    },
    "parameters": [
        {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": "A repeated request is the same task."}
    ],
}


class InferRoutes:
    """Nothing here runs a model: workers do, and many may wait at once."""

    def __init__(
        self, service: Service, asking: Asking, keeping: Keeping, guard: Guard, listening: Listening, files: Files, threads: Executor
    ) -> None:  # fmt: skip
        self._service = service
        self._asking = asking
        self._keeping = keeping
        self._guard = guard
        self._listening = listening
        self._files = files
        self._threads = threads

    def add_to(self, routes: Routes) -> None:
        """Add the route."""
        routes.add("/infer/{model}", "POST", self.infer, _FORM)

    async def infer(
        self,
        request: Request,
        model: str,
        image: Annotated[str, Query(description="Id of an image in the datastore.")] = "",
        session_id: Annotated[str, Query(description="Id of a session, which goes before a file.")] = "",
        output: Output = None,
    ) -> Response:
        """Run a model on an image and answer what it found.

        Without `output`, and with `all`: a multipart answer, `params` (JSON) and `image` (file); where the model gave no
        file, the JSON alone. Who hangs up cancels.
        """
        record = await self._files.run(lambda: self._service.require_model(model))
        if output == "dicom_seg":
            raise InputError("answers in DICOM are not made here", "Ask for output=image with result_extension .nrrd or .nii.gz.")
        taker = BlobTaker(Named(self._service.waited_for.blobs.incoming), {wire.FILE_FIELD, wire.LABEL_FIELD})
        async with Form(taker, self._threads, self._service.settings.max_upload_mb << 20) as form:
            await form.read(request)
            asked = self._asked(request, model, record, form.fields, image, session_id)
            task = await form.finish(lambda: self._asking.submit(asked, taker))
        ended = await self._listening.finished(request, task.uid)
        if ended is None:
            return await self.left_alone(request, task)
        return await self._answer(ended, asked, output)

    def _asked(self, request: Request, name: str, model: Model, fields: dict[str, str], image: str, session: str) -> Asked:
        params = json_object(fields.get(wire.PARAMS_FIELD, ""), wire.PARAMS_FIELD)
        # Some clients say in the parameters what others say in the address.
        image, session = (_text(params, name) or given for name, given in (("image", image), ("session_id", session)))
        asked = Asked(
            model=model, image=image, session=session, params=params, owner=self._guard.owner(request),
            session_owner=owner_of(self._guard, request), key=request.headers.get(KEY_HEADER), name=name,
        )  # fmt: skip
        identity = self._guard.identity(request)
        if asked.save_tag and identity is not None and identity.role < SAVES:
            raise RoleMissingError(SAVES, identity.role)
        return asked

    async def left_alone(self, request: Request, task: Task) -> Response:
        """Nobody waits any more: cancel the task where its client went away. Raises `UnavailableError` where the server stops."""
        if await request.is_disconnected():
            await self._files.run(lambda: self._service.waited_for.cancel(task.uid, "the client went away"))
            return Response(status_code=400)
        raise UnavailableError("the server is stopping", "Send the request again in a moment.", 503)

    async def _answer(self, task: Task, asked: Asked, output: str | None) -> Response:
        stored = await self._files.run(partial(self._keeping.answer, task, asked.image, asked.save_tag))
        response = self._response(stored, output)
        # Nobody else knows of the task: its files are of no use once the answer is sent.
        return AnsweredThen(response, partial(self._keeping.forget_soon, task))

    def _response(self, stored: StoredResult, output: str | None) -> Response:
        if output == "json" or (stored.file is None and output != "image"):
            return JSONResponse(dict(stored.params))
        if stored.file is None:
            raise NotHereError("the model gave no file", "Ask for output=json.")
        filename = stored.filename or "answer"
        if output == "image":
            return BodyResponse(stored.file, media_type=OCTETS, filename=filename, threads=self._threads)
        content_type, body = infer_answer(dict(stored.params), stored.file, filename)
        return BodyResponse(body, media_type=content_type, threads=self._threads)


class AnsweredThen(Response):
    """An answer, and what is done once it is sent; that must not block."""

    def __init__(self, answer: Response, then: Callable[[], None]) -> None:
        super().__init__()
        self._answer = answer
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self._answer(scope, receive, send)
        self._then()


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"the parameter {name} is no text", "Send the id as the server gave it.")
    return value or ""
