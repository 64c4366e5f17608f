"""Does a server speak dialect v1 (June 2022 to May 2023)?"""

from __future__ import annotations

import httpx

from delineate.testing.conformance.plain import Server, detail_of, expect, request_entries, zipped
from delineate.testing.conformance.suite import ZipSuite


class V1Suite(ZipSuite):
    """Codes 550 to 554, bare uids, zips."""

    dialect = "v1"
    unknown_task = frozenset({554})

    def settle(self, server: Server, uid: str) -> httpx.Response:
        """Until it is not 551; one 554 right after the post is known of servers of this age."""
        return server.settled(f"/api/tasks/{uid}", None, {551: -1, 554: 1})

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
