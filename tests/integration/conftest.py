"""Tests marked ``container`` run where a container engine works, and are left out, loudly, where none does.

A server with a datastore, and with workers where a test wants them.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

import delineate.testing.models
from delineate import nifti
from delineate.engines.local import LocalEngine
from delineate.geometry import Geometry
from delineate.server.app import create_app
from delineate.server.monai_label.annotation import image_folders
from delineate.server.service import Service
from delineate.server.settings import Settings
from delineate.testing.containers import UsableEngine, usable_engine
from delineate.volume import Volume

OLD = 1_700_000_000
ENGINE = pytest.StashKey[UsableEngine]()


@pytest.hookimpl(trylast=True)  # after -m and -k have taken their share, so that nobody waits for an engine in vain
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("container")]
    if not wanting:
        return
    engine, why = usable_engine()
    if engine is not None:
        config.stash[ENGINE] = engine
        return
    items[:] = [item for item in items if item not in wanting]
    config.hook.pytest_deselected(items=wanting)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"NOT RUN: {len(wanting)} container tests, because no container engine works here: {why}", yellow=True)


@pytest.fixture
def container_engine(request: pytest.FixtureRequest) -> UsableEngine:
    """The engine that works here."""
    return request.config.stash[ENGINE]


class LabelServer:
    """A server with a datastore in a thread, on a free port; its workers, if any, are real."""

    def __init__(self, folder: Path, images: tuple[str, ...] = (), *, workers: int = 0, has_studies: bool = True, **settings: Any) -> None:
        self.studies = folder / "studies"
        self.studies.mkdir(parents=True, exist_ok=True)
        for name in images:
            self.put(name)
        studies = self.studies if has_studies else None
        models = (Path(delineate.testing.models.__path__[0]), *settings.pop("models", ()))
        settings.setdefault("active_learning", False)  # tasks of the server's own would come between those that are counted
        self.settings = Settings(data=folder / "data", models=models, studies=studies, sync=False, workers=workers, **settings)
        self.engine = None
        if workers:
            self.engine = LocalEngine(self.settings.data, models, workers, sync=False, roots=image_folders(self.settings))
        self.app = create_app(self.settings, self.engine)
        self.service: Service = self.app.state.service
        if self.engine is not None:
            self.engine.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def put(self, name: str, shape: tuple[int, int, int] = (6, 8, 10)) -> Path:
        """An image in the folder, as people put it there."""
        path = self.studies / name
        nifti.write(path, label_volume(shape))
        os.utime(path, (OLD, OLD))  # what was written just now may not be whole yet
        return path

    def stop(self) -> None:
        if self.http.is_closed:
            return
        self.http.close()
        self.app.state.watcher.close()
        self._server.should_exit = True
        self._thread.join(10)
        if self.engine is not None:
            self.engine.stop(2.0)
        assert not self._thread.is_alive()


def label_volume(shape: tuple[int, int, int] = (6, 8, 10)) -> Volume:
    """Air with a block of bone in it; indices are told apart by their order."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[1:3, 2:5, 3:7] = 700
    return Volume(voxels, Geometry(shape[::-1], (0.5, 0.75, 2.0), (10.0, -20.0, 30.0)))


@pytest.fixture(scope="session")
def label_server_class() -> type[LabelServer]:
    """For tests that share one server."""
    return LabelServer


@pytest.fixture
def label_server(tmp_path: Path) -> Iterator[Callable[..., LabelServer]]:
    """Starts servers; they end with the test."""
    made: list[LabelServer] = []

    def start(*images: str, folder: Path | None = None, **settings: Any) -> LabelServer:
        made.append(LabelServer(folder or tmp_path / f"server{len(made)}", images, **settings))
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def slow(label_server: Callable[..., LabelServer], tmp_path: Path) -> LabelServer:
    """With four images, one worker, and a model that takes a minute."""
    folder = tmp_path / "models" / "slow"
    folder.mkdir(parents=True)
    parameters = '[parameters]\nclass = "delineate.testing.models.toys:Sleeper"\nseconds = 60.0\n'
    (folder / "model.toml").write_text(f'name = "slow"\nrunner = "python"\n{parameters}[[structures]]\nname = "Toy"\nlabel = 1\n')
    return label_server("a.nii.gz", "b.nii.gz", "c.nii.gz", "ct.nii.gz", workers=1, models=(folder.parent,))
