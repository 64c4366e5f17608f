"""Does a server speak dialect v1 (June 2022 to May 2023)?"""

from __future__ import annotations

import httpx

from delineate.testing.conformance.plain import Server, detail_of, expect, expect_label_maps, request_entries, unzipped, zipped
from delineate.testing.conformance.suite import Suite


class V1Suite(Suite):
    """Codes 550 to 554, bare uids, zips."""

    dialect = "v1"
    unknown_task = frozenset({554})

    def settle(self, server: Server, uid: str) -> httpx.Response:
        """Until it is not 551; one 554 right after the post is known of servers of this age."""
        return server.settled(f"/api/tasks/{uid}", None, {551: -1, 554: 1})

    def test_result_is_a_zip_of_pairs(self, server: Server) -> None:
        """Post, wait on 551, fetch: a zip of label maps and their names."""
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

    def test_unknown_model_is_550(self, server: Server) -> None:
        """An unknown model has its own code, with a reason."""
        answer = server.post(self.parameter, self.field, zipped(request_entries(self.dialect)), model="no-such-model-anywhere")
        expect(answer.status_code == 550, f"an unknown model was answered with {answer.status_code}, not 550")
        detail_of(answer)

    def test_errors_are_nested_twice(self, server: Server) -> None:
        """Clients of this age read ``detail`` inside ``detail``."""
        body = self.poll(server, "no-such-task-of-anybody-in-the-world-at-all").json()
        inner = body.get("detail") if isinstance(body, dict) else None
        expect(isinstance(inner, dict) and isinstance(inner.get("detail"), str), 'an error is not {"detail": {"detail": reason}}')

    def test_delete(self, server: Server) -> None:
        """A deleted task is gone."""
        uid = self.submit(server)
        self.settle(server, uid)
        answer = server.request("DELETE", f"/api/tasks/{uid}")
        expect(answer.is_success, f"a deletion was answered with {answer.status_code}")
        expect(self.poll(server, uid).status_code == 554, f"a deleted task was answered with {self.poll(server, uid).status_code}, not 554")

    def test_models_are_listed(self, server: Server) -> None:
        """The list of models has the one that is tested with."""
        answer = server.request("GET", "/api/models/")
        expect(answer.status_code == 200, f"the list of models was answered with {answer.status_code}")
        rows = answer.json()
        expect(isinstance(rows, list), "the list of models is no list")
        expect(any(row.get("human_readable_id") == server.model for row in rows), f"model {server.model} is not in the list of models")
