"""The result archive, and the small things around a task."""

from __future__ import annotations

import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.protocols.archive import read_result
from delineate.store import shelf as shelf_module
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.models import ModelStore
from delineate.store.shelf import ModelShelf
from delineate.task import Failure, Task, TaskState
from delineate.worker.desk import Desk
from delineate.worker.publish import publish
from delineate.worker.retries import retry_after

GRID = Geometry((4, 3, 2), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))
MODEL = Model(name="m", runner="toy", version="7", digest="d" * 64)
LAYERS = [("a/b", np.ones(GRID.shape, np.uint8), GRID, {1: "Ärm"})]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_bytes(b"pdf")
    for name in ("1", "2"):
        publish(tmp_path / name, LAYERS, {"x.pdf": tmp_path / "x.pdf"}, b"said", MODEL)
        time.sleep(0.01)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    segmentation = read_result(tmp_path / "1", GRID)
    assert segmentation.names == ["Ärm"]
    with zipfile.ZipFile(tmp_path / "1") as archive:
        assert archive.namelist() == ["a/b.nii.gz", "a/b.json", "x.pdf", "container.log", "provenance.txt"]
        text = archive.read("provenance.txt").decode()
    assert "model: m\n" in text
    assert "version: 7\n" in text
    assert f"digest: {'d' * 64}\n" in text


def test_a_model_that_said_nothing_has_no_log(tmp_path: Path) -> None:
    publish(tmp_path / "r", LAYERS, {}, b"", MODEL)
    with zipfile.ZipFile(tmp_path / "r") as archive:
        assert archive.namelist() == ["a/b.nii.gz", "a/b.json", "provenance.txt"]


def test_files_of_the_model_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"its own")
    publish(tmp_path / "r", LAYERS, {"Provenance.txt": tmp_path / "x", "container.log": tmp_path / "x"}, b"said", MODEL)
    with zipfile.ZipFile(tmp_path / "r") as archive:
        assert archive.read("Provenance.txt") == archive.read("container.log") == b"its own"
        assert archive.read("delineate-container.log") == b"said"
        assert b"model: m" in archive.read("delineate-provenance.txt")


def test_a_name_no_archive_may_hold(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(ModelError) as caught:
        publish(tmp_path / "r", LAYERS, {"back\\slash": tmp_path / "x"}, b"", MODEL)
    assert caught.value.kind == "output"


def test_a_desk_is_empty_after_each_task(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "w")
    (desk.input / "sub").mkdir()
    (desk.input / "sub" / "file").write_bytes(b"x")
    (desk.temporary / "link").symlink_to(tmp_path)
    (tmp_path / "mine").write_bytes(b"x")
    desk.output.rmdir()
    desk.result.write_bytes(b"x")
    desk.clear()
    assert all(folder.is_dir() and not list(folder.iterdir()) for folder in (desk.input, desk.output, desk.declared, desk.temporary))
    assert not desk.result.exists()
    assert (tmp_path / "mine").exists(), "links are removed, not followed"
    desk.remove()
    assert not desk.folder.exists()


def test_models_are_looked_up_again_after_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    record = folder / "model.toml"
    record.write_text('name = "m"\nrunner = "python"\nversion = "1"\n')
    database = Database(f"sqlite:///{tmp_path / 'd.db'}", sync=False)
    database.migrate()
    now = [0.0]
    shelf = ModelShelf(ModelStore([(tmp_path / "models", "folder")], database, BlobStore(tmp_path / "blobs")), lambda: now[0])
    first, place = shelf.find("m")
    assert (first.version, place) == ("1", folder)
    record.write_text('name = "m"\nrunner = "python"\nversion = "22"\n')
    assert shelf.find("m")[0] == first
    now[0] += shelf_module.FRESH * 1.01
    changed = shelf.find("m")[0]
    assert changed.version == "22"
    assert changed.digest != first.digest
    database.close()


def test_what_is_tried_again_and_when() -> None:
    task = Task(uid="u", id=1, model="m", state=TaskState.RUNNING, owner="o", protocol="v1", attempt=1)
    crash = Failure(kind="crash", message="x")
    assert [retry_after(replace(task, attempt=attempt), crash) for attempt in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert retry_after(replace(task, attempt=5, lost=4), crash) == 1.0, "lost workers say nothing about the task"
    assert all(
        retry_after(task, Failure(kind=kind, message="x")) is None
        for kind in ("input", "model", "exit", "timeout", "output", "grid", "labels", "start")
    )
