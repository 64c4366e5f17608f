"""Training on the server: labels in, a version of the model out, whatever dies on the way."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import psutil
import pytest

try:
    import lightgbm  # noqa: F401
except (ImportError, OSError):  # the latter without the system's libgomp
    pytest.skip("LightGBM cannot be loaded: it needs the system's libgomp1", allow_module_level=True)

from delineate import nifti
from delineate.engines import local
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import TaskState
from delineate.testing.phantoms import Phantom, chest_ct

from .conftest import LabelServer

Found = TypeVar("Found")
NAMES = [{"name": "Lung_L", "idx": 1}, {"name": "Lung_R", "idx": 2}]


def chest(seed: int) -> Phantom:
    """Those from 10 on are longer: a training of one takes some seconds."""
    if seed >= 10:
        return chest_ct((64, 56, 60), (6.0, 6.5, 7.0), seed=seed)
    return chest_ct((64, 56, 24), (6.0, 6.5, 4.0), seed=seed)


def lungs(phantom: Phantom) -> np.ndarray:
    return (phantom.segmentation.mask("Lung_L") + 2 * phantom.segmentation.mask("Lung_R")).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.fixture(scope="module", autouse=True)
def beside_others() -> Iterator[None]:
    """Whatever else runs on this machine does not keep these trainings waiting for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "BACKGROUND_SESSION_NICE", 0)
        yield


def until(look: Callable[[], Found | None], seconds: float = 100.0) -> Found:
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Site:
    """A server with three phantoms, and a person at it."""

    def __init__(self, folder: Path, seeds: tuple[int, ...] = (0, 1, 2), **settings: Any) -> None:
        self.folder = folder
        studies = folder / "studies"
        studies.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            path = studies / f"p{seed}.nii.gz"
            if not path.exists():
                nifti.write(path, chest(seed).volume)
                os.utime(path, (1_700_000_000, 1_700_000_000))
        self.settings = {"workers": 1, **settings}
        self.begin()

    def begin(self) -> None:
        self.server = LabelServer(self.folder, **self.settings)
        self.http: httpx.Client = self.server.http

    def stop(self) -> None:
        self.server.stop()

    def label(self, seed: int, tag: str = "final", every: int = 2, **info: Any) -> None:
        phantom = chest(seed)
        planes = np.arange(phantom.volume.geometry.shape[0]) % every == 0
        path = self.folder / "label.nii.gz"
        nifti.write_labels(path, lungs(phantom) * planes[:, None, None].astype(np.uint8), phantom.volume.geometry)
        stretches = [[int(k), int(k)] for k in np.flatnonzero(planes)]
        params = {"label_info": NAMES, "annotated": stretches, **info}
        files = {"params": (None, json.dumps(params)), "label": ("l.nii.gz", path.read_bytes())}
        answer = self.http.put("/datastore/label", params={"image": f"p{seed}", "tag": tag}, files=files)
        assert answer.status_code == 200, answer.text

    def train(self, **query: Any) -> httpx.Response:
        return self.http.post("/train/voxel-forest", params=query, json={"label_tag": "final", "client_id": "me"}, timeout=200)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/train/").json()
        return found

    def trained(self, seconds: float = 200.0) -> dict[str, Any]:
        return until(lambda: found if (found := self.status())["status"] not in ("SUBMITTED", "RUNNING") else None, seconds)

    def running(self) -> psutil.Process:
        """The worker of the background, once it works on a training."""

        def look() -> psutil.Process | None:
            task = self.server.service.tasks.work("train")[0]
            if task.lease_holder is None or not task.fraction:
                return None
            return psutil.Process(int((self.server.settings.data / "run" / f"{task.lease_holder}.lock").read_text()))

        return until(look)

    def infer(self, seed: int, model: str = "voxel-forest") -> httpx.Response:
        query = {"image": f"p{seed}", "output": "image"}
        return self.http.post(f"/infer/{model}", params=query, files={"params": (None, '{"result_extension": ".nii.gz"}')})

    def agreement(self, seed: int, model: str = "voxel-forest") -> float:
        answer = self.infer(seed, model)
        assert answer.status_code == 200, answer.text
        found, truth = nifti.read(io.BytesIO(answer.content)).voxels, lungs(chest(seed))
        return min(dice(found == label, truth == label) for label in (1, 2))

    def versions(self) -> list[int]:
        return [version.version for version in self.server.service.models.versions.versions("voxel-forest")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that has learned from two phantoms."""
    site = Site(tmp_path_factory.mktemp("trained"))
    for seed in (0, 1):
        site.label(seed)
    assert site.train().status_code == 200
    assert site.trained()["status"] == "DONE", site.status()
    yield site
    site.stop()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.label(0)
    yield site
    site.stop()


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One with a label and without workers, for those who start no training."""
    site = Site(tmp_path_factory.mktemp("untrained"), workers=0)
    site.label(0)
    yield site
    site.stop()


def test_what_two_people_labelled_is_found_in_the_third(trained: Site) -> None:
    assert trained.agreement(2) > 0.9


def test_the_training_as_clients_see_it(trained: Site) -> None:
    task = trained.status()
    assert (task["status"], task["exit_code"], task["request"]) == (
        "DONE", 0, {"model": "voxel-forest", "label_tag": "final", "client_id": "me"},
    )  # fmt: skip
    assert any(line.startswith("Lung_L: Dice 0.9") for line in task["details"]), task["details"]
    info = trained.http.get("/info/").json()
    assert info["trainers"]["voxel-forest"]["config"] == {"label_tag": "final", "anew": False}
    assert info["models"]["voxel-forest"]["labels"] == {"Lung_L": 1, "Lung_R": 2}
    stats = info["train_stats"]["voxel-forest"]
    assert (stats["epoch"], stats["total_epochs"]) == (100, 100)
    assert 0.9 < stats["best_metric"] <= 1 and stats["total_time"].startswith("0:0")
    assert trained.http.get("/train/", params={"check_if_running": True}).status_code == 404
    assert [one["id"] for one in trained.http.get("/train/", params={"all": True}).json()] == [task["id"]]
    assert trained.http.delete("/train/").json() is None


def test_before_anything_was_learned(untrained: Site) -> None:
    answer = untrained.infer(1)
    assert answer.status_code == 404 and "train it" in answer.json()["advice"]
    assert "voxel-forest" not in untrained.http.get("/info/").json()["models"]
    assert untrained.http.get("/info/").json()["train_stats"] == {"voxel-forest": {}}
    assert untrained.http.get("/train/").status_code == 404
    assert untrained.http.get("/train/", params={"check_if_running": True}).status_code == 404
    assert untrained.http.get("/train/", params={"all": True}).status_code == 404
    assert untrained.http.get("/model/voxel-forest").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/train/nope", "{}", 404),
        ("/train/voxel-forest", "[1]", 422),
        ("/train/voxel-forest", "{bad", 422),
        ("/train/voxel-forest", '{"label_tag": 3}', 422),
        ("/train/voxel-forest", '{"label_tag": "../x"}', 422),
        ("/train/voxel-forest", '{"label_tag": "never"}', 422),
    ],
)
def test_what_cannot_be_trained_is_refused(untrained: Site, path: str, body: str, status: int) -> None:
    answer = untrained.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert untrained.http.get("/train/").status_code == 404


def test_one_at_a_time_unless_it_waits(tmp_path: Path) -> None:
    site = Site(tmp_path, workers=0)  # nobody takes them up
    try:
        site.label(0)
        assert site.train().json()["status"] == "SUBMITTED"
        busy = site.train()
        assert (busy.status_code, "already" in busy.json()["detail"]) == (429, True)
        second = site.train(enqueue=True).json()
        assert second["status"] == "SUBMITTED"
        listed = site.http.get("/train/", params={"all": True}).json()
        assert [task["status"] for task in listed] == ["SUBMITTED"] * 2 and listed[1]["id"] == second["id"]
        assert site.http.get("/train/", params={"check_if_running": True}).json()["id"] == listed[0]["id"]
        stopped = site.http.delete("/train/").json()
        assert (stopped["id"], stopped["status"], bool(stopped["details"])) == (listed[0]["id"], "STOPPED", True)
        assert [task["status"] for task in site.http.get("/train/", params={"all": True}).json()] == ["STOPPED"] * 2
    finally:
        site.stop()


def test_all_trainers_at_once(site: Site) -> None:
    answer = site.http.post("/train/", json={"voxel-forest": {"label_tag": "final"}, "client_id": "me"}).json()
    assert answer["voxel-forest"]["detail"] is None
    assert answer["voxel-forest"]["result"]["status"] == "SUBMITTED"
    assert site.trained()["status"] == "DONE"


def test_nothing_that_can_be_learned_from(site: Site) -> None:
    path = site.server.studies / "labels" / "final" / "p0.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    os.utime(path, (1_700_000_000, 1_700_000_000))
    answer = site.train(run_sync=True)
    assert answer.status_code == 422, answer.text
    task = site.status()
    assert (task["status"], task["exit_code"]) == ("ERROR", 1)
    assert site.versions() == []


# Long ones


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Site]:
    """One whose training takes some seconds."""
    site = Site(tmp_path, (0, 10))
    site.label(10)
    yield site
    site.stop()


def test_it_is_stopped_at_once_and_infers_do_not_wait_for_it(slow: Site) -> None:
    quick = {"output": "json", "image": "p0"}
    assert slow.http.post("/infer/noop", params=quick).status_code == 200  # the worker is up
    slow.train()
    process = slow.running()
    front = [worker["pid"] for worker in slow.server.service.engine.status()["workers"]]  # type: ignore[union-attr]
    assert process.nice() == 19 and process.pid not in front
    for _ in range(5):
        assert slow.http.post("/infer/noop", params=quick).status_code == 200
    running = slow.status()
    assert running["status"] == "RUNNING" and any("looking at image" in line for line in running["details"])
    stats = slow.http.get("/info/").json()["train_stats"]["voxel-forest"]
    assert 0 <= stats["epoch"] < 100 and "total_time" not in stats
    stopped = slow.http.delete("/train/").json()
    assert stopped["status"] == "STOPPED" and any("looking at image" in line for line in stopped["details"])
    assert slow.versions() == []


def test_killed_workers_and_servers_delay_it_only(slow: Site) -> None:
    slow.label(0)
    slow.train()
    slow.running().kill()
    until(lambda: slow.server.service.tasks.work("train")[0].lost or None)
    process = slow.running()
    # The server goes, and its workers with it, as when it is killed: nothing is settled.
    slow.server.http.close()
    slow.server.engine.stop(0)  # type: ignore[union-attr]
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    slow.server.app.state.watcher.close()
    slow.server._server.should_exit = True
    slow.server._thread.join(10)
    slow.begin()
    assert slow.trained()["status"] == "DONE", slow.status()
    assert slow.versions() == [1]
    assert len(slow.server.service.tasks.work("train", limit=9)) == 1
    assert slow.agreement(0) > 0.9


def test_the_server_s_own_death_delays_it_only(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    path = tmp_path / "studies" / "p0.nii.gz"
    nifti.write(path, chest(0).volume)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    labels = tmp_path / "studies" / "labels" / "final"
    labels.mkdir(parents=True)
    nifti.write_labels(labels / "p0.nii.gz", lungs(chest(0)), chest(0).volume.geometry)
    os.utime(labels / "p0.nii.gz", (1_700_000_000, 1_700_000_000))
    database = Database(f"sqlite:///{tmp_path / 'data' / 'delineate.db'}")
    tasks = TaskStore(database, BlobStore(tmp_path / "data" / "blobs"))
    with served(tmp_path) as (process, url):
        assert httpx.post(f"{url}/train/voxel-forest", json={}, timeout=60).json()["status"] == "SUBMITTED"
        until(lambda: tasks.work("train")[0].state is TaskState.RUNNING or None)
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs(children, timeout=10)  # they die with it
    with served(tmp_path) as (_, url):
        until(lambda: tasks.work("train")[0].state.is_final or None, 250)
        (task,) = tasks.work("train", limit=9)
        assert (task.state, task.lost) == (TaskState.FINISHED, 1), task.failure
        assert httpx.get(f"{url}/model/info/voxel-forest", timeout=60).json()["versions"] == [1]
        assert httpx.get(f"{url}/info/", timeout=60).json()["models"]["voxel-forest"]["labels"] == {"label_1": 1, "label_2": 2}
    database.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server as a process of its own."""
    options = ["--port", "0", "--data", str(folder / "data"), "--studies", str(folder / "studies"), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "delineate.cli", "serve", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().decode().rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(30) in (0, -signal.SIGKILL)


def test_what_was_seen_is_not_read_again(site: Site) -> None:
    assert site.train(run_sync=True).status_code == 200
    # A byte for byte equal size and time: the reference holds, but whoever reads it finds no image.
    path = site.server.studies / "p0.nii.gz"
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    site.label(1)
    answer = site.train(run_sync=True)
    assert answer.status_code == 200, answer.text
    assert not any("left out" in line for line in site.status()["details"])
    assert site.http.get("/model/info/voxel-forest").json()["info"]["images"] == 2


# Versions and weights


def test_versions_weights_and_the_way_back(site: Site, tmp_path: Path) -> None:
    site.train(run_sync=True)
    first = site.http.get("/model/voxel-forest")
    assert first.headers["content-disposition"] == 'attachment; filename="voxel-forest.npz"'
    info = site.http.get("/model/info/voxel-forest").json()
    assert info["checksum"] == f"SHA256:{hashlib.sha256(first.content).hexdigest()}"
    assert (info["version"], info["versions"]) == (1, [1])
    assert abs(info["modified_time"] - time.time()) < 600
    # A second one, that knows one structure only, is used at once by the worker that has the first one warm.
    assert "Lung_R" in site.http.post("/infer/voxel-forest", params={"image": "p2", "output": "json"}).text
    site.label(0, "left", label_info=[{"name": "Left", "idx": 1}])
    assert site.http.post("/train/voxel-forest", params={"run_sync": True}, json={"label_tag": "left"}, timeout=200).status_code == 200
    assert site.versions() == [2, 1]
    labels = {name: _labels(site, name) for name in ("voxel-forest", "voxel-forest@1", "voxel-forest@2")}
    assert labels["voxel-forest"] == labels["voxel-forest@2"] != labels["voxel-forest@1"] == {"Lung_L", "Lung_R"}
    unknown = site.infer(2, "voxel-forest@3")
    assert (unknown.status_code, unknown.json()["message"]) == (404, "the model voxel-forest has no version 3")
    assert site.http.get("/model/voxel-forest@1").content == first.content
    # Back to the first; what is learned next is the third.
    assert site.http.put("/model/voxel-forest", params={"version": 9}).status_code == 404
    assert site.http.put("/model/voxel-forest", params={"version": 1}).json()["version"] == 1
    assert _labels(site, "voxel-forest") == {"Lung_L", "Lung_R"}
    sent = site.http.put("/model/voxel-forest", files={"file": ("m.npz", first.content)})
    assert (sent.status_code, sent.json()["version"], sent.json()["versions"]) == (200, 3, [3, 2, 1])
    # Removed: one, which was current, and then all.
    assert site.http.delete("/model/voxel-forest@3").json() == {}
    assert site.http.get("/model/info/voxel-forest").json()["versions"] == [2, 1]
    assert site.http.delete("/model/voxel-forest").json() == {}
    assert site.http.get("/model/voxel-forest").status_code == 404
    assert site.infer(2).status_code == 404


def test_names_reach_the_training_whoever_said_them(site: Site) -> None:
    """Of a label that came without names those count that a model gave the same image."""
    site.train(run_sync=True)
    answer = site.infer(1)
    assert answer.status_code == 200, answer.text
    site.label(1, "plain", label_info=None)
    site.label(2, "plain", label_info=None, label_names={"Lung_L": 1, "Lung_R": 2})
    assert site.http.post("/train/voxel-forest", params={"run_sync": True}, json={"label_tag": "plain"}, timeout=200).status_code == 200
    assert _labels(site, "voxel-forest") == {"Lung_L", "Lung_R"}


def _labels(site: Site, model: str) -> set[str]:
    answer = site.http.post(f"/infer/{model}", params={"image": "p2", "output": "json"})
    assert answer.status_code == 200, answer.text
    return set(answer.json()["label_names"])


@pytest.mark.parametrize("data", [b"123", b"PK\x03\x04" + b"\0" * 100, b""])
def test_weights_that_are_none_change_nothing(trained: Site, data: bytes) -> None:
    before = trained.http.get("/model/info/voxel-forest").json()
    answer = trained.http.put("/model/voxel-forest", files={"file": ("m.npz", data)})
    assert (answer.status_code, "holds no weights of this model: it is no forest" in answer.json()["detail"]) == (422, True), answer.text
    assert trained.http.get("/model/info/voxel-forest").json() == before


def test_weights_that_are_not_exchanged(trained: Site) -> None:
    for path in ("/model/threshold", "/model/info/threshold", "/model/nope", "/model/voxel-forest@9"):
        assert trained.http.get(path).status_code == 404
    assert trained.http.put("/model/threshold", files={"file": ("m.npz", b"1")}).status_code == 404
    assert trained.http.put("/model/voxel-forest").status_code == 422
    assert trained.http.delete("/model/threshold").status_code == 404
