"""Real worker processes under a real engine: whatever a model does, the task ends as it should and nothing is left."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import nibabel
import numpy as np
import psutil
import pytest

from delineate import nifti
from delineate.engines import local
from delineate.engines.local import LocalEngine
from delineate.geometry import Geometry
from delineate.protocols.archive import FileRequestWriter
from delineate.protocols.reference import MONAI_LABEL, Place, Reference
from delineate.store import tasks
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import BACKGROUND, Task, TaskState
from delineate.testing import models
from delineate.volume import Volume
from delineate.worker.referred import place_of

Found = TypeVar("Found")
GRID = Geometry((7, 6, 5), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))

Steady = Callable[[Callable[[], None]], None]

OWN_MODELS = {
    # Holds the interpreter in C code: no thread of the worker runs, no signal handler either.
    "gil-holder": "import ctypes; job.log('holding'); ctypes.PyDLL(None).sleep(60)",
    "parent": "import subprocess; p = subprocess.Popen(['sleep', '600']); job.log(str(p.pid)); import time; time.sleep(600)",
    "first-waits": (
        "import pathlib, time; flag = pathlib.Path(__file__).with_name('flag'); is_first = not flag.exists(); flag.touch();"
        " time.sleep(60 if is_first else 0); return empty(job)"
    ),
    "input-eater": "import shutil; shutil.rmtree(job.input_folder); shutil.rmtree(job.output_folder); return empty(job)",
}
OWN_CODE = """
import numpy as np
from delineate.segmentation import Segmentation

def empty(job):
    grid = job.images[0].geometry
    return Segmentation.from_labels(np.zeros(grid.shape, np.uint8), grid, {})

class Own:
    def __init__(self, parameters, folder): pass
    def segment(self, job):
        %s
"""


class Site:
    """A data folder, its store, and the hands of a person at it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.models = folder / "models"
        self.studies = folder / "studies"
        self.studies.mkdir()
        self.database = Database(f"sqlite:///{self.data / 'delineate.db'}", sync=False)
        self.database.migrate()
        self.blobs = BlobStore(self.data / "blobs", sync=False)
        self.tasks = TaskStore(self.database, self.blobs)
        for name, line in OWN_MODELS.items():
            own = self.models / name
            own.mkdir(parents=True)
            (own / "code.py").write_text(textwrap.dedent(OWN_CODE) % line, encoding="utf-8")
            (own / "model.toml").write_text(
                f'name = "{name}"\nrunner = "python"\ntime_limit = 30.0\n[parameters]\nclass = "code:Own"\n', encoding="utf-8"
            )
        models.copy("hanger", self.models, "hanger-30", time_limit=30.0)
        models.copy("hanger", self.models, "hanger-1", time_limit=0.3)
        models.copy("sleeper", self.models, "sleeper-60", seconds=60.0)
        models.copy("memory-eater", self.models, "memory-eater-quick", megabytes=400, memory_mb=200)
        lps = models.copy("threshold", self.models, "threshold-lps") / "model.toml"
        lps.write_text('orientation = "LPS"\n' + lps.read_text(encoding="utf-8"), encoding="utf-8")
        models.copy("crasher", self.models, "crasher-abort", signal="SIGABRT")

    def engine(self, workers: int = 2, lease: float = 30.0) -> LocalEngine:
        return LocalEngine(self.data, [self.models, models.FOLDER], workers, lease=lease, sync=False, roots=[self.studies])

    def submit(self, model: str, image: Volume | None = None) -> str:
        path = self.data / f"request-{time.monotonic_ns()}.zip"
        volume = image or Volume(np.arange(210, dtype=np.int16).reshape(GRID.shape), GRID)
        writer = FileRequestWriter(path)
        writer.add_image(volume)
        writer.close()
        return self.tasks.submit(model=model, archive=self.blobs.adopt(path), owner="me", protocol="v1").uid

    def refer(self, model: str, path: Path, engine: LocalEngine) -> str:
        """A task about a file of the folder of studies, by reference."""
        reference = Reference((place_of(path),))
        writer = self.blobs.incoming()
        writer.write(reference.to_bytes())
        uid = self.tasks.submit(model=model, archive=writer, owner="me", protocol=MONAI_LABEL, rung=True).uid
        engine.ring(reference.key)
        return uid

    def until(self, uid: str, condition: Callable[[Task], bool], seconds: float = 60.0) -> Task:
        deadline = time.monotonic() + seconds
        while not condition(task := self.tasks.get(uid)):
            assert time.monotonic() < deadline, task
            time.sleep(0.005)
        return task

    def ended(self, uid: str, seconds: float = 60.0) -> Task:
        return self.until(uid, lambda task: task.state.is_final, seconds)

    def running(self, uid: str) -> Task:
        return self.until(uid, lambda task: task.state is TaskState.RUNNING)

    def log(self, task: Task) -> str:
        blob = task.blob("log")
        return "" if blob is None else self.blobs.verified(blob.digest).read_text(encoding="utf-8")

    def entries(self, task: Task) -> list[str]:
        blob = task.blob("result")
        assert blob is not None
        return zipfile.ZipFile(self.blobs.verified(blob.digest)).namelist()

    def left_behind(self) -> list[str]:
        """Files of workers that are gone."""
        return [str(path.relative_to(self.data)) for part in ("run", "work") for path in (self.data / part).glob("*")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def engine(site: Site) -> Iterator[LocalEngine]:
    before = psutil.Process().children(recursive=True)  # of other tests, that share a server
    engine = site.engine()
    engine.start()
    yield engine
    engine.stop(0)
    assert site.left_behind() == []
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def _worker(site: Site, task: Task) -> psutil.Process:
    return psutil.Process(int((site.data / "run" / f"{task.lease_holder}.lock").read_text()))


# What models do


def test_a_result(site: Site, engine: LocalEngine) -> None:
    task = site.ended(site.submit("noop"))
    assert task.state is TaskState.FINISHED
    assert site.entries(task) == ["segmentation.nii.gz", "segmentation.json", "provenance.txt"]
    assert task.grids[0]["size"] == [7, 6, 5]
    assert task.provenance["runner"] == "python"
    assert len(task.provenance["model_digest"]) == 64
    assert task.provenance["peak_memory_mb"] > 10


def test_the_same_input_gives_the_same_bytes(site: Site, engine: LocalEngine) -> None:
    digests = {blob.digest for _ in range(4) for blob in site.ended(site.submit("threshold")).blobs if blob.role == "result"}
    assert len(digests) == 1


def test_what_a_model_prints_is_its_log(site: Site, engine: LocalEngine) -> None:
    task = site.ended(site.submit("talker"))
    assert task.state is TaskState.FINISHED
    assert "printed 7" in site.log(task)
    assert "logged 7" in site.log(task)
    assert "container.log" in site.entries(task)


def test_files_of_a_model_keep_their_folders(site: Site, engine: LocalEngine) -> None:
    names = site.entries(site.ended(site.submit("writer")))
    assert "sub/folder/toy.nii.gz" in names
    assert "sub/folder/toy.json" in names
    assert "scores.json.txt" in names
    assert [name for name in names if name.endswith(".json")] == ["sub/folder/toy.json"]


FAILING = {
    # model: kind of failure, a word of its message, attempts
    "raiser": ("model", "told to fail", 1),
    "empty": ("output", "no label map", 1),
    "wrong-grid": ("grid", "8 x 6 x 5", 1),
    "undeclared-label": ("labels", "7", 1),
    "wrong-type": ("output", "ndarray", 1),
    "process-exit": ("exit", "", 1),
    "hanger-1": ("timeout", "0.3 s", 1),
    "no-such-model": ("start", "no-such-model", 1),
    "crasher": ("crash", "SIGSEGV", 3),
    "crasher-abort": ("crash", "SIGABRT", 3),
    "quitter": ("crash", "code 3", 3),
    "memory-eater-quick": ("memory", "limit of 200 MiB", 3),
}


@pytest.fixture(scope="module")
def failed(site: Site, engine: LocalEngine) -> dict[str, Task]:
    uids = {model: site.submit(model) for model in FAILING}
    return {model: site.ended(uid, 60.0) for model, uid in uids.items()}


@pytest.mark.parametrize("model", FAILING)
def test_a_failure_says_what_and_what_to_do(model: str, failed: dict[str, Task]) -> None:
    kind, word, attempts = FAILING[model]
    task = failed[model]
    assert task.state is TaskState.FAILED
    assert task.failure is not None
    assert task.failure.kind == kind
    assert word in task.failure.message
    assert task.failure.advice
    assert (task.attempt, task.lost) == (attempts, 0), "a model that says no is asked once; one that ends its worker, three times"


def test_the_log_outlives_the_worker(site: Site, failed: dict[str, Task]) -> None:
    assert "hanging" in site.log(failed["hanger-1"])
    assert "dying of SIGSEGV" in site.log(failed["crasher"])
    assert "Segmentation fault" in site.log(failed["crasher"]), "the stack, by faulthandler"


def test_a_model_that_holds_the_interpreter_is_stopped(site: Site, engine: LocalEngine, while_the_clock_is_steady: Steady) -> None:
    while_the_clock_is_steady(lambda: _cancelled(site, "gil-holder", 2.0))


def _cancelled(site: Site, model: str, most: float) -> None:
    uid = site.submit(model)
    site.running(uid)
    time.sleep(0.2)
    began = time.monotonic()
    site.tasks.cancel(uid)
    assert site.ended(uid).state is TaskState.CANCELLED
    assert time.monotonic() - began < most


def test_a_model_that_removes_its_folders_disturbs_nobody(site: Site, engine: LocalEngine) -> None:
    assert site.ended(site.submit("input-eater")).state is TaskState.FINISHED
    assert all(site.ended(site.submit("noop")).state is TaskState.FINISHED for _ in range(4))


# What is sent


def _images() -> list[Path]:
    """Real images, where they are present."""
    folder = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    return [path for name in ("S01*/*ct*.nii.gz", "S03*/*mr*.nii.gz", "S11*/*t2*.nii.gz") for path in sorted(folder.glob(name))[:1]]


@pytest.mark.shared
@pytest.mark.parametrize("model", ["threshold", "threshold-lps"])
def test_a_result_has_the_affine_of_the_image(model: str, site: Site, engine: LocalEngine, tmp_path: Path) -> None:
    """As nibabel sees both; `threshold` takes what is sent, its variant wants LPS."""
    oblique = tmp_path / "oblique.nii.gz"
    cosine, sine = np.cos(0.3), np.sin(0.3)
    affine = np.array([[0, -2 * sine, 3 * cosine, 5], [-1.5, 0, 0, -70], [0, 2 * cosine, 3 * sine, 11], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).integers(0, 200, (8, 9, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), oblique)
    for path in [oblique, *_images()]:
        image = nibabel.load(path)
        request = tmp_path / "request.zip"
        with FileRequestWriter(request) as writer:
            writer.add_image(path)
        task = site.ended(site.tasks.submit(model=model, archive=site.blobs.adopt(request), owner="me", protocol="v1").uid, 60.0)
        assert task.failure is None
        blob = task.blob("result")
        assert blob is not None
        with zipfile.ZipFile(site.blobs.verified(blob.digest)) as archive:
            archive.extract("segmentation.nii.gz", tmp_path)
        result = nibabel.load(tmp_path / "segmentation.nii.gz")
        np.testing.assert_allclose(result.affine, image.affine, atol=1e-3)
        np.testing.assert_array_equal(np.asanyarray(result.dataobj), image.get_fdata() >= 100)


def test_a_bad_input_fails_at_once(site: Site, engine: LocalEngine) -> None:
    writer = site.blobs.incoming()
    writer.write(b"this is no archive")
    task = site.ended(site.tasks.submit(model="noop", archive=writer, owner="me", protocol="v1").uid)
    assert task.failure is not None
    assert task.failure.kind == "input"
    assert task.attempt == 1


def test_an_altered_input_fails(site: Site, engine: LocalEngine) -> None:
    uid = site.submit("noop", Volume(np.full(GRID.shape, 5, np.int16), GRID))  # bytes of its own: blobs are shared
    site.ended(uid)
    blob = site.tasks.get(uid).blob("input")
    assert blob is not None
    path = site.blobs.path(blob.digest)
    path.write_bytes(path.read_bytes()[:-1])
    again = site.tasks.set_state(site.tasks.get(uid).id, TaskState.PENDING, "test")
    task = site.ended(again.uid)
    assert task.failure is not None
    assert task.failure.kind == "stored"
    assert "altered" in task.failure.message


# Who stops what


@pytest.mark.parametrize(("model", "most"), [("sleeper-60", 1.0), ("hanger-30", 2.0)])
def test_cancelling_stops_a_model_soon(site: Site, engine: LocalEngine, while_the_clock_is_steady: Steady, model: str, most: float) -> None:
    while_the_clock_is_steady(lambda: _cancelled(site, model, most))


@pytest.mark.parametrize("model", ["hanger-30", "process-hanger"])
def test_a_model_that_waits_is_interrupted_and_its_worker_lives_on(model: str, site: Site, engine: LocalEngine) -> None:
    uid = site.submit(model)
    worker = _worker(site, site.running(uid))
    time.sleep(0.3)
    site.tasks.cancel(uid)
    assert site.ended(uid).state is TaskState.CANCELLED
    assert worker.is_running()
    assert worker.children(recursive=True) == []


def test_what_a_guard_looks_after_is_gone_after_a_kill(site: Site, engine: LocalEngine) -> None:
    uid = site.submit("process-hanger")
    worker = _worker(site, site.running(uid))
    below = _wait_for(lambda: found if len(found := worker.children(recursive=True)) >= 2 else None)
    site.tasks.cancel(uid)
    worker.kill()
    assert site.ended(uid).state is TaskState.CANCELLED
    _wait_for(lambda: True if not _alive(below) else None)


def test_deleting_a_running_task_frees_its_worker(site: Site, engine: LocalEngine) -> None:
    uids = [site.submit("hanger-30") for _ in range(2)]
    for uid in uids:
        site.running(uid)
        site.tasks.delete(uid)
    assert site.ended(site.submit("noop"), 25.0).state is TaskState.FINISHED


def test_progress_is_seen(site: Site, engine: LocalEngine) -> None:
    uid = site.submit("sleeper-60")
    task = site.until(uid, lambda task: task.message == "sleeping")
    assert 0 < task.fraction < 0.2
    site.tasks.cancel(uid)
    site.ended(uid)


def test_a_worker_killed_from_outside_costs_the_task_nothing(site: Site, engine: LocalEngine) -> None:
    uid = site.submit("first-waits")
    task = site.running(uid)
    _wait_for(lambda: (site.models / "first-waits" / "flag").exists() or None)
    began = time.monotonic()
    _worker(site, task).kill()
    again = site.until(uid, lambda task: task.attempt == 2)
    assert time.monotonic() - began < 20, "the lease of 30 s is not waited for"
    assert again.lost == 1
    assert site.ended(uid).state is TaskState.FINISHED


def test_what_a_model_started_dies_with_its_worker(site: Site, engine: LocalEngine) -> None:
    uid = site.submit("parent")
    task = site.running(uid)
    worker = _worker(site, task)
    child = _wait_for(lambda: next((child for child in worker.children() if child.name() == "sleep"), None))
    site.tasks.cancel(uid)
    site.ended(uid)
    assert _wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE or None)


def _wait_for(look: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + 60
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


# The engine itself

RUN_ENGINE = """
import sys, time
from pathlib import Path
from delineate.engines import local
from delineate.engines.local import LocalEngine
engine = LocalEngine(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]], 1, sync=False)
engine.start()
time.sleep(60)
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_workers_die_with_their_engine_and_the_next_one_goes_on_at_once(fresh: Site) -> None:
    command = [sys.executable, "-c", RUN_ENGINE, str(fresh.data), str(fresh.models), str(models.FOLDER)]
    uids = [fresh.submit("gil-holder"), fresh.submit("sleeper")]
    with subprocess.Popen(command) as first:
        try:
            task = fresh.running(uids[0])
            workers = psutil.Process(first.pid).children(recursive=True)
            assert len(workers) == 1
        finally:
            first.kill()
    began = time.monotonic()
    _wait_for(lambda: True if not _alive(workers) else None)
    assert time.monotonic() - began < 20, "although its interpreter is held for a minute"
    fresh.tasks.cancel(uids[0])
    engine = fresh.engine()
    engine.start()
    try:
        assert fresh.ended(uids[0]).state is TaskState.CANCELLED
        assert time.monotonic() - began < 25, "the lease of 30 s is not waited for"
        assert fresh.ended(uids[1]).state is TaskState.FINISHED
    finally:
        engine.stop()
    assert task.lease_holder not in " ".join(fresh.left_behind())
    assert fresh.left_behind() == []


def test_two_engines_leave_each_others_workers_alone(fresh: Site) -> None:
    uid = fresh.submit("sleeper")
    first, second = fresh.engine(workers=1), fresh.engine(workers=0)
    first.start()
    try:
        fresh.running(uid)
        second.start()
        assert fresh.ended(uid).attempt == 1
    finally:
        second.stop()
        first.stop()


def test_stopping_lets_a_task_finish_or_gives_it_back_uncounted(tmp_path: Path, while_the_clock_is_steady: Steady) -> None:
    numbers = itertools.count()

    def attempt() -> None:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        fresh = Site(folder)
        uids = [fresh.submit("sleeper"), fresh.submit("hanger-30")]
        engine = fresh.engine(workers=2)
        engine.start()
        try:
            for uid in uids:
                fresh.running(uid)
            began = time.monotonic()
        finally:
            engine.stop(2.0)
        assert time.monotonic() - began < 4.0
        assert fresh.tasks.get(uids[0]).state is TaskState.FINISHED
        task = fresh.tasks.get(uids[1])
        assert (task.state, task.attempt, task.lost) == (TaskState.PENDING, 0, 0)
        assert fresh.left_behind() == []

    while_the_clock_is_steady(attempt)


def test_the_engine_renews_the_lease_of_a_silent_model(fresh: Site) -> None:
    lease = 2.5  # longer than machines stand still
    engine = fresh.engine(workers=1, lease=lease)
    uid = fresh.submit("hanger-30")
    engine.start()
    try:
        first = fresh.running(uid)
        task = fresh.until(uid, lambda task: (task.lease_expires or 0) > (first.lease_expires or 0) + lease)
        assert (task.state, task.attempt) == (TaskState.RUNNING, 1), "the first lease is over"
    finally:
        engine.stop(0)


def test_a_worker_that_dies_at_its_start_is_started_again_later(fresh: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    engine = fresh.engine(workers=1)
    engine.start()
    try:
        status = _wait_for(lambda: engine.status()["workers"][0] if engine.status()["workers"][0]["state"] == "waiting" else None)
        assert "code 1" in status["last_end"]
        assert engine.status()["ready"] == 0
        monkeypatch.undo()
        _wait_for(lambda: True if engine.status()["ready"] else None)
        assert engine.status()["workers"][0]["restarts"] >= 1
    finally:
        engine.stop()


def test_an_idle_worker_hears_the_bell(fresh: Site) -> None:
    engine = fresh.engine(workers=1)
    engine.start()
    try:
        _wait_for(lambda: True if engine.status()["ready"] else None)
        fresh.ended(fresh.submit("noop"))
        uid = fresh.submit("noop")
        engine.ring()
        assert fresh.ended(uid).state is TaskState.FINISHED
    finally:
        engine.stop()


def test_workers_go_before_the_server_when_memory_is_short(fresh: Site) -> None:
    engine = fresh.engine(workers=1)
    engine.start()
    try:
        _wait_for(lambda: True if engine.status()["ready"] else None)
        pid = engine.status()["workers"][0]["pid"]
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500
        assert os.getpgid(pid) == pid
        os.kill(pid, signal.SIGTERM)
        _wait_for(lambda: True if engine.status()["workers"][0]["restarts"] else None)
    finally:
        engine.stop()


def _astray(site: Site, engine: LocalEngine, images: Sequence[Path]) -> int:
    """How many of a dozen tasks about two new images did not go to the worker that has theirs."""
    for path in images:
        nifti.write(path, Volume(np.arange(210, dtype=np.int16).reshape(GRID.shape), GRID))
    # While one has the first image, the second begins its life in the other.
    first = site.refer("sleeper-60", images[0], engine)
    holders = [site.running(first).lease_holder]
    holders.append(site.ended(site.refer("noop", images[1], engine)).provenance["worker"])
    key = Reference((place_of(images[0]),)).key
    _wait_for(lambda: any(keeper.has_warm(key) for keeper in engine._keepers) or None)
    site.tasks.cancel(first)
    site.ended(first)
    assert len(set(holders)) == 2
    missed = 0
    for path, holder in [*zip(images, holders, strict=True)] * 6:
        time.sleep(0.05)  # at the pace of a person
        task = site.ended(site.refer("noop", path, engine))
        assert task.state is TaskState.FINISHED, task.failure
        missed += task.provenance["worker"] != holder
    return missed


def test_tasks_about_an_image_go_to_the_worker_that_has_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may not let the right one run for longer than is good elsewhere.
    monkeypatch.setattr(local, "HEAD_START", 20.0)
    monkeypatch.setattr(tasks, "RESERVED", 20.0)
    engine = site.engine(workers=2)
    engine.start()
    try:
        deadline = time.monotonic() + 60
        while engine.status()["ready"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        images = [site.studies / f"{name}.nii.gz" for name in "ab"]
        assert _astray(site, engine, images) == 0
        # Nobody waits for a worker that is busy.
        busy = site.refer("sleeper-60", images[0], engine)
        holder = site.running(busy).lease_holder or ""
        task = site.ended(site.refer("noop", images[0], engine))
        assert task.provenance["worker"] != holder
        assert not site.tasks.get(busy).state.is_final
        site.tasks.cancel(busy)
        site.ended(busy)
    finally:
        engine.stop()


def _altered_when_read(site: Site, engine: LocalEngine, seconds: float) -> Task:
    """A task about an image whose file is spoilt `seconds` after it came: who reads it then, finds that it is not what it was."""
    voxels = np.random.default_rng().integers(0, 2000, (40, 128, 128), dtype=np.int16)
    source = site.data / "image.nii.gz"
    nifti.write(source, Volume(voxels, Geometry((128, 128, 40))))
    data = source.read_bytes()
    with site.blobs.incoming("image.nii.gz") as writer:
        writer.write(data[: 1 << 18])
        along = engine.read_along(writer.path.name)
        assert along is not None
        for start in range(1 << 18, len(data), 1 << 16):
            writer.write(data[start : start + (1 << 16)])
        along.whole(writer.digest)
        time.sleep(seconds)
        with writer.path.open("r+b") as file:
            file.seek(len(data) // 2)
            file.write(bytes(1000))
        reference = Reference((Place(blob=writer.digest, name="image.nii.gz"),))
        document = site.blobs.incoming()
        document.write(reference.to_bytes())
        task = site.tasks.submit(
            model="threshold", archive=document, owner="me", protocol=MONAI_LABEL, beside={"image": writer}, rung=True,
        )  # fmt: skip
        engine.ring(reference.key)
        return site.ended(task.uid)


def test_an_image_is_read_while_it_comes(site: Site) -> None:
    """By the worker that then gets the task, which does not read the file again."""
    engine = site.engine(workers=2)
    engine.start()
    try:
        _wait_for(lambda: engine.status()["ready"] == 2 or None)
        waits = (0.1, 0.3, 1.0, 3.0, 10.0)  # a busy machine may need longer to read it
        tasks = (_altered_when_read(site, engine, seconds) for seconds in waits)
        assert any(task.state is TaskState.FINISHED for task in tasks)
        # Where nobody reads along the same file is found out.
        engine.read_along = lambda _file: SimpleNamespace(whole=lambda _blob: None)  # type: ignore[method-assign,assignment,return-value]
        task = _altered_when_read(site, engine, 0.0)
        assert task.failure is not None
        assert task.failure.kind == "stored"
    finally:
        engine.stop()


def _behind(site: Site, model: str) -> str:
    path = site.data / f"request-{time.monotonic_ns()}.zip"
    with FileRequestWriter(path) as writer:
        writer.add_image(Volume(np.zeros(GRID.shape, np.int16), GRID))
    return site.tasks.submit(model=model, archive=site.blobs.adopt(path), owner="me", protocol="v1", lane=BACKGROUND).uid


def test_what_is_in_the_background_keeps_nobody_waiting(site: Site, engine: LocalEngine) -> None:
    assert engine.status()["background"]["pid"] == 0
    long = [_behind(site, "sleeper-60"), _behind(site, "sleeper-60")]
    engine.ring_background()
    running = site.running(long[0])
    process = _worker(site, running)
    assert process.nice() == 19
    assert engine.status()["background"]["pid"] == process.pid
    assert engine.status()["alive"] == len(engine.status()["workers"]) == 2
    # All front workers are free while it runs, and it runs alone.
    firsts = [site.submit("noop") for _ in range(4)]
    engine.ring()
    assert {site.ended(uid).state for uid in firsts} == {TaskState.FINISHED}
    assert site.tasks.get(long[1]).state is TaskState.PENDING
    # Killed, its task goes back and is taken up by the next one.
    process.kill()
    site.until(long[0], lambda task: task.state is TaskState.RUNNING and task.lost == 1)
    for uid in long:
        site.tasks.cancel(uid)
    assert {site.ended(uid).state for uid in long} == {TaskState.CANCELLED}


def test_the_worker_of_the_background_ends_when_there_is_nothing_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BACKGROUND_IDLE", 0.3)
    engine = site.engine(workers=0)
    engine.start()
    try:
        for _ in range(2):
            assert site.ended(_behind(site, "noop")).state is TaskState.FINISHED  # found without a ring, too
            assert _wait_for(lambda: engine.status()["background"]["pid"] == 0 or None)
        assert engine.status()["background"]["last_end"] == ""
    finally:
        engine.stop(0)
