"""Connections to the server behind this one, shared among users: one who holds many, or reads slowly, leaves the others theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from delineate.datastore.faults import DicomWebError

_PATIENCE: Final = 60.0  # seconds to wait for one of one's own to end
_LONGEST: Final = 1800.0  # seconds for one answer, as for a series that is fetched


class Shares:
    """`each` : connections that one user has at once; the next waits. Belongs to one event loop."""

    def __init__(self, each: int, patience: float = _PATIENCE) -> None:
        self._each = each
        self._patience = patience
        self._users: dict[str, tuple[asyncio.Semaphore, int]] = {}  # with how many hold one or wait

    def __len__(self) -> int:
        return len(self._users)

    async def held(self, user: str, make: Callable[[], Awaitable[Response]]) -> Response:
        """Make an answer with one of a user's connections, which is free again when the answer was sent.

        Raises
        ------
        DicomWebError
            All of them stayed in use.
        """
        await self._take(user)
        try:
            return _Held(await make(), lambda: self._give_back(user))
        except BaseException:
            self._give_back(user)
            raise

    async def _take(self, user: str) -> None:
        places, count = self._users.get(user) or (asyncio.Semaphore(self._each), 0)
        self._users[user] = places, count + 1
        try:
            await asyncio.wait_for(places.acquire(), self._patience)
        except BaseException as error:
            self._forget(user)
            if isinstance(error, asyncio.TimeoutError):
                words = f"{self._each} answers of the DICOMweb server are on their way to you"
                raise DicomWebError(words, "Read or close them, then ask again.", is_passing=True) from None
            raise

    def _give_back(self, user: str) -> None:
        self._users[user][0].release()
        self._forget(user)

    def _forget(self, user: str) -> None:
        places, count = self._users[user]
        if count > 1:
            self._users[user] = places, count - 1
        else:
            del self._users[user]


class _Held(Response):
    """An answer, and what is done when it was sent or given up."""

    def __init__(self, answer: Response, release: Callable[[], None]) -> None:
        super().__init__(status_code=answer.status_code)
        self._answer = answer
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.wait_for(self._answer(scope, receive, send), _LONGEST)
        finally:
            self._release()
