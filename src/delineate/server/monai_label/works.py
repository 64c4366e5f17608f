"""Work in the background as clients of this API see it: one task of a kind at a time, its state, its last lines, its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.errors import DelineateError, UnavailableError, UnknownTaskError
from delineate.protocols import monai_label as wire
from delineate.server.accounts.identity import Role
from delineate.server.listening import Listening
from delineate.server.monai_label.faults import BusyError, NotHereError
from delineate.server.security import Guard
from delineate.server.service import Service
from delineate.server.threads import Threads
from delineate.task import Task, TaskState
from delineate.worker.desk import LOG_NAME, desks_folder

Sync = Annotated[bool, Query(description="Answer when it has ended, with what came of it.")]
All = Annotated[bool, Query(alias="all", description="All there were, as a list, oldest first.")]
Running = Annotated[bool, Query(description="Only one that waits or runs now.")]

_LINES: Final = 20  # of details
_TAIL: Final = 8192  # bytes that hold them
_MOST: Final = 100  # tasks that are listed
_MOST_WAITING: Final = 16  # and run: who looks at the list and stops them sees all
_PATIENCE: Final = 10.0  # s for a task to stop

_STATES: Final = {
    TaskState.PENDING: "SUBMITTED",
    TaskState.RUNNING: "RUNNING",
    TaskState.FINISHED: "DONE",
    TaskState.FAILED: "ERROR",
    TaskState.CANCELLED: "STOPPED",
}

_WORDS: Final = {"train": "training", "score": "scoring", "batch": "batch"}
_STOPPED: Final = {"batch": "Stopped. Labels that were saved stay."}
_SAID: Final = {TaskState.PENDING: "Waits for its turn.", TaskState.RUNNING: "Begins.", TaskState.FINISHED: "Done."}
"""Of a task that said nothing itself: clients read the last line."""

_TRACE: Final = re.compile(r'Traceback \(|\s+File ".*", line \d+')


class Works:
    """The works of one name. Belongs to one event loop.

    running_log : the log of one that runs; by default that of the worker which has it.
    """

    def __init__(
        self, name: str, service: Service, guard: Guard, listening: Listening, threads: Threads,
        running_log: Callable[[Task], bytes] | None = None,
    ) -> None:  # fmt: skip
        self._name, self._word = name, _WORDS.get(name, f"{name} task")
        self._running_log = running_log or partial(_log_of_worker, service)
        self._guard = guard
        self._service = service
        self._listening = listening
        self._threads = threads
        self._starting = asyncio.Lock()

    async def start(self, submit: Callable[[], Task], *, enqueue: bool = False) -> Task:
        """Submit one. Raises `BusyError` where one waits or runs and `enqueue` is not set, or too many wait."""
        async with self._starting:
            waiting = await self._threads.run(lambda: len(self.open()))
            if waiting >= (_MOST_WAITING if enqueue else 1):
                raise BusyError(f"{waiting} {self._word}s wait already" if enqueue else f"a {self._word} runs already")
            return await self._threads.run(submit)

    async def ended(self, task: Task) -> Task:
        """The task once it has ended. Raises `UnavailableError` when the server stops before."""
        found = await self._listening.finished(None, task.uid)
        if found is None:
            raise UnavailableError("the server is stopping; the task goes on when it is back", "Ask for it then.", 503)
        return found

    async def answer(self, task: Task, *, also_failed: bool = False) -> dict[str, Any]:
        """What a task that ended found, `also_failed` what one did nevertheless. Raises as `Service.result`."""
        if not (also_failed and task.state is TaskState.FAILED):
            self._service.result(task)
        return await self._threads.run(partial(self._service.found, task))

    async def status(self, request: Request, *, every: bool, check_if_running: bool) -> Response:
        """The answer to a question for the last one, for one that runs, or for all, oldest first."""
        return JSONResponse(await self._threads.run(lambda: self._status(every, check_if_running, self._sees_all(request))))

    def _sees_all(self, request: Request) -> bool:
        """Whether who asks is told what a fault of ours looks like inside: reviewers, and everybody where nobody is known."""
        identity = self._guard.identity(request)
        return identity is None or identity.role >= Role.REVIEWER

    def _status(self, every: bool, check_if_running: bool, in_full: bool) -> Any:
        tasks = self._service.tasks.work(self._name, limit=_MOST)
        active = next((task for task in reversed(tasks) if not task.state.is_final), None)
        if check_if_running and active is None:
            raise NotHereError(f"no {self._word} runs", "Ask without check_if_running for the last one.")
        if not tasks:
            raise NotHereError(f"there was no {self._word} yet", "Start it first.")
        if every and not check_if_running:
            return [self.view(task, in_full).to_json() for task in reversed(tasks)]
        return self.view(active or tasks[0], in_full).to_json()

    async def stop(self, request: Request) -> Response:
        """Stop all that wait or run; null where nothing does. What was there before stays as it was."""
        tasks = await self._threads.run(self.open)
        for task in tasks:
            with contextlib.suppress(UnknownTaskError):
                await self._threads.run(partial(self._service.tasks.cancel, task.uid, "whoever asked for its end"))
        if not tasks:
            return JSONResponse(None)
        last = tasks[0]
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError, DelineateError):
            last = await asyncio.wait_for(self.ended(last), _PATIENCE)
        return JSONResponse(await self.shown(request, last))

    async def shown(self, request: Request, task: Task) -> dict[str, Any]:
        """A task as it is answered."""
        return (await self._threads.run(partial(self.view, task, self._sees_all(request)))).to_json()

    async def submitted(self, request: Request, task: Task) -> dict[str, Any]:
        """As the answer to its start: clients look for this state, however quick the worker was."""
        shown = await self.shown(request, task)
        return {name: value for name, value in shown.items() if name not in ("details", "end_ts", "exit_code")} | {"status": "SUBMITTED"}

    def open(self) -> list[Task]:
        """Those that wait or run, the oldest first. Blocks."""
        return [task for task in reversed(self._service.tasks.work(self._name, limit=_MOST)) if not task.state.is_final]

    def view(self, task: Task, in_full: bool) -> wire.TaskView:
        """A task in the dress of this API. Blocks. Not `in_full`, its id is not the uid."""
        values: dict[str, Any] = {
            "id": task.uid if in_full else public_id(task), "status": _STATES[task.state], "request": dict(task.prompts),
            "start_ts": wire.timestamp(task.created), "details": self._details(task, in_full),
        }  # fmt: skip
        if task.finished is not None:
            values["end_ts"] = wire.timestamp(task.finished)
            values["exit_code"] = 0 if task.state is TaskState.FINISHED else 1
        return wire.TaskView.from_json(values)

    def _details(self, task: Task, in_full: bool) -> list[str]:
        """The last lines of its log, and how it stands or why it ended."""
        lines = self._log(task) if in_full else without_traceback(self._log(task))
        if task.state is TaskState.RUNNING and task.message:
            lines.append(f"{100 * task.fraction:.0f} %: {task.message}")
        elif task.state is TaskState.FAILED and task.failure is not None:
            lines.append(task.failure.sentence())
        elif task.state is TaskState.CANCELLED:
            lines.append(_STOPPED.get(self._name, "Stopped. What was there before stays as it was."))
        elif task.state is TaskState.PENDING and task.attempt:
            lines.append("It was interrupted and goes on.")
        return lines[-_LINES:] or [_SAID.get(task.state, "Ended.")]

    def _log(self, task: Task) -> list[str]:
        text = b""
        with contextlib.suppress(DelineateError, OSError):
            text = self._service.log(task) if task.state.is_final else self._running_log(task)
        return text[-_TAIL:].decode("utf-8", "replace").splitlines()[-_LINES:]


def public_id(task: Task) -> str:
    """What stands for a task where its uid would say too much: that opens its log."""
    return hashlib.sha256(task.uid.encode()).hexdigest()[:32]


def _log_of_worker(service: Service, task: Task) -> bytes:
    """The end of what a worker keeps in the data folder until the task ends."""
    if task.lease_holder is None or not task.lease_holder.replace("-", "").isalnum():
        return b""
    path = desks_folder(service.settings.data) / task.lease_holder / LOG_NAME
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read(_TAIL)


def without_traceback(lines: list[str]) -> list[str]:
    """The lines of a log before the traceback that ends it; of what begins in the middle of one, nothing."""
    first = next((number for number, line in enumerate(lines) if _TRACE.match(line)), len(lines))
    is_middle = first < len(lines) and not lines[first].startswith("Traceback")
    return [] if is_middle else lines[:first]
