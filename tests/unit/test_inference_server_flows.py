"""Flows without sockets: a scripted driver and a clock that moves only when a flow waits or a request takes time."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from delineate.errors import (
    AnswerError,
    AuthorizationError,
    ConnectionFailedError,
    DeadlineError,
    DelineateError,
    RejectedError,
    ResultLostError,
    SettingsError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
    UnknownModelError,
    UnknownTaskError,
)
from delineate.protocols.administration_flows import AdministeredServer
from delineate.protocols.inference_server import Dialect
from delineate.protocols.messages import Backoff, Flow, Progress, Request, Response, Wait

UID = "u" * 43
OURS = {"delineate": "1", "content-type": "application/json"}
REFUSED = ConnectionFailedError("refused", is_refused=True)
DROPPED = ConnectionFailedError("dropped")


def answer(status: int, body: object = None, **headers: str) -> Response:
    return Response(status, {"content-type": "application/json", **headers}, json.dumps(body).encode())


def ours(status: int, body: object = None) -> Response:
    return Response(status, OURS, json.dumps(body).encode())


def archive_answer(**headers: str) -> Response:
    return Response(200, {"content-type": "application/zip", **headers})


Play = Response | DelineateError | Callable[[Request], Response]


class Stage:
    """Plays answers in order, the last for ever; keeps what was asked, waited and said."""

    def __init__(self, *plays: Play, seconds: float = 0.0) -> None:
        self.plays = list(plays)
        self.now = 1000.0
        self.seconds = seconds
        self.requests: list[Request] = []
        self.waits: list[float] = []
        self.progress: list[Progress] = []

    def clock(self) -> float:
        return self.now

    def server(self, dialect: Dialect | None = None, tries: int = 4) -> AdministeredServer:
        return AdministeredServer(self.clock, dialect, Backoff(tries=tries), chance=lambda: 0.0)

    def run(self, flow: Flow[Any]) -> Any:
        send: Response | None = None
        failure: DelineateError | None = None
        while True:
            try:
                step = flow.send(send) if failure is None else flow.throw(failure)
            except StopIteration as end:
                return end.value
            send = failure = None
            if isinstance(step, Wait):
                assert step.seconds >= 0
                self.now += step.seconds
                self.waits.append(step.seconds)
            elif isinstance(step, Progress):
                self.progress.append(step)
            else:
                self.now += self.seconds
                self.requests.append(step)
                play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
                if isinstance(play, DelineateError):
                    failure = play
                elif isinstance(play, Response):
                    send = play
                else:
                    try:
                        send = play(step)
                    except DelineateError as error:
                        failure = error

    @property
    def paths(self) -> list[str]:
        return [f"{r.method} {r.path}".replace(UID, "UID") for r in self.requests]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "input.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("tmp_0000.nii.gz", b"image")
    yield str(path)


# ------------------------------------------------------------ dialects


@pytest.mark.parametrize(
    ("plays", "dialect", "is_ours"),
    [
        ([ours(554)], Dialect.V1, True),
        ([answer(554, {"detail": {"detail": "x"}})], Dialect.V1, False),
        ([answer(404, {"detail": "TaskOutputZipNotFound"})], Dialect.SEED, False),
        ([answer(404, {"detail": {"detail": "TaskOutputZipNotFound"}})], Dialect.SEED, False),
        ([answer(404, {"detail": "Not Found"}), answer(200, {"paths": {"/api/tasks/outputs/": {"get": {}}}})], Dialect.V2, False),
        ([answer(405, {}), answer(404, {})], Dialect.V1, False),
    ],
)
def test_detection(plays: list[Play], dialect: Dialect, is_ours: bool) -> None:
    stage = Stage(*plays)
    server = stage.server()
    assert stage.run(server.detect()) is dialect
    assert (server.dialect, server.is_ours) == (dialect, is_ours)
    assert stage.run(server.detect()) is dialect
    assert len(stage.requests) == len(plays), "what is known is not asked again"


@pytest.mark.parametrize(
    ("play", "kind"),
    [
        (Response(200, {"content-type": "text/html"}), AnswerError),
        (Response(404, {"content-type": "text/html"}), AnswerError),
        (answer(200, []), AnswerError),
        (answer(302, None, location="https://sso/login"), AnswerError),
        (answer(401, {"detail": "no"}), AuthorizationError),
        (answer(503, {"detail": "no"}), UnavailableError),
    ],
)
def test_what_is_no_inference_server(play: Play, kind: type[DelineateError]) -> None:
    stage = Stage(play)
    with pytest.raises(kind):
        stage.run(stage.server().detect())


def test_an_unknown_dialect_is_learnt_from_the_refusal_of_a_post(archive: str) -> None:
    missing = {"detail": [{"loc": ["query", "human_readable_id"], "msg": "field required"}]}
    stage = Stage(answer(404, {}), answer(404, {}), answer(422, missing), answer(200, {"uid": UID}))
    server = stage.server()
    assert stage.run(server.submit("m", archive)) == UID
    assert server.dialect is Dialect.V2
    assert stage.requests[-1].query == (("human_readable_id", "m"),)


def test_an_unknown_dialect_is_learnt_from_a_poll() -> None:
    stage = Stage(answer(404, {}), answer(404, {}), answer(405, {}), archive_answer())
    server = stage.server()
    stage.run(server.wait(UID))
    assert stage.requests[-1].path == "/api/tasks/outputs/"
    assert server.dialect is Dialect.V2


# ------------------------------------------------------------ posts


@pytest.mark.parametrize(
    ("dialect", "parameter", "field"),
    [
        (Dialect.SEED, "model_human_readable_id", "zip_file"), (Dialect.V1, "model_human_readable_id", "zip_file"),
        (Dialect.V2, "human_readable_id", "tar_file"),
    ],
)  # fmt: skip
def test_a_post_in_each_dialect(archive: str, dialect: Dialect, parameter: str, field: str) -> None:
    stage = Stage(answer(200, UID))
    assert stage.run(stage.server(dialect).submit("a model", archive, key="k")) == UID
    (request,) = stage.requests
    assert (request.method, request.path, request.query) == ("POST", "/api/tasks/", ((parameter, "a model"),))
    assert ("Idempotency-Key", "k") in request.headers
    assert request.body is not None
    data = b"".join(request.body)
    assert len(data) == request.body.length
    assert f'name="{field}"'.encode() in data
    assert b"tmp_0000.nii.gz" in data


def test_priority_and_prompts_go_to_our_server_alone(archive: str) -> None:
    stage = Stage(ours(554), ours(200, UID))
    stage.run(stage.server().submit("m", archive, priority="interactive", prompts={"foreground": [[1, 2, 3]]}))
    assert ("priority", "interactive") in stage.requests[1].query
    assert stage.requests[1].body is not None
    assert b'name="prompts"\r\n\r\n{"foreground": [[1, 2, 3]]}' in b"".join(stage.requests[1].body)
    stage = Stage(answer(200, UID))
    stage.run(stage.server(Dialect.V1).submit("m", archive, priority="batch"))
    assert stage.requests[0].query == (("model_human_readable_id", "m"),)
    with pytest.raises(RejectedError, match="no prompts"):
        stage.run(stage.server(Dialect.V1).submit("m", archive, prompts={"roi": []}))
    with pytest.raises(SettingsError):
        stage.run(stage.server(Dialect.V1).submit("m", archive, priority="urgent"))


@pytest.mark.parametrize(
    "trouble", [REFUSED, DROPPED, DeadlineError("late"), answer(502), answer(503), answer(504), answer(507), answer(429)]
)
def test_our_server_is_posted_to_again_with_the_same_key(archive: str, trouble: Play) -> None:
    stage = Stage(ours(554), trouble, trouble, ours(200, UID))
    assert stage.run(stage.server().submit("m", archive)) == UID
    assert len({dict(r.headers)["Idempotency-Key"] for r in stage.requests[1:]}) == 1


@pytest.mark.parametrize(
    ("trouble", "times"),
    [
        (REFUSED, 2),
        (answer(503), 2),
        (answer(429), 2),
        (DROPPED, 1),
        (DeadlineError("late"), 1),
        (answer(502), 1),
        (answer(504), 1),
        (answer(507), 1),
    ],
)
def test_a_stranger_is_posted_to_again_only_if_it_surely_did_nothing(archive: str, trouble: Play, times: int) -> None:
    stage = Stage(answer(554), trouble, answer(200, UID))
    flow = stage.server().submit("m", archive)
    if times == 2:
        assert stage.run(flow) == UID
    else:
        with pytest.raises((UnavailableError, ConnectionFailedError, DeadlineError)):
            stage.run(flow)
    assert len(stage.requests) == 1 + times


@pytest.mark.parametrize(
    ("status", "kind"), [(550, UnknownModelError), (422, RejectedError), (401, AuthorizationError), (500, UnavailableError)]
)
def test_refusals_are_final(archive: str, status: int, kind: type[DelineateError]) -> None:
    stage = Stage(answer(status, {"detail": {"detail": "because"}}))
    with pytest.raises(kind, match="because"):
        stage.run(stage.server(Dialect.V1).submit("m", archive))
    assert len(stage.requests) == 1


# ------------------------------------------------------------ trying again


def test_a_first_connection_that_is_refused_is_told_within_seconds() -> None:
    stage = Stage(REFUSED)
    with pytest.raises(ConnectionFailedError):
        stage.run(stage.server(tries=100).detect())
    assert 2 < sum(stage.waits) < 5
    assert len(stage.requests) > 3


def test_a_server_that_is_just_starting_is_met() -> None:
    stage = Stage(REFUSED, REFUSED, ours(554))
    assert stage.run(stage.server().detect()) is Dialect.V1


def test_a_first_call_that_is_not_answered_is_told_at_once() -> None:
    stage = Stage(DeadlineError("late"))
    with pytest.raises(DeadlineError):
        stage.run(stage.server().detect())
    assert len(stage.requests) == 1


def test_pauses_grow_and_stop_growing() -> None:
    stage = Stage(ours(554), answer(502))
    server = stage.server(tries=8)
    stage.run(server.detect())
    with pytest.raises(UnavailableError):
        stage.run(server.models())
    assert stage.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_jitter_spreads_clients() -> None:
    backoff = Backoff()
    assert backoff.pause(1, 0.0) < backoff.pause(1, 0.5) < backoff.pause(1, 1.0) <= 1.5 * backoff.pause(1, 0.0)


def test_retry_after_is_honoured_within_reason() -> None:
    stage = Stage(ours(554), answer(503, None, **{"retry-after": "7"}), answer(503, None, **{"retry-after": "99999"}), ours(200, []))
    server = stage.server()
    stage.run(server.detect())
    stage.run(server.models())
    assert stage.waits == [7.0, 60.0]


def test_no_call_is_given_more_time_than_is_left() -> None:
    stage = Stage(ours(554), answer(502), seconds=1.0)
    server = stage.server(tries=100)
    stage.run(server.detect())
    with pytest.raises(DeadlineError, match=r"10 s passed; last, .*502"):
        stage.run(server.models(timeout=10))
    assert all(r.timeout is not None and r.timeout <= 10 for r in stage.requests[1:])
    assert stage.requests[-1].timeout is not None
    assert stage.requests[-1].timeout < 5
    assert stage.now - 1001 <= 11


# ------------------------------------------------------------ waiting


def status(state: str, event: int = 0, fraction: float = 0.0, message: str = "", failure: object = None) -> Response:
    return ours(200, {"state": state, "event": event, "fraction": fraction, "message": message, "failure": failure})


def test_our_server_is_asked_to_hold_the_line() -> None:
    stage = Stage(ours(554), status("pending", 1), status("running", 2, 0.5, "lungs"), status("finished", 3), seconds=5.0)
    stage.run(stage.server().wait(UID))
    assert stage.waits == []
    assert [dict(r.query)["after"] for r in stage.requests[1:]] == ["0", "1", "2"]
    assert all(r.timeout and r.timeout > float(dict(r.query)["wait"]) for r in stage.requests[1:])
    assert stage.progress == [(0.0, "pending"), (0.5, "lungs")]


def test_a_long_poll_that_is_cut_short_does_not_spin() -> None:
    stage = Stage(ours(554), *[status("running", 2)] * 50, status("finished", 3), seconds=0.001)
    stage.run(stage.server().wait(UID))
    assert sum(stage.waits) > 60
    assert len(stage.requests) == 52


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        (status("failed", 2, failure={"kind": "exit", "message": "code 137", "advice": "More memory."}), TaskFailedError),
        (status("cancelled", 2), TaskCancelledError),
        (ours(554, {"detail": "gone"}), UnknownTaskError),
        (ours(553, {"detail": "gone"}), ResultLostError),
    ],
)
def test_the_end_of_a_task_without_a_result(final: Response, kind: type[DelineateError]) -> None:
    stage = Stage(ours(554), status("running", 1), final)
    with pytest.raises(kind) as raised:
        stage.run(stage.server().wait(UID))
    if kind is TaskFailedError:
        assert (raised.value.message, raised.value.advice) == ("code 137", "More memory.")


@pytest.mark.parametrize("trouble", [REFUSED, DROPPED, answer(502), answer(503), answer(507), DeadlineError("late")])
def test_a_server_that_restarts_is_waited_for_until_the_deadline(trouble: Play) -> None:
    stage = Stage(ours(554), status("running", 1), *[trouble] * 40, status("finished", 2))
    stage.run(stage.server().wait(UID))
    stage = Stage(ours(554), status("running", 1), trouble)
    with pytest.raises(DeadlineError):
        stage.run(stage.server().wait(UID, timeout=120))
    assert 119 < stage.now - 1000 < 121


@pytest.mark.parametrize("dialect", list(Dialect))
def test_strangers_are_polled_ever_more_rarely(dialect: Dialect) -> None:
    waiting = answer(404, {"detail": "TaskOutputZipNotFound"}) if dialect is Dialect.SEED else answer(551, {"detail": "pending"})
    stage = Stage(*[waiting] * 30, archive_answer())
    stage.run(stage.server(dialect).wait(UID))
    assert stage.waits[0] == 2.0
    assert max(stage.waits) == 10.0
    assert stage.waits == sorted(stage.waits)
    assert all(r.peek for r in stage.requests)


def test_one_grace_poll_for_a_row_that_is_late() -> None:
    stage = Stage(answer(554), answer(551), archive_answer())
    stage.run(stage.server(Dialect.V1).wait(UID))
    stage = Stage(answer(554))
    with pytest.raises(UnknownTaskError):
        stage.run(stage.server(Dialect.V1).wait(UID))
    assert len(stage.requests) == 2


def test_v2_says_500_for_an_unknown_uid() -> None:
    stage = Stage(answer(500))
    with pytest.raises(UnknownTaskError, match="500"):
        stage.run(stage.server(Dialect.V2).wait(UID))


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        (answer(552, {"detail": {"detail": "exit code 1"}}), TaskFailedError), (answer(553), ResultLostError),
        (answer(401), AuthorizationError), (answer(403), AuthorizationError), (answer(404, {"detail": "Not Found"}), AnswerError),
        (answer(422), RejectedError),
        (answer(550), UnknownModelError), (answer(500), UnavailableError), (Response(200, {"content-type": "text/html"}), AnswerError),
        (answer(307, None, location="https://x/login"), AnswerError),
    ],
)  # fmt: skip
def test_what_ends_waiting_at_once(final: Response, kind: type[DelineateError]) -> None:
    stage = Stage(answer(551), final)
    with pytest.raises(kind):
        stage.run(stage.server(Dialect.V1).wait(UID))
    assert len(stage.requests) == 2


@pytest.mark.parametrize("uid", ["..", "a/b", "", "%2e", "a b"])
def test_what_is_no_uid_never_becomes_a_path(uid: str) -> None:
    stage = Stage(ours(200, []))
    server = stage.server()
    for flow in (
        server.wait(uid),
        server.fetch(uid, io.BytesIO()),
        server.delete(uid),
        server.cancel(uid),
        server.log(uid),
        server.status(uid),
    ):
        with pytest.raises(UnknownTaskError):
            stage.run(flow)
    assert stage.requests == []


# ------------------------------------------------------------ fetching


def breaking(have: bytes, headers: dict[str, str]) -> Callable[[Request], Response]:
    def play(request: Request) -> Response:
        assert request.sink is not None
        if "Range" not in dict(request.headers):
            request.sink.seek(0)
            request.sink.truncate()
        request.sink.write(have)
        raise ConnectionFailedError("dropped", headers=headers)

    return play


def completing(have: bytes) -> Callable[[Request], Response]:
    def play(request: Request) -> Response:
        assert request.sink is not None
        if "Range" not in dict(request.headers):
            request.sink.seek(0)
            request.sink.truncate()
        request.sink.write(have)
        return archive_answer()

    return play


def test_a_body_that_breaks_off_is_resumed() -> None:
    good = {"accept-ranges": "bytes", "etag": '"v1"', "content-type": "application/zip"}
    stage = Stage(breaking(b"ab", good), REFUSED, breaking(b"cd", {**good, "content-range": "bytes 2-5/6"}), completing(b"ef"))
    sink = io.BytesIO()
    stage.run(stage.server(Dialect.V1).fetch(UID, sink))
    assert sink.getvalue() == b"abcdef"
    ranges = [dict(r.headers).get("Range") for r in stage.requests]
    assert ranges == [None, "bytes=2-", "bytes=2-", "bytes=4-"]
    assert dict(stage.requests[-1].headers)["If-Range"] == '"v1"'


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "application/zip"}, {"accept-ranges": "bytes"}, {"accept-ranges": "bytes", "etag": 'W/"weak"'}, {"etag": '"x"'},
     {"accept-ranges": "bytes", "etag": '"x"', "content-encoding": "gzip"}],
)  # fmt: skip
def test_without_the_promise_of_the_same_bytes_it_is_fetched_whole(headers: dict[str, str]) -> None:
    stage = Stage(breaking(b"ab", headers), completing(b"xyz"))
    sink = io.BytesIO()
    stage.run(stage.server(Dialect.V1).fetch(UID, sink))
    assert sink.getvalue() == b"xyz"
    assert dict(stage.requests[1].headers).get("Range") is None


def test_a_body_that_always_breaks_off_is_given_up() -> None:
    stage = Stage(breaking(b"ab", {"content-type": "application/zip"}))
    with pytest.raises(ConnectionFailedError):
        stage.run(stage.server(Dialect.V1, tries=4).fetch(UID, io.BytesIO()))
    assert len(stage.requests) == 4


def test_progress_of_a_resumed_body_renews_the_tries() -> None:
    good = {"accept-ranges": "bytes", "etag": '"v1"'}
    stage = Stage(*[breaking(b"a", good)] * 20, completing(b"b"))
    sink = io.BytesIO()
    stage.run(stage.server(Dialect.V1, tries=3).fetch(UID, sink))
    assert sink.getvalue() == b"a" * 20 + b"b"


def test_an_empty_result_is_lost() -> None:
    stage = Stage(archive_answer())
    with pytest.raises(ResultLostError, match="empty"):
        stage.run(stage.server(Dialect.V1).fetch(UID, io.BytesIO()))


def test_our_server_is_waited_for_by_long_poll_then_fetched() -> None:
    stage = Stage(ours(554), status("finished", 1), completing(b"zip"))
    stage.run(stage.server().fetch(UID, io.BytesIO()))
    assert stage.paths[1:] == ["GET /api/tasks/UID/status", "GET /api/tasks/UID"]


# ------------------------------------------------------------ the rest


def test_seed_can_do_little() -> None:
    stage = Stage(answer(404, {}))
    server = stage.server(Dialect.SEED)
    for flow in (server.models(), server.delete(UID), server.cancel(UID), server.log(UID), server.tasks()):
        with pytest.raises(AnswerError, match="seed"):
            stage.run(flow)


def test_deletion_in_each_dialect() -> None:
    stage = Stage(answer(200, {}))
    stage.run(stage.server(Dialect.V1).delete(UID))
    stage.run(stage.server(Dialect.V2).delete(UID))
    assert stage.paths == ["DELETE /api/tasks/UID", "DELETE /api/tasks/"]
    assert stage.requests[1].query == (("uid", UID),)


def test_what_is_ours_is_recognised_even_where_a_dialect_was_given() -> None:
    stage = Stage(
        ours(554),
        ours(200, {}),
        Response(200, {**OURS, "content-type": "text/plain"}, "läuft".encode()),
        ours(200, [{"uid": UID, "id": 1}]),
    )
    server = stage.server(Dialect.V2)
    stage.run(server.cancel(UID))
    assert stage.run(server.log(UID)) == "läuft"
    assert stage.run(server.tasks("running", 3)) == [{"id": 1, "state": "pending", "model": None}]
    assert stage.paths[1:] == ["POST /api/tasks/UID/cancel", "GET /api/tasks/UID/log", "GET /api/tasks/"]
    assert stage.requests[-1].query == (("limit", "3"), ("state", "running"))


@pytest.mark.parametrize(
    ("play", "state"), [(archive_answer(), "finished"), (answer(551), "pending"), (answer(552, {"detail": "x"}), "failed")]
)
def test_status_of_a_stranger(play: Response, state: str) -> None:
    stage = Stage(play)
    assert stage.run(stage.server(Dialect.V1).status(UID)).state == state


def test_a_driver_must_answer() -> None:
    stage = Stage()
    flow = stage.server(Dialect.V1).models()
    next(flow)
    with pytest.raises(TypeError, match="Response"):
        flow.send(None)
