"""Infer, by whatever route: a request becomes a task, and waits for its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from delineate.errors import InputError, UnavailableError
from delineate.model import Model
from delineate.protocols import monai_label as wire
from delineate.protocols.infer_result import StoredResult
from delineate.protocols.inference_server import KEY_HEADER
from delineate.server.accounts.identity import Role, RoleMissingError
from delineate.server.listening import Listening
from delineate.server.monai_label.asking import Asked, Asking
from delineate.server.monai_label.forms import Form
from delineate.server.monai_label.keeping import Keeping
from delineate.server.monai_label.sessions import owner_of
from delineate.server.monai_label.takers import BlobTaker, Named
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import Task

SAVES: Final = Role.ANNOTATOR
"""The least that may keep an answer as a label, as at ``PUT /datastore/label``."""


class Infers:
    """Nothing here runs a model: workers do, and many may wait at once."""

    def __init__(
        self, service: Service, asking: Asking, keeping: Keeping, guard: Guard, listening: Listening, threads: Threads
    ) -> None:  # fmt: skip
        self._service = service
        self._asking = asking
        self._keeping = keeping
        self._guard = guard
        self._listening = listening
        self._threads = threads

    async def model(self, name: str) -> Model:
        """The model of a name. Raises `UnknownModelError`."""
        if self._service.shelf.has(name):  # to change threads costs more
            return self._service.require_model(name)
        return await self._threads.run(partial(self._service.require_model, name))

    def asked(self, request: Request, name: str, model: Model, params: Mapping[str, Any], image: str, session: str) -> Asked:
        """What a request wants; `name` is the model's as it was asked for. Raises `InputError`, `RoleMissingError`."""
        # Some clients say in the parameters what others say in the address.
        asked = Asked(
            model=model, image=_text(params, "image") or image, session=_text(params, "session_id") or session, params=params,
            owner=self._guard.owner(request), session_owner=owner_of(self._guard, request), key=request.headers.get(KEY_HEADER), name=name,
        )  # fmt: skip
        identity = self._guard.identity(request)
        if asked.save_tag and identity is not None and identity.role < SAVES:
            raise RoleMissingError(SAVES, identity.role)
        return asked

    async def ended(self, request: Request, files: Collection[str], ask: Callable[[Mapping[str, str]], Asked]) -> tuple[Task, Asked]:
        """The task of a request once it has ended, and what was asked for: `image` only where it is the one that was inferred.

        Parameters
        ----------
        files : fields of the form that may hold one.
        ask : what the plain fields of the form ask for, see `asked`.

        Raises
        ------
        ClientDisconnect
            Who asked hung up; the task is cancelled.
        UnavailableError
            The server stops.
        InputError
            As `Form.read` and `Asking.submit`, which raise more.
        """
        service = self._service
        taker = BlobTaker(Named(service.waited_for.blobs.incoming), files, service.read_along, wire.FILE_FIELD)
        async with Form(taker, self._threads, self._service.settings.max_upload_mb << 20) as form:
            await form.read(request)
            asked = ask(form.fields)
            await self._asking.fetch(asked)
            task = await form.finish(lambda: self._asking.submit(asked, taker))
            if asked.session or taker.take(wire.FILE_FIELD) is not None:
                asked = replace(asked, image="")  # what was named besides was not looked at
        ended = await self._listening.finished(request, task.uid)
        if ended is not None:
            return ended, asked
        if await request.is_disconnected():
            await self._threads.run(lambda: self._service.waited_for.cancel(task.uid, "the client went away"))
            raise ClientDisconnect
        raise UnavailableError("the server is stopping", "Send the request again in a moment.", 503)

    async def answer(self, task: Task, image: str = "", tag: str = "") -> StoredResult:
        """The answer of a task that ended; see `Keeping.answer`."""
        return await self._threads.run(partial(self._keeping.answer, task, image, tag))

    def last(self, answer: Response, task: Task) -> Response:
        """The same answer, after which the task is forgotten: nobody else knows of it."""
        return _AnsweredThen(answer, partial(self._keeping.forget_soon, task))


class _AnsweredThen(Response):
    """An answer, and what is done once it is sent; that must not block."""

    def __init__(self, answer: Response, then: Callable[[], None]) -> None:
        super().__init__()
        self._answer = answer
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self._answer(scope, receive, send)
        self._then()


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"the parameter {name} is no text", "Send the id as the server gave it.")
    return value or ""
