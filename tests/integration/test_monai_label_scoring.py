"""Scoring on the server, and what it finds out about images by itself: real routes, real workers."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest

import delineate.engines.local
from delineate import nifti
from delineate.datastore.strategies_learning import COARSE
from delineate.geometry import Geometry
from delineate.task import TaskState
from delineate.testing.phantoms import chest_ct
from delineate.volume import Volume

from .conftest import OLD, LabelServer

Found = TypeVar("Found")
GRID = Geometry((10, 8, 6), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0))
NAMES = [{"name": "Heart", "idx": 1}, {"name": "Liver", "idx": 2}]


@pytest.fixture(autouse=True)
def _no_standing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other tests run at once, what stands back from all of them never ends."""
    monkeypatch.setattr(delineate.engines.local, "BACKGROUND_NICE", 0)
    monkeypatch.setattr(delineate.engines.local, "BACKGROUND_SESSION_NICE", 0)


@pytest.fixture(scope="module")
def idle(label_server_class: Callable[..., LabelServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    server = label_server_class(tmp_path_factory.mktemp("server"), ("a.nii.gz",))
    yield server
    server.stop()


def until(look: Callable[[], Found | None], seconds: float = 60.0) -> Found:
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    labels = np.zeros(GRID.shape, np.uint8)
    for label, box in enumerate(boxes, start=1):
        labels[box] = label
    return labels


DRAWN = mask((slice(1, 3), slice(2, 5), slice(3, 7)), (slice(4, 5), slice(0, 2), slice(0, 2)))
FOUND = mask((slice(1, 4), slice(2, 5), slice(3, 7)), (slice(4, 5), slice(6, 8), slice(0, 2)))


def save(server: LabelServer, image: str, tag: str, labels: np.ndarray, **params: Any) -> None:
    buffer = io.BytesIO()
    nifti.write_labels(buffer, labels, GRID)
    files = {"params": (None, json.dumps(params)), "label": ("l.nii.gz", buffer.getvalue())}
    answer = server.http.put("/datastore/label", params={"image": image, "tag": tag}, files=files)
    assert answer.status_code == 200, answer.text


def label_info(server: LabelServer, image: str, tag: str = "final") -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/datastore/label/info", params={"label": image, "tag": tag}).json()
    return found


def ended(server: LabelServer) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = server.http.get("/scoring/").json()
        return found if found["status"] not in ("SUBMITTED", "RUNNING") else None

    return until(look)


# ---- scoring


def test_a_client_that_asks_again_and_again_is_refused_and_all_can_be_stopped(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", workers=0)
    save(server, "a", "final", DRAWN, label_info=NAMES)
    statuses = [server.http.post("/scoring/").status_code for _ in range(12)]
    assert statuses == [200] * 8 + [429] * 4  # two methods each
    assert server.http.delete("/scoring/").json()["status"] == "STOPPED"
    assert [task for task in server.service.tasks.tasks(state=TaskState.PENDING) if task.model == "score"] == []
    assert server.http.post("/scoring/").status_code == 200


def test_labels_are_compared_and_the_scores_kept_with_them(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", "b.nii.gz", "c.nii.gz", workers=1)
    for image in ("a", "b"):
        save(server, image, "final", DRAWN, label_info=NAMES)
    save(server, "a", "original", FOUND, params={"label_names": {"Heart": 1, "Liver": 2}})
    save(server, "c", "original", FOUND)
    started = server.http.post("/scoring/dice", json={"tolerance": 1.0, "client_id": "me"})
    assert started.status_code == 200
    assert started.json()["status"] == "SUBMITTED"
    assert started.json()["request"] == {"method": "dice", "tolerance": 1.0, "client_id": "me"}
    done = ended(server)
    assert (done["id"], done["status"], done["exit_code"]) == (started.json()["id"], "DONE", 0)
    heart, liver = 2 * 24 / (24 + 36), 0.0
    info = label_info(server, "a")
    scores = info["scores"]["dice"]
    assert scores["dice"] == pytest.approx((heart + liver) / 2)
    assert (scores["against"], scores["versions"]) == ("original", [1, 1])
    by_name = {score["name"]: score for score in scores["structures"]}
    assert by_name["Heart"]["dice"] == heart
    assert by_name["Heart"]["hausdorff"] == 2.0, "one slice"
    assert by_name["Liver"]["hausdorff"] == 6 * 0.75
    assert by_name["Liver"]["volume_a"] == pytest.approx(4 * 0.75 / 1000, abs=1e-4)
    assert info["label_info"] == NAMES, "what was there stays"
    assert server.http.get("/datastore/image/info", params={"image": "a"}).json()["dice"] == scores["dice"]
    assert "dice" not in server.http.get("/datastore/image/info", params={"image": "b"}).json()
    assert server.http.get("/datastore/", params={"output": "all"}).json()["objects"]["a"]["labels"]["final"]["info"]["scores"]["dice"]
    assert server.http.get("/scoring/", params={"check_if_running": True}).status_code == 404
    assert [task["status"] for task in server.http.get("/scoring/", params={"all": True}).json()] == ["DONE"]


def test_whoever_waits_gets_the_scores(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", "b.nii.gz", workers=1)
    save(server, "a", "final", DRAWN, label_info=NAMES)
    save(server, "a", "original", DRAWN)
    save(server, "b", "review", FOUND)
    save(server, "b", "final", DRAWN)
    waited = {"run_sync": True}
    assert server.http.post("/scoring/dice", params=waited).json() == {"a": 1.0}
    assert [one["name"] for one in label_info(server, "a")["scores"]["dice"]["structures"]] == ["Heart", "Liver"], "names of the other"
    assert 0 < server.http.post("/scoring/dice", params=waited, json={"y_pred": "review"}).json()["b"] < 1
    totals = server.http.post("/scoring/sum", params=waited).json()
    assert totals["a"]["voxels"] == {"Heart": 24, "Liver": 4}
    assert (totals["a"]["sum"], totals["a"]["slices"]) == (28, 3)
    for tag in ("final", "original"):
        info = label_info(server, "a", tag)
        assert (info["sum"], info["slices"]) == (28, 3)
    assert set(label_info(server, "a")["scores"]) == {"dice", "sum"}
    both = server.http.post("/scoring/", params=waited).json()
    assert {method: set(one["result"]) for method, one in both.items()} == {"dice": {"a"}, "sum": {"a", "b"}}
    listed = server.http.post("/scoring/").json()
    assert {one["result"]["status"] for one in listed.values()} == {"SUBMITTED"}


def test_one_run_at_a_time_which_can_be_stopped(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz")
    assert server.http.get("/scoring/").status_code == 404
    assert server.http.get("/scoring/", params={"all": True}).status_code == 404
    assert server.http.delete("/scoring/").json() is None
    assert server.http.post("/scoring/sum").status_code == 200
    assert server.http.post("/scoring/dice").status_code == 429
    assert server.http.get("/scoring/", params={"check_if_running": True}).json()["status"] == "SUBMITTED"
    stopped = server.http.delete("/scoring/").json()
    assert stopped["status"] == "STOPPED" and stopped["details"]
    assert server.http.get("/scoring/").json()["status"] == "STOPPED"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/scoring/nope", "{}", 404),
        ("/scoring/dice", "[1]", 422),
        ("/scoring/dice", '{"tolerance": -1}', 422),
        ("/scoring/dice", '{"tolerance": ' + "9" * 4000 + "}", 422),
        ("/scoring/dice", '{"note": 1e999}', 422),
        ("/scoring/dice", '{"tolerance": "much"}', 422),
        ("/scoring/dice", '{"y": "../x"}', 422),
        ("/scoring/dice", '{"y_pred": 3}', 422),
    ],
)
def test_what_is_asked_is_checked(idle: LabelServer, path: str, body: str, status: int) -> None:
    answer = idle.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert idle.http.get("/scoring/").status_code == 404, "nothing was started"


def test_a_label_that_was_drawn_anew_meanwhile_keeps_its_own_scores(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", workers=1)
    save(server, "a", "final", DRAWN)
    assert server.http.post("/scoring/sum", params={"run_sync": True}).json()["a"]["sum"] == 28
    save(server, "a", "final", FOUND)
    server.service.tasks.work("score")
    assert "scores" not in label_info(server, "a")
    assert server.http.post("/scoring/sum", params={"run_sync": True}).json()["a"]["sum"] == 40
    assert label_info(server, "a")["sum"] == 40


def test_labels_that_cannot_be_scored_are_left_out_and_said(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", "b.nii.gz", workers=1)
    for image in ("a", "b"):
        save(server, image, "final", DRAWN)
        save(server, image, "original", DRAWN)
    path = server.studies / "labels" / "original" / "b.nii.gz"
    nifti.write_labels(path, np.zeros((6, 8, 9)), Geometry((9, 8, 6)))
    os.utime(path, (OLD, OLD))
    until(lambda: True if label_info(server, "b", "original").get("ts") and server.service.database else None)
    server.app.state.labels.annotation.datastore.look()
    assert server.http.post("/scoring/dice", params={"run_sync": True}).json() == {"a": 1.0}
    assert "different grids" in " ".join(server.http.get("/scoring/").json()["details"])


def test_scores_of_new_labels_by_themselves_where_that_is_wanted(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", workers=1, auto_scoring=True)
    save(server, "a", "original", FOUND)
    save(server, "a", "final", DRAWN)
    first = until(lambda: label_info(server, "a").get("scores"))
    assert 0 < first["dice"]["dice"] < 1
    save(server, "a", "final", FOUND)
    until(lambda: True if label_info(server, "a").get("scores", {}).get("dice", {}).get("dice") == 1 else None)
    count = len(server.http.get("/scoring/", params={"all": True}).json())
    assert server.http.post("/scoring/sum", params={"run_sync": True}).status_code == 200
    assert len(server.http.get("/scoring/", params={"all": True}).json()) == count + 1, "what is scored is not scored again"


# ---- what images look like


def ordinary(server: LabelServer, count: int) -> None:
    for seed in range(count):
        path = server.studies / f"chest{seed}.nii.gz"
        nifti.write(path, chest_ct((32, 28, 20), (12.0, 13.0, 16.0), seed=seed).volume)
        os.utime(path, (OLD, OLD))


def odd(server: LabelServer) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 28, 32)).astype(np.int16)
    path = server.studies / "noise.nii.gz"
    nifti.write(path, Volume(noise, Geometry((32, 28, 20), (1.0, 1.0, 5.0))))
    os.utime(path, (OLD, OLD))


def described(server: LabelServer) -> dict[str, Any]:
    return {
        name: one for name, one in server.app.state.labels.annotation.datastore.findings.looks(COARSE).items() if one.vector is not None
    }


def ask(server: LabelServer, strategy: str, who: str = "ann") -> dict[str, Any]:
    found: dict[str, Any] = server.http.post(f"/activelearning/{strategy}", json={"client_id": who}).json()
    return found


def test_the_image_that_is_unlike_the_others_comes_first(label_server: Callable[..., LabelServer], tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / "studies" / "labels" / "final").mkdir(parents=True)
    server = label_server(folder=folder, workers=1, active_learning=True)
    ordinary(server, 5)
    odd(server)
    (server.studies / "broken.nii.gz").write_bytes((server.studies / "noise.nii.gz").read_bytes()[:2000])
    os.utime(server.studies / "broken.nii.gz", (OLD, OLD))
    store = server.app.state.labels.annotation.datastore
    until(lambda: True if len(described(server)) == 6 else None)
    usual = ask(server, "diversity")
    assert usual["id"].startswith("chest") and "weight" not in usual
    phantom = chest_ct((32, 28, 20), (12.0, 13.0, 16.0), seed=0)
    nifti.write_labels(store.layout.labels / "final" / "chest0.nii.gz", np.zeros(phantom.volume.voxels.shape), phantom.volume.geometry)
    os.utime(store.layout.labels / "final" / "chest0.nii.gz", (OLD, OLD))
    store.look()
    different = ask(server, "diversity", "bob")
    assert different["id"] == "noise"
    assert different["weight"] > 0.3
    given = [ask(server, "diversity", f"p{n}").get("id") for n in range(3)]
    assert len({different["id"], *given}) == 4, "nobody has another's image"
    until(lambda: True if not server.service.tasks.work("describe") else None)
    assert server.http.get("/info/").json()["strategies"]["diversity"]["description"]


def test_before_anything_is_known_the_choice_is_by_chance_and_says_so(label_server: Callable[..., LabelServer]) -> None:
    server = label_server("a.nii.gz", "b.nii.gz")
    for strategy in ("diversity", "uncertainty"):
        said = ask(server, strategy)["strategy"][strategy]
        assert (said["chosen_by"], said["client_id"]) == ("random", "ann")
        assert said["why"]


def test_what_waits_is_limited_and_goes_on_after_a_kill_and_a_restart(label_server: Callable[..., LabelServer], tmp_path: Path) -> None:
    folder = tmp_path / "site"
    first = label_server(folder=folder, active_learning=True)
    ordinary(first, 6)
    for number in range(200):
        first.put(f"small{number}.nii.gz")
    first.app.state.labels.annotation.datastore.look()
    until(lambda: True if len(first.service.tasks.work("describe", limit=100)) == 2 else None)
    first.stop()
    server = label_server(folder=folder, workers=1, active_learning=True)
    killed = until(lambda: _background(server))
    killed.kill()
    until(lambda: True if len(described(server)) == 206 else None)
    until(lambda: True if not server.service.tasks.work("describe") else None)


def _background(server: LabelServer) -> psutil.Process | None:
    """The worker that looks at images now."""
    holders = [task.lease_holder for task in server.service.tasks.work("describe", limit=10) if task.lease_holder]
    try:
        return psutil.Process(int((server.settings.data / "run" / f"{holders[0]}.lock").read_text())) if holders else None
    except (OSError, ValueError, psutil.NoSuchProcess):  # it ended just now
        return None
