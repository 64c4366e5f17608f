"""The checks that all dialects of the inference-server protocol share."""

from __future__ import annotations

import re
from typing import ClassVar

import httpx

from delineate.testing.conformance.checks import Checks
from delineate.testing.conformance.plain import (
    NOBODY,
    Server,
    expect,
    expect_label_maps,
    request_entries,
    unzipped,
    zipped,
)

UID = re.compile(r"[A-Za-z0-9_-]{22,}")  # 128 bits at least


class Suite(Checks):
    """Checks of one dialect of the inference-server protocol."""

    parameter: ClassVar[str] = "model_human_readable_id"
    field: ClassVar[str] = "zip_file"
    unknown_task: ClassVar[frozenset[int]]

    # What differs between dialects.

    def submit(self, server: Server, factor: tuple[int, int, int] = (1, 1, 1)) -> str:
        """Post a task of one image; its uid."""
        answer = server.post(self.parameter, self.field, zipped(request_entries(self.dialect, factor)))
        return self.uid_of(answer)

    def uid_of(self, answer: httpx.Response) -> str:
        """The uid in the answer to a post: a bare JSON string."""
        expect(answer.status_code == 200, f"a task was answered with status {answer.status_code}: {answer.text[:200]}")
        uid = answer.json()
        expect(isinstance(uid, str), f"the answer to a post is {type(uid).__name__}, not a bare JSON string")
        return self.checked(uid)

    def checked(self, uid: str) -> str:
        """A uid that cannot be guessed and needs no quoting."""
        expect(UID.fullmatch(uid), "the uid is not an unguessable URL-safe token")
        return uid

    def poll(self, server: Server, uid: str) -> httpx.Response:
        """One question for the result."""
        return server.request("GET", f"/api/tasks/{uid}")

    # What does not.

    def test_two_posts_get_two_uids(self, server: Server) -> None:
        """A uid is never given twice."""
        expect(self.submit(server) != self.submit(server), "two posts were answered with one uid")

    def test_unknown_uid(self, server: Server) -> None:
        """A uid that nobody was given is answered as such."""
        status = self.poll(server, NOBODY).status_code
        expect(status in self.unknown_task, f"an unknown uid was answered with {status}, not {sorted(self.unknown_task)}")

    def test_post_without_file(self, server: Server) -> None:
        """A post without the file is refused."""
        answer = server.request("POST", "/api/tasks/", {self.parameter: server.model})
        expect(answer.status_code == 422, f"a post without a file was answered with {answer.status_code}, not 422")

    def test_post_without_model(self, server: Server) -> None:
        """A post that names no model is refused."""
        files = {self.field: ("input.zip", zipped(request_entries(self.dialect)), "application/zip")}
        answer = server.request("POST", "/api/tasks/", files=files)
        expect(answer.status_code == 422, f"a post without a model was answered with {answer.status_code}, not 422")

    def test_unknown_model_gets_no_task(self, server: Server) -> None:
        """A model that is not there is never taken."""
        answer = server.post(self.parameter, self.field, zipped(request_entries(self.dialect)), model="no-such-model-anywhere")
        expect(400 <= answer.status_code < 600, f"a task for an unknown model was answered with {answer.status_code}")

    def test_garbage_gives_no_result(self, server: Server) -> None:
        """What is no archive is refused at once, or its task ends without a result."""
        answer = server.post(self.parameter, self.field, b"this is not an archive" * 100)
        if answer.is_success:
            uid = self.uid_of(answer)
            final = self.settle(server, uid)
            expect(not final.is_success, "something that is no archive got a result")

    def test_paths_in_place_of_uids(self, server: Server) -> None:
        """Dots and slashes in place of a uid never reach anything else."""
        for text in ("..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a" * 3000):
            answer = self.poll(server, text)
            expect(not answer.is_success, f"a path in place of a uid was answered with {answer.status_code}")

    def settle(self, server: Server, uid: str) -> httpx.Response:
        """The answer when there is nothing more to wait for."""
        raise NotImplementedError


class ZipSuite(Suite):
    """Checks of the dialects whose result is a zip."""

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
