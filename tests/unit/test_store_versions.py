"""Versions of models: published once, chosen, removed, pruned, and never half there."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from delineate.errors import SettingsError, UnknownModelError
from delineate.model import Model
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.models import ModelStore
from delineate.store.shelf import ModelShelf
from delineate.store.tasks import TaskStore
from delineate.store.versions import split
from delineate.task import BACKGROUND, WORK, TaskState


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder}/delineate.db", sync=False)
        self.database.migrate()
        self.blobs = BlobStore(folder / "blobs", sync=False)
        self.tasks = TaskStore(self.database, self.blobs)
        self.models = ModelStore([], self.database, self.blobs)

    def publish(self, text: str, name: str = "forest", *, cancel: bool = False) -> TaskState:
        """A task that ends with a new version."""
        given = self.blobs.incoming()
        given.write(b"{}")
        task = self.tasks.submit(model="train", archive=given, owner="me", protocol=WORK, lane=BACKGROUND)
        assert self.tasks.claim("w", lane=BACKGROUND) is not None
        path = self.folder / "model.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo("weights"), text)
        model, result = self.blobs.adopt(path), self.blobs.incoming()
        result.write(b"answer")
        model.seal()
        digest, size = model.digest, model.size
        if cancel:
            self.tasks.cancel(task.uid)

        def also(connection: object) -> None:
            record = Model(name=name, runner="python")
            self.models.versions.publish(connection, model=record, digest=digest, size=size, who="me", info={"dice": 0.9})  # type: ignore[arg-type]

        return self.tasks.finish(task.uid, "w", result=result, beside={"model": model}, also=also).state

    def weights(self, name: str) -> str:
        folder = self.models.folder(name)
        assert folder is not None
        return (folder / "weights").read_text()

    def versions(self) -> list[tuple[int, bool]]:
        return [(one.version, one.is_current) for one in self.models.versions.versions("forest")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.database.close()


def test_each_end_of_a_training_is_a_version(site: Site) -> None:
    assert (site.publish("one"), site.publish("two")) == (TaskState.FINISHED, TaskState.FINISHED)
    assert site.versions() == [(2, True), (1, False)]
    assert [site.weights(name) for name in ("forest", "forest@1", "forest@2")] == ["two", "one", "two"]
    assert [site.models.get(name).version for name in ("forest", "forest@1")] == ["2", "1"]
    assert [model.name for model in site.models.models()] == ["forest"]
    with pytest.raises(UnknownModelError):
        site.models.get("forest@3")


def test_a_training_that_was_cancelled_in_the_last_moment_publishes_nothing(site: Site) -> None:
    assert site.publish("one", cancel=True) is TaskState.CANCELLED
    assert site.versions() == []
    with pytest.raises(UnknownModelError):
        site.models.get("forest")


def test_the_way_back(site: Site) -> None:
    for text in ("one", "two"):
        site.publish(text)
    site.models.versions.select("forest", 1)
    assert (site.weights("forest"), site.versions()) == ("one", [(2, False), (1, True)])
    assert site.publish("three") is TaskState.FINISHED
    assert site.versions() == [(3, True), (2, False), (1, False)]
    with pytest.raises(UnknownModelError):
        site.models.versions.select("forest", 9)


def test_a_version_that_is_removed_leaves_the_newest_of_the_others(site: Site) -> None:
    for text in ("one", "two", "three"):
        site.publish(text)
    site.models.remove_version("forest", 2)
    assert site.versions() == [(3, True), (1, False)]
    site.models.remove_version("forest", 3)
    assert (site.weights("forest"), site.versions()) == ("one", [(1, True)])
    site.models.remove_version("forest", 1)
    for call in (lambda: site.models.get("forest"), lambda: site.models.remove_version("forest", 1)):
        with pytest.raises(UnknownModelError):
            call()


def test_the_oldest_go_and_the_current_one_stays(site: Site) -> None:
    for text in ("one", "two", "three", "four"):
        site.publish(text)
    site.models.versions.select("forest", 1)
    kept = {one.version: one.archive for one in site.models.versions.versions("forest")}
    for task in site.tasks.work("train", limit=9):
        site.tasks.delete(task.uid)  # a version's file does not go with the task that made it
    site.models.prune("forest", 2)
    assert site.versions() == [(4, False), (3, False), (1, True)]
    assert {version: site.blobs.path(digest).exists() for version, digest in kept.items()} == {1: True, 2: False, 3: True, 4: True}
    site.models.remove("forest")
    assert not any(site.blobs.path(digest).exists() for digest in kept.values())


def test_the_name_of_a_registered_model_is_not_taken(site: Site) -> None:
    site.models.register(Model(name="forest", runner="container"))
    with pytest.raises(SettingsError, match="taken"):
        site.publish("one")
    assert site.tasks.work("train")[0].state is TaskState.RUNNING
    assert site.models.get("forest").runner == "container"


def test_a_worker_s_shelf_notices_a_new_version_at_once(site: Site) -> None:
    shelf = ModelShelf(ModelStore([], site.database, site.blobs), clock=lambda: 0.0)  # no time passes
    site.publish("one")
    first, _ = shelf.find("forest")
    assert shelf.find("forest")[0] is first
    site.publish("two")
    second, folder = shelf.find("forest")
    assert second.digest != first.digest and folder is not None and (folder / "weights").read_text() == "two"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a", None)),
        ("a@12", ("a", 12)),
        ("a@", ("a@", None)),
        ("a@x", ("a@x", None)),
        ("a@²", ("a@²", None)),
        ("a@1@2", ("a@1@2", None)),
    ],
)
def test_names_with_versions(name: str, parts: tuple[str, int | None]) -> None:
    assert split(name) == parts
