"""Images and labels: add, replace, save, remove; what is kept, what is refused, and that a failure leaves nothing."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine import Connection

from delineate import nifti
from delineate.datastore.faults import GridMismatchError, UnknownImageError, UnknownLabelError
from delineate.datastore.local import LocalDatastore
from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.errors import ImageError, InputError, StorageFullError, StoreError
from delineate.geometry import Geometry
from delineate.store.database import Database
from delineate.testing.conformance.monai_label_plain import picture
from delineate.volume import Volume

GRID = Geometry((8, 7, 6), (1.0, 1.0, 2.0), (-4.0, 5.0, 60.0))


def image_bytes(value: int = 1, grid: Geometry = GRID) -> bytes:
    buffer = io.BytesIO()
    nifti.write(buffer, Volume(np.full(grid.shape, value, np.int16), grid))
    return buffer.getvalue()


def label_bytes(value: int = 1, grid: Geometry = GRID) -> bytes:
    buffer = io.BytesIO()
    nifti.write_labels(buffer, np.full(grid.shape, value, np.uint8), grid)
    return buffer.getvalue()


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Opened = Callable[..., LocalDatastore]


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Opened]:
    """Opens the datastore, as often as asked."""
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    stores: list[LocalDatastore] = []

    def again(**options: Any) -> LocalDatastore:
        given = {"interval": 0.0, "settle": 0.0, "clock": clock, "sync": False} | options
        stores.append(LocalDatastore(tmp_path / "studies", database, **given))
        return stores[-1]

    yield again
    for store in stores:
        store.close()
    database.close()


@pytest.fixture
def store(opened: Opened) -> LocalDatastore:
    return opened()


def add(store: LocalDatastore, id: str = "", data: bytes = b"", name: str = "case.nii.gz", **options: Any) -> ImageRecord:
    return store.add_image(store.received(io.BytesIO(data or image_bytes()), name), id, **options)


def save(store: LocalDatastore, id: str, tag: str = "", data: bytes = b"", name: str = "label.nii.gz", **options: Any) -> LabelRecord:
    return store.save_label(id, tag, store.received(io.BytesIO(data or label_bytes()), name), **options)


def value(path: Path | None) -> int:
    assert path is not None
    return int(np.asarray(nifti.read(path).voxels)[0, 0, 0])


def hidden_files(store: LocalDatastore) -> list[Path]:
    return [path for path in store.layout.hidden.rglob("*") if path.is_file() and path.name != "datastore"]


def index(store: LocalDatastore) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(store.index())
    return found


# ---- images


def test_an_upload_is_an_image_of_the_folder(store: LocalDatastore, clock: Clock) -> None:
    record = add(store, data=image_bytes(3), name="pat.1.nii.gz", info={"patient": "p1"}, who="ann")
    assert (record.id, record.extension, record.version, record.who) == ("pat.1", ".nii.gz", 1, "ann")
    assert record.path == store.layout.folder / "pat.1.nii.gz"
    assert value(record.path) == 3
    assert record.info == {"patient": "p1", "ts": int(clock.now), "name": "pat.1.nii.gz"}
    assert store.image("pat.1") == record
    assert record.path.stat().st_mode & 0o777 == store.layout.folder.stat().st_mode & 0o666, "who reads the folder reads it"
    assert index(store)["objects"] == {"pat.1": {"image": {"ext": ".nii.gz", "info": record.info}, "labels": {}}}
    assert store.grid("pat.1") == GRID


def test_an_id_may_be_given(store: LocalDatastore) -> None:
    assert add(store, "up 2+x", name="/local/small.nii.gz").path.name == "up 2+x.nii.gz"


@pytest.mark.parametrize("id", ["../x", "a/b", "/abs", "a\\b", ".x", "CON", "a\0b", "x" * 300])
def test_ids_that_are_paths_are_refused_everywhere(store: LocalDatastore, id: str) -> None:
    add(store, "x")
    before = sorted(store.layout.folder.parent.rglob("*"))
    for act in (
        lambda: add(store, id),
        lambda: save(store, id),
        lambda: save(store, "x", id),
        lambda: store.image(id),
        lambda: store.label("x", id),
        lambda: store.remove_image(id),
        lambda: store.remove_label("x", id),
        lambda: store.update_image_info(id, {}),
        lambda: store.update_label_info("x", id, {}),
        lambda: store.grid(id),
        lambda: store.checksum(id),
        lambda: store.events(id),
        lambda: store.next_sample("first", "ann", tag=id),
    ):
        with pytest.raises(InputError):
            act()
    assert sorted(store.layout.folder.parent.rglob("*")) == before, "nothing was written"


def test_what_is_not_readable_is_refused_and_leaves_nothing(store: LocalDatastore) -> None:
    for data, name in [(b"garbage", "x.nii.gz"), (image_bytes()[:-40], "x.nii.gz"), (image_bytes(), "x.png"), (image_bytes(), "x.exe")]:
        with pytest.raises(InputError):
            add(store, data=data, name=name)
    assert store.images() == []
    assert hidden_files(store) == []
    assert [path.name for path in store.layout.images.iterdir() if path.is_file()] == []


def test_a_new_version_keeps_the_old_and_its_labels(store: LocalDatastore) -> None:
    add(store, "x", image_bytes(1), who="ann")
    save(store, "x")
    record = add(store, "x", image_bytes(2), who="bob", info={"again": True})
    assert (record.version, record.who, record.info["again"]) == (2, "bob", True)
    assert value(record.path) == 2
    versions = store.image_versions("x")
    assert [(v.version, v.who, value(v.path)) for v in versions] == [(1, "ann", 1), (2, "bob", 2)]
    assert store.label("x", "final").image_version == 1, "a label names what it was drawn on"
    assert save(store, "x").image_version == 2
    assert [v.image_version for v in store.label_versions("x", "final")] == [1, 2]


def test_the_same_upload_again_is_the_same_version(store: LocalDatastore) -> None:
    """A client that never heard the answer sends it again."""
    first = add(store, "x", image_bytes(1), info={"a": 1})
    again = add(store, "x", image_bytes(1), info={"b": 2})
    assert (again.version, again.mtime) == (1, first.mtime)
    assert again.info == {**first.info, "b": 2}
    assert hidden_files(store) == []


def test_a_new_version_in_another_format(store: LocalDatastore) -> None:
    add(store, "x", image_bytes(1))
    plain = io.BytesIO()
    nifti.write(plain, Volume(np.full(GRID.shape, 2, np.int16), GRID), compress=False)
    record = add(store, "x", plain.getvalue(), name="x.nii")
    assert (record.path.name, record.version, value(record.path)) == ("x.nii", 2, 2)
    assert not (store.layout.images / "x.nii.gz").exists()
    assert value(store.image_versions("x")[0].path) == 1
    assert store.look() == 0


def test_two_files_of_one_stem_stay_two_images(store: LocalDatastore) -> None:
    (store.layout.images / "x.nii").write_bytes(b"not ours")
    store.look()
    assert store.image("x").extension == ".nii"
    other = store.layout.images / "x.nii.gz"
    other.write_bytes(image_bytes(1))
    store.look()
    assert {record.id: record.path.name for record in store.images()} == {"x": "x.nii", "x.nii.gz": "x.nii.gz"}
    record = add(store, "x", image_bytes(2), name="new.nii.gz")
    assert record.path.name == "x-2.nii.gz", "the other image keeps its file"
    assert value(other) == 1


def test_a_file_nobody_indexed_yet_becomes_the_older_version(store: LocalDatastore) -> None:
    (store.layout.images / "x.nii.gz").write_bytes(image_bytes(1))
    record = add(store, "x", image_bytes(2), who="ann")
    assert record.version == 2
    assert [value(v.path) for v in store.image_versions("x")] == [1, 2]


def test_a_pipe_in_the_place_of_a_file_is_not_read(store: LocalDatastore) -> None:
    add(store, "x")
    os.mkfifo(store.layout.label("final", "x", ".nii.gz"))
    os.mkfifo(store.layout.images / "y.nii.gz")
    with pytest.raises(StoreError, match="is no file"):
        save(store, "x", "final")
    assert add(store, "y").path.name == "y-2.nii.gz"
    assert {record.id for record in store.images()} == {"x", "y"}


def test_information_grows_key_by_key(store: LocalDatastore) -> None:
    add(store, "x", info={"a": 1, "b": 1})
    assert store.update_image_info("x", {"b": 2, "c": [1, {"d": None}]}).info["c"] == [1, {"d": None}]
    assert {key: store.image("x").info[key] for key in "ab"} == {"a": 1, "b": 2}
    for bad in ([1], "text", {"x": float("nan")}, {"x": object()}, {"x": "y" * (2 << 20)}):
        with pytest.raises(InputError):
            store.update_image_info("x", bad)  # type: ignore[arg-type]
    with pytest.raises(UnknownImageError):
        store.update_image_info("nope", {})


def test_removing_an_image_removes_all_of_it_and_keeps_the_events(store: LocalDatastore) -> None:
    add(store, "x", image_bytes(1), info={"secret": "s"})
    add(store, "x", image_bytes(2))
    save(store, "x", data=label_bytes(1))
    save(store, "x", data=label_bytes(2))
    save(store, "x", "original")
    add(store, "y", image_bytes(3))
    store.remove_image("x", who="ann")
    assert [record.id for record in store.images()] == ["y"]
    assert sorted(path.name for path in store.layout.folder.rglob("*.nii.gz")) == ["y.nii.gz"]
    assert hidden_files(store) == []
    kinds = [event.kind for event in store.events("x")]
    assert kinds == ["added", "replaced", "label-saved", "label-saved", "label-saved", "removed"]
    with pytest.raises(UnknownImageError):
        store.remove_image("x")
    record = add(store, "x", image_bytes(1))
    assert record.version == 3, "a version never comes twice"
    assert "secret" not in record.info
    assert store.labels("x") == {}


def test_checksums(store: LocalDatastore) -> None:
    import hashlib

    data = image_bytes(1)
    add(store, "x", data)
    for _ in range(2):
        assert store.checksum("x") == hashlib.sha256(data).hexdigest()
    assert store.checksum("x", "MD5") == hashlib.md5(data).hexdigest()
    add(store, "x", image_bytes(2))
    assert store.checksum("x") == hashlib.sha256(image_bytes(2)).hexdigest()
    with pytest.raises(InputError, match="checksum"):
        store.checksum("x", "crc32")


# ---- labels


def test_a_saved_label(store: LocalDatastore, clock: Clock) -> None:
    add(store, "x")
    record = save(store, "x", "", label_bytes(4), info={"label_info": [{"name": "bone", "idx": 1}]}, who="ann")
    assert (record.tag, record.version, record.who, record.at) == ("final", 1, "ann", clock.now)
    assert record.path == store.layout.folder / "labels" / "final" / "x.nii.gz"
    assert value(record.path) == 4
    assert record.info == {"label_info": [{"name": "bone", "idx": 1}], "ts": int(clock.now), "name": "x.nii.gz"}
    assert store.label("x", "") == record
    assert index(store)["objects"]["x"]["labels"] == {"final": {"ext": ".nii.gz", "info": record.info}}
    assert store.look() == 0, "what we write is not news"


def test_all_versions_of_a_label_are_kept(store: LocalDatastore) -> None:
    add(store, "x")
    for number in range(1, 4):
        save(store, "x", data=label_bytes(number), who=f"p{number}")
    save(store, "x", "my tag", label_bytes(9))
    versions = store.label_versions("x", "final")
    assert [(v.version, v.who, v.is_current, value(v.path)) for v in versions] == [
        (1, "p1", False, 1),
        (2, "p2", False, 2),
        (3, "p3", True, 3),
    ]
    assert sorted(store.labels("x")) == ["final", "my tag"]


def test_writing_over_a_label_in_the_folder_does_not_touch_what_is_kept(store: LocalDatastore) -> None:
    add(store, "x")
    path = save(store, "x", data=label_bytes(1), who="ann").path
    assert path is not None
    path.write_bytes(label_bytes(2))  # in place, as MONAI Label does
    assert store.look() == 1
    assert [(v.version, v.who, value(v.path)) for v in store.label_versions("x", "final")] == [(1, "ann", 1), (2, "", 2)]
    save(store, "x", data=label_bytes(3))
    assert [value(v.path) for v in store.label_versions("x", "final")] == [1, 2, 3]


def test_a_label_in_another_format_replaces_the_file(store: LocalDatastore, tmp_path: Path) -> None:
    files = pytest.importorskip("delineate.files")
    add(store, "x")
    save(store, "x", data=label_bytes(1))
    files.write_volume(tmp_path / "l.nrrd", Volume(np.full(GRID.shape, 2, np.uint8), GRID))
    record = save(store, "x", data=(tmp_path / "l.nrrd").read_bytes(), name="l.nrrd")
    assert (record.extension, record.version) == (".nrrd", 2)
    assert [path.name for path in (store.layout.labels / "final").iterdir()] == ["x.nrrd"]
    assert value(store.label_versions("x", "final")[0].path) == 1
    assert store.look() == 0


def test_a_label_file_nobody_indexed_yet_is_kept(store: LocalDatastore) -> None:
    add(store, "x")
    (store.layout.labels / "final" / "x.nii.gz").write_bytes(label_bytes(1))
    save(store, "x", data=label_bytes(2))
    assert [(v.version, value(v.path)) for v in store.label_versions("x", "final")] == [(1, 1), (2, 2)]


def test_a_label_on_another_grid_is_refused_with_both(store: LocalDatastore) -> None:
    add(store, "x")
    other = Geometry((8, 7, 5), GRID.spacing, GRID.origin)
    with pytest.raises(GridMismatchError, match=r"8 x 7 x 5.*8 x 7 x 6") as caught:
        save(store, "x", data=label_bytes(1, other))
    assert (caught.value.image, caught.value.label) == (GRID, other)
    assert store.labels("x") == {}
    assert hidden_files(store) == []


def test_a_picture_is_no_label_of_a_volume(store: LocalDatastore) -> None:
    add(store, "x")
    with pytest.raises(InputError, match="label of a volume"):
        save(store, "x", data=picture(), name="screenshot.png")
    assert store.labels("x") == {}
    add(store, "flat", picture(), "flat.png")
    assert save(store, "flat", data=picture(), name="mask.png").extension == ".png"


def test_the_grid_is_that_of_the_image_as_it_is_now(store: LocalDatastore) -> None:
    add(store, "x")
    save(store, "x")
    larger = Geometry((9, 7, 6), GRID.spacing, GRID.origin)
    add(store, "x", image_bytes(1, larger))
    with pytest.raises(GridMismatchError):
        save(store, "x", data=label_bytes(1))
    save(store, "x", data=label_bytes(1, larger))


def test_raw_labels_become_nifti(store: LocalDatastore) -> None:
    add(store, "x")
    labels = np.random.default_rng(0).integers(0, 5, GRID.shape).astype(np.uint8)
    record = save(store, "x", "original", labels.tobytes(), "label.bin")
    assert (record.extension, record.path) == (".nii.gz", store.layout.labels / "original" / "x.nii.gz")
    found, grid = nifti.read_labels(record.path or "")
    np.testing.assert_array_equal(found, labels)
    assert grid == GRID
    with pytest.raises(InputError, match="voxels"):
        save(store, "x", data=b"\0" * 10, name="label.bin")


def test_labels_that_are_refused(store: LocalDatastore) -> None:
    add(store, "x")
    with pytest.raises(UnknownImageError):
        save(store, "nope")
    with pytest.raises(ImageError):
        save(store, "x", data=b"garbage")
    with pytest.raises(InputError, match="extension"):
        save(store, "x", name="label.exe")
    with pytest.raises(UnknownLabelError):
        store.label("x", "final")
    with pytest.raises(UnknownImageError):
        store.label("nope", "final")
    with pytest.raises(UnknownLabelError):
        store.remove_label("x", "final")
    assert hidden_files(store) == []
    assert list((store.layout.labels / "final").iterdir()) == []


def test_information_and_removal_of_a_label(store: LocalDatastore) -> None:
    add(store, "x")
    save(store, "x", data=label_bytes(1), info={"a": 1})
    save(store, "x", data=label_bytes(2), info={"a": 2})
    meta = {"segmentationMeta": {"status": "approved"}}
    assert store.update_label_info("x", "final", meta).info["segmentationMeta"] == {"status": "approved"}
    assert store.label("x", "final").info["a"] == 2
    with pytest.raises(UnknownLabelError):
        store.update_label_info("x", "original", {})
    with pytest.raises(UnknownLabelError, match="of this version any more"):
        store.update_label_info("x", "final", {"a": 3}, version=1)
    assert store.update_label_info("x", "final", {"b": 3}, version=2).info["a"] == 2
    store.remove_label("x", "final", who="ann")
    assert store.label_versions("x", "final") == []
    assert hidden_files(store) == []
    assert list((store.layout.labels / "final").iterdir()) == []
    assert [(event.kind, event.who) for event in store.events("x")][-1] == ("label-removed", "ann")


# ---- all of it


def test_statistics_and_lists(store: LocalDatastore) -> None:
    for id in ("b", "a", "c"):
        add(store, id)
    save(store, "a")
    save(store, "a", "original")
    save(store, "b", "original")
    found = store.statistics()
    assert (found.total, found.completed, found.label_tags) == (3, 1, {"final": 1, "original": 2})
    assert [record.id for record in store.images()] == ["b", "a", "c"]
    assert [record.id for record in store.images(unlabelled=True)] == ["b", "c"]
    assert [record.id for record in store.images(unlabelled=False, tag="original")] == ["b", "a"]
    assert [(image.id, label.tag) for image, label in store.pairs()] == [("a", "final")]


def test_the_index_is_rendered_once(store: LocalDatastore) -> None:
    add(store, "x")
    assert store.index() is store.index()
    before = store.index()
    save(store, "x")
    assert store.index() != before


def test_another_process_sees_it_at_once(store: LocalDatastore, opened: Opened) -> None:
    other = opened()
    add(store, "x")
    assert other.image("x").version == 1
    save(other, "x")
    assert store.statistics().completed == 1
    store.remove_image("x")
    assert other.images() == []


def test_the_dataset_as_a_zip(store: LocalDatastore) -> None:
    for id in ("a", "b", "c"):
        add(store, id)
    save(store, "a", data=label_bytes(1))
    save(store, "c", data=label_bytes(2))
    with zipfile.ZipFile(io.BytesIO(b"".join(store.dataset()))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["image/a.nii.gz", "label/a.nii.gz", "image/c.nii.gz", "label/c.nii.gz", "metadata.json"]
        assert archive.read("label/c.nii.gz") == label_bytes(2)
        assert json.loads(archive.read("metadata.json")) == index(store)
    with zipfile.ZipFile(io.BytesIO(b"".join(store.dataset(limit=1)))) as archive:
        assert "image/c.nii.gz" not in archive.namelist()


@pytest.mark.parametrize("is_late", [False, True], ids=["in between", "at its commit"])
@pytest.mark.parametrize("verb", ["add", "replace", "label", "label again", "label elsewhere", "other format", "remove", "remove label"])
def test_a_transaction_that_fails_leaves_everything_as_it_was(
    store: LocalDatastore, monkeypatch: pytest.MonkeyPatch, verb: str, is_late: bool
) -> None:
    add(store, "x", image_bytes(1))
    save(store, "x", data=label_bytes(1))

    def snapshot() -> tuple[object, ...]:
        names = sorted(str(path) for path in store.layout.folder.rglob("*") if path.is_file() and ".delineate" not in path.parts)
        contents = {name: Path(name).read_bytes() for name in names}
        return contents, store.index(), store.events()

    before = snapshot()
    plain = io.BytesIO()
    nifti.write(plain, Volume(np.full(GRID.shape, 2, np.int16), GRID), compress=False)
    plain_label = io.BytesIO()
    nifti.write_labels(plain_label, np.full(GRID.shape, 2, np.uint8), GRID, compress=False)
    acts: dict[str, Callable[[], object]] = {
        "add": lambda: add(store, "y"),
        "replace": lambda: add(store, "x", image_bytes(2)),
        "other format": lambda: add(store, "x", plain.getvalue(), name="x.nii"),
        "label": lambda: save(store, "x", "original"),
        "label again": lambda: save(store, "x", data=label_bytes(2)),
        "label elsewhere": lambda: save(store, "x", data=plain_label.getvalue(), name="x.nii"),
        "remove": lambda: store.remove_image("x"),
        "remove label": lambda: store.remove_label("x", "final"),
    }

    def fails(*_: object, **__: object) -> None:
        raise StorageFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(*(Connection, "commit", fails) if is_late else (store, "_event", fails))
        with pytest.raises(StorageFullError):
            acts[verb]()
    assert snapshot() == before
    hidden = store.layout.hidden
    assert [path for name in ("trash", "keeping", "blobs/incoming") for path in (hidden / name).iterdir()] == []
    store.sweep()
    assert store.look() == 0
    acts[verb]()
    assert store.look() == 0


def test_a_label_file_nobody_indexed_yet_outlives_a_save_that_fails(store: LocalDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "x")
    path = store.layout.label("final", "x", ".nii.gz")
    path.write_bytes(label_bytes(1))
    commits = []

    def fails_late(connection: Connection) -> None:
        commits.append(connection)
        if len(commits) > 1:  # the first only looks, and finds the file
            raise StorageFullError("no space")
        commit(connection)

    commit = Connection.commit
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "commit", fails_late)
        with pytest.raises(StorageFullError):
            save(store, "x", data=label_bytes(2))
    store.sweep()
    assert path.read_bytes() == label_bytes(1)


def test_what_a_killed_removal_left_goes_while_the_server_runs_on(store: LocalDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [store.layout.hidden / "trash" / "image", store.layout.hidden / "keeping" / "label"]
    for path in left:
        path.write_bytes(b"x")
    store.tidy()
    assert all(path.exists() for path in left), "somebody may be at it just now"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    store.tidy()
    assert not any(path.exists() for path in left)


def test_threads_that_save_at_once_lose_nothing(store: LocalDatastore) -> None:
    add(store, "x")
    troubles: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                save(store, "x", data=label_bytes(number * 10 + turn), who=f"p{number}")
                add(store, f"own{number}", image_bytes(turn))
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    versions = store.label_versions("x", "final")
    assert [v.version for v in versions] == list(range(1, 21))
    assert {value(v.path) for v in versions} == {n * 10 + t for n in range(1, 5) for t in range(5)}
    assert all(store.image(f"own{n}").version == 5 for n in range(1, 5))
    assert store.look() == 0


def test_kept_versions_of_another_database_are_left_alone(store: LocalDatastore, tmp_path: Path) -> None:
    add(store, "x", image_bytes(1))
    add(store, "x", image_bytes(2))
    kept = hidden_files(store)
    assert len(kept) == 1
    store.close()
    database = Database(f"sqlite:///{tmp_path}/other.db", sync=False)
    database.migrate()
    with LocalDatastore(tmp_path / "studies", database, interval=0, settle=0, sync=False) as other:
        assert other.image("x").version == 1
        assert other.sweep() == 0
        other.remove_image("x")
    database.close()
    assert hidden_files(store) == kept


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as caught:
        LocalDatastore(tmp_path / "file" / "studies", database, interval=0)
    assert caught.value.advice
    database.close()
