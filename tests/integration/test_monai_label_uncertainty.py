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
from delineate.testing.phantoms import Phantom, chest_ct
from delineate.volume import Volume

from .conftest import OLD, LabelServer

Found = TypeVar("Found")
NOISY = "noisy"


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


def chest(seed: int) -> Phantom:
    return chest_ct((48, 42, 30), (8.0, 8.5, 11.0), seed=seed)


def put(folder: Path, name: str, volume: Volume) -> None:
    path = folder / f"{name}.nii.gz"
    nifti.write(path, volume)
    os.utime(path, (OLD, OLD))


def label(server: LabelServer, seed: int) -> None:
    phantom = chest(seed)
    buffer = io.BytesIO()
    nifti.write_labels(buffer, phantom.segmentation.mask("Lung_L") + 2 * phantom.segmentation.mask("Lung_R"), phantom.volume.geometry)
    params = {"label_info": [{"name": "Lung_L", "idx": 1}, {"name": "Lung_R", "idx": 2}]}
    files = {"params": (None, json.dumps(params)), "label": ("l.nii.gz", buffer.getvalue())}
    assert server.http.put("/datastore/label", params={"image": f"chest{seed}", "tag": "final"}, files=files).status_code == 200


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
    """Five chests, one of them all noise, one with a label."""
    folder = tmp_path / "site"
    (folder / "studies").mkdir(parents=True)
    for seed in range(4):
        put(folder / "studies", f"chest{seed}", chest(seed).volume)
    phantom = chest(4)
    noise = np.random.default_rng(4).normal(0, 350, phantom.volume.voxels.shape)
    put(folder / "studies", NOISY, Volume((phantom.volume.voxels + noise).astype(np.int16), phantom.volume.geometry))
    server = label_server(folder=folder, workers=1)
    label(server, 0)
    yield server


def test_the_doubtful_image_comes_first_after_each_training(server: LabelServer) -> None:
    assert ask(server, "early")["strategy"]["uncertainty"]["chosen_by"] == "random"
    server.app.state.labels.annotation.datastore.release("early")
    train(server)
    looked(server, 1, 4)
    assert set(doubts(server)) == {"chest1", "chest2", "chest3", NOISY}, "of those without a label"
    first, second = ask(server, "ann"), ask(server, "bob")
    assert first["id"] == NOISY
    assert first["weight"] == doubts(server)[NOISY][1]
    assert first["weight"] > second["weight"] > 0
    said = first["strategy"]["uncertainty"]
    assert (said["model"], said["model_version"], said["client_id"]) == ("voxel-forest", 1, "ann")
    label(server, 1)
    train(server)
    looked(server, 2, 3)
    assert doubts(server)["chest1"][0] == 1, "it has a label now"
    phantom = chest(9)
    put(server.studies, "late", phantom.volume)
    until(lambda: True if doubts(server).get("late", (0, None))[0] == 2 else None)


def test_a_worker_that_is_killed_and_an_image_that_is_broken_stop_nothing(server: LabelServer) -> None:
    path = server.studies / "chest3.nii.gz"
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
    assert doubts(server)["chest3"] == (1, None), "it is not tried again and again"
    until(lambda: True if not server.service.tasks.work("doubt", limit=10) else None)
    assert ask(server, "ann")["id"] == NOISY
