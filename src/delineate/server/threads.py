"""The threads in which the server does what blocks, so that its event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Threads(ThreadPoolExecutor):
    """A pool of them."""

    async def run(self, call: Callable[[], Result]) -> Result:
        """What a call gives that blocks, made in one of them."""
        return await asyncio.get_running_loop().run_in_executor(self, call)
