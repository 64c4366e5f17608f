"""Both MONAI Label clients against a scripted server: every call, every defect of the original mended, and what goes wrong."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import pickle
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from delineate.errors import AnswerError, CertificateError, ConnectionFailedError, DeadlineError, InputError, SettingsError
from delineate.monai_label import (
    AsyncMONAILabelClient,
    MONAILabelClient,
    MONAILabelClientException,
    MONAILabelError,
    MONAILabelUtils,
)
from delineate.protocols.messages import Backoff, Response
from delineate.protocols.monai_label_failures import error_from
from delineate.testing.faults import Fault
from delineate.testing.monai_label import LabelScript, ScriptedLabelServer
from delineate.testing.monai_label.script import ASAP, CLASSES, DSA, INFO, MASK, PARAMS, PASSWORD, TOKEN, USER
from delineate.testing.scripted import refusing_url

QUICK = Backoff(first=0.01, highest=0.05)


class _Awaited:
    """An `AsyncMONAILabelClient` that can be called like a `MONAILabelClient`: one set of tests for both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncMONAILabelClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return (lambda *a, **k: self._loop.run_until_complete(value(*a, **k))) if asyncio.iscoroutinefunction(value) else value

    def __enter__(self) -> _Awaited:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


CLIENTS = {"blocking": MONAILabelClient, "asynchronous": _Awaited}


class Scene:
    """A server and clients for it."""

    def __init__(self, kind: Any, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self._open: list[Any] = []
        self.image = folder / "secret name" / "ct.nii.gz"
        self.image.parent.mkdir()
        self.image.write_bytes(b"\x1f\x8bIMAGE")
        self.label = folder / "label.nii.gz"
        self.label.write_bytes(b"\x1f\x8bLABEL")
        self.results = folder / "results"

    def server(self, *faults: Fault, tls: ssl.SSLContext | None = None, **script: Any) -> ScriptedLabelServer:
        server = ScriptedLabelServer(LabelScript(**script), *faults, tls=tls)
        self._open.append(server.__enter__())
        return server

    def client(self, url: str, **options: Any) -> Any:
        client = self.kind(url, str(self.results), options.pop("client_id", "user-xyz"), backoff=QUICK, **options)
        self._open.append(client)
        return client

    def pair(self, *faults: Fault, **script: Any) -> tuple[ScriptedLabelServer, Any]:
        server = self.server(*faults, **script)
        return server, self.client(server.url)

    def left(self) -> list[Path]:
        return sorted(self.results.iterdir()) if self.results.exists() else []

    def close(self) -> None:
        for thing in reversed(self._open):
            thing.__exit__(None, None, None)


@pytest.fixture(params=CLIENTS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(CLIENTS[request.param], tmp_path)
    yield scene
    scene.close()


# ---------------------------------------------------------------- every call


def test_names_arguments_and_defaults_are_those_that_plugins_use() -> None:
    expected = {
        "update_auth": "(token)", "get_server_url": "()", "set_server_url": "(server_url)", "auth_enabled": "()",
        "auth_token": "(username, password)", "auth_valid_token": "()", "info": "()", "next_sample": "(strategy, params)",
        "create_session": "(image_in, params=None)", "get_session": "(session_id)", "remove_session": "(session_id)",
        "upload_image": "(image_in, image_id=None, params=None)", "save_label": "(image_id, label_in, tag='', params=None)",
        "datastore": "()", "download_label": "(label_id, tag)",
        "infer": "(model, image_id, params, label_in=None, file=None, session_id=None)",
        "wsi_infer": "(model, image_id, body=None, output='dsa', session_id=None)", "train_start": "(model, params)",
        "train_stop": "()", "train_status": "(check_if_running=False)",
    }  # fmt: skip
    for kind in (MONAILabelClient, AsyncMONAILabelClient):
        for name, wanted in expected.items():
            given = [p for p in inspect.signature(getattr(kind, name)).parameters.values() if p.name != "self"]
            plain = [p for p in given if p.kind is p.POSITIONAL_OR_KEYWORD]
            words = [word.split("=")[0] for word in wanted.strip("()").split(", ") if word]
            assert [p.name for p in plain] == words, name
            defaults = {word.split("=")[0]: word.split("=")[1] for word in wanted.strip("()").split(", ") if "=" in word}
            assert {p.name: repr(p.default) for p in plain if p.name in defaults} == defaults
            assert all(p.kind is p.KEYWORD_ONLY for p in given if p not in plain), "ours come after, by name alone"
        first = list(inspect.signature(kind).parameters)[:3]
        assert first == ["server_url", "tmpdir", "client_id"]
    assert (MONAILabelError.SERVER_ERROR, MONAILabelError.SESSION_EXPIRED, MONAILabelError.UNKNOWN) == (1, 2, 3)


def test_every_call(scene: Scene) -> None:
    server, client = scene.pair()
    assert client.get_server_url() == server.url
    assert client.auth_enabled() is False
    assert client.auth_valid_token() is False
    assert client.info() == INFO
    assert client.next_sample("first", {"label_tag": "final"})["id"] == "ct_small"
    assert client.upload_image(scene.image, "up 2+x", {"patient": "p1"}) == {"image": "up 2+x"}
    assert client.save_label("up 2+x", scene.label, "my tag", {"a": 1}) == {"image": "up 2+x", "label": "up 2+x"}
    assert client.datastore()["objects"]["up 2+x"]["labels"]["my tag"]["info"] == {"a": 1, "client_id": "user-xyz"}
    assert Path(client.download_label("up 2+x", "my tag")).read_bytes() == MASK
    assert Path(client.download_image("up 2+x")).read_bytes() == MASK
    session = client.create_session(scene.image, {"a": 1})["session_id"]
    assert client.get_session(session)["name"] == session
    path, params = client.infer("threshold", "", {}, session_id=session)
    assert (Path(path).read_bytes(), params) == (MASK, PARAMS)
    assert client.remove_session(session)["name"] == session
    assert client.train_status(check_if_running=True) is False
    assert client.train_stop() is None
    assert client.train_start("tiny", {"max_epochs": 2})["status"] == "SUBMITTED"
    assert client.train_status(True) is True
    assert client.train_status()["request"]["max_epochs"] == 2
    assert client.train_stop()["status"] == "STOPPED"
    assert client.train_start("", {})["tiny"]["detail"] is None


def test_what_is_sent_is_what_the_api_takes(scene: Scene) -> None:
    server, client = scene.pair()
    client.upload_image(scene.image, "a/b c", {"patient": "p"})
    client.save_label("ct_small", scene.label)
    client.infer("threshold", "ct_small", {"result_extension": ".nrrd"}, label_in=scene.label, file=scene.image)
    client.wsi_infer("polygons", "ct_small", {"level": 1}, "json")
    upload, save, infer = server.forms
    assert upload.target == "/datastore/?image=a%2Fb%20c"
    assert json.loads(upload.fields["params"]) == {"patient": "p", "client_id": "user-xyz"}
    assert upload.files == [("file", "ct.nii.gz", "application/octet-stream", b"\x1f\x8bIMAGE")]
    assert save.target == "/datastore/label?image=ct_small"
    assert [file[:2] for file in infer.files] == [("label", "label.nii.gz"), ("file", "ct.nii.gz")]
    assert json.loads(infer.fields["params"])["result_extension"] == ".nrrd"
    assert server.bodies == [{"level": 1, "client_id": "user-xyz"}]
    assert server.requests[-1].target == "/infer/wsi/polygons?image=ct_small&output=json"


def test_a_series_is_sent_as_many_files(scene: Scene, tmp_path: Path) -> None:
    server, client = scene.pair()
    series = tmp_path / "series"
    series.mkdir()
    for name in ("2.dcm", "1.dcm", ".hidden"):
        (series / name).write_bytes(name.encode())
    client.create_session(series, expiry=60)
    assert [(field, name) for field, name, _, _ in server.forms[0].files] == [("files", "1.dcm"), ("files", "2.dcm")]
    assert server.forms[0].target == "/session/?expiry=60"


def test_nothing_left_to_annotate_is_an_empty_dictionary(scene: Scene) -> None:
    _, client = scene.pair()
    client.save_label("ct_small", scene.label)
    assert client.next_sample("random", None) == {}


def test_accounts(scene: Scene) -> None:
    server, client = scene.pair(accounts=True)
    assert client.auth_enabled() is True
    with pytest.raises(MONAILabelClientException, match="who asks") as caught:
        client.info()
    assert (caught.value.status_code, caught.value.error) == (401, MONAILabelError.SERVER_ERROR)
    with pytest.raises(MONAILabelClientException, match="Incorrect"):
        client.auth_token(USER, "wrong")
    token = client.auth_token(USER, PASSWORD)
    assert token == {"access_token": TOKEN, "token_type": "Bearer"}
    client.update_auth(None)
    assert client.auth_valid_token() is False
    client.update_auth(token)
    assert client.auth_valid_token() is True
    assert client.info() == INFO
    assert scene.client(server.url, token=TOKEN).auth_valid_token() is True


# ---------------------------------------------------------------- defects of the original
# That files are never whole in memory: test_monai_label_memory.py.


def test_certificates_are_verified(scene: Scene) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = scene.server(tls=context)
    with pytest.raises(MONAILabelClientException, match="could not be verified") as caught:
        scene.client(server.url).info()
    assert isinstance(caught.value.__cause__, CertificateError)
    with authority.cert_pem.tempfile() as own, stranger.cert_pem.tempfile() as other:
        assert scene.client(server.url, ca_file=own).info() == INFO
        with pytest.raises(MONAILabelClientException, match="could not be verified"):
            scene.client(server.url, ca_file=other).info()
    assert scene.client(server.url, verify=False).info() == INFO


def test_the_callers_parameters_are_not_changed(scene: Scene) -> None:
    _, client = scene.pair()
    params: dict[str, Any] = {"a": [1]}
    client.next_sample("first", params)
    client.upload_image(scene.image, "x", params)
    client.save_label("x", scene.label, "", params)
    client.create_session(scene.image, params)
    client.infer("threshold", "x", params)
    client.wsi_infer("polygons", "x", params)
    client.train_start("tiny", params)
    assert params == {"a": [1]}


def test_without_a_client_id_none_is_sent(scene: Scene) -> None:
    server = scene.server()
    scene.client(server.url, client_id=None).next_sample("first", {"client_id": "mine"})
    scene.client(server.url, client_id=None).next_sample("first", None)
    assert server.bodies == [{"client_id": "mine"}, {}]


def test_headers_of_an_upload_do_not_leak_into_the_next_call(scene: Scene) -> None:
    server = scene.server(accounts=True)
    client = scene.client(server.url, token=TOKEN)
    client.upload_image(scene.image, "x")
    client.create_session(scene.image)
    client.info()
    seen = [dict(request.headers) for request in server.requests]
    assert seen[0]["content-type"] != seen[1]["content-type"]
    assert "content-type" not in seen[2] and "content-length" not in seen[2]


def test_upload_without_an_id(scene: Scene) -> None:
    server, client = scene.pair()
    assert client.upload_image(scene.image) == {"image": "ct"}
    assert client.upload_image(scene.image, None) == {"image": "ct"}
    assert server.requests[0].target == "/datastore/?image="


def test_slide_inference_sends_authorization(scene: Scene) -> None:
    server = scene.server(accounts=True)
    assert scene.client(server.url, token=TOKEN).wsi_infer("polygons", "x") == (None, DSA)
    assert server.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_local_paths_stay_here(scene: Scene) -> None:
    server, client = scene.pair()
    client.upload_image(scene.image)
    client.save_label("ct", scene.label)
    client.infer("threshold", "", {}, file=scene.image, label_in=scene.label)
    client.create_session(str(scene.image))
    names = [name for form in server.forms for _, name, _, _ in form.files]
    assert set(names) == {"ct.nii.gz", "label.nii.gz"}


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/tmp/evil.nii.gz", "..\\..\\evil.nii.gz", "a/../../evil.sh", "x.nii.gz/../../.rc"])
def test_a_hostile_name_cannot_leave_the_folder(scene: Scene, name: str) -> None:
    _, client = scene.pair(filename=name)
    client.save_label("ct_small", scene.label)
    for path in (client.infer("threshold", "ct_small", {})[0], client.download_label("ct_small", "final")):
        assert Path(path).resolve().parent == scene.results.resolve()
        assert "evil" not in Path(path).name and ".rc" not in Path(path).name
        assert Path(path).read_bytes() == MASK
    assert sorted(entry.name for entry in scene.folder.iterdir()) == ["label.nii.gz", "results", "secret name"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_results_are_for_this_user_alone(scene: Scene) -> None:
    _, client = scene.pair()
    assert Path(client.infer("threshold", "ct_small", {})[0]).stat().st_mode & 0o077 == 0


def test_results_do_not_overwrite_each_other(scene: Scene) -> None:
    _, client = scene.pair()
    paths = {client.infer("threshold", "ct_small", {})[0] for _ in range(3)}
    assert len(paths) == 3 and all(path.endswith(".nii.gz") for path in paths)


def test_each_form_has_a_boundary_of_its_own(scene: Scene) -> None:
    server, client = scene.pair()
    scene.image.write_bytes(b"\r\n------------lImIt_of_THE_fIle_eW_$--\r\n")
    client.upload_image(scene.image, "x")
    client.upload_image(scene.image, "y")
    assert len({form.boundary for form in server.forms}) == 2
    assert server.forms[0].files[0][3] == b"\r\n------------lImIt_of_THE_fIle_eW_$--\r\n"


def test_a_call_has_a_time_limit(scene: Scene) -> None:
    server, client = scene.pair(Fault(action="hang", seconds=30, times=-1))
    begin = time.monotonic()
    for call in (lambda: client.info(timeout=0.2), lambda: client.infer("threshold", "ct_small", {}, timeout=0.2)):
        with pytest.raises(MONAILabelClientException) as caught:
            call()
        assert isinstance(caught.value.__cause__, DeadlineError)
        assert (caught.value.error, caught.value.status_code) == (MONAILabelError.UNKNOWN, None)
    with pytest.raises(MONAILabelClientException):
        scene.client(server.url, timeout=0.2).datastore()
    assert time.monotonic() - begin < 25


def test_a_slow_answer_ends_with_the_limit(scene: Scene) -> None:
    _, client = scene.pair(Fault(action="drip", path="/infer/", seconds=0.05, times=-1))
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("threshold", "ct_small", {}, timeout=0.4)
    assert isinstance(caught.value.__cause__, DeadlineError)
    assert scene.left() == []


def test_a_missing_disposition_is_no_crash(scene: Scene) -> None:
    _, client = scene.pair(disposition=False)
    client.save_label("ct_small", scene.label)
    assert client.download_label("ct_small", "final").endswith(".nii.gz")
    path, params = client.infer("threshold", "ct_small", {})
    assert path.endswith(".nii.gz") and params == PARAMS


def test_answers_in_json_alone_are_objects(scene: Scene) -> None:
    _, client = scene.pair()
    assert client.infer("classifier", "ct_small", {}) == (None, CLASSES)
    assert client.wsi_infer("polygons", "x", output="json") == (None, DSA)
    assert client.wsi_infer("polygons", "x", output="asap") == (None, ASAP)
    assert scene.left() == []


# ---------------------------------------------------------------- what is sent again, and what not


@pytest.mark.parametrize("fault", [{"action": "status", "status": 502}, {"action": "drop"}])
def test_what_reads_is_sent_again(scene: Scene, fault: dict[str, Any]) -> None:
    server, client = scene.pair()
    client.save_label("ct_small", scene.label)
    session = client.create_session(scene.image)["session_id"]
    calls = (
        client.info, client.datastore, client.auth_enabled, client.auth_valid_token, client.train_stop,
        lambda: client.get_session(session), lambda: client.download_label("ct_small", "final"),
        lambda: client.save_label("ct_small", scene.label), lambda: client.train_status(True),
    )  # fmt: skip
    for call in calls:
        server.faults.add(Fault(times=2, **fault))
        before = len(server.requests)
        call()
        assert len(server.requests) == before + 3
        server.faults.clear()


@pytest.mark.parametrize("fault", [{"action": "status", "status": 502}, {"action": "drop"}])
def test_what_changes_something_is_sent_once(scene: Scene, fault: dict[str, Any]) -> None:
    server, client = scene.pair()
    session = client.create_session(scene.image)["session_id"]
    calls = (
        lambda: client.upload_image(scene.image, "x"), lambda: client.create_session(scene.image), lambda: client.next_sample("first", {}),
        lambda: client.infer("threshold", "ct_small", {}), lambda: client.wsi_infer("polygons", "x"),
        lambda: client.train_start("tiny", {}), lambda: client.remove_session(session),
    )  # fmt: skip
    server.faults.add(Fault(times=-1, **fault))
    for call in calls:
        before = len(server.requests)
        with pytest.raises(MONAILabelClientException):
            call()
        assert len(server.requests) == before + 1


def test_a_server_that_is_busy_is_asked_again(scene: Scene) -> None:
    server, client = scene.pair(Fault(action="status", status=503, times=2))
    assert client.infer("threshold", "ct_small", {})[1] == PARAMS
    assert len(server.requests) == 3


def test_our_server_knows_a_repeated_request_by_its_key(scene: Scene) -> None:
    server, client = scene.pair(ours=True)
    client.info()
    server.faults.add(Fault(action="drop", method="PUT", times=2))
    assert client.upload_image(scene.image, "x") == {"image": "x"}
    keys = [request.headers["idempotency-key"] for request in server.requests if request.method == "PUT"]
    assert len(keys) == 3 and len(set(keys)) == 1


def test_a_training_that_runs_already_is_told_at_once(scene: Scene) -> None:
    server, client = scene.pair()
    client.train_start("tiny", {})
    with pytest.raises(MONAILabelClientException, match="Already Running") as caught:
        client.train_start("tiny", {})
    assert caught.value.status_code == 429
    assert len(server.requests) == 2


def test_a_server_that_hangs_up_after_an_answer_does_no_harm(scene: Scene) -> None:
    """The original closes the connection after a bare 500 without saying so."""
    server, client = scene.pair()
    for _ in range(20):
        with pytest.raises(MONAILabelClientException):
            client.infer("nope", "ct_small", {})
        for connection in list(server.open_sockets):
            connection.close()
        assert client.infer("threshold", "ct_small", {})[1] == PARAMS


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize("parts", ["tolerant", "crlf"])
@pytest.mark.parametrize("chunked", [True, False])
def test_answers_in_every_dress(scene: Scene, parts: str, chunked: bool) -> None:
    _, client = scene.pair(parts=parts, chunked=chunked)
    path, params = client.infer("threshold", "ct_small", {})
    assert (Path(path).read_bytes(), params) == (MASK, PARAMS)


@pytest.mark.parametrize("parts", ["cut", "empty"])
def test_an_answer_that_is_cut_off_leaves_nothing(scene: Scene, parts: str) -> None:
    _, client = scene.pair(parts=parts)
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("threshold", "ct_small", {})
    assert isinstance(caught.value.__cause__, AnswerError)
    assert scene.left() == []


@pytest.mark.parametrize("action", ["break", "short"])
def test_a_body_that_breaks_off_leaves_nothing(scene: Scene, action: str) -> None:
    _, client = scene.pair(Fault(action=action, path="/infer/", times=-1))
    with pytest.raises(MONAILabelClientException):
        client.infer("threshold", "ct_small", {})
    assert scene.left() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"action": "html"}, "page|not JSON|text/html"), ({"action": "html", "status": 403}, "page for people"),
        ({"action": "redirect", "location": "https://login.example/?secret=1"}, "redirects .*https://login.example/"),
        ({"action": "empty"}, "not JSON|nothing|empty"), ({"action": "status", "status": 500}, "failed at"),
    ],
)  # fmt: skip
def test_what_a_proxy_answers_is_explained(scene: Scene, fault: dict[str, Any], words: str) -> None:
    server, client = scene.pair()
    client.save_label("ct_small", scene.label)
    server.faults.add(Fault(times=-1, **fault))
    for call in (client.info, lambda: client.infer("threshold", "ct_small", {}), lambda: client.download_label("ct_small", "final")):
        with pytest.raises(MONAILabelClientException, match=words) as caught:
            call()
        assert "secret=1" not in str(caught.value)
    assert scene.left() == []


def test_something_else_that_is_json(scene: Scene) -> None:
    server, client = scene.pair()
    server.faults.add(Fault(action="json", times=-1))
    assert client.info()["welcome"] == [1, 2, 3]  # an object: nothing is lost, nothing is invented that hides it
    assert client.infer("threshold", "ct_small", {}) == (None, {"welcome": [1, 2, 3]})


def test_an_answer_of_nothing(scene: Scene) -> None:
    server, client = scene.pair()
    server.faults.add(Fault(action="status", status=204, times=-1))
    for call in (lambda: client.wsi_infer("polygons", "x"), lambda: client.infer("threshold", "ct_small", {})):
        with pytest.raises(MONAILabelClientException, match="nothing"):
            call()
    assert scene.left() == []


# ---------------------------------------------------------------- the exception


@pytest.mark.parametrize(
    ("status", "message", "shown"),
    [
        (404, "there is none", "the server refused the label (404: there is none)"),
        (401, "nobody knows who asks", "the server refused the label: nobody knows who asks"),
        (403, "this needs the role admin", "the server does not allow the label to this user: this needs the role admin"),
    ],
)
def test_our_servers_say_apart_what_to_do(status: int, message: str, shown: str) -> None:
    said = {"detail": f"{message}. Do that.", "message": message, "advice": "Do that."}
    error = error_from(Response(status, {"content-type": "application/problem+json"}, json.dumps(said).encode()), "the label")
    assert (str(error), error.advice) == (shown, "Do that.")


def test_the_exception_carries_what_plugins_read(scene: Scene) -> None:
    _, client = scene.pair()
    with pytest.raises(MONAILabelClientException) as caught:
        client.get_session("none")
    error = caught.value
    assert error.msg == 'Status: 404; Response: {"detail": "Session (none) Not Found"}'
    assert (error.error, error.status_code) == (MONAILabelError.SESSION_EXPIRED, 404)
    assert json.loads(error.response) == {"detail": "Session (none) Not Found"}
    assert str(error) == "the server refused the session (404: Session (none) Not Found)"
    again = pickle.loads(pickle.dumps(error))
    assert (again.msg, again.status_code, str(again)) == (error.msg, 404, str(error))
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("threshold", "", {}, session_id="none")
    assert caught.value.error == MONAILabelError.SESSION_EXPIRED
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("nope", "ct_small", {})
    assert caught.value.msg == "Status: 500; Response: Internal Server Error"
    assert caught.value.error == MONAILabelError.SERVER_ERROR


def test_it_can_be_raised_as_before() -> None:
    error = MONAILabelClientException(MONAILabelError.UNKNOWN, "words")
    assert (error.error, error.msg, error.status_code, error.response, str(error)) == (3, "words", None, None, "words")


def test_nothing_else_is_raised(scene: Scene, tmp_path: Path) -> None:
    server, client = scene.pair()
    with refusing_url() as nobody:
        silent = scene.client(nobody, timeout=0.3)
        causes = [
            (lambda: silent.info(), (ConnectionFailedError, DeadlineError)),
            (lambda: scene.client("no scheme").info(), Exception),
            (lambda: client.upload_image(tmp_path / "none.nii.gz"), InputError),
            (lambda: client.upload_image(tmp_path), InputError),
            (lambda: client.create_session([]), InputError),
            (lambda: client.get_session(".."), InputError),
            (lambda: client.next_sample("first", {"x": object()}), InputError),
            (lambda: client.update_auth({"detail": "no"}), SettingsError),
            (lambda: client.update_auth({"access_token": "a\nb"}), SettingsError),
            (lambda: client.info(timeout=0), SettingsError),
        ]  # fmt: skip
        for call, cause in causes:
            with pytest.raises(MONAILabelClientException) as caught:
                call()
            assert isinstance(caught.value.__cause__, cause), caught.value
            assert caught.value.msg
    file = tmp_path / "a file"
    file.write_text("")
    with pytest.raises(MONAILabelClientException):
        type(client)(server.url, str(file / "x")).infer("threshold", "ct_small", {}) if isinstance(client, MONAILabelClient) else _raise()


def _raise() -> None:
    raise MONAILabelClientException(MONAILabelError.UNKNOWN, "the asynchronous client shares this code")


# ---------------------------------------------------------------- the rest


def test_another_server(scene: Scene) -> None:
    first, second = scene.server(), scene.server(prefix="/label")
    client = scene.client(f"  {first.url}/ ", token=TOKEN)
    assert client.get_server_url() == first.url
    client.info()
    client.set_server_url(f"{second.url}/")
    assert client.info() == INFO
    assert first.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert "authorization" not in second.requests[0].headers, "a token is for the server it was given for"


def test_ids_and_names_do_not_get_into_logs(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    server = scene.server(filename="PATIENT.nii.gz")
    client = scene.client(server.url, token=TOKEN)
    with caplog.at_level(logging.DEBUG):
        client.upload_image(scene.image, "PATIENT")
        client.infer("threshold", "PATIENT", {})
        client.save_label("PATIENT", scene.label)
        client.download_label("PATIENT", "final")
        with pytest.raises(MONAILabelClientException):
            client.get_session("PATIENT")
        assert not [record for record in caplog.records if "PATIENT" in record.getMessage() or TOKEN in record.getMessage()]
        httpx.get(server.url, params={"q": "somebody else"}, trust_env=False)
    assert any("somebody" in record.getMessage() for record in caplog.records), "other users of httpx log as before"


def test_progress_is_told(scene: Scene, tmp_path: Path) -> None:
    told: list[tuple[float | None, str]] = []
    large = tmp_path / "large.nii"
    large.write_bytes(b"x" * (9 << 20))
    server = scene.server(mask=b"m" * (9 << 20))
    client = scene.client(server.url, progress=lambda fraction, message: told.append((fraction, message)))
    path, _ = client.infer("threshold", "", {}, file=large)
    assert Path(path).stat().st_size == 9 << 20
    words = {message.split()[0] for _, message in told}
    assert words == {"inferring", "sending", "fetching"}
    assert max(fraction or 0 for fraction, _ in told) == 1.0


def test_an_asynchronous_client_is_shared_by_tasks(tmp_path: Path) -> None:
    async def run(url: str) -> list[Any]:
        async with AsyncMONAILabelClient(url, str(tmp_path)) as client:
            return await asyncio.gather(*(client.infer("threshold", "ct_small", {}) for _ in range(8)), client.info())

    with ScriptedLabelServer() as server:
        *results, info = asyncio.run(run(server.url))
    assert info == INFO
    assert len({path for path, _ in results}) == 8


def test_connections_are_closed_with_the_client() -> None:
    with ScriptedLabelServer() as server:
        client = MONAILabelClient(server.url)
        client.info()
        assert len(server.open_sockets) == 1
        del client
        end = time.monotonic() + 60
        while server.open_sockets and time.monotonic() < end:
            threading.Event().wait(0.01)
        assert not server.open_sockets


# ---------------------------------------------------------------- MONAILabelUtils


def test_requests_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "ct.nii.gz"
    file.write_bytes(b"\x1f\x8bIMAGE")
    with ScriptedLabelServer() as server:
        status, body, files, headers = MONAILabelUtils.http_method("GET", server.url, "/datastore/?output=all")
        assert (status, files, headers.get("Content-Type")) == (200, None, "application/json")
        assert "objects" in json.loads(body)
        given = {"content-type": "old", "Content-Length": "7", "X-Mine": "1"}
        status, body, _, _ = MONAILabelUtils.http_method("POST", server.url, "activelearning/first", {"a": 1}, given)
        assert (status, server.bodies) == (200, [{"a": 1}])
        assert given == {"content-type": "old", "Content-Length": "7", "X-Mine": "1"}
        status, text, none = MONAILabelUtils.http_upload("PUT", server.url, "/session/", {"a": 1}, [str(file)])
        assert (status, none, "session_id" in text) == (200, None, True)
        selector = "/infer/threshold?image=ct_small"
        status, form, files, _ = MONAILabelUtils.http_multipart("POST", server.url, selector, {"params": "{}"}, {"file": str(file)})
        assert (status, json.loads(form["params"]), files) == (200, PARAMS, {"tmp4d51lhqa.nii.gz": MASK})
    path = MONAILabelUtils.save_result({"../../x.nii.gz": MASK}, str(tmp_path / "results"))
    assert path is not None and Path(path).parent == tmp_path / "results" and Path(path).read_bytes() == MASK
    assert MONAILabelUtils.save_result(None, str(tmp_path)) is None
    kind, content = MONAILabelUtils.encode_multipart_formdata({"a": "1"}, {"file": str(file)})
    assert kind.startswith("multipart/form-data; boundary=") and b'filename="ct.nii.gz"' in content
    assert MONAILabelUtils.get_content_type("a.png") == "image/png"
    assert MONAILabelUtils.urllib_quote_plus("a b/c") == "a+b%2Fc"
    assert MONAILabelUtils.get_filename("attachment; filename*=utf-8''a%20b.nii") == "a b.nii"
