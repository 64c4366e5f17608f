"""Does a server speak dialect v2 (June 2023 on)?"""

from __future__ import annotations

import datetime

import httpx

from delineate.testing.conformance.plain import NOBODY, Server, expect, expect_label_maps, request_entries, tarred, untarred
from delineate.testing.conformance.suite import Suite

MEMBERS = (
    "id", "uid", "model_id", "model", "datetime_created", "datetime_dispatched", "datetime_finished",
    "input_tar", "output_tar", "status", "is_deleted",
)  # fmt: skip
OUTPUTS = "/api/tasks/outputs/"


class V2Suite(Suite):
    """Task objects, tars, ``X-Token``."""

    dialect = "v2"
    parameter = "human_readable_id"
    field = "tar_file"
    unknown_task = frozenset({554, 500})  # 500 is what the servers in use say

    def submit(self, server: Server, factor: tuple[int, int, int] = (1, 1, 1)) -> str:
        """Post a tar."""
        return self.uid_of(self._post(server, tarred(request_entries(self.dialect, factor))))

    def uid_of(self, answer: httpx.Response) -> str:
        """The uid is a member of an object."""
        expect(answer.status_code == 200, f"a task was answered with status {answer.status_code}: {answer.text[:200]}")
        body = answer.json()
        expect(isinstance(body, dict), f"the answer to a post is {type(body).__name__}, not an object")
        return self.checked(str(body.get("uid")))

    def poll(self, server: Server, uid: str) -> httpx.Response:
        """The uid is a query parameter; escapes in it are sent as they are."""
        return server.request("GET", OUTPUTS, {"uid": uid})

    def settle(self, server: Server, uid: str) -> httpx.Response:
        """Until it is not 551 or, right after the post, 554."""
        return server.settled(OUTPUTS, {"uid": uid}, {551: -1, 554: 1})

    def test_answer_is_a_task_object(self, server: Server) -> None:
        """All members that clients parse are there, of their types."""
        body = self._post(server, tarred(request_entries(self.dialect))).json()
        missing = [name for name in MEMBERS if name not in body]
        expect(not missing, f"the task object lacks {', '.join(missing)}")
        expect(isinstance(body["id"], int) and isinstance(body["model_id"], int), "id and model_id are not both integers")
        expect(isinstance(body["model"], dict), "model is not an object")
        expect(body["status"] in (-1, 0, 1, 2), f"status is {body['status']!r}, not one of -1, 0, 1, 2")
        expect(body["is_deleted"] is False, "is_deleted is not false")
        expect(isinstance(body["datetime_created"], str), "datetime_created is not a text")
        datetime.datetime.fromisoformat(body["datetime_created"].replace("Z", "+00:00"))

    def test_result_is_a_flat_tar_with_log(self, server: Server) -> None:
        """Post, wait on 551, fetch: a plain tar of label maps, names, and ``container.log``."""
        answer = self.settle(server, self.submit(server))
        expect(answer.status_code == 200, f"the task of model {server.model} ended with {answer.status_code}: {answer.text[:200]}")
        entries = untarred(answer.content)
        expect_label_maps(entries)
        expect("container.log" in entries, "the result has no container.log")

    def test_compressed_tar_is_taken(self, server: Server) -> None:
        """A .tar.gz is as good as a .tar."""
        answer = self._post(server, tarred(request_entries(self.dialect), "w:gz"), "input.tar.gz")
        final = self.settle(server, self.uid_of(answer))
        expect(final.status_code == 200, f"the task of a .tar.gz ended with {final.status_code}: {final.text[:200]}")

    def test_result_can_be_fetched_again(self, server: Server) -> None:
        """A result stays until it is deleted."""
        uid = self.submit(server)
        first = self.settle(server, uid)
        expect(first.is_success and self.poll(server, uid).content == first.content, "fetched twice, the result was not the same")

    def test_delete(self, server: Server) -> None:
        """A deleted task is gone."""
        uid = self.submit(server)
        self.settle(server, uid)
        answer = server.request("DELETE", "/api/tasks/", {"uid": uid})
        expect(answer.is_success, f"a deletion was answered with {answer.status_code}")
        status = self.poll(server, uid).status_code
        expect(status in self.unknown_task, f"a deleted task was answered with {status}")

    def test_delete_of_unknown_uid(self, server: Server) -> None:
        """Deleting what is not there is no success."""
        expect(not server.request("DELETE", "/api/tasks/", {"uid": NOBODY}).is_success, "the deletion of an unknown task succeeded")

    def test_models_are_listed(self, server: Server) -> None:
        """The list of models has the one that is tested with."""
        answer = server.request("GET", "/api/models/")
        expect(answer.status_code == 200, f"the list of models was answered with {answer.status_code}")
        expect(any(row.get("human_readable_id") == server.model for row in answer.json()), f"model {server.model} is not in the list")

    def test_token_guards_administration(self, server: Server) -> None:
        """With the token the tasks are listed as objects; without it they are not. Only where a token was given to test with."""
        if server.token is None:
            return
        answer = server.request("GET", "/api/tasks/")
        expect(answer.status_code == 200 and isinstance(answer.json(), list), f"the list of tasks was answered with {answer.status_code}")
        refused = server.request("GET", "/api/tasks/", with_token=False)
        expect(not refused.is_success, "the list of tasks was given without a token")

    def _post(self, server: Server, archive: bytes, filename: str = "input.tar") -> httpx.Response:
        return server.post(self.parameter, self.field, archive, filename=filename)
