"""What people wait for: the end of a task, its next change, or all of its changes as they come."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from starlette.requests import Request

from delineate.errors import UnknownTaskError
from delineate.protocols.inference_replies import status_to_json
from delineate.server.service import Service
from delineate.server.waiting import Signal, Watcher
from delineate.task import Task


class Listening:
    """Waits for tasks. Reads of the store are single indexed rows, some 100 µs: changing threads for them would cost more.

    longest : seconds that one poll may take; heartbeat : seconds of silence after which a stream shows that it lives.
    """

    def __init__(self, service: Service, watcher: Watcher, *, longest: float, heartbeat: float) -> None:
        self._tasks = service.tasks
        self._watcher = watcher
        self._longest = longest
        self._heartbeat = heartbeat

    async def ended(self, request: Request, uid: str, seconds: float) -> Task:
        """The task, as soon as it has ended or `seconds` have passed. Raises `UnknownTaskError`."""
        if seconds := self._capped(seconds):
            self._watcher.begin()
        task = self._tasks.get(uid)
        if task.state.is_final or not seconds:
            return task
        with self._watcher.watch(task.id, quiet=True) as signal:
            async with _hung_up(request, signal):
                deadline = asyncio.get_running_loop().time() + seconds
                while not task.state.is_final and await signal.until(deadline):
                    task = self._tasks.get(uid)
        return task

    async def finished(self, request: Request | None, uid: str) -> Task | None:
        """The task once it has ended, however long that takes; None when the client, if there is one, went away, or the server stops.

        Raises `UnknownTaskError`, also for a task that is deleted meanwhile.
        """
        self._watcher.begin()
        task = self._tasks.get(uid)
        if task.state.is_final:
            return task
        with self._watcher.watch(task.id, quiet=True) as signal:
            async with nullcontext() if request is None else _hung_up(request, signal):
                loop = asyncio.get_running_loop()
                while not task.state.is_final:
                    await signal.until(loop.time() + self._longest)
                    if signal.is_over:
                        return None
                    task = self._tasks.get(uid)
        return task

    async def changed(self, request: Request, uid: str, after: int, seconds: float) -> tuple[Task, int]:
        """The task and the id of its last event, as soon as that is above `after`, the progress moves, or `seconds` have passed."""
        if seconds := self._capped(seconds):
            self._watcher.begin()
        task, event = self._look(uid)
        if task.state.is_final or event > after or not seconds:
            return task, event
        known = (task.fraction, task.message)
        with self._watcher.watch(task.id, progress=True) as signal:
            async with _hung_up(request, signal):
                deadline = asyncio.get_running_loop().time() + seconds
                while event <= after and (task.fraction, task.message) == known and await signal.until(deadline):
                    task, event = self._look(uid)
        return task, event

    async def stream(self, uid: str, after: int) -> AsyncIterator[bytes]:
        """Server-sent events until the task has ended: one ``task`` per event row with its id, ``progress`` without an id between.

        Raises `UnknownTaskError` before the first event; a task that is deleted meanwhile ends the stream with ``deleted``.
        """
        task = self._tasks.get(uid)
        with self._watcher.watch(task.id, progress=True) as signal:
            loop, known = asyncio.get_running_loop(), (task.fraction, task.message)
            yield b"retry: 1000\n\n"
            while True:
                try:
                    rows = self._tasks.events(uid, after)
                    task = self._tasks.get(uid)
                    if task.state.is_final:  # it may have ended between the two reads: its last event must not be left out
                        rows = self._tasks.events(uid, after)
                except UnknownTaskError:
                    yield _event("deleted", {"uid": uid})
                    return
                for row in rows:
                    after = row.id
                    yield _event("task", {**status_to_json(task, row.id), "kind": row.kind, "at": row.at, "why": row.why}, row.id)
                if not rows and (task.fraction, task.message) != known:
                    yield _event("progress", status_to_json(task, after))
                known = (task.fraction, task.message)
                if task.state.is_final or signal.is_over:
                    return
                if not await signal.until(loop.time() + self._heartbeat):
                    yield b": still here\n\n"

    def _look(self, uid: str) -> tuple[Task, int]:
        event = self._tasks.last_events([uid]).get(uid, 0)  # first: a later event is then heard of twice, not never
        return self._tasks.get(uid), event

    def _capped(self, seconds: float) -> float:
        return min(max(seconds, 0.0), self._longest) if math.isfinite(seconds) else 0.0


@asynccontextmanager
async def _hung_up(request: Request, signal: Signal) -> AsyncIterator[None]:
    """End the signal when the client goes away, so that nothing waits for nobody."""
    listener = asyncio.create_task(_until_gone(request.receive, signal.end))
    try:
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


async def _until_gone(receive: Callable[[], Awaitable[Any]], then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()


def _event(kind: str, data: dict[str, Any], id: int | None = None) -> bytes:
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
