"""Routes for administrators (v2): all tasks, their inputs and states; models listed, registered, handed out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from delineate.errors import InputError, UnknownModelError, UnknownTaskError
from delineate.model import Model
from delineate.protocols import inference_replies as replies
from delineate.protocols import inference_server as protocol
from delineate.protocols.administration_flows import LOGS_PATH
from delineate.server import openapi
from delineate.server.accounts.identity import Role
from delineate.server.adoption import as_result
from delineate.server.files import Files
from delineate.server.inference_server import FILE_FIELDS
from delineate.server.security import Guard
from delineate.server.service import Service, archive_limits, container_model
from delineate.server.threads import Threads
from delineate.server.upload import Upload
from delineate.store.writer import BlobWriter
from delineate.task import Task, TaskState

PAGE: Final = 1000
"""Most tasks in one answer."""

Status = Annotated[int, Query(description="Status integer of v2.")]
TaskId = Annotated[int, Query(description="The task's id, the small integer.")]
Flag = Annotated[bool, Query()]


class AdministrationRoutes:
    """Everything that needs more right than a uid."""

    def __init__(self, service: Service, guard: Guard, files: Files, threads: Threads) -> None:
        self._service = service
        self._guard = guard
        self._files = files
        self._threads = threads

    def add_to(self, app: FastAPI) -> None:
        """Add the routes; before those that hold a uid."""
        add = partial(openapi.add_route, app)
        add("administration", "/api/tasks/", "GET", self.tasks)
        add("administration", "/api/tasks/", "PUT", self.set_state)
        add("administration", "/api/tasks/inputs/", "GET", self.inputs)
        add("administration", LOGS_PATH, "GET", self.log, extra=openapi.TEXT)
        add("administration", "/api/tasks/outputs/", "POST", self.put_output, openapi.POST_FILE)
        add("models", "/api/models/", "GET", self.models)
        add("models", "/api/models/", "POST", self.register, openapi.POST_FILE)
        add("models", "/api/models/tars/", "GET", self.model_tar)

    async def tasks(
        self,
        request: Request,
        task_id: Annotated[int | None, Query(description="Only this task.")] = None,
        status: Annotated[int | None, Query(description="Only this status integer of v2.")] = None,
        state: Annotated[str, Query(description="Only this state, by name.")] = "",
        limit: Annotated[int, Query(ge=1, le=PAGE)] = 100,
        before: Annotated[int | None, Query(description="Only tasks with a smaller id: the next page.")] = None,
    ) -> Response:
        """Tasks, newest first: all for an administrator, their own for everybody else."""
        wanted, identity = _state(status, state), self._guard.identity(request)
        owner = None if identity is None or identity.role is Role.ADMIN else identity.name
        return JSONResponse(await self._threads.run(partial(self._list_tasks, task_id, wanted, owner, limit, before)))

    def _list_tasks(
        self, task_id: int | None, state: TaskState | None, owner: str | None, limit: int, before: int | None
    ) -> list[dict[str, Any]]:
        if task_id is not None:
            try:
                found = [self._service.tasks.find(task_id)]
            except UnknownTaskError:
                found = []
        else:
            found = self._service.tasks.tasks(state, owner=owner, limit=limit, before=before)
        models = {model.name: model for model in self._service.models.models()}
        return [
            replies.task_to_json(task, models.get(task.model))
            for task in found
            if state in (None, task.state) and owner in (None, task.owner)
        ]

    async def set_state(self, request: Request, task_id: TaskId, status: Status) -> Response:
        """Say what a task's status is: -1 queues it again, 2 is for a worker outside of this server."""
        state = _state(status, "")
        assert state is not None
        owner = self._guard.owner(request)
        return self._answer(await self._threads.run(lambda: self._service.tasks.set_state(task_id, state, owner)))

    async def inputs(self, task_id: TaskId) -> Response:
        """The archive as it was sent."""
        blob = self._service.tasks.find(task_id).blob("input")
        if blob is None:
            raise UnknownTaskError("the task has no input any more")
        return await self._files.whole(blob, "input.zip")

    async def log(self, task_id: TaskId) -> Response:
        """What the model printed; empty where it printed nothing or has not ended."""
        text = await self._threads.run(lambda: self._service.log(self._service.tasks.find(task_id)))
        return Response(text, media_type="text/plain; charset=utf-8")

    async def put_output(self, request: Request, task_id: TaskId) -> Response:
        """Give a task the result that a worker outside of this server made; its status is set apart."""
        self._service.tasks.find(task_id)
        owner = self._guard.owner(request)

        def store(archive: BlobWriter) -> Task:
            return self._service.tasks.put_result(
                task_id, as_result(archive, self._service.blobs, archive_limits(self._service.settings)), owner
            )

        try:
            async with self._upload() as upload:
                await upload.read(request)
                return self._answer(await upload.finish(store))
        except ClientDisconnect:
            return Response(status_code=400)

    async def models(
        self,
        model_id: Annotated[int | None, Query(description="Only this model.")] = None,
        human_readable_id: Annotated[str, Query(description="Only this model, by name.")] = "",
    ) -> Response:
        """The models that tasks can ask for."""
        found = [replies.model_to_json(model) for model in await self._threads.run(self._service.models.models)]
        return JSONResponse(
            [row for row in found if model_id in (None, row["id"]) and human_readable_id in ("", row["human_readable_id"])]
        )  # fmt: skip

    async def register(
        self,
        request: Request,
        human_readable_id: Annotated[str, Query(description="Its name; unique.")],
        container_tag: Annotated[str, Query(description="The image, such as registry.example/model:1.")],
        description: str = "",
        model_available: Annotated[bool, Query(description="An archive with the model's files comes along.")] = False,
        use_gpu: Flag = False,
        dump_logs: Flag = False,
        pull_on_every_run: Flag = False,
    ) -> Response:
        """Register a container as a model; `dump_logs` is taken and changes nothing: logs are always kept."""
        flags = {"use_gpu": use_gpu, "pull_on_every_run": pull_on_every_run}
        model = container_model(human_readable_id, container_tag, description, flags)
        if not request.headers.get("content-type", "").startswith("multipart/") and not model_available:
            return self._registered(await self._threads.run(lambda: self._service.register(model, None)))
        try:
            async with self._upload() as upload:
                await upload.read(request)
                return self._registered(await upload.finish(lambda archive: self._service.register(model, archive)))
        except ClientDisconnect:
            return Response(status_code=400)

    async def model_tar(self, model_id: Annotated[int, Query(description="The model's id.")]) -> Response:
        """The files of a model as a plain tar."""
        name, folder = await self._threads.run(lambda: self._folder(model_id))
        return await self._files.folder_as_tar(folder, f"model-{model_id}", f"{name.replace(' ', '_')}.tar")

    def _folder(self, number: int) -> tuple[str, Path | None]:
        for model in self._service.models.models():
            if replies.model_id(model.name) == number:
                return model.name, self._service.models.folder(model.name)
        raise UnknownModelError("no model has this id")

    def _registered(self, model: Model) -> Response:
        return JSONResponse(replies.model_to_json(model))

    def _answer(self, task: Task) -> Response:
        models = {model.name: model for model in self._service.models.models()}
        return JSONResponse(replies.task_to_json(task, models.get(task.model)))

    def _upload(self) -> Upload[BlobWriter]:
        return Upload(self._service.blobs.incoming, self._threads, self._service.settings.max_upload_mb << 20, FILE_FIELDS)


def _state(number: int | None, name: str) -> TaskState | None:
    if number is not None:
        name = protocol.STATES_BY_NUMBER.get(number, str(number))
    if not name:
        return None
    try:
        return TaskState(name)
    except ValueError:
        raise InputError(f"{name[:32]!r} is no state of a task", "Use -1 pending, 0 failed, 1 finished or 2 running.") from None
