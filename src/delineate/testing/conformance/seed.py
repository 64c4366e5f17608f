"""Does a server speak dialect seed (June 2022)?"""

from __future__ import annotations

import httpx

from delineate.testing.conformance.plain import Server, expect
from delineate.testing.conformance.suite import ZipSuite


class SeedSuite(ZipSuite):
    """Clients of this dialect wait on everything but success, and know no reasons."""

    dialect = "seed"
    unknown_task = frozenset({404, 554})  # 554 is what later servers say; clients of this age wait on both

    def settle(self, server: Server, uid: str) -> httpx.Response:
        """Until it is not 404 (``TaskOutputZipNotFound``), 551, or right after the post 554: clients of this age wait on all."""
        return server.settled(f"/api/tasks/{uid}", None, {404: -1, 551: -1, 554: 1})

    def test_garbage_gives_no_result(self, server: Server) -> None:
        """In this dialect a task that failed looks like one that waits: a refusal at once, or no result now, is all one can see."""
        answer = server.post(self.parameter, self.field, b"this is not an archive" * 100)
        if answer.is_success:
            expect(not self.poll(server, self.uid_of(answer)).is_success, "something that is no archive got a result")
