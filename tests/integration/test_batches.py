"""Batches: a model run on many images of the datastore."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from delineate.task import SERVER, Task, TaskState

Start = Callable[..., Any]


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def waiting(server: Any) -> list[Task]:
    """The tasks of images, where nobody works."""
    found: list[Task] = server.service.tasks.tasks(TaskState.PENDING, "threshold")
    return found


def said(server: Any) -> list[str]:
    found: list[str] = server.http.get("/batch/infer").json()["details"]
    return found


def test_batch(label_server: Start) -> None:
    server = label_server("a.nii.gz", "b.nii.gz", "c.nii.gz", workers=1)
    assert server.http.get("/batch/infer").status_code == 404
    assert server.http.delete("/batch/infer").json() is None
    begun = server.http.post("/batch/infer/threshold", json={"label_tag": "mine"}).json()
    assert begun["status"] == "SUBMITTED"
    until(lambda: server.http.get("/batch/infer").json()["status"] == "DONE")
    ended = server.http.get("/batch/infer").json()
    assert ended["id"] == begun["id"]
    assert ended["details"][-1] == "3 of 3 images done"
    assert server.http.get("/datastore/").json()["label_tags"] == {"mine": 3}
    again = server.http.post("/batch/infer/threshold", params={"images": "unlabeled", "run_sync": True}, json={"label_tag": "mine"})
    assert set(again.json()) == {"a", "b", "c"}, "a model's label is no person's"
    assert server.http.post("/batch/infer/threshold", params={"images": "labeled", "run_sync": True}).json() == {}
    every = server.http.post("/batch/infer/threshold", params={"images": "all", "run_sync": True}, json={"save_label": False})
    assert set(every.json()) == {"a", "b", "c"}
    assert [one["status"] for one in server.http.get("/batch/infer", params={"all": True}).json()] == ["DONE"] * 4
    tasks = server.service.tasks.tasks()
    assert [(task.model, task.state) for task in tasks] == [("batch", TaskState.FINISHED)] * 4, "those of the images are forgotten"


def test_a_batch_stops_and_one_at_a_time_runs(slow: Any) -> None:
    slow.http.post("/batch/infer/slow")
    busy = slow.http.post("/batch/infer/threshold")
    assert (busy.status_code, "runs already" in busy.json()["detail"]) == (429, True)
    until(lambda: slow.http.get("/batch/infer", params={"check_if_running": True}).json()["status"] == "RUNNING")
    stopped = slow.http.delete("/batch/infer").json()
    assert (stopped["status"], stopped["details"][0]) == ("STOPPED", "0 of 4 images done")
    assert slow.http.get("/batch/infer", params={"check_if_running": True}).status_code == 404
    assert {task.state for task in slow.service.tasks.tasks()} == {TaskState.CANCELLED}


def test_a_batch_is_a_task_for_whoever_looks_at_tasks(slow: Any) -> None:
    begun = slow.http.post("/batch/infer/slow", params={"images": "all"}).json()
    until(lambda: slow.http.get(f"/api/tasks/{begun['id']}/status").json()["message"] == "0 of 4 images done")
    assert [row["state"] for row in slow.http.get("/api/tasks/").json() if row["model"]["human_readable_id"] == "batch"] == ["running"]
    slow.http.post(f"/api/tasks/{begun['id']}/cancel")
    until(lambda: slow.http.get("/batch/infer").json()["status"] == "STOPPED")
    assert slow.http.get(f"/api/tasks/{begun['id']}/log").text == "0 of 4 images done\n"
    assert {task.state for task in slow.service.tasks.tasks()} == {TaskState.CANCELLED}


def test_a_batch_of_so_many_images_and_so_many_at_once(label_server: Start) -> None:
    server = label_server("c.nii.gz", "a.nii.gz", "b.nii.gz")  # nobody works
    begun = server.http.post("/batch/infer/threshold", json={"max_batch_size": 2, "max_workers": 1}).json()
    assert begun["request"]["max_batch_size"] == 2
    until(lambda: len(waiting(server)) == 1)
    until(lambda: said(server) == ["0 %: 0 of 2 images done"])
    assert server.http.delete("/batch/infer").json()["status"] == "STOPPED"
    assert len(server.service.tasks.tasks(model="threshold")) == 1, "the second one waited for the first"
    every = server.http.post("/batch/infer/threshold", json={"max_batch_size": 0, "max_workers": 0})
    assert every.status_code == 200
    until(lambda: len(waiting(server)) == 2)
    until(lambda: said(server) == ["0 %: 0 of 3 images done"])


def test_a_batch_goes_on_after_a_restart(label_server: Start, tmp_path: Path) -> None:
    server = label_server("a.nii.gz", "b.nii.gz")  # nobody works
    begun = server.http.post("/batch/infer/threshold").json()
    until(lambda: len(waiting(server)) == 2)
    server.stop()
    other = label_server(folder=server.studies.parent, workers=1)
    until(lambda: other.http.get("/batch/infer").json()["status"] == "DONE")
    assert other.http.get("/datastore/").json()["label_tags"] == {"original": 2}
    assert [one["id"] for one in other.http.get("/batch/infer", params={"all": True}).json()] == [begun["id"]]


def test_a_batch_that_was_kept_in_a_file_goes_on(label_server: Start) -> None:
    server = label_server("a.nii.gz", "b.nii.gz")
    server.stop()
    folder = server.settings.data / "batches"
    folder.mkdir()
    kept = {
        "id": "0123456789abcdef", "model": "threshold", "images": ["a"], "tag": "mine", "params": {}, "request": {"model": "threshold"},
        "owner": "somebody", "started": 1.0, "ended": None, "state": "RUNNING", "details": [], "output": "", "most": 0,
    }  # fmt: skip
    (folder / "00000000000001000000-0123456789abcdef.json").write_text(json.dumps(kept))
    (folder / "00000000000002000000-0123456789abcdef.json").write_text(json.dumps({**kept, "ended": 2.0}))
    (folder / "00000000000003000000-0123456789abcdef.json").write_text("{")
    other = label_server(folder=server.studies.parent, workers=1)
    until(lambda: other.http.get("/batch/infer").status_code == 200 and other.http.get("/batch/infer").json()["status"] == "DONE")
    assert len(other.http.get("/batch/infer", params={"all": True}).json()) == 1, "what had ended is forgotten"
    assert other.http.get("/datastore/label/info", params={"label": "a", "tag": "mine"}).json()["batch"] == kept["id"]
    assert not folder.exists()


def test_some_images_of_a_batch_fail(label_server: Start) -> None:
    server = label_server("a.nii.gz", workers=1)
    assert server.http.post("/batch/infer/raiser", params={"run_sync": True}).json() == {}
    ended = server.http.get("/batch/infer").json()
    assert (ended["status"], ended["exit_code"]) == ("ERROR", 1)
    assert ended["details"][0].startswith("a: ")
    assert ended["details"][-1] == "1 of 1 images failed."


def test_what_a_batch_did_is_answered_though_others_failed(label_server: Start) -> None:
    server = label_server("a.nii.gz", workers=1)
    server.put("b.nii.gz").write_bytes(b"no image")
    until(lambda: server.http.get("/datastore/").json()["total"] == 2)
    assert set(server.http.post("/batch/infer/threshold", params={"run_sync": True}).json()) == {"a"}
    assert server.http.get("/batch/infer").json()["status"] == "ERROR"


def test_a_batch_that_cannot_be_read_fails(label_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = label_server("a.nii.gz")
    monkeypatch.setattr(server.service.tasks, "_tries", 1)
    server.service.submit_work("batch", {}, owner="somebody", lane=SERVER)
    until(lambda: server.http.get("/batch/infer").json()["status"] == "ERROR")
    assert said(server) == ["The server failed; its log has the reason."]
    assert server.http.post("/batch/infer/threshold").status_code == 200, "others go on"


def test_a_batch_whose_task_is_deleted_stops(slow: Any) -> None:
    begun = slow.http.post("/batch/infer/slow").json()
    until(lambda: len(slow.service.tasks.tasks(model="slow")) == 2)
    assert slow.http.delete(f"/api/tasks/{begun['id']}").status_code == 200
    until(lambda: [task.state for task in slow.service.tasks.tasks()] == [TaskState.CANCELLED] * 2)
    assert slow.http.get("/batch/infer").status_code == 404
