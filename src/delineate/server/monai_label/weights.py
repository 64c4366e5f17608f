"""The routes of weights: the file of a trained model fetched, sent, removed; its versions chosen from."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.protocols import monai_label as wire
from delineate.protocols.messages import FileBody
from delineate.protocols.reference import Place
from delineate.server.monai_label.downloads import OCTETS
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.forms import Form
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.takers import BlobTaker, Named
from delineate.server.monai_label.works import Works
from delineate.server.openapi import BINARY, form_body
from delineate.server.results import BodyResponse
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.store.versions import ModelVersion, split
from delineate.task import FRONT, Task
from delineate.training.trainers import FOREST, TRAINERS, WEIGHTS, is_installed

_LARGEST: Final = 64 << 20  # bytes of a file that is sent
_FORM: Final = form_body({wire.FILE_FIELD: BINARY})


class WeightRoutes:
    """Weights of models that are trained here."""

    def __init__(self, service: Service, works: Works, guard: Guard, threads: Threads) -> None:
        self._service = service
        self._works = works
        self._guard = guard
        self._threads = threads

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("/model/info/{model}", "GET", self.info)
        routes.add("/model/{model}", "GET", self.fetch)
        routes.add("/model/{model}", "PUT", self.put, _FORM)
        routes.add("/model/{model}", "DELETE", self.remove)

    async def info(self, model: str) -> Response:
        """Checksum and time of a trained model's weights, and which versions of it are kept; `NAME@VERSION` asks for one of them."""
        return JSONResponse(await self._threads.run(lambda: self._info(model)))

    async def fetch(self, model: str) -> Response:
        """The weights of a trained model, in its current version or as `NAME@VERSION`."""
        path = await self._threads.run(lambda: self._path(model))
        return BodyResponse(FileBody(str(path)), media_type=OCTETS, filename=f"{model}{path.suffix}", threads=self._threads)

    async def put(
        self,
        request: Request,
        model: str,
        version: Annotated[int | None, Query(ge=1, description="Make this version the current one again; no file is sent then.")] = None,
    ) -> Response:
        """New weights for a trained model: checked, then a version of their own, which is current at once."""
        self._require_trained(model)
        taker = BlobTaker(Named(self._service.blobs.incoming), {wire.FILE_FIELD})
        async with Form(taker, self._threads, _LARGEST) as form:
            await form.read(request)
            task = await form.finish(partial(self._submit, model, version, taker, self._guard.owner(request)))
        if task is not None:
            await self._checked(task)
        return JSONResponse(await self._threads.run(lambda: self._info(model)))

    async def remove(self, model: str) -> Response:
        """Remove a trained model with all its versions; as `NAME@VERSION` that version, for the newest of the others if it was current."""
        await self._threads.run(lambda: self._remove(model))
        return JSONResponse({})

    async def _checked(self, task: Task) -> None:
        """Wait until the file is a version, and forget the task. Raises `TaskFailedError` where it is no forest."""
        ended = await self._works.ended(task)
        try:
            await self._works.answer(ended)
        finally:
            await self._threads.run(lambda: self._service.waited_for.delete(task.uid, "answered"))

    def _submit(self, model: str, version: int | None, taker: BlobTaker, owner: str) -> Task | None:
        """A task that makes a version of the file; None where an older version was made current instead."""
        if version is not None and taker.take(wire.FILE_FIELD) is None:
            self._service.models.versions.select(model, version)
            return None
        sent = taker.require(wire.FILE_FIELD)
        sent.seal()
        place = Place(blob=sent.digest, name=FOREST)
        given = {"model": model, "description": "From a file that was sent", "file": place.to_json()}
        return self._service.submit_work(
            WEIGHTS, given, owner=owner, prompts={"model": model}, beside={"weights": sent}, lane=FRONT
        )  # fmt: skip

    def _remove(self, model: str) -> None:
        self._version(model)
        name, number = split(model)
        if number is None:
            self._service.models.remove(name)
        else:
            self._service.models.remove_version(name, number)

    def _info(self, model: str) -> dict[str, Any]:
        found = self._version(model)
        path = self._path(model)
        message = wire.ModelFileInfo(checksum=f"SHA256:{_sha256(path)}", modified_time=int(found.created))
        kept = [version.version for version in self._service.models.versions.versions(found.model)]
        return message.to_json() | {"version": found.version, "versions": kept, "info": dict(found.info)}

    def _path(self, model: str) -> Path:
        self._version(model)
        folder = self._service.models.folder(model)
        path = None if folder is None else folder / FOREST
        if path is None or not path.is_file():
            raise NotHereError("the model has no weights that are exchanged", "Train it.")
        return path

    def _version(self, model: str) -> ModelVersion:
        """The version that is meant. Raises `NotHereError`, or `UnknownModelError` for a model that there is not."""
        name, number = split(model)
        if name not in TRAINERS:
            self._service.require_model(name)
            raise NotHereError("the model has no weights that are exchanged", "Change its folder at the server.")
        kept = self._service.models.versions.versions(name)
        found = next((one for one in kept if (one.is_current if number is None else one.version == number)), None)
        if found is None:
            raise NotHereError(f"there are no weights of {model} yet" if number is None else f"there is no {model}", "Train it first.")
        return found

    def _require_trained(self, model: str) -> None:
        if model not in TRAINERS or not is_installed():
            raise NotHereError("this server takes no weights for a model of that name", "See trainers in the answer of /info/.")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()  # some hundred kilobytes
