"""Work in a thread that goes on when the request that wanted it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

Result = TypeVar("Result")


async def to_the_end(threads: Executor, work: Callable[[], Result]) -> Result:
    """Do it in a thread. Whoever is cancelled waits for its end: what the thread still writes must not be removed before."""
    done = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


async def ended(working: asyncio.Future[None] | None) -> None:
    """Wait for the end of what a thread does; what it raised was heard of already, or is no longer of interest."""
    if working is not None:
        await asyncio.wait([working])
        working.cancelled() or working.exception()
