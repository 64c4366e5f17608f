"""Does a server speak dialect seed (June 2022)?"""

from __future__ import annotations

import httpx

from delineate.testing.conformance.plain import Server, expect, expect_label_maps, unzipped
from delineate.testing.conformance.suite import Suite


class SeedSuite(Suite):
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

    def test_result_is_a_zip_of_pairs(self, server: Server) -> None:
        """Post, wait, fetch: a zip of label maps and their names."""
        answer = self.settle(server, self.submit(server))
        expect(answer.status_code == 200, f"the task of model {server.model} ended with {answer.status_code}: {answer.text[:200]}")
        expect_label_maps(unzipped(answer.content))

    def test_result_can_be_fetched_again(self, server: Server) -> None:
        """A result stays until it is deleted."""
        uid = self.submit(server)
        first = self.settle(server, uid)
        expect(first.is_success and self.poll(server, uid).content == first.content, "fetched twice, the result was not the same")

    def test_finer_contour_grid(self, server: Server) -> None:
        """A scaling factor above one is understood."""
        answer = self.settle(server, self.submit(server, (2, 2, 1)))
        expect(answer.status_code == 200, f"with a scaling factor of 2, 2, 1 the task ended with {answer.status_code}")
        expect_label_maps(unzipped(answer.content), (2, 2, 1))
