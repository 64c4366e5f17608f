"""The inference-server protocol on the wire: what our server answers, and how answers of any make are read."""

from __future__ import annotations

import json

import pytest

from delineate import errors
from delineate.errors import (
    AnswerError,
    ArchiveLimitError,
    AuthorizationError,
    BlobError,
    DelineateError,
    ImageError,
    InputError,
    ModelError,
    RejectedError,
    ResultLostError,
    StorageFullError,
    StoreBusyError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.model import Model
from delineate.protocols import inference_replies as replies
from delineate.protocols import inference_server as wire
from delineate.protocols.administration_flows import read_records, read_task_row
from delineate.protocols.inference_server import (
    Dialect,
    described_dialect,
    ended_error,
    error_from,
    is_not_ready,
    read_status,
    read_uid,
    reason_of,
    require_archive,
    wants_v2,
)
from delineate.protocols.messages import Response
from delineate.task import Blob, Failure, Task, TaskState

UID = "u" * 43


def _json(status: int, body: object, kind: str = "application/json") -> Response:
    return Response(status, {"content-type": kind}, json.dumps(body).encode())


def _task(**fields: object) -> Task:
    base = {"uid": UID, "id": 7, "model": "lungs", "state": TaskState.PENDING, "owner": "me", "protocol": "v2", "created": 1.5}
    return Task(**{**base, **fields})  # type: ignore[arg-type]


# ------------------------------------------------------------ what a server says


def test_every_state_has_a_v2_number() -> None:
    assert {state.value for state in TaskState} == set(wire.STATE_NUMBERS)
    assert wire.STATE_NUMBERS["pending"] == -1
    assert wire.STATE_NUMBERS["failed"] == wire.STATE_NUMBERS["cancelled"] == 0
    assert wire.STATE_NUMBERS["finished"] == 1
    assert wire.STATE_NUMBERS["running"] == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownModelError("m"), 550), (UnknownTaskError("m"), 554), (ModelError("m"), 552), (TaskFailedError("m"), 552),
        (TaskCancelledError("m"), 552), (ResultLostError("m"), 553), (BlobError("m"), 553), (ArchiveLimitError("m"), 413),
        (ImageError("m"), 422), (InputError("m"), 422), (StorageFullError("m"), 507), (StoreBusyError("m"), 503),
        (AuthorizationError("m"), 401), (AuthorizationError("m", status=403), 403), (DelineateError("m"), 500),
    ],
)  # fmt: skip
def test_status_of_errors(error: DelineateError, status: int) -> None:
    assert replies.status_of(error) == status


def test_v1_nests_detail_twice_and_v2_once() -> None:
    assert replies.detail_body("no model x", Dialect.SEED) == {"detail": {"detail": "no model x"}}
    assert replies.detail_body("no model x", Dialect.V1) == {"detail": {"detail": "no model x"}}
    assert replies.detail_body("no model x", Dialect.V2) == {"detail": "no model x"}


def test_a_problem_keeps_message_and_advice_apart() -> None:
    body = replies.problem(UnknownModelError("no model x", "List them."), "r1")
    assert (body["status"], body["detail"], body["request_id"]) == (550, "no model x. List them.", "r1")
    assert (body["message"], body["advice"], body["type"]) == ("no model x", "List them.", "urn:delineate:error:unknown-model")


def test_what_can_heal_says_when_to_come_again() -> None:
    assert [bool(replies.retry_after(s)) for s in (503, 507, 422, 552)] == [True, True, False, False]


def test_task_object_of_v2() -> None:
    blobs = (Blob(role="input", name="in.tar", digest="d", size=1),)
    body = replies.task_to_json(_task(blobs=blobs, state=TaskState.RUNNING))
    for name in (
        "id",
        "uid",
        "model_id",
        "model",
        "datetime_created",
        "datetime_dispatched",
        "datetime_finished",
        "input_tar",
        "output_tar",
    ):
        assert name in body
    assert (body["status"], body["is_deleted"], body["input_tar"], body["output_tar"]) == (2, False, "in.tar", None)
    assert body["datetime_created"].startswith("1970-01-01T00:00:01.5")
    assert replies.task_to_json(_task())["is_deleted"] is True
    assert body["model"]["human_readable_id"] == "lungs"
    json.dumps(replies.task_to_json(_task(), Model(name="lungs", runner="python")))


def test_model_ids_are_stable_positive_integers() -> None:
    assert replies.model_id("lungs-ct") == replies.model_id("lungs-ct") != replies.model_id("bones-ct")
    assert 0 <= replies.model_id("Größe") < 2**31


@pytest.mark.parametrize("text", ["..", "a/b", "", "a b", "ü", "a" * 129, "a\n", "%2e"])
def test_what_is_no_uid(text: str) -> None:
    assert not wire.is_uid(text)
    assert wire.is_uid(UID)


# ------------------------------------------------------------ what a client hears


@pytest.mark.parametrize(
    ("raised", "heard"),
    [
        (UnknownModelError, UnknownModelError), (UnknownTaskError, UnknownTaskError), (ModelError, TaskFailedError),
        (TaskFailedError, TaskFailedError), (TaskCancelledError, TaskCancelledError), (ResultLostError, ResultLostError),
        (BlobError, ResultLostError), (ArchiveLimitError, RejectedError), (ImageError, RejectedError), (StoreBusyError, UnavailableError),
        (StorageFullError, UnavailableError), (AuthorizationError, AuthorizationError), (DelineateError, UnavailableError),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dialect", list(Dialect))
def test_errors_of_our_server_arrive_whole(raised: type[DelineateError], heard: type[DelineateError], dialect: Dialect) -> None:
    problem = replies.problem(raised("what happened", "what to do"))
    error = error_from(_json(problem["status"], {**problem, **replies.detail_body(problem["detail"], dialect)}))
    assert type(error) is heard
    assert (error.message, error.advice) == ("what happened", "what to do")


def test_every_error_class_has_a_name_of_its_own_on_the_wire() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DelineateError)]
    slugs = [wire.error_slug(kind) for kind in classes]
    assert len(slugs) == len(set(slugs))
    assert wire.error_slug(TaskCancelledError) == "task-cancelled"


@pytest.mark.parametrize("body", [{"detail": {"detail": "exit code 1"}}, {"detail": "exit code 1"}])
def test_either_nesting_carries_the_reason(body: object) -> None:
    error = error_from(_json(552, body))
    assert isinstance(error, TaskFailedError)
    assert error.message == "exit code 1"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (550, UnknownModelError), (552, TaskFailedError), (553, ResultLostError), (554, UnknownTaskError), (401, AuthorizationError),
        (403, AuthorizationError), (404, AnswerError), (405, AnswerError), (422, RejectedError), (413, RejectedError), (418, RejectedError),
        (500, UnavailableError), (502, UnavailableError), (302, AnswerError),
    ],
)  # fmt: skip
def test_bare_statuses_of_strangers(status: int, kind: type[DelineateError]) -> None:
    error = error_from(Response(status, {}, b""), "the task")
    assert type(error) is kind
    assert error.message
    assert isinstance(error, TaskFailedError) or error.advice or kind is RejectedError


def test_a_redirect_says_where_without_what_may_be_secret() -> None:
    error = error_from(Response(302, {"location": "https://sso.example/login?ticket=secret#x"}, b""))
    assert "https://sso.example/login" in error.message
    assert "secret" not in error.message


def test_validation_errors_become_one_line() -> None:
    body = {
        "detail": [{"loc": ["query", "human_readable_id"], "msg": "field required"}, {"loc": ["body", "tar_file"], "msg": "field required"}]
    }
    assert reason_of(_json(422, body)) == "query.human_readable_id field required; body.tar_file field required"


def test_reasons_are_printable_and_short() -> None:
    reason = reason_of(_json(552, {"detail": "a\x1b[31m\nb" + "c" * 9999}))
    assert reason.startswith("a [31m b")
    assert len(reason) == 500
    assert reason_of(Response(500, {"content-type": "text/html"}, b"<h1>no</h1>")) == ""
    assert reason_of(Response(500, {"content-type": "text/plain"}, b"Internal\nError")) == "Internal Error"


@pytest.mark.parametrize("loc", [5, None, "body", [["a"]], {"a": 1}])
def test_validation_errors_of_another_shape(loc: object) -> None:
    error = error_from(_json(422, {"detail": [{"loc": loc, "msg": ["no"]}, {"loc": ["query", 0], "msg": "missing"}]}))
    assert error.message.endswith("query.0 missing")


def test_reasons_without_end() -> None:
    """Nested as deep as the parser goes, or deeper."""
    for depth in (100, 300, 600, 900, 970, 100_000):
        for opening, closing in ((b"[", b"]"), (b'{"detail":', b"}"), (b'{"type":"urn:delineate:error:x","message":[', b"]}")):
            body = opening * depth + b'"x"' + closing * depth
            answer = Response(400, {"content-type": "application/json"}, body)
            assert "\n" not in error_from(answer).sentence()
            assert len(error_from(answer).sentence()) < 1000


def test_a_redirect_in_several_lines_is_told_in_one() -> None:
    error = error_from(Response(302, {"location": "http://elsewhere/\r\n \x1b[31mall is well" + "x" * 60_000}))
    assert "\n" not in error.sentence()
    assert "\x1b" not in error.sentence()
    assert len(error.sentence()) < 1000


def test_not_ready() -> None:
    assert is_not_ready(_json(551, {}))
    assert is_not_ready(_json(404, {"detail": "TaskOutputZipNotFound"}))
    assert not is_not_ready(_json(404, {"detail": "Not Found"}))
    assert not is_not_ready(_json(552, {"detail": "TaskOutputZipNotFound"}))


@pytest.mark.parametrize("body", [UID, {"uid": UID}, {"uid": UID, "id": 1}])
def test_uids_of_every_dialect(body: object) -> None:
    assert read_uid(_json(200, body)) == UID


@pytest.mark.parametrize("body", ["../x", 5, None, {}, {"uid": 5}, [], {"uid": "a/b"}, ""])
def test_what_is_no_uid_is_no_answer(body: object) -> None:
    with pytest.raises(AnswerError):
        read_uid(_json(200, body))
    with pytest.raises(AnswerError, match="HTML"):
        read_uid(Response(200, {"content-type": "text/html"}, b"<html>"))


def test_status_goes_there_and_back() -> None:
    failure = Failure(kind="memory", message="out of memory", advice="Use less.")
    status = read_status(_json(200, replies.status_to_json(_task(state=TaskState.FAILED, fraction=0.5, message="m", failure=failure), 12)))
    assert status == ("failed", 0.5, "m", "out of memory", "Use less.", 12, "memory")
    error = ended_error(status)
    assert isinstance(error, TaskFailedError)
    assert (error.message, error.advice) == ("out of memory", "Use less.")
    assert ended_error(read_status(_json(200, replies.status_to_json(_task(), 0)))) is None
    assert isinstance(ended_error(read_status(_json(200, replies.status_to_json(_task(state=TaskState.CANCELLED), 0)))), TaskCancelledError)


@pytest.mark.parametrize("value", ["x", [1], {}, -5, float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_status_of_nonsense_is_read_as_far_as_it_makes_sense(value: object) -> None:
    body = {"state": "running", "fraction": value, "event": value, "message": [value], "failure": {"message": value if value != "x" else 1}}
    assert read_status(_json(200, body))[:6] == ("running", 0.0, "", "", "", 0)


@pytest.mark.parametrize("body", [[], {}, {"state": "nonsense"}, "finished", {"state": ["running"]}, {"state": {}}])
def test_what_is_no_status(body: object) -> None:
    with pytest.raises(AnswerError):
        read_status(_json(200, body))


def test_lists() -> None:
    assert read_records(_json(200, [{"human_readable_id": "a"}])) == [{"human_readable_id": "a"}]
    for body in ({}, [1], "x"):
        with pytest.raises(AnswerError):
            read_records(_json(200, body))


def test_rows_of_tasks_are_plain_and_without_uid() -> None:
    row = read_task_row(replies.task_to_json(_task(state=TaskState.RUNNING), Model(name="lungs", runner="python")))
    assert (row["model"], row["state"], "uid" in row) == ("lungs", "running", False)
    assert read_task_row({"id": 1, "status": 1, "model": {"human_readable_id": "x"}})["state"] == "finished"


def test_an_archive_is_not_html_nor_json() -> None:
    require_archive(Response(200, {"content-type": "application/zip"}))
    require_archive(Response(200, {}))
    for kind in ("text/html", "application/json"):
        with pytest.raises(AnswerError):
            require_archive(Response(200, {"content-type": kind}))


def test_a_refusal_that_names_the_fields_of_v2() -> None:
    assert wants_v2(_json(422, {"detail": [{"loc": ["body", "tar_file"], "msg": "field required"}]}))
    assert wants_v2(_json(422, {"detail": [{"loc": ["query", "human_readable_id"], "msg": "field required"}]}))
    assert not wants_v2(_json(422, {"detail": [{"loc": ["query", "model_human_readable_id"], "msg": "field required"}]}))
    assert not wants_v2(_json(550, {"detail": "tar_file"}))


@pytest.mark.parametrize("post", [5, [], {"parameters": 5}, {"parameters": {"name": 1}}, {"parameters": [5, {"name": [1]}]}])
def test_descriptions_of_another_shape(post: object) -> None:
    assert described_dialect(_json(200, {"paths": {"/api/tasks/": {"post": post}, "/api/tasks/{uid}": 1, "x": None}})) is None


def test_descriptions() -> None:
    def description(parameter: str, *paths: str, delete: bool = False) -> Response:
        post = {"post": {"parameters": [{"name": parameter}]}}
        rest = {path: {"get": {}, **({"delete": {}} if delete else {})} for path in paths}
        return _json(200, {"paths": {"/api/tasks/": post, **rest}})

    assert described_dialect(description("model_human_readable_id", "/api/tasks/{uid}")) is Dialect.SEED
    assert described_dialect(description("model_human_readable_id", "/api/tasks/{uid}", delete=True)) is Dialect.V1
    assert described_dialect(description("human_readable_id", "/api/tasks/outputs/")) is Dialect.V2
    for answer in (_json(404, {}), _json(200, []), _json(200, {"paths": {}}), Response(200, {"content-type": "text/html"}, b"x")):
        assert described_dialect(answer) is None
