"""Every route over real sockets, on a store whose tasks the test works on by hand."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from delineate.model import Model
from delineate.server.app import create_app
from delineate.server.service import Service
from delineate.server.settings import Settings
from delineate.task import Failure, Task

UID = "A" * 43
DOCS = Path(__file__).resolve().parents[2] / "docs"


def archive(**entries: bytes) -> bytes:
    """A request archive, or one with the entries given (``__`` for a dot)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, data in (entries or {"tmp_0000__nii__gz": b"image"}).items():
            file.writestr(zipfile.ZipInfo(name.replace("__", ".")), data)  # dated 1980: the same bytes at any time
    return packed.getvalue()


class Served:
    """A server in a thread, on a free port."""

    def __init__(self, data: Path, **settings: Any) -> None:
        models = data / "models-given"
        for name in ("noop", "other"):
            (models / name).mkdir(parents=True, exist_ok=True)
            (models / name / "model.toml").write_text(f'name = "{name}"\nrunner = "process"\n')
        self.settings = Settings(data=data, models=(models,), sync=False, workers=0, **settings)
        self.app = create_app(self.settings)
        self.service: Service = self.app.state.service
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def stop(self) -> None:
        self.http.close()
        self.app.state.watcher.close()
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def post(self, model: str = "noop", **options: Any) -> str:
        options = options or {"files": {"zip_file": ("a.zip", archive())}}
        answer = self.http.post("/api/tasks/", params={"model_human_readable_id": model}, **options)
        assert answer.status_code == 200, answer.text
        uid = answer.json()
        assert isinstance(uid, str)
        assert len(uid) == 43
        return uid

    def claim(self) -> Task:
        task = self.service.tasks.claim("worker")
        assert task is not None
        return task

    def finish(self, result: bytes, log: bytes = b"") -> Task:
        task = self.claim()
        writer = self.service.blobs.incoming()
        writer.write(result)
        text = self.service.blobs.incoming()
        text.write(log)
        return self.service.tasks.finish(task.uid, "worker", result=writer, log=text)

    def fail(self, message: str = "the model said no") -> Task:
        task = self.claim()
        return self.service.tasks.fail(task.uid, "worker", Failure(kind="exit", message=message, advice="See the log."))

    def raw(self, text: str) -> tuple[int, bytes]:
        """Status and body of a request written by hand: no client tidies its path."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(f"{text} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
            data = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def leftovers(self) -> list[str]:
        blobs = self.settings.data / "blobs"
        return [path.name for path in blobs.rglob("*") if path.is_file()]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(**settings: Any) -> Served:
        made.append(Served(tmp_path / f"data{len(made)}", **settings))
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def server(make: Callable[..., Served]) -> Served:
    return make()


RESULT = archive(segmentation__nii__gz=b"labels", segmentation__json=b'{"1": "Heart"}', provenance__txt=b"x")


# ---------------------------------------------------------------- the way of a task


def test_v1_from_post_to_delete(server: Served) -> None:
    uid = server.post()
    waiting = server.http.get(f"/api/tasks/{uid}")
    assert waiting.status_code == 551
    assert waiting.json()["detail"]["detail"]
    server.finish(RESULT, b"printed")
    answer = server.http.get(f"/api/tasks/{uid}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["delineate"] == "1"
    assert answer.content == RESULT
    assert server.http.get(f"/api/tasks/{uid}/log").text == "printed"
    assert server.http.delete(f"/api/tasks/{uid}").status_code == 200
    assert server.http.get(f"/api/tasks/{uid}").status_code == 554
    assert server.leftovers() == []


def test_v2_from_post_to_delete(server: Served) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        info = tarfile.TarInfo("tmp_0000.nii.gz")
        info.size = 5
        file.addfile(info, io.BytesIO(b"image"))
    answer = server.http.post("/api/tasks/?human_readable_id=noop", files={"tar_file": ("a.tar.gz", packed.getvalue())})
    task = answer.json()
    assert task["status"] == -1
    assert task["model"]["human_readable_id"] == "noop"
    assert task["model_id"] == task["model"]["id"]
    waiting = server.http.get("/api/tasks/outputs/", params={"uid": task["uid"]})
    assert (waiting.status_code, type(waiting.json()["detail"])) == (551, str)
    server.finish(RESULT)
    answer = server.http.get("/api/tasks/outputs/", params={"uid": task["uid"]})
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as file:
        assert set(file.getnames()) == {"segmentation.nii.gz", "segmentation.json", "provenance.txt", "container.log"}
        member = file.extractfile("segmentation.nii.gz")
        assert member is not None
        assert member.read() == b"labels"
    assert server.http.delete("/api/tasks/", params={"uid": task["uid"]}).json()["is_deleted"] is True
    assert server.http.get("/api/tasks/outputs/", params={"uid": task["uid"]}).status_code == 554


@pytest.mark.parametrize("field", ["zip_file", "tar_file"])
@pytest.mark.parametrize("parameter", ["model_human_readable_id", "human_readable_id"])
@pytest.mark.parametrize("slash", ["/", ""])
def test_any_parameter_with_any_field_and_either_spelling(server: Served, field: str, parameter: str, slash: str) -> None:
    answer = server.http.post(f"/api/tasks{slash}", params={parameter: "noop"}, files={field: ("a.zip", archive())})
    assert answer.status_code == 200
    is_v2 = field == "tar_file" or parameter == "human_readable_id"
    assert isinstance(answer.json(), dict if is_v2 else str)


def test_both_parameters_agree_or_are_refused(server: Served) -> None:
    for other, status in (("noop", 200), ("other", 422)):
        params = {"model_human_readable_id": "noop", "human_readable_id": other}
        assert server.http.post("/api/tasks/", params=params, files={"zip_file": archive()}).status_code == status


def test_raw_body_priority_prompts_and_owner(server: Served) -> None:
    uid = server.post(content=archive(), headers={"content-type": "application/zip"})
    assert server.service.tasks.get(uid).owner == "127.0.0.1"
    files = {"prompts": (None, '{"foreground": [[1, 2, 3]]}'), "zip_file": ("a.zip", archive())}
    answer = server.http.post("/api/tasks/?model_human_readable_id=noop&priority=interactive", files=files)
    task = server.service.tasks.get(answer.json())
    assert (task.priority, task.prompts) == (20, {"foreground": [[1, 2, 3]]})


def test_an_idempotency_key_answers_the_same_uid(server: Served) -> None:
    options = {"content": archive(), "headers": {"content-type": "application/zip", "idempotency-key": "k1"}}
    assert server.post(**options) == server.post(**options)
    other = server.http.post("/api/tasks/?model_human_readable_id=other", **options)
    assert other.status_code == 422
    assert len(server.service.tasks.tasks()) == 1


def test_head_ranges_and_tags_of_results(server: Served) -> None:
    uid = server.post()
    server.finish(RESULT)
    for path in (f"/api/tasks/{uid}", f"/api/tasks/outputs?uid={uid}"):
        whole = server.http.get(path)
        head = server.http.head(path)
        assert head.status_code == 200
        assert head.headers["content-length"] == str(len(whole.content))
        assert head.content == b""
        part = server.http.get(path, headers={"range": "bytes=3-", "if-range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, whole.content[3:])


def test_failed_and_cancelled(server: Served) -> None:
    uid = server.post()
    server.fail()
    answer = server.http.get(f"/api/tasks/{uid}")
    assert answer.status_code == 552
    body = answer.json()
    assert body["detail"]["detail"] == "the model said no. See the log."
    assert (body["status"], body["advice"], body["request_id"]) == (552, "See the log.", answer.headers["x-request-id"])
    single = server.http.get("/api/tasks/outputs/", params={"uid": uid})
    assert (single.status_code, single.json()["detail"]) == (552, "the model said no. See the log.")
    uid = server.post()
    cancelled = server.http.post(f"/api/tasks/{uid}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert server.http.get(f"/api/tasks/{uid}").status_code == 552


# ---------------------------------------------------------------- waiting


def test_a_long_poll_answers_when_the_task_ends(server: Served) -> None:
    uid = server.post()
    timer = threading.Timer(0.3, server.finish, (RESULT,))
    begin = time.monotonic()
    timer.start()
    answer = server.http.get(f"/api/tasks/{uid}?wait=50", timeout=60)
    took = time.monotonic() - begin
    timer.join()
    assert answer.status_code == 200
    assert 0.25 < took < 25


def test_a_long_poll_ends_in_time_and_is_capped(make: Callable[..., Served]) -> None:
    server = make(max_wait=0.3)
    uid = server.post()
    for wait, least in (("0.1", 0.1), ("1000", 0.3), ("nan", 0), ("-5", 0), ("0", 0)):
        begin = time.monotonic()
        assert server.http.get(f"/api/tasks/{uid}?wait={wait}").status_code == 551
        assert least <= time.monotonic() - begin < least + 15
    assert server.http.get(f"/api/tasks/{uid}?wait=soon").status_code == 422


def test_status_waits_for_the_next_event_or_progress(server: Served) -> None:
    uid = server.post()
    first = server.http.get(f"/api/tasks/{uid}/status").json()
    assert first["state"] == "pending"
    task = server.claim()
    second = server.http.get(f"/api/tasks/{uid}/status?wait=10&after={first['event']}").json()
    assert second["state"] == "running"
    assert second["event"] > first["event"]
    timer = threading.Timer(0.2, server.service.tasks.heartbeat, (uid, "worker", 30.0, 0.5, "halfway"))
    timer.start()
    third = server.http.get(f"/api/tasks/{uid}/status?wait=10&after={second['event']}").json()
    timer.join()
    assert (third["fraction"], third["message"]) == (0.5, "halfway")
    assert task.uid == uid


def test_a_task_deleted_under_a_long_poll_is_unknown(server: Served) -> None:
    uid = server.post()
    timer = threading.Timer(0.2, server.service.tasks.delete, (uid,))
    timer.start()
    assert server.http.get(f"/api/tasks/{uid}?wait=10").status_code == 554
    timer.join()


def test_a_client_that_hangs_up_frees_its_place(server: Served) -> None:
    uid = server.post()
    watcher = server.app.state.watcher
    for path in (f"/api/tasks/{uid}?wait=50", f"/api/tasks/{uid}/status?wait=50&after=999", f"/api/tasks/{uid}/events"):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        until(lambda: watcher.waiting == 1)
        connection.close()
        until(lambda: watcher.waiting == 0)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def events(answer: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            yield "comment", "", None
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
            fields = {}
        else:
            fields = {}


def test_events_as_they_come(make: Callable[..., Served]) -> None:
    server = make(heartbeat=0.2)
    uid = server.post()
    seen = []
    with server.http.stream("GET", f"/api/tasks/{uid}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for kind, id, data in events(answer):
            seen.append((kind, id, data["kind"] if kind == "task" else None))
            if kind == "task" and data["kind"] == "submitted":
                server.claim()
            elif kind == "task" and data["kind"] == "claimed":
                server.service.tasks.heartbeat(uid, "worker", 30.0, 0.25, "a quarter")
            elif kind == "progress":
                assert data["fraction"] == 0.25
            elif kind == "comment":  # the stream shows that it lives
                server.service.tasks.fail(uid, "worker", Failure(kind="model", message="no"))
    assert [kind for _, _, kind in seen if kind] == ["submitted", "claimed", "failed"]
    assert ("progress", "", None) in seen
    last = next(id for kind, id, name in seen if name == "claimed")
    resumed = list(events(server.http.get(f"/api/tasks/{uid}/events", headers={"last-event-id": last})))
    assert [data["kind"] for _, _, data in resumed] == ["failed"]
    assert server.http.get(f"/api/tasks/{UID}/events").status_code == 554


# ---------------------------------------------------------------- bad input


def upload(server: Served, **options: Any) -> httpx.Response:
    return server.http.post("/api/tasks/?model_human_readable_id=noop", **options)


def tar_with(kind: bytes, name: str = "tmp_0000.nii.gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    return packed.getvalue()


FORMS: dict[str, dict[str, Any]] = {
    "no file": {},
    "wrong field": {"files": {"image": ("a.zip", archive())}},
    "not an archive": {"files": {"zip_file": ("a.zip", b"hello" * 500)}},
    "empty file": {"files": {"zip_file": ("a.zip", b"")}},
    "empty archive": {"files": {"zip_file": ("a.zip", b"PK\5\6" + bytes(18))}},
    "no image": {"files": {"zip_file": ("a.zip", archive(readme__txt=b"x"))}},
    "truncated archive": {"files": {"zip_file": ("a.zip", archive()[:-30])}},
    "path escape": {"files": {"zip_file": ("a.zip", archive(**{"../tmp_0000__nii__gz": b"x"}))}},
    "absolute name": {"files": {"zip_file": ("a.zip", archive(**{"/tmp_0000__nii__gz": b"x"}))}},
    "link": {"files": {"tar_file": ("a.tar", tar_with(tarfile.SYMTYPE))}},
    "device": {"files": {"tar_file": ("a.tar", tar_with(tarfile.CHRTYPE))}},
    "truncated form": {
        "content": b'--x\r\nContent-Disposition: form-data; name="zip_file"; filename="a"\r\n\r\nPK',
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    },
    "prompts nested too deeply": {"files": {"prompts": (None, "[" * 100_000), "zip_file": ("a.zip", archive())}},
    "prompts that are no JSON": {"files": {"prompts": (None, "{"), "zip_file": ("a.zip", archive())}},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_uploads_that_cannot_be_used(server: Served, name: str) -> None:
    answer = upload(server, **FORMS[name])
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert detail if name in ("link", "device") else detail["detail"]
    assert answer.json()["message"]
    assert server.service.tasks.tasks() == []
    assert server.leftovers() == []


def test_limits_are_named(make: Callable[..., Served]) -> None:
    server = make(max_upload_mb=1, max_entries=3, max_unpacked_mb=2)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("tmp_0000.nii.gz", bytes(100 << 20))
    many = archive(**{f"tmp_000{i}__nii__gz": b"x" for i in range(5)})
    for data, word in ((bytes(2 << 20), "max_upload_mb"), (bomb.getvalue(), "limit"), (many, "3")):
        answer = upload(server, files={"zip_file": ("a.zip", data)})
        assert answer.status_code == 413, answer.text
        assert word in answer.json()["message"]
    assert server.service.tasks.tasks() == []
    assert server.leftovers() == []


def test_a_connection_that_breaks_while_uploading_leaves_nothing(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = "POST /api/tasks/?model_human_readable_id=noop HTTP/1.1\r\nHost: x\r\n"
        head += "Content-Type: application/zip\r\nContent-Length: 9000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(8_000_000))
        until(lambda: len(server.leftovers()) == 1)
    until(lambda: server.leftovers() == [])
    assert server.service.tasks.tasks() == []


def test_unknown_model(server: Served) -> None:
    answer = server.http.post("/api/tasks/?model_human_readable_id=nope", files={"zip_file": archive()})
    assert (answer.status_code, type(answer.json()["detail"])) == (550, dict)
    answer = server.http.post("/api/tasks/?human_readable_id=nope", files={"tar_file": archive()})
    assert (answer.status_code, type(answer.json()["detail"])) == (550, str)
    assert server.http.post("/api/tasks/", files={"zip_file": archive()}).status_code == 422
    assert server.http.post("/api/tasks/?model_human_readable_id=noop&priority=now", files={"zip_file": archive()}).status_code == 422
    assert server.leftovers() == []


BAD_UIDS = [
    UID, "x", "..", "%2e%2e", "%2E%2E%2F", "../..", "..%2f..%2fhealthz", "a/b", "a%2fb", "%00", "%ff%fe", "%C3%A9", "A" * 5000,
    "%20", "//", ".", "*", "outputs%2f..", "%27%20OR%201=1",
]  # fmt: skip


@pytest.mark.parametrize("uid", BAD_UIDS)
def test_unknown_and_malformed_uids(server: Served, uid: str) -> None:
    asked = ["GET {}", "HEAD {}", "DELETE {}", "GET {}?wait=5", "GET {}/status", "GET {}/events", "GET {}/log", "POST {}/cancel"]
    asked += ["GET outputs/?uid={}", "GET outputs?uid={}", "DELETE ?uid={}"]
    for text in asked:
        method, _, path = text.format(uid).partition(" ")
        status, body = server.raw(f"{method} /api/tasks/{path}")
        assert status == 554, (method, path)
        if method != "HEAD":
            assert "no such task" in json.loads(body)["message"]


@pytest.mark.parametrize("damage", ["missing", "altered"])
@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_result_that_is_lost_is_never_answered_wrongly(server: Served, damage: str, size: int) -> None:
    uid = server.post()
    task = server.finish(archive(a__nii__gz=bytes(size)))
    blob = task.blob("result")
    assert blob is not None
    path = server.service.blobs.path(blob.digest)
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
    for url in (f"/api/tasks/{uid}", f"/api/tasks/outputs/?uid={uid}", f"/api/tasks/{uid}?wait=5"):
        answer = server.http.get(url)
        assert answer.status_code == 553
        assert damage in answer.json()["message"]


def test_a_task_whose_images_the_server_lost_is_answered_so(server: Served) -> None:
    uid = server.post()
    task = server.service.tasks.claim("w")
    assert task is not None
    server.service.tasks.fail(uid, "w", Failure(kind="stored", message="a stored file was altered", advice="Submit the task again."))
    answer = server.http.get(f"/api/tasks/{uid}")
    assert answer.status_code == 553
    assert "altered" in answer.json()["message"]


def test_full_disk_and_locked_database(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from delineate.errors import StorageFullError, StoreBusyError, StoreError

    for error, status in (
        (StorageFullError("no space left"), 507),
        (StoreBusyError("locked"), 503),
        (StoreError("/secret/path is damaged"), 500),
    ):

        def refuse(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(server.service.tasks, "submit", refuse)
        answer = upload(server, files={"zip_file": ("a.zip", archive())})
        assert answer.status_code == status
        assert ("retry-after" in answer.headers) == (status != 500)
        assert "secret" not in answer.text
        assert server.leftovers() == []


def test_what_nobody_foresaw_is_answered_with_the_request_id(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.service.tasks, "get", lambda uid: 1 / 0)
    answer = server.http.get(f"/api/tasks/{UID}", headers={"x-request-id": "mine-1"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"
    assert "division" not in answer.text


# ---------------------------------------------------------------- administration and models


def test_administration(server: Served) -> None:
    uid = server.post()
    rows = server.http.get("/api/tasks/").json()
    assert [row["uid"] for row in rows] == [uid]
    id = rows[0]["id"]
    assert server.http.get("/api/tasks/inputs/", params={"task_id": id}).content == archive()
    assert server.http.put("/api/tasks/", params={"task_id": id, "status": 2}).json()["status"] == 2
    assert server.http.get("/api/tasks/?status=2").json()[0]["id"] == id
    assert server.http.get("/api/tasks/?state=finished").json() == []
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        info = tarfile.TarInfo("sub/heart.nii.gz")
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))
    posted = server.http.post("/api/tasks/outputs/", params={"task_id": id}, files={"tar_file": ("o.tar.gz", packed.getvalue())})
    assert posted.status_code == 200, posted.text
    server.http.put("/api/tasks/", params={"task_id": id, "status": 1})
    result = server.http.get(f"/api/tasks/{uid}")
    with zipfile.ZipFile(io.BytesIO(result.content)) as file:
        assert file.read("sub/heart.nii.gz") == b"abc"
        assert file.infolist()[0].compress_type == zipfile.ZIP_STORED
    assert server.http.get("/api/tasks/outputs/", params={"uid": uid}).status_code == 200
    assert server.http.put("/api/tasks/", params={"task_id": id, "status": 9}).status_code == 422
    assert server.http.put("/api/tasks/", params={"task_id": 99, "status": 1}).status_code == 554
    assert server.http.get("/api/tasks/?task_id=99").json() == []
    empty = server.http.post("/api/tasks/outputs/", params={"task_id": id}, files={"tar_file": ("o.zip", archive(a__txt=b""))})
    assert empty.status_code == 422


def test_models(server: Served) -> None:
    names = {row["human_readable_id"] for row in server.http.get("/api/models/").json()}
    assert {"noop", "other"} <= names
    params = {
        "container_tag": "registry.example/m:1",
        "human_readable_id": "mine",
        "description": "d",
        "model_available": "true",
        "use_gpu": "true",
    }
    files = {"zip_file": ("m.zip", archive(weights__bin=b"1234"))}
    answer = server.http.post("/api/models", params=params, files=files)
    assert answer.status_code == 200, answer.text
    row = answer.json()
    assert (row["human_readable_id"], row["container_tag"], row["use_gpu"], row["model_available"]) == (
        "mine",
        "registry.example/m:1",
        True,
        True,
    )
    assert server.http.get("/api/models/", params={"model_id": row["id"]}).json() == [row]
    assert server.http.get("/api/models/", params={"human_readable_id": "mine"}).json() == [row]
    tar = server.http.get("/api/models/tars/", params={"model_id": row["id"]})
    with tarfile.open(fileobj=io.BytesIO(tar.content)) as file:
        assert file.getnames() == ["weights.bin"]
    assert server.http.post("/api/models/", params=params, files=files).status_code == 422
    assert server.http.get("/api/models/tars/?model_id=5").status_code == 550
    server.post("mine")
    for wrong in ({"human_readable_id": "x/../y"}, {"container_tag": " "}):
        assert server.http.post("/api/models/", params={**params, "human_readable_id": "new", **wrong}, files=files).status_code == 422
    assert isinstance(server.service.models.get("mine"), Model)


def test_tokens(make: Callable[..., Served]) -> None:
    server = make(tokens={"ward": "s3cret"})
    closed = [
        ("POST", "/api/tasks/?model_human_readable_id=noop"),
        ("GET", "/api/models/"),
        ("POST", "/api/models/?human_readable_id=a&container_tag=b"),
        ("GET", "/api/tasks/"),
        ("PUT", "/api/tasks/?task_id=1&status=1"),
        ("GET", "/api/tasks/inputs/?task_id=1"),
        ("POST", "/api/tasks/outputs/?task_id=1"),
        ("GET", "/api/models/tars/?model_id=1"),
    ]
    for method, path in closed:
        for headers in ({}, {"x-token": "wrong"}):
            answer = server.http.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert "bearer" in answer.headers["www-authenticate"].lower()
            assert "x-token" in answer.json()["advice"].lower()
    answer = server.http.post(closed[0][1], files={"zip_file": archive()}, headers={"authorization": "Bearer s3cret"})
    uid = answer.json()
    assert server.service.tasks.get(uid).owner == "ward"
    assert server.http.get(f"/api/tasks/{uid}").status_code == 551
    assert server.http.post(f"/api/tasks/{uid}/cancel").status_code == 200
    assert "ward" not in server.http.get("/").text


def test_pages_of_other_sites_change_nothing(make: Callable[..., Served]) -> None:
    server = make(cors_origins=("https://viewer.example",))
    for origin, status in (("https://evil.example", 403), ("https://viewer.example", 200), (server.url, 200)):
        answer = upload(server, files={"zip_file": archive()}, headers={"origin": origin})
        assert answer.status_code == status
    assert answer.headers["x-frame-options"] == "DENY"
    allowed = server.http.get("/healthz", headers={"origin": "https://viewer.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://viewer.example"
    assert "access-control-allow-origin" not in server.http.get("/healthz", headers={"origin": "https://evil.example"}).headers


# ---------------------------------------------------------------- the server itself


def test_health_metrics_and_landing_page(server: Served) -> None:
    server.post()
    health = server.http.get("/healthz")
    assert health.status_code == 200
    assert health.json()["checks"] == {"database": True, "disk": True, "workers": True}
    assert server.http.get("/healthz?ready").status_code == 200
    text = server.http.get("/metrics").text
    assert 'delineate_tasks{state="pending"} 1.0' in text
    assert 'route="/api/tasks/"' in text
    page = server.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<code>noop</code>" in page.text and "the API of MONAI Label" in page.text
    assert "<script" not in page.text


def test_a_page_of_all_routes(make: Callable[..., Served]) -> None:
    server = make(root_path="/imaging")
    page = server.http.get("/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    described = server.http.get("/openapi.json").json()["paths"]
    assert page.text.count("<tr>") == sum(len(methods) for methods in described.values()) > 50
    assert "<code>POST /infer/{model}</code></td><td>Run a model" in page.text
    assert "<script" not in page.text and 'href="/imaging/openapi.json"' in page.text
    assert 'href="/imaging/docs"' in server.http.get("/").text


def test_not_ready_when_the_disk_is_nearly_full(make: Callable[..., Served]) -> None:
    server = make(min_free_mb=1 << 40)
    assert server.http.get("/healthz").status_code == 200
    answer = server.http.get("/healthz?ready=1")
    assert (answer.status_code, answer.json()["checks"]["disk"]) == (503, False)


@pytest.mark.parametrize("stripped", [True, False])
def test_behind_a_proxy_on_a_sub_path(make: Callable[..., Served], stripped: bool) -> None:
    server = make(root_path="/imaging/segment")
    prefix = "" if stripped else "/imaging/segment"
    answer = server.http.post(f"{prefix}/api/tasks/?model_human_readable_id=noop", files={"zip_file": archive()})
    assert answer.status_code == 200
    assert server.http.get(f"{prefix}/api/tasks/{answer.json()}").status_code == 551
    assert server.raw(f"GET {prefix}/api/tasks/..")[0] == 554
    assert server.http.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/imaging/segment"}]
    assert 'href="/imaging/segment/healthz"' in server.http.get(f"{prefix}/").text


def test_what_is_not_there(server: Served) -> None:
    answer = server.http.get("/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    answer = server.http.post("/healthz")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.headers["delineate"] == "1"


def test_the_log_names_routes_and_never_uids(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        uid = server.post()
        server.http.get(f"/api/tasks/{uid}")
        server.http.get("/api/tasks/outputs/", params={"uid": uid})
        server.http.get(f"/api/tasks/{uid}x/y")
        until(lambda: "/api/tasks/{uid} 551" in caplog.text)
    assert not any(uid in record.getMessage() for record in caplog.records if record.name.startswith("delineate"))


def test_every_route_is_described_in_openapi_and_in_the_docs(server: Served) -> None:
    description = server.http.get("/openapi.json").json()
    text = (DOCS / "http.md").read_text(encoding="utf-8")
    operations = [(method.upper(), path) for path, item in description["paths"].items() for method in item]
    assert len(operations) > 15
    for method, path in operations:
        assert f"`{method} {path}`" in text, f"{method} {path} is not in docs/http.md"
        entry = description["paths"][path][method.lower()]
        assert entry["summary"]
        assert entry["description"]
    post = description["paths"]["/api/tasks/"]["post"]
    parameters = {entry["name"] for entry in post["parameters"]}
    assert {"model_human_readable_id", "human_readable_id", "priority", "Idempotency-Key"} <= parameters
    assert set(description["paths"]["/api/tasks/"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) >= {
        "zip_file",
        "tar_file",
    }
