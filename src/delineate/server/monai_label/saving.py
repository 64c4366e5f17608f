"""What is sent to the datastore: images, labels, and what is to be kept with them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Annotated, Any, Final

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.names import RAW, check_id
from delineate.protocols import monai_label_datastore as wire
from delineate.protocols.monai_label import FILE_FIELD, LABEL_FIELD, PARAMS_FIELD
from delineate.server.accounts.identity import Role, RoleMissingError
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.datastore import Image, Label, Tag
from delineate.server.monai_label.forms import Form, json_object
from delineate.server.monai_label.label_names import LIKELY, AnsweredNames, names_in
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.series_grids import SeriesGrids
from delineate.server.monai_label.takers import BlobTaker, Named
from delineate.server.openapi import BINARY, form_body
from delineate.server.security import Guard

NewId = Annotated[str, Query(description="Its id; by default its file's name.")]
FinalTag = Annotated[str, Query(description="Of the label; `final` where it is empty.")]


def _form(file: str, fields: Mapping[str, str]) -> dict[str, Any]:
    properties: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in fields.items()}
    if file:
        properties[file] = BINARY
    return form_body(properties, [file] if file else [])


_PARAMS: Final = {PARAMS_FIELD: "A JSON object, kept with it."}
_JUDGEMENT: Final = "segmentationMeta"
_INFO: Final = {wire.INFO_FIELD: "A JSON object, added to what is kept, key by key."}


class SavingRoutes:
    """An answer says that it is on the disk."""

    def __init__(
        self, annotation: Annotation, answered: AnsweredNames, grids: SeriesGrids, guard: Guard, threads: Executor, limit: int
    ) -> None:  # fmt: skip
        self._annotation = annotation
        self._grids = grids
        self._answered = answered
        self._guard = guard
        self._threads = threads
        self._limit = limit

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.DATASTORE_PATH, "PUT", self.add_image, _form(FILE_FIELD, _PARAMS))
        routes.add(wire.IMAGE_PATH, "PUT", self.add_image_at, _form(FILE_FIELD, _PARAMS))
        routes.add(wire.LABEL_PATH, "PUT", self.save_label, _form(LABEL_FIELD, _PARAMS))
        routes.add(wire.IMAGE_INFO_PATH, "PUT", self.set_image_info, _form("", _INFO))
        routes.add(wire.LABEL_INFO_PATH, "PUT", self.set_label_info, _form("", _INFO))
        routes.add(wire.UPDATE_LABEL_INFO_PATH, "PUT", self.update_label_info, _form("", _PARAMS))

    async def add_image(self, request: Request, image: NewId = "") -> Response:
        """Add an image. Where the id is known it becomes a new version of that image; the old one is kept."""
        store = self._annotation.datastore
        if image:
            check_id(image)  # before gigabytes of it came
        taker = BlobTaker(Named(store.incoming), {FILE_FIELD})
        async with Form(taker, self._threads, self._limit) as form:
            await form.read(request)
            info = self._with_user(request, json_object(form.fields.get(PARAMS_FIELD, ""), PARAMS_FIELD))
            owner = self._guard.owner(request)
            record = await form.finish(lambda: store.add_image(taker.require(FILE_FIELD), image, info=info, who=owner))
        return JSONResponse(wire.Saved(image=record.id).to_json())

    async def add_image_at(self, request: Request, image: NewId = "") -> Response:
        """Add an image; another address of the same."""
        return await self.add_image(request, image)

    async def save_label(self, request: Request, image: Image, tag: FinalTag = "") -> Response:
        """Save a label. It must lie on the image's grid; `.bin` is a bare array on it.

        The label before it is kept as an older version. Where neither `label_info` nor `label_names` names its labels, those names
        are kept as likely that models gave the same labels of this image.
        """
        store = self._annotation.datastore
        taker = BlobTaker(Named(store.incoming), {LABEL_FIELD})
        async with Form(taker, self._threads, self._limit) as form:
            await form.read(request)
            info = self._with_user(request, json_object(form.fields.get(PARAMS_FIELD, ""), PARAMS_FIELD))
            self._require_unjudged(request, info)
            told = "" if self._guard.has_accounts else info.get("client_id")  # what a client says of itself counts where nobody is known
            owner = str(told or self._guard.owner(request))
            await self._annotation.fetch(image)
            if form.filenames.get(LABEL_FIELD, "").lower().endswith(RAW):
                await self._grids.learn(image)
            else:
                await self._grids.try_to_learn(image)
            record = await form.finish(
                lambda: store.save_label(image, tag, taker.require(LABEL_FIELD), info=self._with_names(image, info), who=owner)
            )
        return JSONResponse(wire.Saved(image=record.image, label=record.image).to_json())

    async def set_image_info(self, request: Request, image: Image) -> Response:
        """Add to what is kept with an image."""
        store = self._annotation.datastore
        async with Form(BlobTaker(Named(store.incoming), ()), self._threads, self._limit) as form:
            info, owner = await self._info(form, request), self._guard.owner(request)
            await form.finish(lambda: store.update_image_info(image, info, who=owner))
        return JSONResponse(None)

    async def set_label_info(self, request: Request, label: Label, tag: Tag) -> Response:
        """Add to what is kept with a label."""
        store = self._annotation.datastore
        async with Form(BlobTaker(Named(store.incoming), ()), self._threads, self._limit) as form:
            info, owner = await self._info(form, request), self._guard.owner(request)
            await form.finish(lambda: store.update_label_info(label, tag, info, who=owner))
        return JSONResponse(None)

    async def update_label_info(self, request: Request, label: Label, tag: Tag) -> Response:
        """Add to what is kept with a label, as a reviewer's client says it."""
        return await self.set_label_info(request, label, tag)

    async def _info(self, form: Form, request: Request) -> dict[str, Any]:
        await form.read(request)
        name = wire.INFO_FIELD if wire.INFO_FIELD in form.fields else PARAMS_FIELD
        return json_object(form.fields.get(name, ""), name)

    def _require_unjudged(self, request: Request, info: dict[str, Any]) -> None:
        """What a reviewer says of a label comes from reviewers. Raises `RoleMissingError`."""
        identity, judgement = self._guard.identity(request), info.get(_JUDGEMENT)
        is_judged = isinstance(judgement, dict) and bool(judgement.get("status"))
        if is_judged and identity is not None and identity.role < Role.REVIEWER:
            raise RoleMissingError(Role.REVIEWER, identity.role)

    def _with_names(self, image: str, info: dict[str, Any]) -> dict[str, Any]:
        if names_in(info):
            return info
        entry = self._annotation.datastore.state().entries.get(image)
        likely = {} if entry is None else self._answered.likely(entry)
        return {**info, LIKELY: likely} if likely else info

    def _with_user(self, request: Request, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "user": self._guard.owner(request)} if self._guard.has_accounts else info
