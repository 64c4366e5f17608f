"""What clients of the MONAI Label API send and the original takes: odd, but none of our business to refuse."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from delineate.monai_label import MONAILabelClient
from delineate.testing.conformance.monai_label_plain import picture

VIEWER = "https://viewer.example"


@pytest.fixture(scope="module")
def server(label_server_class: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = label_server_class(tmp_path_factory.mktemp("server"), ("ct.nii.gz",), workers=1, cors_origins=(VIEWER,))
    yield server
    server.stop()


@pytest.fixture
def ct(server: Any) -> bytes:
    data: bytes = (server.studies / "ct.nii.gz").read_bytes()
    return data


def infer(server: Any, files: dict[str, Any], query: str = "image=ct") -> httpx.Response:
    answer: httpx.Response = server.http.post(f"/infer/threshold?output=json&{query}", files=files)
    return answer


@pytest.mark.parametrize(
    ("method", "path", "there"),
    [
        ("PUT", "/session?expiry=5", "session/?expiry=5"),
        ("PUT", "/datastore", "datastore/"),
        ("DELETE", "/datastore?id=a%2Fb", "datastore/?id=a%2Fb"),
        ("POST", "/train", "train/"),
        ("POST", "/infer/threshold/?image=%C3%BC+x", "../threshold?image=%C3%BC+x"),
        ("GET", "/session/a%20%C3%A4/", "../a%20%C3%A4"),
        ("GET", "/datastore/image/?image=ct", "../image?image=ct"),
        ("OPTIONS", "/info", "info/"),
    ],
)
def test_a_slash_too_many_or_too_few_is_redirected(server: Any, method: str, path: str, there: str) -> None:
    answer = server.http.request(method, path, content=b"body" if method in ("PUT", "POST") else None)
    assert (answer.status_code, answer.headers["location"]) == (307, there)


def test_a_redirect_leads_there(server: Any, ct: bytes) -> None:
    found = server.http.get("/datastore/image/?image=ct", follow_redirects=True)
    assert (found.status_code, found.content) == (200, ct)
    made = server.http.put("/session", files={"files": ("a.nii.gz", ct)}, follow_redirects=True)
    assert made.json()["session_info"]["name"] == made.json()["session_id"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
def test_parameters_are_the_body(server: Any, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    assert (
        server.http.post("/infer/threshold?image=ct&output=json", content=b'{"result_dtype": "uint8"}', headers=headers).status_code == 200
    )
    refused = server.http.post("/infer/threshold?image=ct&output=json", content=b'{"result_dtype": "complex"}', headers=headers)
    assert refused.status_code == 422
    assert "result_dtype" in refused.json()["detail"]


@pytest.mark.parametrize("params", ["null", "", '{"save_label": "false", "result_compress": "True"}', '{"client_id": 7, "slice": [3]}'])
def test_parameters_in_odd_words(server: Any, params: str) -> None:
    assert infer(server, {"params": (None, params)}).status_code == 200


def test_label_info_of_an_infer_is_nobodys(server: Any) -> None:
    for info in ({"Bright": 1}, ["Bright"], [{"name": "Bright", "idx": 1}]):
        assert infer(server, {"params": (None, json.dumps({"label_info": info}))}).status_code == 200


def form(name: str, filename: str, data: bytes) -> dict[str, Any]:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
    return {
        "content": head + data + b"\r\n--b--\r\n",
        "headers": {"content-type": "multipart/form-data; boundary=b", "content-encoding": ""},
    }


def test_a_file_without_a_name_is_nifti(server: Any, ct: bytes) -> None:
    assert server.http.post("/infer/threshold?output=json", **form("file", "", ct)).status_code == 200
    saved = server.http.put("/datastore/label?image=ct&tag=nameless", **form("label", "", ct))
    assert saved.json() == {"image": "ct", "label": "ct"}
    assert "ct.nii.gz" in server.http.get("/datastore/label?label=ct&tag=nameless").headers["content-disposition"]
    assert server.http.put("/session/", **form("files", "", ct)).status_code == 200


def test_a_file_that_was_not_chosen_is_none(server: Any) -> None:
    assert server.http.post("/infer/threshold?output=json&image=ct", **form("label", "", b"")).status_code == 200


def test_a_file_in_a_field_that_nobody_knows_is_left_aside(server: Any, ct: bytes) -> None:
    assert infer(server, {"params": (None, "{}"), "preview": ("p.png", b"\x89PNG" * 1000)}).status_code == 200
    made = server.http.put("/session/", files={"preview": ("p.png", b"\x89PNG"), "files": ("a.nii.gz", ct)}).json()
    assert made["session_info"]["image"].endswith("/a.nii.gz")
    assert server.http.put("/session/", files={"preview": ("p.png", b"\x89PNG")}).status_code == 422
    refused = server.http.put("/datastore/image?image=new", files={"image": ("a.nii.gz", ct)})
    assert refused.status_code == 422
    assert "the field file" in refused.json()["detail"]


def test_pictures_and_outlines_are_told_by_their_type(server: Any, ct: bytes, tmp_path: Path) -> None:
    server.http.put("/datastore/image?image=slide", files={"file": ("slide.png", picture())})
    server.http.put("/datastore/label?image=slide", files={"label": ("outlines.json", b'{"elements": []}')})
    kinds = [server.http.get(f"/datastore/{place}").headers["content-type"] for place in ("image?image=slide", "image?image=ct")]
    assert kinds == ["image/png", "application/octet-stream"]
    with MONAILabelClient(server.url, str(tmp_path)) as client:
        path = Path(client.download_label("slide", "final"))
    assert (path.suffix, path.read_bytes()) == (".json", b'{"elements": []}')


def test_what_should_be_a_file_and_is_none_is_told(server: Any) -> None:
    refused = infer(server, {"label": (None, "scribbles")})
    assert refused.status_code == 422
    assert "the field label" in refused.json()["detail"]


def test_parameters_as_a_file_are_told(server: Any) -> None:
    refused = infer(server, {"params": ("blob", b"{}")})
    assert refused.status_code == 422
    assert "plain field" in refused.json()["detail"]


def test_numbers_below_all_bounds(server: Any) -> None:
    assert server.http.get("/logs/?lines=-1").headers["content-type"].startswith("text/plain")
    assert server.http.get("/logs/?lines=99999999").status_code == 200
    assert server.http.get("/datastore/dataset?limit_cases=-1").status_code == 200
    image = {"files": ("a.nii.gz", (server.studies / "ct.nii.gz").read_bytes())}
    assert server.http.put("/session/?expiry=-1", files=image).json()["session_info"]["expiry"] > 0


def test_nothing_ran_yet_whatever_is_asked(server: Any) -> None:
    for path in ("/train/", "/scoring/"):
        assert server.http.get(path, params={"all": True}).status_code == 404


def test_a_batch_is_of_all_images(server: Any) -> None:
    task = server.http.post("/batch/infer/threshold", params={"run_sync": False}).json()
    assert task["request"]["images"] == "all"
    server.http.delete("/batch/infer")


def test_an_old_client_names_no_host(server: Any) -> None:
    def asked(head: str) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(f"GET /info/ {head}\r\n\r\n".encode())
            return connection.recv(64)

    assert asked("HTTP/1.0").split()[1] == b"200"
    assert asked("HTTP/1.0\r\nHost: evil.example").split()[1] == b"403"
    assert asked("HTTP/1.1\r\nHost: evil.example").split()[1] == b"403"


def test_requests_in_one_go_are_answered_in_turn(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        one = b"GET /datastore/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        connection.sendall(one + b"\r\n" + one + b"\r\n" + one + b"Connection: close\r\n\r\n")
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.count(b"HTTP/1.1 200") == said.count(b'"total"') == 3


def test_a_viewer_sends_headers_of_its_own(server: Any) -> None:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-requested-with,cache-control"}
    allowed = server.http.options("/infer/threshold", headers={"origin": VIEWER, **wanted})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == VIEWER
    assert "x-requested-with" in allowed.headers["access-control-allow-headers"]
    assert server.http.options("/infer/threshold", headers={"origin": "https://evil.example", **wanted}).status_code == 400
