"""Images that are read before a task names them: the right ones, and never more than that."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from blake3 import blake3

from delineate import nifti
from delineate.engines.keeper import Keeper
from delineate.engines.local import LocalEngine
from delineate.errors import InputError
from delineate.geometry import Geometry
from delineate.protocols.dicom_request import DicomAsked
from delineate.protocols.reference import Place
from delineate.server.monai_label.takers import LARGE, BlobTaker
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.writer import BlobWriter
from delineate.volume import Volume
from delineate.worker.beforehand import ReadBeforehand
from delineate.worker.channel import FORGET, READ, READ_ALONG, WHOLE
from delineate.worker.images import WarmImages, as_read
from delineate.worker.referred import Files, place_of

SHAPE = (24, 200, 210)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, np.ndarray]:
    """A file of some megabytes, and its voxels."""
    voxels = np.random.default_rng(3).integers(-1000, 2000, SHAPE, dtype=np.int16)
    path = tmp_path_factory.mktemp("packed") / "image.nii.gz"
    nifti.write(path, Volume(voxels, Geometry(SHAPE[::-1], (1, 1, 2), (3, 4, 5))))
    return path.read_bytes(), voxels


class Coming:
    """A file that comes bit by bit, and the worker's part that reads it."""

    def __init__(self, folder: Path, budget: int = 1 << 30) -> None:
        blobs = BlobStore(folder / "blobs", sync=False)
        self.path = blobs.coming("f00d")
        self.file = self.path.open("xb", buffering=0)
        self.warm = WarmImages(1 << 30, lambda: 0)
        self.images = ReadBeforehand(Files(blobs, [folder]), self.warm, folder, budget)
        self.say(READ_ALONG)

    def say(self, command: str, **more: str) -> None:
        self.images.hear({"command": command, "file": self.path.name, **more})

    def read(self, place: Place) -> None:
        self.images.hear({"command": READ, "place": place.to_json()})

    def whole(self, data: bytes = b"") -> str:
        blob = blake3(data or self.path.read_bytes()).hexdigest()
        self.say(WHOLE, blob=blob)
        return blob

    def take(self, blob: str) -> Volume | None:
        """What a task that names this blob finds."""
        return self.begin(Place(blob=blob))

    def begin(self, place: Place) -> Volume | None:
        self.images.settle(frozenset((place.key,)), lambda: None)
        found = self.warm.get(as_read(place.key, DicomAsked()))
        return None if found is None else found.volume


@pytest.fixture
def coming(tmp_path: Path) -> Iterator[Coming]:
    one = Coming(tmp_path)
    yield one
    one.file.close()
    _ended()


def _ended() -> None:
    """No thread is left that reads."""
    deadline = time.monotonic() + 30
    while any(thread.name == "reading beforehand" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("pieces", [1, 7, 400])
def test_what_came_in_pieces_is_the_image(coming: Coming, packed: tuple[bytes, np.ndarray], pieces: int) -> None:
    data, voxels = packed
    for piece in _split(data, pieces):
        coming.file.write(piece)
        if pieces < 10:
            time.sleep(0.005)
    volume = coming.take(coming.whole())
    assert volume is not None
    assert np.array_equal(volume.voxels, voxels)
    assert volume.geometry.spacing == (1, 1, 2)


def _split(data: bytes, pieces: int) -> list[bytes]:
    step = -(-len(data) // pieces)
    return [data[start : start + step] for start in range(0, len(data), step)]


def test_one_that_is_not_packed_and_is_followed_by_something(coming: Coming, packed: tuple[bytes, np.ndarray]) -> None:
    data, voxels = packed
    coming.file.write(gzip.decompress(data) + b"and more" * 300_000)
    volume = coming.take(coming.whole())
    assert volume is not None
    assert np.array_equal(volume.voxels, voxels)


def test_only_what_has_the_digest_is_used(coming: Coming, packed: tuple[bytes, np.ndarray]) -> None:
    """Whatever is said of a file: other bytes are not the image that the task names."""
    data, _ = packed
    coming.file.write(data)
    other = coming.whole(data[:-1] + b"x")
    assert coming.take(other) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:5000] + b"\0" * 64 + data[5064:], lambda _: b"no image"]
)
def test_a_broken_file_is_left_to_its_task(coming: Coming, packed: tuple[bytes, np.ndarray], damage: Callable[[bytes], bytes]) -> None:
    coming.file.write(damage(packed[0]))
    assert coming.take(coming.whole()) is None


def test_a_large_one_is_left_to_its_task(tmp_path: Path, packed: tuple[bytes, np.ndarray]) -> None:
    coming = Coming(tmp_path, budget=packed[1].nbytes - 1)
    with coming.file:
        coming.file.write(packed[0])
    _ended()
    assert coming.take(coming.whole()) is None


def test_a_file_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    coming = Coming(tmp_path)
    coming.file.close()
    coming.path = coming.path.with_name("nowhere")
    coming.say(READ_ALONG)
    coming.say(WHOLE, blob="b")
    assert coming.take("b") is None


def test_another_file_takes_the_place_of_the_first(coming: Coming, packed: tuple[bytes, np.ndarray]) -> None:
    first = coming.path
    coming.path = first.with_name("second")
    with coming.path.open("xb") as file:
        file.write(packed[0])
    coming.say(READ_ALONG)
    blob = coming.whole()
    coming.images.hear({"command": FORGET, "file": first.name})  # late words about the first do not touch the second
    assert coming.take(blob) is not None


@pytest.mark.parametrize(
    "end", [lambda coming: coming.say(FORGET), lambda coming: coming.images.settle(frozenset(("other",)), lambda: None)]
)
def test_one_that_nobody_wants_is_given_up(coming: Coming, packed: tuple[bytes, np.ndarray], end: Callable[[Coming], None]) -> None:
    coming.file.write(packed[0][:100_000])
    end(coming)
    _ended()
    coming.file.write(packed[0][100_000:])
    assert coming.take(coming.whole()) is None


def test_the_task_that_names_it_keeps_it(coming: Coming, packed: tuple[bytes, np.ndarray]) -> None:
    coming.file.write(packed[0])
    blob = coming.whole()
    key = Place(blob=blob).key
    coming.images.settle(frozenset((key, "other")), lambda: None)
    assert coming.warm.contents() == [key]


def test_who_cancels_does_not_wait(coming: Coming) -> None:
    class Cancelled(BaseException):
        pass

    def checkpoint() -> None:
        raise Cancelled

    # It never ends: the file is not what was said, so that the reader still waits when the task is cancelled.
    coming.images._reading.image = "key"  # type: ignore[union-attr]
    with pytest.raises(Cancelled):
        coming.images.settle(frozenset(("key",)), checkpoint)
    _ended()


# ---- what lies on the server


def test_what_lies_there_is_read_before_a_task_names_it(coming: Coming, packed: tuple[bytes, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "session.nii.gz"
    path.write_bytes(packed[0])
    place = place_of(path)
    coming.read(place)
    volume = coming.begin(place)
    assert volume is not None
    assert np.array_equal(volume.voxels, packed[1])
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith("tmp")] == []


def test_a_task_on_something_else_leaves_what_was_read(coming: Coming, packed: tuple[bytes, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "session.nii.gz"
    path.write_bytes(packed[0])
    place = place_of(path)
    coming.read(place)
    _ended()
    coming.images.settle(frozenset(("other",)), lambda: None)
    assert coming.warm.contents() == [place.key]


@pytest.mark.parametrize("what", ["changed", "elsewhere", "broken", "gone"])
def test_what_is_not_what_it_was_is_left_to_its_task(
    coming: Coming, packed: tuple[bytes, np.ndarray], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    path = (tmp_path_factory.mktemp("out") if what == "elsewhere" else tmp_path) / "session.nii.gz"
    path.write_bytes(packed[0] if what != "broken" else packed[0][:-9])
    place = place_of(path)
    if what == "changed":
        path.write_bytes(packed[0] + b"more")
    if what == "gone":
        path.unlink()
    coming.read(place)
    assert coming.begin(place) is None


def test_large_ones_are_not_even_begun(tmp_path: Path, packed: tuple[bytes, np.ndarray]) -> None:
    coming = Coming(tmp_path, budget=len(packed[0]))
    coming.file.close()
    coming.say(FORGET)
    path = tmp_path / "session.nii.gz"
    path.write_bytes(packed[0])
    coming.read(place_of(path))
    assert coming.images._reading is None
    _ended()


# ---- the server's side


class Worker:
    """Hears what a keeper tells."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def tell(self, command: str, **more: Any) -> None:
        self.told.append({"command": command, **more})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    Database(f"sqlite:///{tmp_path / 'delineate.db'}", sync=False).migrate()
    engine = LocalEngine(tmp_path, workers=2, sync=False)
    for keeper in engine._keepers:
        keeper._worker, keeper.status.state = cast("Any", Worker()), "idle"
    yield engine
    engine._database.close()


def told(keeper: Keeper) -> list[dict[str, Any]]:
    return cast("Worker", keeper._worker).told


def test_a_worker_that_has_time_reads_along_and_gets_the_task(engine: LocalEngine) -> None:
    first, second = engine._keepers
    along = engine.read_along("f1")
    assert along is not None
    assert told(first) == [{"command": READ_ALONG, "file": "f1"}]
    other = engine.read_along("f2")
    assert other is not None
    assert told(second) == [{"command": READ_ALONG, "file": "f2"}]
    assert engine.read_along("f3") is None, "one file each"
    other.whole("b" * 64)
    key = Place(blob="b" * 64).key
    assert (first.has_warm(key), second.has_warm(key)) == (False, True)
    along.forget()
    assert told(first)[1:] == [{"command": FORGET, "file": "f1"}]
    assert engine.read_along("f3") is not None
    # A task begins: whatever else was read is given up.
    second._watch = cast("Any", SimpleNamespace(uid="t", limit=lambda *_: None))
    second._hear("w", {"event": "started", "task": "t", "limit": 1.0, "memory_mb": 0})
    assert not second.has_warm(key)


def test_a_session_is_read_by_one_worker(engine: LocalEngine, tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"x")
    place = place_of(path)
    first, second = engine._keepers
    engine.read(place)
    engine.read(place)
    assert told(first) == [{"command": READ, "place": place.to_json()}]
    assert told(second) == []
    assert first.has_warm(place.key)
    engine.read(Place(blob="b" * 64))
    assert len(told(second)) == 1, "the next one is for the other"
    assert engine.read_along("f1") is not None, "a session does not keep a worker from files that come"
    assert told(first)[1:] == [{"command": READ_ALONG, "file": "f1"}]


def test_busy_workers_read_nothing_along(engine: LocalEngine) -> None:
    for keeper in engine._keepers:
        keeper.status.state = "busy"
    assert engine.read_along("f1") is None
    engine.read(Place(blob="b" * 64))
    assert [told(keeper) for keeper in engine._keepers] == [[], []]


class Along:
    def __init__(self) -> None:
        self.said: list[str] = []

    def whole(self, blob: str) -> None:
        self.said.append(blob)

    def forget(self) -> None:
        self.said.append("forget")


class Taken:
    """A taker of forms whose field ``file`` is read along."""

    def __init__(self, folder: Path) -> None:
        self.along = Along()
        self.asked: list[BlobWriter] = []
        self.blobs = BlobStore(folder, sync=False)
        self.taker = BlobTaker(self.blobs.incoming, ("file", "label"), self._read_along, "file")

    def _read_along(self, writer: BlobWriter) -> Along:
        self.asked.append(writer)
        return self.along

    def send(self, field: str, *pieces: bytes) -> None:
        self.taker.begin(field, f"{field}.nii.gz")
        for piece in pieces:
            self.taker.write(memoryview(piece))
        self.taker.end()


def test_a_large_image_is_read_along(tmp_path: Path) -> None:
    taken = Taken(tmp_path)
    half = b"x" * (LARGE // 2)
    taken.send("label", half, half, half)
    assert taken.asked == []
    taken.send("file", half, half, half)
    writer = taken.taker.require("file")
    assert taken.asked == [writer]
    assert taken.along.said == [blake3(half * 3).hexdigest()]
    writer.seal()
    taken.blobs.place(writer)
    taken.taker.discard()
    assert "forget" not in taken.along.said


def test_a_small_image_is_not(tmp_path: Path) -> None:
    taken = Taken(tmp_path)
    taken.send("file", b"x" * (LARGE - 1))
    taken.taker.discard()
    assert (taken.asked, taken.along.said) == ([], [])


@pytest.mark.parametrize("is_whole", [True, False])
def test_one_that_no_task_names_is_forgotten(tmp_path: Path, is_whole: bool) -> None:
    taken = Taken(tmp_path)
    taken.taker.begin("file", "file.nii.gz")
    taken.taker.write(memoryview(bytes(LARGE)))
    if is_whole:
        taken.taker.end()
        with pytest.raises(InputError):
            taken.taker.begin("file", "file.nii.gz")
    taken.taker.discard()
    assert taken.along.said[-1] == "forget"
