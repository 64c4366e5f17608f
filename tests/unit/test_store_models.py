"""Models of folders and over HTTP: found when dropped in, and no broken one hides another."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from delineate.errors import ArchiveError, BlobError, SettingsError, UnknownModelError
from delineate.model import Model, ModelInput, Resources
from delineate.segmentation import Structure
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.models import ModelStore
from delineate.store.shelf import ModelShelf
from delineate.store.writer import BlobWriter

TOML = 'name = "{0}"\nrunner = "python"\n[parameters]\nclass = "model:Model"\n'


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/data/delineate.db", sync=False)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path, database: Database) -> ModelStore:
    return ModelStore([(tmp_path / "builtin", "builtin"), (tmp_path / "mine", "folder")], database, BlobStore(tmp_path / "data" / "blobs"))


def drop(folder: Path, name: str, text: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(TOML.format(name) if text is None else text, encoding="utf-8")
    return folder


def zipped(store: ModelStore, entries: dict[str, bytes]) -> BlobWriter:
    writer = store._blobs.incoming("model.zip")
    with zipfile.ZipFile(writer.path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    data = writer.path.read_bytes()
    writer.path.write_bytes(b"")
    writer.write(data)
    return writer


def blob_files(store: ModelStore) -> int:
    return sum(path.is_file() for path in store._blobs.folder.rglob("*"))


def test_models_of_folders(store: ModelStore, tmp_path: Path) -> None:
    folder = drop(tmp_path / "builtin" / "one", "one-ct")
    drop(tmp_path / "mine" / "two", "two")
    assert [(model.name, model.source) for model in store.models()] == [("one-ct", "builtin"), ("two", "folder")]
    assert store.get("one-ct").parameters == {"class": "model:Model"}
    assert store.folder("one-ct") == folder
    assert store.archive("one-ct") is None
    assert store.problems() == []


@pytest.mark.parametrize("name", ["", "three", "../one", "ONE"])
def test_unknown_models(store: ModelStore, tmp_path: Path, name: str) -> None:
    drop(tmp_path / "mine" / "one", "one")
    for ask in (store.get, store.folder, store.archive, store.remove):
        with pytest.raises(UnknownModelError):
            ask(name)


def test_dropped_in_changed_and_removed_without_a_restart(store: ModelStore, tmp_path: Path) -> None:
    assert store.models() == []
    folder = tmp_path / "mine" / "one"
    folder.mkdir(parents=True)
    assert store.models() == [], "the folder is there before its model.toml"
    drop(folder, "one")
    assert store.get("one").version == "1"
    drop(folder, "one", TOML.format("one").replace("[parameters]", 'version = "22"\n[parameters]'))
    assert store.get("one").version == "22"
    shutil.rmtree(folder)
    with pytest.raises(UnknownModelError):
        store.get("one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name = ", "valid"),
        ("", "lacks"),
        ('name = "x"', "lacks"),
        (TOML.format("../x"), "no name"),
        (TOML.format("x") + "[unknown]\na = 1\n", "unknown"),
        ('name = 5\nrunner = "python"\n', "wrong"),
        ('time_limit = "soon"\n' + TOML.format("x"), "wrong"),
        ('inputs = [{units = "furlongs"}]\n' + TOML.format("x"), "furlongs"),
        ("inputs = 5\n" + TOML.format("x"), "wrong"),
        ("spacing = [1, 1, 1]\n" + TOML.format("x"), "orientation"),
    ],
)
def test_a_broken_model_hides_no_other(store: ModelStore, tmp_path: Path, text: str, reason: str) -> None:
    drop(tmp_path / "mine" / "good", "good")
    broken = drop(tmp_path / "mine" / "broken", "", text)
    assert [model.name for model in store.models()] == ["good"]
    (problem,) = store.problems()
    assert problem.path == broken / "model.toml"
    assert reason in problem.reason
    drop(broken, "mended")
    assert (store.problems(), [model.name for model in store.models()]) == ([], ["good", "mended"])


def test_a_record_that_is_no_text(store: ModelStore, tmp_path: Path) -> None:
    (drop(tmp_path / "mine" / "bytes", "x") / "model.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "mine" / "folder" / "model.toml").mkdir(parents=True)
    assert [problem.path.parent.name for problem in store.problems()] == ["bytes", "folder"]


def test_a_name_that_is_there_twice_is_never_guessed(store: ModelStore, tmp_path: Path) -> None:
    places = [drop(tmp_path / "builtin" / "a", "same"), drop(tmp_path / "mine" / "b", "same")]
    drop(tmp_path / "mine" / "other", "other")
    with pytest.raises(SettingsError) as caught:
        store.get("same")
    assert "in 2 folders" in str(caught.value)
    assert str(tmp_path) not in caught.value.sentence(), "a client may read it"
    assert [model.name for model in store.models()] == ["other"]
    assert [problem.path for problem in store.problems()] == places
    assert all(str(place) in problem.reason for place in places for problem in store.problems())


def test_digest_of_a_folder(store: ModelStore, tmp_path: Path) -> None:
    folder = drop(tmp_path / "mine" / "one", "one")
    (folder / "weights.bin").write_bytes(b"1" * 100)
    assert store.get("one").digest == "", "nobody asked for it yet"
    first = store.get("one", digest=True).digest
    assert len(first) == 64
    assert store.get("one").digest == first
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"x")
    assert store.get("one", digest=True).digest == first
    (folder / "weights.bin").write_bytes(b"2" * 100)
    os.utime(folder / "weights.bin", ns=(1, 1))
    assert store.get("one").digest == ""
    second = store.get("one", digest=True).digest
    assert second not in ("", first)
    (folder / "weights.bin").rename(folder / "other.bin")
    assert store.get("one", digest=True).digest not in (first, second)
    copy = shutil.copytree(folder, tmp_path / "builtin" / "copy")
    (copy / "model.toml").write_text((folder / "model.toml").read_text().replace("one", "two"))
    assert store.get("two", digest=True).digest != store.get("one", digest=True).digest


def test_register_survives_a_restart_and_keeps_everything(store: ModelStore, tmp_path: Path, database: Database) -> None:
    model = Model(
        name="a model + more",
        runner="container",
        inputs=(ModelInput(modality="CT", units="HU"),),
        orientation="LPS",
        spacing=(1.0, 1.0, 2.0),
        structures=(Structure(label=1, name="Heart", colour=(1, 2, 3)),),
        prompts=("roi",),
        resources=Resources(memory_mb=5, gpu=True),
        parameters={"image": "localhost/x:1", "user": None},
    )
    registered = store.register(model)
    assert registered.source == "http" and len(registered.digest) == 64
    again = ModelStore([], database, BlobStore(tmp_path / "data" / "blobs")).get("a model + more")
    assert again == registered
    assert again.to_dict() | {"digest": "", "source": "folder"} == model.to_dict()
    assert store.folder("a model + more") is None
    store.remove("a model + more")
    with pytest.raises(UnknownModelError):
        store.get("a model + more")


def test_names_are_unique_across_sources(store: ModelStore, tmp_path: Path) -> None:
    folder = drop(tmp_path / "mine" / "one", "one")
    with pytest.raises(SettingsError, match="taken") as caught:
        store.register(Model(name="one", runner="container"), zipped(store, {"a": b"1"}))
    assert "the folder 'one'" in str(caught.value)
    assert str(folder) not in str(caught.value)
    store.register(Model(name="two", runner="container"))
    with pytest.raises(SettingsError, match="over HTTP"):
        store.register(Model(name="two", runner="container"), zipped(store, {"a": b"1"}))
    assert blob_files(store) == 0
    later = drop(tmp_path / "mine" / "two", "two")
    with pytest.raises(SettingsError) as caught:
        store.get("two")
    assert "the folder 'two'" in str(caught.value) and "HTTP" in str(caught.value)
    assert [model.name for model in store.models()] == ["one"]
    assert [problem.path for problem in store.problems()] == [later]
    with pytest.raises(SettingsError, match="is the folder"):
        store.remove("one")
    store.remove("two")
    assert store.get("two").source == "folder"


def test_archives_are_unpacked_once_and_removed(store: ModelStore, tmp_path: Path) -> None:
    registered = store.register(Model(name="m", runner="container"), zipped(store, {"run.py": b"print()", "sub/weights": b"w"}))
    archive = store.archive("m")
    assert archive is not None and archive.digest == registered.digest
    folder = store.folder("m")
    assert folder == tmp_path / "data" / "models" / archive.digest
    assert (folder / "sub" / "weights").read_bytes() == b"w"
    inode = folder.stat().st_ino
    assert store.folder("m") == folder and folder.stat().st_ino == inode
    (folder.parent / ".interrupted").mkdir()
    assert store.sweep() == 1
    assert folder.is_dir()
    store.remove("m")
    assert (blob_files(store), store.sweep(), folder.exists()) == (0, 1, False)


def test_unsafe_and_altered_archives_leave_nothing(store: ModelStore, tmp_path: Path) -> None:
    store.register(Model(name="unsafe", runner="container"), zipped(store, {"../escape": b"x"}))
    with pytest.raises(ArchiveError):
        store.folder("unsafe")
    store.register(Model(name="altered", runner="container"), zipped(store, {"a": b"x"}))
    archive = store.archive("altered")
    assert archive is not None
    store._blobs.path(archive.digest).write_bytes(b"x")
    with pytest.raises(BlobError):
        store.folder("altered")
    assert list((tmp_path / "data" / "models").iterdir()) == []
    assert not (tmp_path / "data" / "escape").exists()


def test_who_comes_second_takes_what_the_first_unpacked(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.register(Model(name="m", runner="container"), zipped(store, {"a": b"x"}))
    real = Path.rename

    def first(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / "a").write_bytes(b"of the first")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", first)
    folder = store.folder("m")
    assert folder is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "a").read_bytes() == b"of the first"


def test_a_shelf_remembers_for_half_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    record = folder / "model.toml"
    record.write_text('name = "m"\nrunner = "python"\nversion = "1"\n')
    database = Database(f"sqlite:///{tmp_path / 'd.db'}", sync=False)
    database.migrate()
    now = [0.0]
    shelf = ModelShelf(ModelStore([(tmp_path / "models", "folder")], database, BlobStore(tmp_path / "blobs")), lambda: now[0])
    assert not shelf.is_listed
    listed = shelf.models()
    assert (shelf.is_listed, [model.name for model in listed], shelf.get("m").version) == (True, ["m"], "1")
    now[0] += 1
    assert not shelf.is_listed and shelf.models() is listed, "the same object as long as nothing changes"
    record.write_text('name = "m"\nrunner = "python"\nversion = "22"\n')
    assert shelf.models() is listed
    now[0] += 1
    assert [model.version for model in shelf.models()] == [shelf.get("m").version] == ["22"]
    shutil.rmtree(folder)
    assert shelf.get("m").version == "22"
    now[0] += 1
    for _ in range(2):
        with pytest.raises(UnknownModelError):
            shelf.get("m")
    database.close()
