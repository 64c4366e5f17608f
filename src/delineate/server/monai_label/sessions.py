"""Sessions: an image that is sent once and used often."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.faults import UnknownImageError
from delineate.datastore.sessions import Session
from delineate.protocols import monai_label as wire
from delineate.protocols.inference_server import KEY_HEADER
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.downloads import Downloads
from delineate.server.monai_label.forms import Form
from delineate.server.monai_label.repeats import Repeats
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.takers import SessionTaker
from delineate.server.openapi import BINARY, form_body
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads

_FORM: Final = form_body({wire.FILES_FIELD: {"type": "array", "items": BINARY}}, [wire.FILES_FIELD])


class SessionRoutes:
    """Sessions belong to whom the token names; where nobody says who they are the id alone is the right to use one."""

    def __init__(
        self, annotation: Annotation, service: Service, guard: Guard, downloads: Downloads, threads: Threads, limit: int
    ) -> None:  # fmt: skip
        self._annotation = annotation
        self._service = service
        self._guard = guard
        self._downloads = downloads
        self._threads = threads
        self._limit = limit
        self._repeats = Repeats()

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.SESSIONS_PATH, "PUT", self.create, _FORM)
        routes.add("/session/{session_id}", "GET", self.show)
        routes.add("/session/{session_id}", "DELETE", self.remove)

    async def create(
        self,
        request: Request,
        uncompress: Annotated[bool, Query(description="The one file is an archive, whose files are meant.")] = False,
        expiry: Annotated[int, Query(description="Seconds without use until it is forgotten; 0 and below for the most there is.")] = 0,
    ) -> Response:
        """Send an image ahead: one file in `files`, or many, such as those of a DICOM series.

        Sent again under the same `Idempotency-Key` it is the same session.
        """
        sessions = self._annotation.sessions
        taker = SessionTaker(sessions, wire.FILES_FIELD)
        async with Form(taker, self._threads, self._limit) as form:
            await form.read(request)
            owner = owner_of(self._guard, request)

            def made() -> Session:
                session = sessions.create(taker.upload(), owner=owner, expiry=max(0, expiry), unpack=uncompress)
                self._service.read(session.image)  # the first infer will not have to wait for that
                return session

            async def create() -> Any:
                session = await form.finish(made)
                return wire.NewSession(session_id=session.uid, session_info=_message(session)).to_json()

            return JSONResponse(await self._repeats.once("session", owner, request.headers.get(KEY_HEADER), create))

    async def show(
        self,
        request: Request,
        session_id: str,
        update_ts: Annotated[bool, Query(description="Count this as a use of it.")] = False,
        image: Annotated[bool, Query(description="Answer the image itself.")] = False,
    ) -> Response:
        """What is known of a session, or its image."""
        find = partial(self._annotation.sessions.get, owner=owner_of(self._guard, request), touch=update_ts)
        session = await self._threads.run(lambda: find(session_id))
        if not image:
            return JSONResponse(_message(session).to_json())
        return await self._downloads.whole(session.image, "session", UnknownImageError("the session's image is gone"))

    async def remove(self, request: Request, session_id: str) -> Response:
        """Forget a session; what it was."""
        owner = owner_of(self._guard, request)
        session = await self._threads.run(lambda: self._annotation.sessions.remove(session_id, owner=owner))
        return JSONResponse(_message(session).to_json())


def owner_of(guard: Guard, request: Request) -> str:
    """Whose a session is: the token's, nobody's where there are neither accounts nor tokens: addresses change."""
    return guard.owner(request) if guard.has_accounts else ""


def _message(session: Session) -> wire.Session:
    meta: dict[str, Any] = dict(session.meta)
    return wire.Session(
        name=session.uid, path=str(session.path), image=str(session.image), meta=meta, create_ts=int(session.created),
        last_access_ts=int(session.accessed), expiry=int(session.expiry),
    )  # fmt: skip
