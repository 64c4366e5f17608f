"""What people do in the folder: found, changed, moved, gone; folders of MONAI Label taken over, and given back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from delineate.datastore import settling
from delineate.datastore.faults import UnknownImageError
from delineate.datastore.local import LocalDatastore
from delineate.datastore.scanning import Scanner
from delineate.datastore.watch import Watch
from delineate.errors import SettingsError, StoreError
from delineate.store.database import Database

SHARED = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


def opened(folder: Path, database: Database, **options: Any) -> LocalDatastore:
    return LocalDatastore(folder, database, **({"interval": 0.0, "settle": 0.0, "sync": False} | options))


def put(path: Path, content: bytes = b"x", age: float = 100.0) -> Path:
    """A file as somebody put it there some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def series(folder: Path, files: int = 3) -> Path:
    for number in range(files):
        put(folder / f"IM{number:04}", b"\0" * 128 + b"DICM" + bytes([number]))
    return folder


def paths(store: LocalDatastore) -> dict[str, str]:
    return {record.id: store.layout.relative(record.path) for record in store.images()}


def test_a_folder_as_people_have_it(folder: Path, database: Database) -> None:
    for name in ("a.nii.gz", "a.nrrd", "b.nii", "c.MHA", "p.png", "q.jpg", "t.tif", "u.tiff", "s.svs", "pat.1.nii.gz", "pat.2.nii.gz"):
        put(folder / name)
    for name in ("notes.txt", ".hidden.nii.gz", "Thumbs.db", ".sub/x.nii.gz"):
        put(folder / name)
    put(folder / "study1" / "ct.nii.gz")
    put(folder / "study2" / "ct.nii.gz")
    series(folder / "study2" / "SE01")
    series(folder / "1.2.840.1")
    before = sorted(folder.rglob("*"))
    store = opened(folder, database)
    assert paths(store) == {
        "a": "a.nii.gz", "a.nrrd": "a.nrrd", "b": "b.nii", "c": "c.MHA", "p": "p.png", "q": "q.jpg", "t": "t.tif", "u": "u.tiff",
        "s": "s.svs", "pat.1": "pat.1.nii.gz", "pat.2": "pat.2.nii.gz", "ct": "study1/ct.nii.gz", "study2_ct": "study2/ct.nii.gz",
        "SE01": "study2/SE01", "1.2.840.1": "1.2.840.1",
    }  # fmt: skip
    assert [path for path in before if not path.exists()] == [], "nothing moved"
    found = store.image("SE01")
    assert (found.is_series, found.extension, found.size) == (True, "", 3 * 133)
    assert store.grid("SE01") is None
    assert store.look() == 0
    store.close()
    again = opened(folder, database)
    assert paths(again) == paths(store), "ids stay"
    assert len(again.events()) == 15


@pytest.mark.shared
def test_real_dicom_folders(folder: Path, database: Database) -> None:
    sources = sorted(SHARED.glob("S0[24]*/dicom"))
    if not sources:
        pytest.skip("the real images are not here")
    for source in sources:
        shutil.copytree(source, folder / source.parent.name / "dicom")
    store = opened(folder, database, settle=-3600.0)
    assert [record.is_series for record in store.images()] == [True] * len(sources)
    assert set(paths(store)) == {"dicom", f"{sources[1].parent.name}_dicom"}


def test_labels_are_found_with_their_images(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    put(folder / "labels" / "final" / "a.nii.gz", b"one")
    put(folder / "labels" / "my tag" / "a.seg.nrrd")
    put(folder / "labels" / "my tag" / "a.nrrd", b"two")
    put(folder / "labels" / "original" / "nobody.nii.gz")
    store = opened(folder, database)
    assert {tag: label.extension for tag, label in store.labels("a").items()} == {"final": ".nii.gz", "my tag": ".nrrd"}
    assert store.label("a", "final").image_version == 1
    put(folder / "nobody.nii.gz")
    assert store.look(deep=False) == 2, "the image, and the label that lay there before it"
    assert store.label("nobody", "original").version == 1


def test_changes_are_noticed(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz", b"1")
    put(folder / "b.nii.gz", b"1")
    label = put(folder / "labels" / "final" / "a.nii.gz", b"1")
    store = opened(folder, database)
    put(folder / "a.nii.gz", b"22", age=50)
    (folder / "b.nii.gz").unlink()
    put(folder / "c.nii.gz")
    put(label, b"22", age=50)
    assert store.look() == 4
    assert set(paths(store)) == {"a", "c"}
    assert store.image("a").version == 2
    assert (store.label("a", "final").version, store.label("a", "final").image_version) == (2, 2)
    assert [version.path is None for version in store.image_versions("a")] == [True, False], "written over: its content is lost"
    label.unlink()
    assert store.look() == 1
    assert store.labels("a") == {}
    assert [event.kind for event in store.events("b")] == ["found", "gone"]
    with pytest.raises(UnknownImageError):
        store.image("b")


def test_a_light_look_sees_what_comes_and_goes(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    store = opened(folder, database)
    put(folder / "sub" / "b.nii.gz")
    assert store.look(deep=False) == 1
    put(folder / "labels" / "final" / "b.nii.gz")
    put(folder / "labels" / "new" / "a.nii.gz")
    assert store.look(deep=False) == 2
    (folder / "labels" / "new" / "a.nii.gz").unlink()
    assert store.look(deep=False) == 1
    shutil.rmtree(folder / "sub")
    assert store.look(deep=False) == 1
    assert paths(store) == {"a": "a.nii.gz"}
    series(folder / "sub" / "SE")
    assert store.look(deep=False) == 1
    assert store.image("SE").is_series
    put(folder / "sub" / "SE" / "IM9", b"\0" * 128 + b"DICM")
    assert store.look(deep=False) == 1
    assert store.image("SE").version == 2
    assert store.look(deep=False) == 0


def test_a_disk_that_comes_back_brings_everything_back(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    put(folder / "labels" / "final" / "a.nii.gz")
    store = opened(folder, database)
    store.update_image_info("a", {"patient": "p"})
    store.update_label_info("a", "final", {"approved": True})
    away = folder.with_name("away")
    away.mkdir()
    for path in (folder / "a.nii.gz", folder / "labels" / "final" / "a.nii.gz"):
        path.rename(away / f"{path.parent.name}-{path.name}")
    store.look()
    assert store.images() == []
    (away / "studies-a.nii.gz").rename(folder / "a.nii.gz")
    (away / "final-a.nii.gz").rename(folder / "labels" / "final" / "a.nii.gz")
    store.look()
    assert (store.image("a").version, store.image("a").info["patient"]) == (1, "p")
    assert (store.label("a", "final").version, store.label("a", "final").info["approved"]) == (1, True)


def test_a_moved_image_keeps_its_id_and_labels(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    put(folder / "labels" / "final" / "a.nii.gz")
    store = opened(folder, database)
    (folder / "2024").mkdir()
    (folder / "a.nii.gz").rename(folder / "2024" / "a.nii.gz")
    store.look()
    assert paths(store) == {"a": "2024/a.nii.gz"}
    assert store.label("a", "final").version == 1


def test_an_image_that_is_moved_in_the_middle_of_a_look_keeps_its_id_and_labels(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put(folder / "old" / "a.nii.gz")
    put(folder / "labels" / "final" / "a.nii.gz")
    store = opened(folder, database)
    (folder / "new").mkdir()
    before = Scanner(store.layout).look(deep=True)
    image.rename(folder / "new" / "a.nii.gz")
    both = Scanner(store.layout).look(deep=True)
    both.images |= before.images
    with monkeypatch.context() as patch:
        patch.setattr(store, "_scanner", SimpleNamespace(look=lambda **_: both, labels=store._scanner.labels, again=store._scanner.again))
        store.look()
    assert paths(store) == {"a": "new/a.nii.gz"}
    store.look()
    assert paths(store) == {"a": "new/a.nii.gz"}
    assert store.label("a", "final").path is not None
    assert store.look() == 0


def test_a_folder_that_cannot_be_read_loses_nothing(folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "a.nii.gz")
    put(folder / "sub" / "deep" / "b.nii.gz")
    put(folder / "labels" / "final" / "b.nii.gz")
    store = opened(folder, database)
    real = os.scandir

    def refuses(path: Any) -> Any:
        if Path(path).name == "sub":
            raise PermissionError(13, "denied", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuses)
        put(folder / "sub" / "new.nii.gz")
        store.look()
        store.look(deep=False)
        assert set(paths(store)) == {"a", "b"}
        patch.setattr(os, "scandir", lambda path: refuses(folder / "sub"))
        with pytest.raises(StoreError, match="folder"):
            store.look()
    assert store.look(deep=False) == 1, "all is compared after a failure"
    assert set(paths(store)) == {"a", "b", "new"}
    assert "final" in store.labels("b")


def test_files_that_are_being_written_are_waited_for(folder: Path, database: Database) -> None:
    store = opened(folder, database, settle=50.0)
    put(folder / "a.nii.gz", age=0)
    put(folder / "labels" / "final" / "a.nii.gz", age=0)
    assert store.look(deep=False) == 0
    assert store.look(deep=False) == 0
    for path in (folder / "a.nii.gz", folder / "labels" / "final" / "a.nii.gz"):
        put(path, age=100)
    assert store.look(deep=False) == 1
    assert store.look(deep=False) == 1
    assert store.label("a", "final").version == 1


def test_what_nobody_can_be_shown_is_told_once_and_without_names(
    folder: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder / "a\nb.nii.gz")
    put(Path(os.fsdecode(os.fsencode(folder) + b"/Jos\xe9.nii.gz")))
    put(folder.joinpath(*(f"d{number}" for number in range(20))) / "deep.nii.gz")
    store = opened(folder, database)
    store.look()
    store.look(deep=False)
    assert paths(store) == {}
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in told] == ["3 files or folders of the datastore are left out"]
    assert "Jos" not in told[0]
    put(folder / "c\nd.nii.gz")
    store.look(deep=False)
    assert len(caplog.records) == 2


def test_files_from_the_future_are_taken_over_when_they_lie_still(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(settling, "time", SimpleNamespace(time_ns=time.time_ns, monotonic=lambda: now))
    put(folder / "a.nii.gz", age=-86_400.0)
    put(folder / "labels" / "final" / "a.nii.gz", age=-86_400.0)
    store = opened(folder, database, settle=50.0)
    assert paths(store) == {}
    now += 30.0
    put(folder / "a.nii.gz", b"more", age=-86_500.0)
    assert store.look() == 0
    now += 30.0
    assert store.look(deep=False) == 0, "it was written to 30 s ago"
    now += 30.0
    assert store.look(deep=False) == 1
    now += 60.0
    assert store.look(deep=False) == 1
    assert store.label("a", "final").path is not None
    assert store.look() == 0


def test_a_light_look_lists_only_folders_that_changed(folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "sub" / "a.nii.gz")
    scanner = Scanner(opened(folder, database).layout)
    for path in (folder / "sub", folder):
        os.utime(path, (1e9, 1e9))
    scanner.look(deep=True)
    listed: list[str] = []
    real = Scanner._listed
    monkeypatch.setattr(Scanner, "_listed", lambda self, path, *more: (listed.append(path.name), real(self, path, *more))[1])
    assert not scanner.look().images
    assert "sub" not in listed
    put(folder / "sub" / "b.nii.gz")
    assert list(scanner.look().images) == ["sub/b.nii.gz"]
    assert "sub" in listed
    assert "studies" not in listed


def test_links_of_files_are_followed_and_those_of_folders_are_not(folder: Path, database: Database, tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere" / "a.nii.gz", b"content")
    (folder / "linked.nii.gz").symlink_to(target)
    (folder / "broken.nii.gz").symlink_to(tmp_path / "nowhere")
    (folder / "loop").symlink_to(folder)
    store = opened(folder, database)
    assert set(paths(store)) == {"linked"}
    store.remove_image("linked")
    assert target.read_bytes() == b"content", "the link is ours to remove, not what it names"


def test_what_is_no_file_hides_nothing_and_is_not_read(folder: Path, database: Database) -> None:
    put(folder / "good.nii.gz")
    (folder / "self.nii.gz").symlink_to("self.nii.gz")
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "series").mkdir()
    os.mkfifo(folder / "series" / "a.dcm")
    (folder / "zero.nii.gz").symlink_to("/dev/zero")
    put(folder / "two\nlines.nii.gz")
    put(folder / "胸部\u3000造影.nii.gz")
    Path(os.fsdecode(bytes(folder) + b"/no text \xff.nii.gz")).write_bytes(b"content")
    store = opened(folder, database)
    assert set(paths(store)) == {"good", "胸部\u3000造影"}


# ---- MONAI Label


def manifest_of(objects: dict[str, Any], **more: str) -> bytes:
    return json.dumps(
        {"name": "lungs", "description": "Lungs of 2024", "images_dir": ".", "labels_dir": "labels", "objects": objects} | more
    ).encode()


def test_a_folder_of_monai_label_is_taken_over(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    put(folder / "b.nii.gz")
    put(folder / "labels" / "final" / "a.nii.gz")
    put(folder / "labels" / "original" / "a.nrrd")
    image = {"ts": 17, "name": "a.nii.gz", "patient": "p1", "strategy": {"random": {"ts": 5, "client_id": "ann"}}}
    label = {"ts": 18, "name": "a.nii.gz", "user": "bob", "label_info": [{"name": "lung", "idx": 1}]}
    objects = {
        "a": {"image": {"ext": ".nii.gz", "info": image}, "labels": {"final": {"ext": ".nii.gz", "info": label}}},
        "lost": {"image": {"ext": ".nii.gz", "info": {}}, "labels": {}},
    }
    put(folder / "datastore_v2.json", manifest_of(objects))
    store = opened(folder, database)
    assert store.image("a").info == image
    assert (store.label("a", "final").info, store.label("a", "final").who) == (label, "bob")
    assert sorted(store.labels("a")) == ["final", "original"]
    assert sorted(paths(store)) == ["a", "b"]
    told = json.loads(store.index())
    assert (told["name"], told["description"]) == ("lungs", "Lungs of 2024")
    assert told["objects"]["a"]["image"] == objects["a"]["image"]


def test_images_in_a_folder_of_their_own(folder: Path, database: Database) -> None:
    put(folder / "images" / "a.nii.gz")
    put(folder / "masks" / "final" / "a.nii.gz")
    put(folder / "other.nii.gz")
    put(folder / "datastore_v2.json", manifest_of({}, images_dir="images", labels_dir="./masks"))
    store = opened(folder, database)
    assert paths(store) == {"a": "images/a.nii.gz"}
    assert store.label("a", "final").path == folder / "masks" / "final" / "a.nii.gz"


@pytest.mark.parametrize("name", ["/etc", "../elsewhere", "a/../../b"])
def test_folders_outside_are_refused(folder: Path, database: Database, name: str) -> None:
    put(folder / "datastore_v2.json", manifest_of({}, images_dir=name))
    with pytest.raises(SettingsError, match="outside"):
        opened(folder, database)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"objects": {"a": ' * 5000])
def test_a_damaged_index_is_kept_beside(folder: Path, database: Database, content: bytes) -> None:
    """A kill leaves MONAI Label an empty one."""
    put(folder / "a.nii.gz")
    put(folder / "datastore_v2.json", content)
    store = opened(folder, database)
    assert set(paths(store)) == {"a"}
    assert (folder / "datastore_v2.json.unreadable").read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"objects": 3}', b'{"objects": {"a": 3}}', b'{"objects": {"a": {"image": {"ext": 4, "info": 5}, "labels": 6}}}',
     b'{"objects": {"../../x": {"image": {"ext": ".nii.gz", "info": {"n": NaN}}, "labels": {"../t": {"ext": ".nii.gz"}}}}, "name": 7}'],
)  # fmt: skip
def test_an_odd_index_does_no_harm(folder: Path, database: Database, content: bytes) -> None:
    put(folder / "a.nii.gz")
    put(folder / "datastore_v2.json", content)
    assert paths(opened(folder, database)) == {"a": "a.nii.gz"}


def test_the_index_that_we_write_is_that_of_monai_label(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    put(folder / "a.nrrd")
    put(folder / "labels" / "final" / "a.nii.gz")
    series(folder / "SE01")
    store = opened(folder, database)
    assert store.write_manifest()
    assert not store.write_manifest(), "once is enough"
    told = json.loads((folder / "datastore_v2.json").read_bytes())
    assert list(told) == ["name", "description", "images_dir", "labels_dir", "objects"]
    for id, item in told["objects"].items():
        assert (folder / told["images_dir"] / f"{id}{item['image']['ext']}").exists(), "it finds the file by id and ext"
        for tag, label in item["labels"].items():
            assert (folder / told["labels_dir"] / tag / f"{id}{label['ext']}").exists()
    assert set(told["objects"]) == {"a", "a.nrrd", "SE01"}
    store.update_image_info("a", {"x": 1})
    assert store.write_manifest()
    store.close()
    again = opened(folder, database)
    assert not again.write_manifest(), "our own is not taken over, and not written again"


def test_what_monai_label_did_in_between_is_taken_over(folder: Path, database: Database) -> None:
    put(folder / "a.nii.gz")
    opened(folder, database).close()
    told = json.loads((folder / "datastore_v2.json").read_bytes())
    put(folder / "labels" / "final" / "a.nii.gz")
    told["objects"]["a"]["labels"]["final"] = {"ext": ".nii.gz", "info": {"user": "ann", "ts": 3}}
    told["objects"]["a"]["image"]["info"]["reviewed"] = True
    put(folder / "datastore_v2.json", json.dumps(told, indent=2).encode())
    store = opened(folder, database)
    assert (store.label("a", "final").who, store.label("a", "final").info["ts"]) == ("ann", 3)
    assert store.image("a").info["reviewed"] is True


def test_our_own_index_never_undoes_what_is_newer(folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it was written: the file is our old or our new one, and neither is news."""
    put(folder / "a.nii.gz")
    store = opened(folder, database)
    store.update_image_info("a", {"k": "old"})
    store.write_manifest()
    store.update_image_info("a", {"k": "new"})
    real = store._files.publish
    for publishes in (False, True):

        def killed(writer: Any, target: Path, publishes: bool = publishes) -> None:
            if publishes:
                real(writer, target)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(store._files, "publish", killed)
            with pytest.raises(KeyboardInterrupt):
                store.write_manifest()
        store.update_image_info("a", {"k": "newest"})
        again = opened(folder, database)
        assert again.image("a").info["k"] == "newest"
        assert not again.manifest.images


# ---- an id that is not known yet


def test_an_image_is_there_at_once_for_who_asks_for_it(folder: Path, database: Database) -> None:
    with opened(folder, database, interval=3600.0, settle=1.0) as store:
        put(folder / "sub" / "a.nii.gz")
        put(folder / "labels" / "final" / "a.nii.gz")
        assert store.label("a", "final").version == 1


def test_an_image_that_is_being_copied_is_waited_for(folder: Path, database: Database) -> None:
    with opened(folder, database, interval=3600.0, settle=0.3) as store:
        written = time.monotonic()
        put(folder / "a.nii.gz", age=0)
        with pytest.raises(UnknownImageError):
            store.image("other")
        assert store.image("a").version == 1
        assert time.monotonic() - written >= 0.29, "it might not have been whole before"


def test_an_image_that_is_copied_for_long_is_not_waited_for_without_end(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(folder, database, interval=3600.0, settle=0.1) as store:
        monkeypatch.setattr(settling.Settling, "is_settled", lambda *_: False)
        put(folder / "a.nii.gz", age=0.0)
        before = time.monotonic()
        with pytest.raises(UnknownImageError):
            store.image("a")
        assert 1.0 < time.monotonic() - before < 60


def test_who_asks_for_what_is_not_there_does_not_keep_the_disk_busy(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    with opened(folder, database, interval=3600.0) as store:
        real = store.look

        def look(*, deep: bool = True) -> int:
            looks.append(deep)
            time.sleep(0.3)  # a share of it is the time in which nobody looks again
            return real(deep=deep)

        monkeypatch.setattr(store, "look", look)
        for _ in range(20):
            with pytest.raises(UnknownImageError):
                store.image("nobody")
    assert looks == [False]


# ---- the thread


def test_the_thread_notices_and_writes(folder: Path, database: Database) -> None:
    store = opened(folder, database, interval=0.01)
    put(folder / "a.nii.gz")
    deadline = time.monotonic() + 60
    while b'"a"' not in (folder / "datastore_v2.json").read_bytes() if (folder / "datastore_v2.json").exists() else True:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(paths(store)) == {"a"}
    store.close()


def test_the_thread_survives_trouble_and_tells_of_it_once(caplog: pytest.LogCaptureFixture) -> None:
    class Troubled:
        looks = 0

        def look(self, *, deep: bool = True) -> int:
            self.looks += 1
            if self.looks < 4:
                raise StoreError("the folder is away", "Mount it.")
            return 0

        def state(self) -> object:
            return self

        def write_manifest(self) -> bool:
            return True

    troubled = Troubled()
    watch = Watch(troubled, 0.005)
    deadline = time.monotonic() + 60
    while troubled.looks < 6:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    watch.stop()
    assert [record.getMessage() for record in caplog.records] == ["the datastore's folder: the folder is away. Mount it."]
