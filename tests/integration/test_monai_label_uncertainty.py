"""What the trained model doubts: found out in the background after each training, and asked for first."""

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

try:
    import lightgbm  # noqa: F401
except (ImportError, OSError):  # the latter without the system's libgomp
    pytest.skip("LightGBM cannot be loaded: it needs the system's libgomp1", allow_module_level=True)

import delineate.engines.local
from delineate import nifti
from delineate.geometry import Geometry
from delineate.volume import Volume

from .conftest import OLD, LabelServer

Found = TypeVar("Found")
NOISY = "noisy"
GRID = Geometry((30, 28, 20), (3.0, 3.0, 3.0))


@pytest.fixture(autouse=True)
def _no_standing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other tests run at once, what stands back from all of them never ends."""
    monkeypatch.setattr(delineate.engines.local, "BACKGROUND_NICE", 0)
    monkeypatch.setattr(delineate.engines.local, "BACKGROUND_SESSION_NICE", 0)


def until(look: Callable[[], Found | None], seconds: float = 90.0) -> Found:
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Scene:
    """A ball in a block, somewhere else for each seed: small, so that learning takes a second."""

    def __init__(self, seed: int, noise: float = 15.0) -> None:
        generator = np.random.default_rng(seed)
        middle = np.array([10, 14, 15]) + generator.integers(-2, 3, 3)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij"), axis=-1)
        self.ball = np.linalg.norm(grid - middle, axis=-1) < 6
        values = np.full(GRID.shape, -1000.0)
        values[2:-2, 3:-3, 3:-3] = 0
        values[self.ball] = 250
        self.volume = Volume((values + generator.normal(0, noise, GRID.shape)).astype(np.int16), GRID)


def put(folder: Path, name: str, volume: Volume) -> None:
    path = folder / f"{name}.nii.gz"
    nifti.write(path, volume)
    os.utime(path, (OLD, OLD))


def label(server: LabelServer, seed: int) -> None:
    buffer = io.BytesIO()
    nifti.write_labels(buffer, Scene(seed).ball, GRID)
    params = {"label_info": [{"name": "Ball", "idx": 1}]}
    files = {"params": (None, json.dumps(params)), "label": ("l.nii.gz", buffer.getvalue())}
    assert server.http.put("/datastore/label", params={"image": f"ball{seed}", "tag": "final"}, files=files).status_code == 200


def train(server: LabelServer) -> None:
    answer = server.http.post("/train/voxel-forest", params={"run_sync": True}, json={}, timeout=120)
    assert answer.status_code == 200, answer.text


def doubts(server: LabelServer) -> dict[str, tuple[int, float | None]]:
    found = server.app.state.labels.annotation.datastore.findings.doubts("voxel-forest")[1]
    return {image: (one.version, one.value) for image, one in found.items()}


def looked(server: LabelServer, version: int, count: int) -> Any:
    return until(lambda: True if sum(of == version for of, _ in doubts(server).values()) == count else None)


def ask(server: LabelServer, who: str) -> dict[str, Any]:
    found: dict[str, Any] = server.http.post("/activelearning/uncertainty", json={"client_id": who}).json()
    return found


@pytest.fixture
def server(tmp_path: Path, label_server: Callable[..., LabelServer]) -> Iterator[LabelServer]:
    """Five images, one of them all noise, one with a label."""
    folder = tmp_path / "site"
    (folder / "studies").mkdir(parents=True)
    for seed in range(4):
        put(folder / "studies", f"ball{seed}", Scene(seed).volume)
    put(folder / "studies", NOISY, Scene(4, noise=350).volume)
    server = label_server(folder=folder, workers=1, active_learning=True)
    label(server, 0)
    yield server


def test_the_doubtful_image_comes_first_after_each_training(server: LabelServer) -> None:
    assert ask(server, "early")["strategy"]["uncertainty"]["chosen_by"] == "random"
    server.app.state.labels.annotation.datastore.release("early")
    train(server)
    looked(server, 1, 4)
    assert set(doubts(server)) == {"ball1", "ball2", "ball3", NOISY}, "of those without a label"
    first, second = ask(server, "ann"), ask(server, "bob")
    assert first["id"] == NOISY
    assert first["weight"] == doubts(server)[NOISY][1]
    assert first["weight"] > second["weight"] >= 0
    said = first["strategy"]["uncertainty"]
    assert (said["model"], said["model_version"], said["client_id"]) == ("voxel-forest", 1, "ann")
    label(server, 1)
    train(server)
    looked(server, 2, 3)
    assert doubts(server)["ball1"][0] == 1, "it has a label now"
    put(server.studies, "late", Scene(9).volume)
    until(lambda: True if doubts(server).get("late", (0, None))[0] == 2 else None)


def test_a_worker_that_is_killed_and_an_image_that_is_broken_stop_nothing(server: LabelServer) -> None:
    path = server.studies / "ball3.nii.gz"
    path.write_bytes(path.read_bytes()[:5000])
    os.utime(path, (OLD, OLD))
    server.app.state.labels.annotation.datastore.look()
    train(server)

    def working() -> psutil.Process | None:
        holders = [task.lease_holder for task in server.service.tasks.work("doubt", limit=10) if task.lease_holder]
        try:
            return psutil.Process(int((server.settings.data / "run" / f"{holders[0]}.lock").read_text())) if holders else None
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None

    until(working).kill()
    looked(server, 1, 4)
    assert doubts(server)["ball3"] == (1, None), "it is not tried again and again"
    until(lambda: True if not server.service.tasks.work("doubt", limit=10) else None)
    assert ask(server, "ann")["id"] == NOISY
