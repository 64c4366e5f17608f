"""One user's connections to the DICOMweb server are no other's."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from delineate.datastore.faults import DicomWebError
from delineate.server.monai_label.shares import Shares


class Slow(Response):
    """An answer that nobody reads until the test does."""

    def __init__(self, is_read: asyncio.Event) -> None:
        super().__init__()
        self.is_read = is_read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.is_read.wait()


async def call(answer: Response) -> None:
    await answer({}, None, None)  # type: ignore[arg-type]


def test_who_holds_all_of_their_own_keeps_nobody_else_waiting() -> None:
    async def story() -> None:
        shares, is_read = Shares(2, patience=0.05), asyncio.Event()

        async def slow() -> Response:
            return Slow(is_read)

        held = [asyncio.create_task(call(await shares.held("one", slow))) for _ in range(2)]
        with pytest.raises(DicomWebError, match="2 answers"):
            await shares.held("one", slow)
        other = asyncio.create_task(call(await shares.held("two", slow)))
        is_read.set()
        await asyncio.gather(*held, other)
        assert len(shares) == 0
        await call(await shares.held("one", slow))

    asyncio.run(story())


def test_what_fails_or_is_given_up_frees_its_place() -> None:
    async def story() -> None:
        shares = Shares(1, patience=5)

        async def fails() -> Response:
            raise DicomWebError("it is away")

        async def slow() -> Response:
            return Slow(asyncio.Event())

        with pytest.raises(DicomWebError, match="away"):
            await shares.held("one", fails)
        task = asyncio.create_task(call(await shares.held("one", slow)))
        waiting = asyncio.create_task(shares.held("one", slow))
        await asyncio.sleep(0)
        task.cancel()
        answer = await waiting  # it goes on as soon as the other is given up
        assert len(shares) == 1
        waiting = asyncio.create_task(shares.held("one", slow))
        await asyncio.sleep(0)
        waiting.cancel()
        gone = asyncio.create_task(call(answer))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(task, waiting, gone, return_exceptions=True)
        assert len(shares) == 0

    asyncio.run(story())
