"""The route of infer: its task's answer out of the result archive, as it is wanted."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.errors import InputError
from delineate.protocols import monai_label as wire
from delineate.protocols.dicom_request import MEDIA_TYPE, OUTPUTS
from delineate.protocols.infer_result import StoredResult
from delineate.protocols.monai_label_answers import infer_answer
from delineate.server.monai_label.downloads import OCTETS
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import json_object, with_flags
from delineate.server.monai_label.infers import Infers
from delineate.server.monai_label.routing import Routes
from delineate.server.openapi import BINARY, form_body
from delineate.server.results import BodyResponse

Output = Annotated[
    Literal["image", "json", "all", "dicom_seg", "rtstruct"] | None,
    Query(description="Which part of the answer, all of it where not given; or a file in DICOM, of images that came from there."),
]

IN_DICOM: Final = {"dicom_seg": "seg", "rtstruct": "rtstruct"}
"""What a worker makes, by what clients of this API call it."""

_FLAGS: Final = ("save_label", "result_compress", "restore_label_idx", "reset_state")

_FORM: Final = {
    **form_body(
        {
            wire.PARAMS_FIELD: {"type": "string", "description": "A JSON object: the model's parameters, and how the file is wanted."},
            wire.FILE_FIELD: {**BINARY, "description": "The image, where no id names it."},
            wire.LABEL_FIELD: {**BINARY, "description": "Scribbles, or a mask to go on from."},
        }
    ),
    "parameters": [
        {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": "A repeated request is the same task."}
    ],
}


class InferRoutes:
    """Infer on volumes; and on slides, for clients that know no other route."""

    def __init__(self, infers: Infers, threads: Executor) -> None:
        self._infers = infers
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
        file, the JSON alone. With `dicom_seg` and `rtstruct` one file in DICOM. Who hangs up cancels.
        """
        record = await self._infers.model(model)
        in_dicom = IN_DICOM.get(output or "", "")
        task, asked = await self._infers.ended(
            request,
            {wire.FILE_FIELD, wire.LABEL_FIELD},
            lambda fields: replace(
                self._infers.asked(request, model, record, _params(fields), image, session_id),
                output=in_dicom,
            ),
        )
        stored = await self._infers.answer(task, asked.image, asked.save_tag)
        answer = self._file_in_dicom(stored, in_dicom) if in_dicom else self._response(stored, output)
        return self._infers.last(answer, task)

    def _file_in_dicom(self, stored: StoredResult, kind: str) -> Response:
        if kind not in stored.dicom:
            raise NotHereError("the model found no structures", "Ask for output=json.")
        return BodyResponse(stored.dicom[kind], media_type=MEDIA_TYPE, filename=OUTPUTS[kind], threads=self._threads)

    def _response(self, stored: StoredResult, output: str | None) -> Response:
        if output == "json" or (stored.file is None and output != "image"):
            return JSONResponse(dict(stored.params))
        if stored.file is None:
            raise NotHereError("the model gave no file", "Ask for output=json.")
        filename = _name_of_its_own(stored.filename or "answer")
        if output == "image":
            return BodyResponse(stored.file, media_type=OCTETS, filename=filename, threads=self._threads)
        content_type, body = infer_answer(dict(stored.params), stored.file, filename)
        return BodyResponse(body, media_type=content_type, threads=self._threads)


def _params(fields: Mapping[str, str]) -> dict[str, Any]:
    """The parameters among the plain fields, of which none should have been a file. Raises `InputError`."""
    for name in (wire.FILE_FIELD, wire.LABEL_FIELD):
        if fields.get(name):
            raise InputError(f"the field {name} of the form is no file", "Send it with a file name.")
    return with_flags(json_object(fields.get(wire.PARAMS_FIELD, ""), wire.PARAMS_FIELD), _FLAGS)


def _name_of_its_own(filename: str) -> str:
    # Old clients keep the file under this name, in one folder: two answers of one name would be one file.
    stem, dot, extension = filename.partition(".")
    return f"{stem}-{secrets.token_hex(6)}{dot}{extension}"
