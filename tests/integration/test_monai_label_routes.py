"""Everything of the MONAI Label API but infer, over real sockets."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.datastore.local import LocalDatastore
from delineate.geometry import Geometry

Start = Callable[..., Any]

INFO_KEYS = {"name", "description", "version", "labels", "models", "trainers", "strategies", "scoring", "train_stats", "datastore"}


@pytest.fixture
def server(label_server: Start) -> Any:
    return label_server("a.nii.gz", "b.nii.gz")


@pytest.fixture(scope="module")
def shared(label_server_class: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same for tests that change nothing."""
    server = label_server_class(tmp_path_factory.mktemp("server"), ("a.nii.gz", "b.nii.gz"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mask(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A label on the grid of the images."""
    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    image = nifti.read(shared.studies / "a.nii.gz")
    nifti.write_labels(path, (image.voxels > 0).astype(np.uint8), image.geometry)
    return path.read_bytes()


def save(server: Any, image: str, data: bytes, name: str = "l.nii.gz", params: Any = None, **query: str) -> Any:
    parts = {"params": (None, json.dumps(params or {})), "label": (name, data)}
    return server.http.put("/datastore/label", params={"image": image, **query}, files=parts)


def add(server: Any, name: str, data: bytes, image: str = "", params: Any = None) -> Any:
    parts = {"params": (None, json.dumps(params or {})), "file": (name, data)}
    return server.http.put("/datastore/", params={"image": image} if image else {}, files=parts)


def test_info(server: Any) -> None:
    info = server.http.get("/info/").json()
    assert set(info) == INFO_KEYS
    assert info["models"]["threshold"] == {
        "type": "segmentation", "labels": {"Bright": 1}, "dimension": 3, "description": "Everything at or above a level.", "config": {},
    }  # fmt: skip
    assert "Bright" in info["labels"]
    assert set(info["strategies"]) == {"first", "random", "uncertainty", "diversity"}
    assert set(info["scoring"]) == {"dice", "sum"}
    assert set(info["train_stats"]) == set(info["trainers"])
    assert all(one["description"] for group in ("strategies", "scoring", "trainers") for one in info[group].values())
    assert info["datastore"] == {"total": 2, "completed": 0, "label_tags": {}}


def test_info_tells_what_changed(server: Any, mask: bytes) -> None:
    server.http.get("/info/")
    save(server, "a", mask)
    assert server.http.get("/info/").json()["datastore"] == {"total": 2, "completed": 1, "label_tags": {"final": 1}}


def test_a_path_without_its_slash_is_redirected(server: Any) -> None:
    answer = server.http.get("/datastore", params={"output": "all"})
    assert (answer.status_code, answer.headers["location"]) == (307, "datastore/?output=all")
    assert server.http.get("/info", follow_redirects=True).json()["name"] == "Delineate"


@pytest.mark.parametrize(("method", "path"), [("GET", "/info/"), ("DELETE", "/session/none"), ("DELETE", "/train/")])
def test_a_stale_length_is_not_waited_for(shared: Any, method: str, path: str) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), 10) as connection:
        connection.settimeout(30)
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # to its end: what came next would be taken for the body
    assert answer[9:12] in (b"200", b"404")
    assert b"\r\nconnection: close\r\n" in answer


def test_samples_and_leases(server: Any, mask: bytes) -> None:
    def ask(who: str, strategy: str = "first") -> Any:
        return server.http.post(f"/activelearning/{strategy}", json={"client_id": who}).json()

    mine = ask("alice")
    assert (mine["id"], mine["name"], mine["path"]) == ("a", "a.nii.gz", str(server.studies / "a.nii.gz"))
    assert mine["strategy"]["first"]["client_id"] == "alice"
    assert ask("bob", "random")["id"] == "b"
    assert ask("carol") == {}
    assert save(server, "a", mask, params={"client_id": "alice"}).status_code == 200
    assert save(server, "b", mask).status_code == 200
    assert ask("alice") == {}


@pytest.mark.parametrize(
    ("body", "status"), [("{bad", 422), ("[1]", 422), ('{"label_tag": 1}', 422), ('{"label_tag": "../x"}', 422), ("", 200)]
)
def test_what_is_asked_of_a_strategy_is_checked(shared: Any, body: str, status: int) -> None:
    answer = shared.http.post("/activelearning/first", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    unknown = shared.http.post("/activelearning/nope")
    assert (unknown.status_code, "strategy" in unknown.json()["detail"]) == (404, True)


def test_images(server: Any) -> None:
    data = (server.studies / "a.nii.gz").read_bytes()
    assert add(server, "/home/me/pat.1.nii.gz", data, params={"patient": "p"}).json() == {"image": "pat.1"}
    got = server.http.get("/datastore/image", params={"image": "pat.1"})
    assert got.content == data
    assert got.headers["content-disposition"] == 'attachment; filename="pat.1.nii.gz"'
    part = server.http.get("/datastore/image", params={"image": "pat.1"}, headers={"range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, data[5:10])
    info = server.http.get("/datastore/image/info", params={"image": "pat.1"}).json()
    assert (info["patient"], info["name"]) == ("p", "pat.1.nii.gz")
    assert server.http.put("/datastore/image/info", params={"image": "pat.1"}, data={"info": '{"k": 1}'}).json() is None
    assert server.http.get("/datastore/image/info", params={"image": "pat.1"}).json()["k"] == 1
    assert server.http.request("DELETE", "/datastore/image", params={"id": "pat.1"}).json() == {}
    assert server.http.get("/datastore/image", params={"image": "pat.1"}).status_code == 404
    assert not (server.studies / "pat.1.nii.gz").exists()


def test_a_new_version_of_an_image_keeps_the_old_one_and_its_labels(server: Any, mask: bytes) -> None:
    save(server, "a", mask)
    volume = nifti.read(server.studies / "a.nii.gz")
    volume.voxels[...] = 5
    other = server.studies.parent / "other.nii.gz"
    nifti.write(other, volume)
    assert add(server, "x.nii.gz", other.read_bytes(), "a").json() == {"image": "a"}
    assert server.http.get("/datastore/image", params={"image": "a"}).content == other.read_bytes()
    assert server.http.get("/datastore/label", params={"label": "a", "tag": "final"}).content == mask
    store = server.app.state.labels.annotation.datastore
    assert [version.version for version in store.image_versions("a")] == [1, 2]
    assert store.label("a", "final").image_version == 1


def test_a_name_that_is_not_ascii(server: Any) -> None:
    data = (server.studies / "a.nii.gz").read_bytes()
    assert add(server, "x.nii.gz", data, 'Größe "1"').json() == {"image": 'Größe "1"'}
    got = server.http.get("/datastore/image", params={"image": 'Größe "1"'})
    assert got.headers["content-disposition"].endswith("filename*=utf-8''Gr%C3%B6%C3%9Fe%20%221%22.nii.gz")


def test_checksums(server: Any) -> None:
    data = (server.studies / "a.nii.gz").read_bytes()

    def head(**query: str) -> int:
        return int(server.http.head("/datastore/image", params=query).status_code)

    assert head(image="a") == 200
    assert head(image="nope") == 404
    assert head(image="../a") == 404
    assert head(image="a", check_sum="SHA256:" + hashlib.sha256(data).hexdigest().upper()) == 200
    assert head(image="a", check_sum=hashlib.sha256(data).hexdigest()) == 200
    assert head(image="a", check_sum="MD5:" + hashlib.md5(data, usedforsecurity=False).hexdigest()) == 200
    assert head(image="a", check_sum="SHA256:abc") == 404
    assert head(image="a", check_sum="what ever") == 404


def test_labels(server: Any, mask: bytes) -> None:
    params = {"label_info": [{"name": "bone", "idx": 1}], "client_id": "alice"}
    assert save(server, "a", mask, params=params).json() == {"image": "a", "label": "a"}
    assert save(server, "a", mask, tag="").json() == {"image": "a", "label": "a"}
    assert save(server, "a", bytes(480), "label.bin", tag="mine").status_code == 200
    index = server.http.get("/datastore/", params={"output": "all"}).json()
    assert set(index["objects"]["a"]["labels"]) == {"final", "mine"}
    assert server.http.get("/datastore/", params={"output": "train"}).json() == [
        {"image": str(server.studies / "a.nii.gz"), "label": str(server.studies / "labels/final/a.nii.gz")}
    ]
    assert server.http.head("/datastore/label", params={"image": "a", "tag": "final"}).status_code == 200
    assert server.http.head("/datastore/label", params={"image": "b", "tag": "final"}).status_code == 404
    assert server.http.get("/datastore/label", params={"label": "a"}).status_code == 422
    assert server.http.get("/datastore/label", params={"label": "a", "tag": "nope"}).status_code == 404
    store = server.app.state.labels.annotation.datastore
    assert store.label_versions("a", "final")[0].who == "alice"
    assert server.http.request("DELETE", "/datastore/label", params={"id": "a", "tag": "mine"}).json() == {}
    assert server.http.request("DELETE", "/datastore/label", params={"id": "a", "tag": "mine"}).json() == {}
    assert server.http.get("/datastore/").json()["label_tags"] == {"final": 1}


def test_a_label_whose_file_was_replaced_by_one_of_another_name_is_looked_for_again(
    server: Any, mask: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(server, "a", mask)
    stale: list[Any] = []
    look = LocalDatastore.label

    def label(self: LocalDatastore, id: str, tag: str) -> Any:
        found = look(self, id, tag)
        if stale:
            return found
        stale.append(replace(found, path=found.path.with_name("gone.seg.nrrd")))
        return stale[0]

    monkeypatch.setattr(LocalDatastore, "label", label)
    assert server.http.get("/datastore/label", params={"label": "a", "tag": "final"}).content == mask
    assert stale
    monkeypatch.setattr(LocalDatastore, "label", lambda *_: stale[0])
    assert server.http.get("/datastore/label", params={"label": "a", "tag": "final"}).status_code == 404


def test_a_reviewer(server: Any, mask: bytes) -> None:
    save(server, "a", mask)
    meta = {"segmentationMeta": {"status": "approved", "level": "easy", "approvedBy": "r", "comment": ""}}
    query = {"label": "a", "tag": "final"}
    assert server.http.put("/datastore/updatelabelinfo", params=query, data={"params": json.dumps(meta)}).json() is None
    assert server.http.get("/datastore/label/info", params=query).json()["segmentationMeta"] == meta["segmentationMeta"]
    unknown = server.http.put("/datastore/updatelabelinfo", params={"label": "b", "tag": "final"}, data={"params": "{}"})
    assert unknown.status_code == 404


def test_a_label_on_another_grid_is_a_conflict_that_names_both(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "l.nii.gz"
    nifti.write_labels(path, np.ones((3, 4, 5), np.uint8), Geometry((5, 4, 3)))
    answer = save(server, "a", path.read_bytes())
    assert answer.status_code == 409
    assert "5 x 4 x 3" in answer.json()["detail"] or "(5, 4, 3)" in answer.json()["detail"]
    assert server.http.get("/datastore/").json()["label_tags"] == {}


@pytest.mark.parametrize(
    ("image", "name", "data", "params", "status"),
    [
        ("../../x", "a.nii.gz", b"IMAGE", "{}", 422),
        ("/abs", "a.nii.gz", b"IMAGE", "{}", 422),
        ("x", "../../evil.nii.gz", b"IMAGE", "{}", 422),
        ("x" * 300, "a.nii.gz", b"IMAGE", "{}", 422),
        ("x", "a.nii.gz", b"hello", "{}", 422),
        ("x", "a.txt", b"hello", "{}", 422),
        ("x", "a.nii.gz", b"IMAGE", "{bad", 422),
        ("x", "a.nii.gz", b"IMAGE", "[]", 422),
    ],
)
def test_bad_images_leave_nothing(shared: Any, image: str, name: str, data: bytes, params: str, status: int) -> None:
    before = sorted(path.relative_to(shared.studies) for path in shared.studies.rglob("*") if path.is_file())
    content = (shared.studies / "a.nii.gz").read_bytes() if data == b"IMAGE" else data
    answer = shared.http.put("/datastore/", params={"image": image}, files={"params": (None, params), "file": (name, content)})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"]
    after = sorted(path.relative_to(shared.studies) for path in shared.studies.rglob("*") if path.is_file())
    assert [path for path in after if path not in before and path.name != "datastore_v2.json"] == []


@pytest.mark.parametrize(("query", "status"), [({"image": "nope"}, 404), ({"image": "a", "tag": "../../x"}, 422), ({}, 422)])
def test_bad_labels(shared: Any, mask: bytes, query: dict[str, str], status: int) -> None:
    answer = shared.http.put("/datastore/label", params=query, files={"label": ("l.nii.gz", mask)})
    assert answer.status_code == status
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\nhello',
        b"nothing of the kind",
        b'--b\r\nContent-Disposition: form-data; name="other"; filename="a.nii.gz"\r\n\r\nhello\r\n--b--\r\n',
        b"--b\r\n" + b"X: " + b"y" * 9000 + b"\r\n\r\nhello\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--b--\r\n',
        b"--b--\r\n",
    ],
)
def test_broken_forms(shared: Any, body: bytes) -> None:
    answer = shared.http.put("/datastore/", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_an_upload_that_is_too_large(label_server: Start) -> None:
    server = label_server(max_upload_mb=1)
    assert add(server, "a.nii.gz", bytes(2 << 20)).status_code == 413

    def drip() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\n'
        for _ in range(32):
            yield bytes(1 << 16)

    answer = server.http.put("/datastore/", content=drip(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413


def test_a_sender_that_goes_away_leaves_nothing(server: Any) -> None:
    head = b"PUT /datastore/?image=z HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    head += b"Content-Length: 9000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(head + b'--b\r\nContent-Disposition: form-data; name="file"; filename="z.nii.gz"\r\n\r\n' + bytes(5 << 20))
        end = time.monotonic() + 60
        incoming = server.studies / ".delineate" / "blobs"
        while not any(path.is_file() for path in incoming.rglob("*")):
            assert time.monotonic() < end
            time.sleep(0.01)
    while any(path.is_file() for path in incoming.rglob("*")):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_dataset(server: Any, mask: bytes) -> None:
    save(server, "a", mask)
    save(server, "b", mask)
    answer = server.http.get("/datastore/dataset")
    assert answer.headers["content-disposition"] == 'attachment; filename="dataset.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["image/a.nii.gz", "image/b.nii.gz", "label/a.nii.gz", "label/b.nii.gz", "metadata.json"]
    one = server.http.get("/datastore/dataset", params={"limit_cases": 1})
    with zipfile.ZipFile(io.BytesIO(one.content)) as archive:
        assert len(archive.namelist()) == 3


def test_sessions(server: Any) -> None:
    data = (server.studies / "a.nii.gz").read_bytes()
    made = server.http.put("/session/", params={"expiry": 120}, files=[("files", ("/x/pic.nii.gz", data))], data={"client_id": "c"}).json()
    info = made["session_info"]
    assert set(info) == {"name", "path", "image", "meta", "create_ts", "last_access_ts", "expiry"}
    assert (info["name"], info["expiry"], info["meta"]) == (made["session_id"], 120, {})
    path = f"/session/{made['session_id']}"
    assert server.http.get(path, params={"update_ts": True}).json()["image"].endswith("pic.nii.gz")
    image = server.http.get(path, params={"image": True})
    assert (image.content, image.headers["content-disposition"]) == (data, 'attachment; filename="pic.nii.gz"')
    assert server.http.delete(path).json()["name"] == made["session_id"]
    gone = server.http.delete(path)
    assert (gone.status_code, "session" in gone.json()["detail"]) == (404, True)
    assert list((server.settings.data / "sessions").iterdir()) == []


def test_what_is_sent_again_under_its_key_is_done_once(server: Any) -> None:
    data, key = (server.studies / "a.nii.gz").read_bytes(), {"idempotency-key": "k" * 43}
    first, again, other = (
        server.http.put("/session/", files=[("files", ("x.nii.gz", data))], headers=headers).json() for headers in (key, key, {})
    )
    assert first == again
    assert other["session_id"] != first["session_id"]
    assert len(list((server.settings.data / "sessions").iterdir())) == 2
    samples = [server.http.post("/activelearning/random", json={"client_id": "alice"}, headers=key).json() for _ in range(4)]
    assert samples == samples[:1] * 4
    assert len(server.app.state.labels.annotation.datastore.leases()) == 1


def test_a_session_of_many_files_and_of_an_archive(server: Any) -> None:
    many = server.http.put("/session/", files=[("files", (f"s{n}.dcm", b"x" * n)) for n in range(1, 30)]).json()
    whole = server.http.get(f"/session/{many['session_id']}", params={"image": True})
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        assert len(archive.namelist()) == 29
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("d/a.dcm", b"1")
    made = server.http.put("/session/", params={"uncompress": True}, files=[("files", ("d.zip", packed.getvalue()))])
    assert made.json()["session_info"]["image"].endswith("d/a.dcm")
    assert server.http.put("/session/", files=[("files", ("../../x.nii.gz", b"x"))]).status_code == 422
    assert server.http.put("/session/", data={"x": "1"}).status_code == 422


def test_sessions_expire_survive_a_restart_and_can_be_off(label_server: Start) -> None:
    server = label_server(session_expiry=3600)
    made = server.http.put("/session/", files=[("files", ("x.nii.gz", b"x"))]).json()["session_id"]
    short = server.http.put("/session/", params={"expiry": 1}, files=[("files", ("x.nii.gz", b"x"))]).json()["session_id"]
    server.stop()
    other = label_server(folder=server.studies.parent)
    assert other.http.get(f"/session/{made}").status_code == 200
    end = time.monotonic() + 60
    while other.http.get(f"/session/{short}").status_code != 404:
        assert time.monotonic() < end
        time.sleep(0.1)
    off = label_server(session_expiry=0)
    refused = off.http.put("/session/", files=[("files", ("x.nii.gz", b"x"))])
    assert (refused.status_code, "sessions" in refused.json()["detail"]) == (406, True)


def test_tokens(label_server: Start) -> None:
    server = label_server("a.nii.gz", tokens={"alice": "s1", "bob": "s2"})
    assert server.http.get("/info/").status_code == 401
    alice, bob = {"authorization": "Bearer s1"}, {"authorization": "Bearer s2"}
    made = server.http.put("/session/", files=[("files", ("x.nii.gz", b"x"))], headers=alice).json()["session_id"]
    assert server.http.get(f"/session/{made}", headers=alice).status_code == 200
    assert server.http.get(f"/session/{made}", headers=bob).status_code == 404
    data = (server.studies / "a.nii.gz").read_bytes()
    server.http.put("/datastore/", params={"image": "n"}, files={"file": ("n.nii.gz", data)}, headers=alice)
    assert server.http.get("/datastore/image/info", params={"image": "n"}, headers=bob).json()["user"] == "alice"


def test_without_a_token_images_are_for_this_machine_alone(label_server: Start) -> None:
    server = label_server("a.nii.gz")
    for path in ("/info/", "/datastore/?output=all", "/datastore/image?image=a"):
        assert server.http.get(path).status_code == 200
        for header in ({"host": "evil.example"}, {"x-forwarded-for": "1.2.3.4"}):
            refused = server.http.get(path, headers=header)
            assert (refused.status_code, "token" in refused.json()["detail"].lower()) == (403, True)
    wide = label_server(host="0.0.0.0")
    assert wide.http.get("/info/").status_code == 403


def test_accounts_are_off(server: Any) -> None:
    assert server.http.get("/auth/").status_code == 404
    assert server.http.post("/auth/token", data={"username": "u", "password": "p", "grant_type": "password"}).status_code == 404
    assert server.http.get("/auth/token/valid").status_code == 404


def test_the_log(server: Any) -> None:
    logging.getLogger("delineate.test").warning("a line <for> the test")
    text = server.http.get("/logs/", params={"text": True})
    assert "a line <for> the test" in text.text
    page = server.http.get("/logs/")
    assert page.headers["content-type"].startswith("text/html")
    assert "a line &lt;for&gt; the test" in page.text
    assert len(server.http.get("/logs/", params={"lines": 1, "text": True}).text.splitlines()) == 1
    assert server.http.get("/logs/", headers={"x-forwarded-for": "1.2.3.4"}).status_code == 403


def test_pages_of_other_sites_change_nothing(label_server: Start) -> None:
    server = label_server("a.nii.gz", cors_origins=("https://viewer.example",))
    known, foreign = {"origin": "https://viewer.example"}, {"origin": "https://other.example"}
    assert server.http.post("/activelearning/first", headers=foreign).status_code == 403
    answer = server.http.post("/activelearning/first", headers=known)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://viewer.example")


def test_two_annotators_never_have_the_same_image(label_server: Start) -> None:
    server = label_server(*(f"i{n}.nii.gz" for n in range(12)))
    had: list[str] = []

    def annotate(who: int) -> None:
        while sample := server.http.post("/activelearning/random", json={"client_id": f"p{who}"}).json():
            had.append(sample["id"])
            data = bytes(480)
            assert save(server, sample["id"], data, "l.bin", params={"client_id": f"p{who}"}).status_code == 200

    people = [threading.Thread(target=annotate, args=(who,)) for who in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
    assert sorted(had) == sorted({f"i{n}" for n in range(12)})


def test_a_folder_of_dicom_files_is_one_image_and_comes_as_a_zip(label_server: Start) -> None:
    server = label_server()
    folder = server.studies / "series"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
        os.utime(folder / f"{n}.dcm", (1_700_000_000, 1_700_000_000))
    os.utime(folder, (1_700_000_000, 1_700_000_000))
    server.app.state.labels.annotation.datastore.look(deep=True)
    objects = server.http.get("/datastore/", params={"output": "all"}).json()["objects"]
    assert list(objects) == ["series"]
    answer = server.http.get("/datastore/image", params={"image": "series"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["0.dcm", "1.dcm", "2.dcm"]
