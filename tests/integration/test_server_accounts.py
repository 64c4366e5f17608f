"""Accounts on: every route and every role, logging in as clients do, who owns what; a server process of its own."""

from __future__ import annotations

import concurrent.futures
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.routing import BaseRoute

from delineate import nifti
from delineate.client.sync import Client
from delineate.errors import AuthorizationError
from delineate.geometry import Geometry
from delineate.monai_label import MONAILabelClient, MONAILabelClientException
from delineate.server.accounts.identity import Role
from delineate.server.accounts.passwords import Passwords
from delineate.server.accounts.rights import RIGHTS, Rule, rule_of
from delineate.server.app import create_app
from delineate.server.settings import Settings
from delineate.store.database import Database
from delineate.store.users import UserStore
from delineate.task import BACKGROUND, Failure
from delineate.testing.models import FOLDER
from delineate.testing.oidc import CLIENT, OidcProvider
from delineate.volume import Volume

PASSWORD = "correct horse battery"
ROLES = ("user", "annotator", "reviewer", "admin")
Start = Callable[..., Any]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def with_users(server: Any, *more: tuple[str, str]) -> dict[str, str]:
    """Name → token: one user of each role, and more."""
    users = UserStore(server.service.database)
    hash = Passwords(passes=1, memory_kib=64).hash(PASSWORD)
    pairs = [*((role, role) for role in ROLES), *more]
    return {name: users.give_token(users.add(name, hash, role), 600) for name, role in pairs}


@pytest.fixture
def server(label_server: Start) -> Any:
    return label_server("a.nii.gz", "b.nii.gz", accounts="local")


@pytest.fixture
def tokens(server: Any) -> dict[str, str]:
    return with_users(server)


# ---------------------------------------------------------------- the table


def routes_of(routes: list[BaseRoute]) -> Iterator[tuple[str, str, bool]]:
    """Method, template and whether the gate stands before it, of every route, also of those that were included."""
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(route, "routes", None)
        if inner:
            yield from routes_of(inner)
            continue
        path = getattr(route, "path", repr(route))
        for method in getattr(route, "methods", None) or ("ANY",):
            yield method, path, hasattr(route, "dependant")


def test_every_route_is_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path, workers=0))
    app.state.service.close()
    found = list(routes_of(app.routes))
    assert len(found) > 60
    missing = []
    for method, path, is_gated in found:
        rule = rule_of(method, path)
        other = path[:-1] if path.endswith("/") else path + "/"
        is_redirect = not is_gated and other in {known for _, known in RIGHTS}  # to the path as it is written, which is gated
        if not is_redirect and (rule is None or not (is_gated or rule.role is None)):
            missing.append((method, path))
    assert missing == [], "say in accounts/rights.py who may"
    served = {(method, path) for method, path, _ in found}
    assert [entry for entry in RIGHTS if entry not in served] == [], "no such route any more"


def address_of(path: str) -> str:
    filled = path
    for name in ("{uid}", "{model}", "{session_id}", "{strategy}", "{method}", "{rest:path}", "{path:path}"):
        filled = filled.replace(name, "first" if name == "{strategy}" else "x/y" if "rest" in name else "x")
    assert "{" not in filled
    return filled


def test_every_role_on_every_route(server: Any, tokens: dict[str, str]) -> None:
    wrong = []
    for (method, path), rule in RIGHTS.items():
        for role in (None, *ROLES):
            answer = server.http.request(method, address_of(path), headers=bearer(tokens[role]) if role else {})
            status, is_refused = answer.status_code, answer.status_code in (401, 403)
            if status in range(500, 550) or is_refused == allowed(rule, role):
                wrong.append((method, path, role, answer.status_code))
            elif answer.status_code == 403 and rule.role is not None:
                assert rule.role.word in answer.text or method == "HEAD"
            elif answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert wrong == []


def allowed(rule: Rule, role: str | None) -> bool:
    if rule.role is None:
        return not rule.is_owners or role is not None
    return role is not None and Role[role.upper()] >= rule.role


def test_a_user_without_a_role_is_known_and_may_nothing(server: Any) -> None:
    token = with_users(server, ("stranger", "whatever"))["stranger"]
    assert server.http.get("/auth/token/valid", headers=bearer(token)).json()["roles"] == []
    answer = server.http.get("/info/", headers=bearer(token))
    assert (answer.status_code, answer.json()["message"]) == (403, "this needs the role user, you have no role here")


@pytest.mark.parametrize("header", ["forged", "a.b.c", "Basic dXNlcjpwYXNz"])
def test_forged_tokens(server: Any, header: str) -> None:
    value = header if " " in header else f"Bearer {header}"
    answer = server.http.get("/info/", headers={"authorization": value})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="delineate"')
    assert ('error="invalid_token"' in answer.headers["www-authenticate"]) is (" " not in header)


def test_an_expired_token_says_so(server: Any) -> None:
    users = UserStore(server.service.database, clock=lambda: time.time() - 100)
    token = users.give_token(users.add("alice", "h", "user"), 60)
    answer = server.http.get("/info/", headers=bearer(token))
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (401, True)
    assert "has expired" in answer.headers["www-authenticate"]
    with MONAILabelClient(server.url, token=token) as client, pytest.raises(MONAILabelClientException) as caught:
        client.info()
    assert (caught.value.status_code, "the token has expired" in caught.value.msg) == (401, True)


# ---------------------------------------------------------------- logging in


def test_logging_in_through_the_client(server: Any) -> None:
    with_users(server)
    with MONAILabelClient(server.url) as client:
        assert client.auth_enabled()
        assert not client.auth_valid_token()
        with pytest.raises(MONAILabelClientException) as caught:
            client.info()
        assert (caught.value.status_code, "no token" in caught.value.msg) == (401, True)
        with pytest.raises(MONAILabelClientException) as caught:
            client.auth_token("annotator", "wrong")
        assert (caught.value.status_code, "the name or the password is wrong" in caught.value.msg) == (401, True)
        token = client.auth_token("annotator", PASSWORD)
        assert (set(token), token["token_type"]) == ({"access_token", "token_type"}, "Bearer")
        client.update_auth(token)
        assert client.auth_valid_token()
        assert client.info()["name"] == "Delineate"
        with pytest.raises(MONAILabelClientException) as caught:
            client.train_start("any")
        assert (caught.value.status_code, "the role admin" in caught.value.msg) == (403, True)
    valid = server.http.get("/auth/token/valid", headers=bearer(token["access_token"])).json()
    assert valid == {"username": "annotator", "email": None, "name": None, "roles": ["user", "annotator"]}
    about = server.http.get("/auth/").json()
    assert about == {"enabled": True, "client_id": "delineate", "realm": "delineate"}


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 422),
        ({"username": "user"}, 422),
        ({"username": "user", "password": PASSWORD, "grant_type": "client_credentials"}, 422),
        ({"username": "user", "password": PASSWORD}, 200),
        ({"username": "user", "password": PASSWORD, "grant_type": "password"}, 200),
        ({"username": "user' OR 1=1 --", "password": PASSWORD}, 401),
        ({"username": "x" * 4096, "password": PASSWORD}, 401),
        ({"username": "x" * 100_000, "password": PASSWORD}, 422),
    ],
)
def test_what_is_asked_for_a_token(server: Any, tokens: dict[str, str], form: dict[str, str], status: int) -> None:
    answer = server.http.post("/auth/token", data=form)
    assert answer.status_code == status
    assert PASSWORD not in answer.text


def test_a_form_that_is_none(server: Any) -> None:
    for body in (b"\xff=\xff", b"{}", b"a=1&" * 100, b"x" * (9 << 20)):
        answer = server.http.post("/auth/token", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert answer.status_code in (413, 422)


def test_wrong_passwords_get_slower_and_do_not_slow_others(server: Any, tokens: dict[str, str]) -> None:
    def attempt(name: str, password: str) -> httpx.Response:
        return server.http.post("/auth/token", data={"username": name, "password": password})  # type: ignore[no-any-return]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # many at once are not many for free
        statuses = [answer.status_code for answer in pool.map(lambda _: attempt("user", "wrong"), range(8))]
    assert sorted(statuses) == [401] * 5 + [429] * 3
    slowed = attempt("user", PASSWORD)
    assert (slowed.status_code, int(slowed.headers["retry-after"]) >= 1) == (429, True)
    assert attempt("admin", PASSWORD).status_code == 200


def test_the_server_answers_while_passwords_are_hashed(server: Any, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end, hash = threading.Event(), threading.Event(), Passwords.is_right

    def slowly(passwords: Passwords, password: str, kept: str | None) -> bool:
        begun.set()
        assert may_end.wait(60)
        return hash(passwords, password, kept)

    def log_in() -> int:
        return int(server.http.post("/auth/token", data={"username": "admin", "password": PASSWORD}).status_code)

    monkeypatch.setattr(Passwords, "is_right", slowly)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            status = pool.submit(log_in)
            assert begun.wait(30)
            with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http:  # a loop that hashes answers nobody meanwhile
                assert [http.get("/auth/").status_code for _ in range(10)] == [200] * 10
                assert http.get("/info/", headers=bearer(tokens["user"])).status_code == 200, "a token is looked up meanwhile"
            assert not status.done()
        finally:
            may_end.set()
        assert status.result(30) == 200


# ---------------------------------------------------------------- whose


def test_sessions_belong_to_the_user(server: Any) -> None:
    tokens = with_users(server, ("other", "admin"))
    made = server.http.put("/session/", files=[("files", ("x.nii.gz", b"x"))], headers=bearer(tokens["user"])).json()["session_id"]
    for name, status in (("user", 200), ("annotator", 404), ("admin", 404)):
        assert server.http.get(f"/session/{made}", headers=bearer(tokens[name])).status_code == status
    assert server.http.delete(f"/session/{made}", headers=bearer(tokens["other"])).status_code == 404
    assert server.http.delete(f"/session/{made}", headers=bearer(tokens["user"])).status_code == 200


def test_a_uid_reads_and_the_owner_or_an_administrator_removes(server: Any) -> None:
    tokens = with_users(server, ("other", "reviewer"))
    image = (server.studies / "a.nii.gz").read_bytes()

    def post() -> str:
        import io
        import zipfile

        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("tmp_0000.nii.gz", image)
        query = {"model_human_readable_id": "noop"}
        assert server.http.post("/api/tasks/", params=query, content=packed.getvalue()).status_code == 401
        answer = server.http.post(
            "/api/tasks/", params=query, content=packed.getvalue(), headers={"content-type": "application/zip", **bearer(tokens["user"])}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json())

    uid = post()
    assert server.service.tasks.get(uid).owner == "user"
    assert server.http.get(f"/api/tasks/{uid}/status").json()["state"] == "pending"
    for refused, headers in ((401, {}), (401, bearer("forged")), (403, bearer(tokens["other"]))):
        for method, path in (("POST", f"/api/tasks/{uid}/cancel"), ("DELETE", f"/api/tasks/{uid}"), ("DELETE", f"/api/tasks/?uid={uid}")):
            assert server.http.request(method, path, headers=headers).status_code == refused
    assert server.http.post(f"/api/tasks/{uid}/cancel", headers=bearer(tokens["user"])).status_code == 200
    assert server.http.delete(f"/api/tasks/{uid}", headers=bearer(tokens["user"])).status_code == 200
    assert server.http.get(f"/api/tasks/{uid}/status").status_code == 554
    assert server.http.delete(f"/api/tasks/?uid={post()}", headers=bearer(tokens["admin"])).status_code == 200


def test_invented_names_of_clients_get_no_further_images(server: Any) -> None:
    tokens = with_users(server, ("alice", "annotator"), ("bob", "annotator"))

    def next_for(who: str, client: str) -> Any:
        return server.http.post("/activelearning/first", json={"client_id": client}, headers=bearer(tokens[who])).json().get("id")

    assert {next_for("alice", f"client {number}") for number in range(5)} == {"a"}
    assert next_for("bob", "client 1") == "b"


def test_everybody_lists_their_own_tasks(server: Any, tokens: dict[str, str]) -> None:
    for who in ("user", "annotator", "annotator"):
        content = (server.studies / "a.nii.gz").read_bytes()
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("tmp_0000.nii.gz", content)
        posted = server.http.post(
            "/api/tasks/?model_human_readable_id=noop", content=archive.getvalue(),
            headers={"content-type": "application/zip", **bearer(tokens[who])},
        )  # fmt: skip
        assert posted.status_code == 200, posted.text
    with Client(server.url, token=tokens["annotator"]) as client:
        own = client.tasks()
        assert len(own) == 2
    listed = {who: server.http.get("/api/tasks/", headers=bearer(tokens[who])).json() for who in ROLES}
    assert {who: len(rows) for who, rows in listed.items()} == {"user": 1, "annotator": 2, "reviewer": 0, "admin": 3}
    others = listed["user"][0]["id"]
    one = {who: server.http.get("/api/tasks/", params={"task_id": others}, headers=bearer(tokens[who])).json() for who in ROLES}
    assert {who: len(rows) for who, rows in one.items()} == {"user": 1, "annotator": 0, "reviewer": 0, "admin": 1}


def test_a_label_is_judged_by_reviewers_alone(server: Any, tokens: dict[str, str]) -> None:
    label = (server.studies / "a.nii.gz").read_bytes()

    def save(who: str, params: str) -> httpx.Response:
        answer: httpx.Response = server.http.put(
            "/datastore/label",
            params={"image": "a"},
            headers=bearer(tokens[who]),
            files={"label": ("l.nii.gz", label)},
            data={"params": params},
        )
        return answer

    approved = '{"segmentationMeta": {"status": "approved"}}'
    refused = save("annotator", approved)
    assert (refused.status_code, "the role reviewer" in refused.json()["message"]) == (403, True)
    assert server.http.head("/datastore/label", params={"image": "a", "tag": "final"}, headers=bearer(tokens["user"])).status_code == 404
    assert save("annotator", '{"segmentationMeta": {"comment": "see slice 3"}}').status_code == 200
    assert save("reviewer", approved).status_code == 200


def test_the_inside_of_a_fault_is_told_to_reviewers(server: Any, tokens: dict[str, str]) -> None:
    store = server.service.tasks
    task = server.service.submit_work("train", {}, owner="admin", prompts={"model": "voxel-forest"})
    claimed = store.claim("w", lane=BACKGROUND)
    log = store.blobs.incoming("log.txt")
    log.write(b'looked at 3 images\nTraceback (most recent call last):\n  File "/opt/secret/x.py", line 3, in f\nKeyError: 1\n')
    store.fail(claimed.uid, "w", Failure(kind="crash", message="the worker failed: KeyError: 1", advice="See the log."), log=log)
    told = {who: server.http.get("/train/", headers=bearer(tokens[who])).json() for who in ROLES}
    for who in ("user", "annotator"):
        assert told[who]["details"] == ["looked at 3 images", "the worker failed: KeyError: 1. See the log."]
        assert server.http.get(f"/api/tasks/{told[who]['id']}/log").status_code == 554, "nor is the log open under the id"
    for who in ("reviewer", "admin"):
        assert '  File "/opt/secret/x.py", line 3, in f' in told[who]["details"]
        assert told[who]["id"] == task.uid


@pytest.mark.parametrize("has_user", [False, True])
def test_a_server_that_nobody_can_log_in_to_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture, has_user: bool) -> None:
    settings = Settings(data=tmp_path, workers=0, accounts="local")
    if has_user:
        database = Database(settings.database_url)
        database.migrate()
        UserStore(database).add("alice", "hash", "admin")
        database.close()
    create_app(settings).state.service.close()
    assert ("nobody can log in" in caplog.text) is not has_user


def test_labels_and_leases_name_the_user_beside_the_client(server: Any) -> None:
    tokens = with_users(server, ("alice", "annotator"), ("bob", "annotator"))
    both = {"client_id": "slicer"}  # the same name on two machines
    first, second = (
        server.http.post("/activelearning/first", json=both, headers=bearer(tokens[who])).json()["id"] for who in ("alice", "bob")
    )
    assert {first, second} == {"a", "b"}
    again = server.http.post("/activelearning/first", json=both, headers=bearer(tokens["alice"])).json()
    assert (again["id"], again["strategy"]["first"]["client_id"]) == (first, "alice")
    label = (server.studies / "a.nii.gz").read_bytes()
    saved = server.http.put(
        "/datastore/label", params={"image": first}, headers=bearer(tokens["alice"]),
        files={"label": ("l.nii.gz", label)}, data={"params": '{"client_id": "slicer", "user": "bob"}'},
    )  # fmt: skip
    assert saved.status_code == 200, saved.text
    info = server.http.get("/datastore/label/info", params={"label": first, "tag": "final"}, headers=bearer(tokens["bob"])).json()
    assert (info["user"], info["client_id"]) == ("alice", "slicer")


@pytest.mark.parametrize("wish", ['{"save_label": true}', '{"save_label": true, "label_tag": "final"}'])
def test_an_answer_is_kept_as_a_label_for_annotators_alone(server: Any, tokens: dict[str, str], wish: str) -> None:
    refused = server.http.post("/infer/noop", params={"image": "a"}, data={"params": wish}, headers=bearer(tokens["user"]))
    assert (refused.status_code, "the role annotator" in refused.json()["message"]) == (403, True)
    assert server.service.tasks.tasks() == []


# ---------------------------------------------------------------- an OpenID provider


def test_a_provider_s_users(label_server: Start) -> None:
    with OidcProvider() as provider:
        provider.add("alice", "secret words", "monailabel-annotator")
        server = label_server("a.nii.gz", accounts="oidc", oidc_issuer=provider.issuer, oidc_client_id=CLIENT, token="program")
        with MONAILabelClient(server.url) as client:
            assert client.auth_enabled()
            client.update_auth(client.auth_token("alice", "secret words"))
            assert client.auth_valid_token()
            assert client.next_sample("first")["id"] == "a"
            with pytest.raises(MONAILabelClientException, match="admin") as caught:
                client.train_start("any")
            assert caught.value.status_code == 403
        assert server.http.get("/auth/").json() == {"enabled": True, "client_id": CLIENT, "realm": provider.issuer}
        valid = server.http.get("/auth/token/valid", headers=bearer(provider.token("alice"))).json()
        assert valid == {"username": "alice", "email": "alice@clinic.example", "name": "Alice", "roles": ["user", "annotator"]}
        assert server.http.get("/logs/", headers=bearer("program")).status_code == 200
        wrong = server.http.post("/auth/token", data={"username": "alice", "password": "wrong"})
        assert wrong.status_code == 401
        provider.is_down = True
        away = server.http.post("/auth/token", data={"username": "alice", "password": "secret words"})
        assert (away.status_code, "identity provider" in away.json()["detail"]) == (503, True)
        assert server.http.get("/info/", headers=bearer(provider.token("alice"))).status_code == 200
        provider.rotate()
        unknown = server.http.get("/info/", headers=bearer(provider.token("alice")))
        assert unknown.status_code in (401, 503)  # 401 while it was asked a moment ago


# ---------------------------------------------------------------- a process of its own


def user_command(data: Path, *words: str, password: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "delineate.cli", "user", *words, "--data", str(data)]
    return subprocess.run(command, input=password + "\n", capture_output=True, text=True, check=False, timeout=60)


def test_a_server_process_its_users_and_both_clients(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(data), "--models", str(FOLDER)]
    with log.open("wb") as target:
        environment = {**os.environ, "DELINEATE_ACCOUNTS": "local"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=target, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().rsplit(" ", 1)[-1].strip()
        added = user_command(data, "add", "alice", "--role", "user", "--password-stdin", password=PASSWORD)
        assert (added.returncode, PASSWORD in added.stdout + added.stderr) == (0, False)
        with MONAILabelClient(url) as client:
            token = client.auth_token("alice", PASSWORD)["access_token"]
        image = tmp_path / "a.nii.gz"
        geometry = Geometry((8, 7, 6))
        nifti.write(image, Volume(np.zeros(geometry.shape, np.int16), geometry))
        with Client(url) as anonymous, pytest.raises(AuthorizationError):
            anonymous.submit([image], "noop")
        with Client(url, token=token) as client:
            uid = client.submit([image], "noop")
            client.wait(uid, timeout=60)
            assert [row["model"] for row in client.tasks()] == ["noop"], "their own"
            with pytest.raises(AuthorizationError, match="role admin"):
                client.log("1")
        assert user_command(data, "roles", "alice", "admin").returncode == 0
        with Client(url, token=token) as client:
            assert [row["model"] for row in client.tasks()] == ["noop"]
            client.delete(uid)
        assert user_command(data, "remove", "alice").returncode == 0
        assert user_command(data, "remove", "alice").returncode == 2
        with Client(url, token=token) as client, pytest.raises(AuthorizationError):
            client.models()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    said = log.read_text()
    assert [secret for secret in (PASSWORD, token, uid) if secret in said] == []
