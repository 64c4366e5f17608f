"""Infer over real sockets and workers: every way an image comes and an answer goes, and what is refused."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from delineate import nifti
from delineate.geometry import Geometry
from delineate.monai_label import MONAILabelClient, MONAILabelClientException, MONAILabelError
from delineate.protocols.inference_server import KEY_HEADER
from delineate.protocols.monai_label_answers import read_infer_answer
from delineate.task import TaskState
from delineate.volume import Volume

Start = Callable[..., Any]

SHAPE = (6, 8, 10)


@pytest.fixture
def server(label_server: Start) -> Any:
    return label_server("ct.nii.gz", workers=1)


@pytest.fixture
def idle(label_server: Start) -> Any:
    """Nobody works here: what is refused is refused before."""
    return label_server("ct.nii.gz")


@pytest.fixture(scope="module")
def shared_idle(label_server_class: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same for tests that leave nothing."""
    server = label_server_class(tmp_path_factory.mktemp("idle"), ("ct.nii.gz",))
    yield server
    server.stop()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def infer(server: Any, model: str = "threshold", params: Any = None, files: dict[str, Any] | None = None, **query: str) -> httpx.Response:
    parts = {"params": (None, params if isinstance(params, str) else json.dumps(params or {})), **(files or {})}
    answer: httpx.Response = server.http.post(f"/infer/{model}", params=query, files=parts)
    return answer


def mask_of(answer: httpx.Response, tmp_path: Path, name: str = "answer.nii.gz") -> tuple[dict[str, Any], Volume]:
    assert answer.status_code == 200, answer.text
    found = read_infer_answer(io.BytesIO(answer.content), answer.headers["content-type"])
    assert found.image is not None
    path = tmp_path / name
    path.write_bytes(answer.content[found.image.offset : found.image.offset + found.image.length])
    return found.params, nifti.read(path)


def test_an_image_of_the_datastore(server: Any, tmp_path: Path) -> None:
    answer = infer(server, image="ct")
    params, mask = mask_of(answer, tmp_path)
    image = nifti.read(server.studies / "ct.nii.gz")
    assert mask.geometry.matches(image.geometry)
    assert np.array_equal(mask.voxels > 0, image.voxels > 100)
    assert params["label_names"] == {"Bright": 1}
    assert {"infer", "total"} <= set(params["latencies"])


def test_the_small_print_of_an_answer(server: Any) -> None:
    answer = infer(server, image="ct")
    kind, _, boundary = answer.headers["content-type"].partition("; ")
    assert kind == "multipart/form-data"
    assert boundary.startswith("boundary=")
    assert '"' not in boundary
    assert ";" not in boundary
    mark = b"--" + boundary.removeprefix("boundary=").encode()
    empty, first, second, end = answer.content.split(mark)
    assert (empty, end) == (b"", b"--\r\n")
    assert first.split(b"\r\n\r\n")[0] == b'\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json'
    head = second.split(b"\r\n\r\n")[0]
    disposition, kind = head.lstrip().split(b"\r\n")
    assert re.fullmatch(rb'Content-Disposition: form-data; name="image"; filename="answer-[0-9a-f]{12}\.nii\.gz"', disposition)
    assert kind == b"Content-Type: application/octet-stream"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_each_form_of_answer(server: Any) -> None:
    image = infer(server, image="ct", output="image", params={"result_extension": ".nrrd", "result_compress": False})
    assert image.content.startswith(b"NRRD")
    assert re.fullmatch(r'attachment; filename="answer-[0-9a-f]{12}\.nrrd"', image.headers["content-disposition"])
    again = infer(server, image="ct", output="image", params={"result_extension": ".NRRD", "result_compress": "false"})
    assert again.content == image.content
    assert again.headers["content-disposition"] != image.headers["content-disposition"]  # old clients keep both in one folder
    words = infer(server, image="ct", output="json")
    assert words.headers["content-type"] == "application/json"
    assert words.json()["label_names"] == {"Bright": 1}
    bare = infer(server, image="ct", params={"result_extension": ".json"})
    assert bare.headers["content-type"] == "application/json"
    assert infer(server, image="ct", output="image", params={"result_extension": ".json"}).status_code == 404


@pytest.mark.parametrize("how", ["form", "encoded", "json", "nothing"])
def test_params_come_in_several_ways(server: Any, how: str) -> None:
    query, params = {"image": "ct", "output": "image"}, json.dumps({"result_extension": ".nrrd"})
    sent: dict[str, Any] = {
        "form": {"files": {"params": (None, params)}},
        "encoded": {"data": {"params": params}},
        "json": {"content": params, "headers": {"content-type": "application/json"}},
        "nothing": {},
    }[how]
    answer = server.http.post("/infer/threshold", params=query, **sent)
    assert answer.status_code == 200
    assert answer.content[:4] == (b"\x1f\x8b\x08\x00" if how == "nothing" else b"NRRD")


def test_a_file_that_comes_along_and_a_session(server: Any, tmp_path: Path) -> None:
    data = (server.studies / "ct.nii.gz").read_bytes()
    _, by_file = mask_of(infer(server, files={"file": ("C:\\scans\\x.nii.gz", data)}), tmp_path)
    made = server.http.put("/session/", files=[("files", ("x.nii.gz", data))]).json()
    _, by_session = mask_of(infer(server, session_id=made["session_id"]), tmp_path)
    assert by_file.voxels.sum() == by_session.voxels.sum() == 24
    until(lambda: server.service.tasks.tasks() == [])  # what was answered is forgotten, with its files
    until(lambda: not any(path.is_file() for path in (server.settings.data / "blobs").rglob("*")))


def test_scribbles_as_a_bare_array(server: Any) -> None:
    good = infer(server, image="ct", output="json", files={"label": ("label.bin", bytes(6 * 8 * 10))})
    assert good.status_code == 200, good.text
    short = infer(server, image="ct", files={"label": ("label.bin", bytes(7))})
    assert (short.status_code, "480 voxels" in short.json()["detail"]) == (422, True)


def test_scribbles_on_another_grid_are_a_conflict(server: Any, tmp_path: Path) -> None:
    nifti.write_labels(tmp_path / "l.nii.gz", np.ones(SHAPE, np.uint8), Geometry((10, 8, 6)))
    answer = infer(server, image="ct", files={"label": ("l.nii.gz", (tmp_path / "l.nii.gz").read_bytes())})
    assert answer.status_code == 409
    assert "0.75" in answer.json()["detail"]


def test_an_answer_is_saved_as_a_label_too(server: Any) -> None:
    assert infer(server, image="ct", params={"save_label": True}).status_code == 200
    assert infer(server, image="ct", params={"save_label": True, "label_tag": "mine"}).status_code == 200
    labels = server.http.get("/datastore/", params={"output": "all"}).json()["objects"]["ct"]["labels"]
    assert set(labels) == {"original", "mine"}
    assert labels["mine"]["info"]["model"] == "threshold"
    assert labels["mine"]["info"]["params"]["label_names"] == {"Bright": 1}


@pytest.mark.parametrize(
    ("query", "params", "status", "words"),
    [
        ({}, {}, 422, "no image"),
        ({"image": "nope"}, {}, 404, "no such image"),
        ({"session_id": "x" * 32}, {}, 404, "session is unknown or has expired"),
        ({"session_id": "../../etc"}, {}, 404, "session"),
        ({"image": "../ct"}, {}, 422, "separator"),
        ({"image": "/etc/passwd"}, {}, 422, "separator"),
        ({"image": "ct"}, "{bad", 422, "not JSON"),
        ({"image": "ct"}, "[1]", 422, "no object"),
        ({"image": "ct"}, '{"x": NaN}', 422, "not JSON"),
        ({"image": "ct"}, "[" * 100_000, 422, "not JSON"),
        ({"image": "ct"}, {"image": 7}, 422, "no text"),
        ({"image": "ct"}, {"result_extension": ".exe"}, 422, "cannot be written"),
        ({"image": "ct"}, {"result_dtype": "uint7"}, 422, "cannot be written"),
        ({"image": "ct"}, {"result_compress": "yes"}, 422, "wrong kind"),
        ({"image": "ct"}, {"foreground": [[10, 0, 0]]}, 422, "outside of the image"),
        ({"image": "ct"}, {"foreground": "x"}, 422, "wrong kind"),
        ({"image": "ct"}, {"save_label": True, "label_tag": "../x"}, 422, "separator"),
        ({"image": "ct", "output": "dicom_seg"}, {}, 422, "DICOM"),
        ({"image": "ct", "output": "xyz"}, {}, 422, "output"),
    ],
)
def test_what_is_refused_says_why(shared_idle: Any, query: dict[str, str], params: Any, status: int, words: str) -> None:
    answer = infer(shared_idle, params=params, **query)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert shared_idle.service.tasks.tasks() == []


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.nii.gz", b"not a nifti", "NIfTI"),
        ("x", b"x" * 400, "extension"),
        ("../../x.nii.gz", b"x" * 400, "lead out"),
        ("x.txt", b"hello", "extension"),
    ],
)
def test_a_file_that_is_none_leaves_nothing(shared_idle: Any, name: str, data: bytes, words: str) -> None:
    answer = infer(shared_idle, files={"file": (name, data)})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert [path for path in (shared_idle.settings.data / "blobs").rglob("*") if path.is_file()] == []


def test_a_good_file_with_a_bad_request_leaves_nothing(idle: Any) -> None:
    file = ("x.nii.gz", (idle.studies / "ct.nii.gz").read_bytes())
    assert infer(idle, files={"file": file}, params={"foreground": [[99, 0, 0]]}).status_code == 422
    assert infer(idle, files={"file": file}, params={"save_label": True}).status_code == 422
    assert infer(idle, files={"file": file, "label": ("l.bin", bytes(3))}).status_code == 422
    too_long = idle.http.post("/infer/threshold", files={"file": file, "label": ("l.bin", bytes(480))}, headers={KEY_HEADER: "k" * 300})
    assert too_long.status_code == 422
    assert [path for path in (idle.settings.data / "blobs").rglob("*") if path.is_file()] == []


def test_a_model_that_fails_says_why_and_its_task_stays(server: Any) -> None:
    answer = infer(server, "raiser", image="ct")
    assert answer.status_code == 500
    assert answer.json()["kind"] == "model"
    (task,) = server.service.tasks.tasks(model="raiser")  # images are looked at meanwhile
    assert task.state is TaskState.FAILED
    assert infer(server, "nope", image="ct").status_code == 404


def test_the_old_client_hears_the_reason(idle: Any, tmp_path: Path) -> None:
    client = MONAILabelClient(idle.url, str(tmp_path))
    with pytest.raises(MONAILabelClientException) as raised:
        client.infer("threshold", "nope")
    assert raised.value.status_code == 404
    assert "no such image in the datastore" in raised.value.msg
    with pytest.raises(MONAILabelClientException) as raised:
        client.infer("threshold", "", session_id="x" * 32)
    assert raised.value.error == MONAILabelError.SESSION_EXPIRED


def test_nobody_waits_for_those_who_infer(slow: Any) -> None:
    people = [threading.Thread(target=infer, args=(slow, "slow"), kwargs={"image": "ct", "params": {}}) for _ in range(8)]
    for thread in people:
        thread.start()
    until(lambda: len(slow.service.tasks.tasks()) == 8)
    for _ in range(50):
        assert slow.http.get("/info/", timeout=20).status_code == 200
    assert not any(task.state.is_final for task in slow.service.tasks.tasks()), "they take a minute"
    for task in slow.service.tasks.tasks():
        slow.service.tasks.cancel(task.uid)
    for thread in people:
        thread.join(30)


def test_who_hangs_up_cancels(slow: Any) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), 10) as connection:
        connection.sendall(b"POST /infer/slow?image=ct HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
        until(lambda: [task.state for task in slow.service.tasks.tasks()] == [TaskState.RUNNING])
    until(lambda: slow.service.tasks.tasks()[0].state is TaskState.CANCELLED)


def test_a_request_with_a_key_is_one_task_and_comes_back_after_hanging_up(slow: Any) -> None:
    head = f"POST /infer/slow?image=ct&output=json HTTP/1.1\r\nHost: 127.0.0.1\r\n{KEY_HEADER}: k1\r\nContent-Length: 0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", slow.port), 10) as connection:
        connection.sendall(head.encode())
        until(lambda: [task.state for task in slow.service.tasks.tasks()] == [TaskState.RUNNING])
    until(lambda: slow.service.tasks.tasks()[0].state is TaskState.CANCELLED)
    (task,) = slow.service.tasks.tasks()
    done: list[httpx.Response] = []
    again = threading.Thread(
        target=lambda: done.append(slow.http.post("/infer/slow", params={"image": "ct"}, headers={KEY_HEADER: "k1"}))
    )  # fmt: skip
    again.start()
    until(lambda: slow.service.tasks.get(task.uid).state is TaskState.RUNNING)
    slow.service.tasks.cancel(task.uid)
    again.join(30)
    assert done[0].status_code == 409
    assert [one.uid for one in slow.service.tasks.tasks()] == [task.uid]


def test_who_waits_when_the_server_stops_is_told_to_come_again(slow: Any) -> None:
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=slow.url, timeout=30, trust_env=False) as http:
        waiting = threading.Thread(target=lambda: answers.append(http.post("/infer/slow", params={"image": "a"})))
        waiting.start()
        until(lambda: [task.state for task in slow.service.tasks.tasks()] == [TaskState.RUNNING])
        slow.stop()
        waiting.join(30)
    assert (answers[0].status_code, "stopping" in answers[0].json()["detail"]) == (503, True)


def test_an_image_that_is_removed_while_its_task_waits(slow: Any) -> None:
    answers: list[httpx.Response] = []
    first = threading.Thread(target=infer, args=(slow, "slow"), kwargs={"image": "a"})
    first.start()
    until(lambda: [task.state for task in slow.service.tasks.tasks()] == [TaskState.RUNNING])
    waiting = threading.Thread(target=lambda: answers.append(infer(slow, image="ct")))
    waiting.start()
    until(lambda: len(slow.service.tasks.tasks()) == 2)
    assert slow.http.request("DELETE", "/datastore/", params={"id": "ct"}).status_code == 200
    for task in slow.service.tasks.tasks(model="slow"):
        slow.service.tasks.cancel(task.uid)
    first.join(30)
    waiting.join(30)
    assert (answers[0].status_code, answers[0].json()["kind"]) == (422, "input")


def test_without_a_datastore_files_and_sessions_infer(label_server: Start, tmp_path: Path) -> None:
    server = label_server("ct.nii.gz", workers=1, has_studies=False)
    data = (server.studies / "ct.nii.gz").read_bytes()
    assert infer(server, files={"file": ("x.nii.gz", data)}).status_code == 200
    made = server.http.put("/session/", files=[("files", ("x.nii.gz", data))]).json()
    assert infer(server, session_id=made["session_id"]).status_code == 200
    refused = infer(server, image="ct")
    assert (refused.status_code, "--studies" in refused.json()["detail"]) == (404, True)
    assert server.http.get("/datastore/").status_code == 404
    assert server.http.post("/activelearning/first").status_code == 404
    assert server.http.get("/info/").json()["datastore"] == {"total": 0, "completed": 0, "label_tags": {}}


def test_an_answer_that_is_saved_as_it_came_keeps_its_names(server: Any, tmp_path: Path) -> None:
    def saved(**params: Any) -> dict[str, Any]:
        mask = io.BytesIO()
        nifti.write_labels(mask, np.ones(SHAPE, np.uint8), nifti.read_geometry(server.studies / "ct.nii.gz"))
        files = {"params": (None, json.dumps(params)), "label": ("l.nii.gz", mask.getvalue())}
        assert server.http.put("/datastore/label", params={"image": "ct"}, files=files).status_code == 200
        found: dict[str, Any] = server.http.get("/datastore/label/info", params={"label": "ct", "tag": "final"}).json()
        return found

    assert "likely_names" not in saved(), "no model said anything yet"
    sent = {"file": ("other.nii.gz", (server.studies / "ct.nii.gz").read_bytes())}
    assert infer(server, image="ct", files=sent).status_code == 200
    assert "likely_names" not in saved(), "another file came along: what was found is not known to be of the image"
    assert infer(server, image="ct").status_code == 200
    assert saved()["likely_names"] == {"Bright": 1}
    named = saved(label_info=[{"name": "Bone", "idx": 1}])
    assert (named["label_info"], "likely_names" in named) == ([{"name": "Bone", "idx": 1}], False)
