"""Routes of the inference-server protocol: its three dialects at once, and our additions. Administration is apart."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from fastapi import FastAPI, Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from delineate.errors import InputError, UnknownTaskError
from delineate.protocols import inference_replies as replies
from delineate.protocols import inference_server as protocol
from delineate.protocols.inference_server import Dialect
from delineate.server import openapi, problems
from delineate.server.files import Files
from delineate.server.listening import Listening
from delineate.server.metrics import Metrics
from delineate.server.security import Guard
from delineate.server.service import Service, priority_of
from delineate.server.threads import Threads
from delineate.server.upload import Upload

FILE_FIELDS: Final = frozenset(protocol.FILE_FIELD.values())

Wait = Annotated[float, Query(description="Seconds to wait for the task to end before answering 551; capped by the server.")]
After = Annotated[int, Query(description="Id of the last event the client knows; the answer waits for a later one.")]


class TaskRoutes:
    """Everything about tasks that a uid, or no right at all, is enough for."""

    def __init__(self, service: Service, guard: Guard, listening: Listening, files: Files, metrics: Metrics, threads: Threads) -> None:
        self._service = service
        self._guard = guard
        self._listening = listening
        self._files = files
        self._metrics = metrics
        self._threads = threads

    def add_to(self, app: FastAPI) -> None:
        """Add the routes whose paths hold no uid, then those that do, then what cannot be a uid."""
        add = partial(openapi.add_route, app, "tasks")
        add("/api/tasks/", "POST", self.post, extra=openapi.POST_TASK)
        add("/api/tasks/", "DELETE", self.delete_by_query)
        add("/api/tasks/outputs/", "GET", self.outputs, extra=openapi.TAR)
        add(protocol.STATUS_PATH, "GET", self.status)
        add(protocol.EVENTS_PATH, "GET", self.events, extra=openapi.EVENTS)
        add(protocol.LOG_PATH, "GET", self.log, extra=openapi.TEXT)
        add(protocol.CANCEL_PATH, "POST", self.cancel)
        add(protocol.TASK_PATH, "GET", self.result, extra=openapi.ZIP)
        add(protocol.TASK_PATH, "DELETE", self.delete)
        # A uid with slashes in it, written as such or as %2F.
        app.add_api_route("/api/tasks/{rest:path}", _unknown, methods=["GET", "DELETE"], include_in_schema=False)
        app.add_api_route("/api/tasks/{rest:path}/cancel", _unknown, methods=["POST"], include_in_schema=False)

    async def post(
        self,
        request: Request,
        model_human_readable_id: Annotated[str, Query(description="Name of the model, as seed and v1 say it.")] = "",
        human_readable_id: Annotated[str, Query(description="Name of the model, as v2 says it.")] = "",
        priority: Annotated[str, Query(description="batch, normal or interactive.")] = "",
        output: Annotated[str, Query(description="Files in DICOM for the result: rtstruct, seg or both with a comma.")] = "",
    ) -> Response:
        """Post a task: an archive with images, for one model.

        The archive is a zip or tar (told apart by content) in the form field `zip_file` or `tar_file`, or the body itself.
        The images may be DICOM, and only of such can `output` be asked for. Answers the uid as a JSON string, or the object of
        v2 where the request speaks v2. With `Idempotency-Key` a repeated post answers the same uid.
        """
        name = _one_name(model_human_readable_id, human_readable_id)
        rank = priority_of(priority)
        self._service.require_model(name)
        try:
            async with Upload(self._service.blobs.incoming, self._threads, self._limit(), FILE_FIELDS) as upload:
                await upload.read(request)
                dialect = Dialect.V2 if human_readable_id or upload.file_field == protocol.FILE_FIELD[Dialect.V2] else Dialect.V1
                problems.set_dialect(request, dialect)
                task = await upload.finish(
                    partial(
                        self._service.submit, model=name, owner=self._guard.owner(request), protocol=f"inference-server-{dialect}",
                        priority=rank, prompts=upload.fields.get(protocol.PROMPTS_FIELD, ""),
                        key=request.headers.get(protocol.KEY_HEADER), output=output,
                    )
                )  # fmt: skip
        except ClientDisconnect:
            return Response(status_code=400)  # nobody hears it; nothing is left of the upload
        source = task.blob("input")
        self._metrics.uploaded(source.size if source else 0)
        if dialect is Dialect.V2:
            return JSONResponse(replies.task_to_json(task, self._service.require_model(task.model)))
        return JSONResponse(task.uid)

    def _limit(self) -> int:
        return self._service.settings.max_upload_mb << 20

    async def result(self, request: Request, uid: str, wait: Wait = 0.0) -> Response:
        """The result as a zip; 551 while the task waits or runs, 552 when it failed, 553 when its result is lost, 554 when unknown."""
        blob = self._service.result(await self._listening.ended(request, uid, wait))
        return problems.not_ready(request) if blob is None else await self._files.whole(blob, "result.zip")

    async def outputs(self, request: Request, uid: Annotated[str, Query(description="The task's uid.")], wait: Wait = 0.0) -> Response:
        """The result as a plain tar with flat names; codes as for the zip."""
        blob = self._service.result(await self._listening.ended(request, uid, wait))
        return problems.not_ready(request) if blob is None else await self._files.as_tar(blob, "result.tar")

    async def status(self, request: Request, uid: str, wait: Wait = 0.0, after: After = 0) -> Response:
        """State, progress and reason of failure. With `wait` it answers when something changed after the event `after`."""
        task, event = await self._listening.changed(request, uid, after, wait)
        return JSONResponse(replies.status_to_json(task, event))

    async def events(self, request: Request, uid: str, after: After = 0) -> Response:
        """Everything that happens to the task, as server-sent events, until it has ended; `Last-Event-ID` resumes."""
        last = request.headers.get("last-event-id", "")
        self._service.tasks.get(uid)  # unknown: say so now, the stream could not any more
        stream = self._listening.stream(uid, int(last) if last.isdecimal() and len(last) < 19 else after)
        # No buffering in proxies: an event is news only while it is new.
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def log(self, uid: str) -> Response:
        """What the model printed; empty where it printed nothing or has not ended."""
        text = await self._threads.run(lambda: self._service.log(self._service.tasks.get(uid)))
        return Response(text, media_type="text/plain; charset=utf-8")

    async def cancel(self, request: Request, uid: str) -> Response:
        """Stop the task: a waiting one at once, a running one soon; one that has ended stays as it is."""
        owner = self._guard.owner(request)
        task = await self._threads.run(lambda: self._service.tasks.cancel(uid, owner))
        return JSONResponse(replies.status_to_json(task, self._service.tasks.last_events([uid]).get(uid, 0)))

    async def delete(self, request: Request, uid: str) -> Response:
        """Delete the task and its files."""
        await self._threads.run(partial(self._service.tasks.delete, uid, self._guard.owner(request)))
        return JSONResponse({"uid": uid, "is_deleted": True})

    async def delete_by_query(self, request: Request, uid: Annotated[str, Query(description="The task's uid.")]) -> Response:
        """Delete the task and its files, as v2 says it."""
        return await self.delete(request, uid)


async def _unknown(rest: str) -> Response:
    raise UnknownTaskError("no such task, or it was deleted")


def _one_name(*given: str) -> str:
    names = {name for name in given if name}
    if len(names) > 1:
        raise InputError("two different models are asked for", "Name one.")
    if not names:
        raise InputError("no model is named", "Add ?model_human_readable_id=NAME to the address.")
    return names.pop()
