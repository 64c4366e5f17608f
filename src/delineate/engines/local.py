"""Workers on this machine: started, looked after, and their tasks given back when they die."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from delineate.engines.keeper import Keeper
from delineate.engines.process import WorkerOptions
from delineate.errors import StoreError
from delineate.protocols.reference import Place
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.task import BACKGROUND
from delineate.worker.desk import desks_folder
from delineate.worker.lock import WorkerLock, dead_workers, is_held

_log = logging.getLogger(__name__)

HOUSEKEEPING = 1.0  # s between two looks for dead workers of other engines and for leases over time
HEAD_START = 0.15  # s for the worker that has an image decoded, before another one takes its task
BACKGROUND_IDLE = 30.0  # s without a task after which the worker of the background ends
BACKGROUND_NICE = 19
BACKGROUND_SESSION_NICE = 10  # a tenth of a processor against another session that wants all of it
SHORT_START = 0.015  # s where that one is busy, as far as is known: it may be free by now
MOST_IMAGES_MB = 1536
MEMORY_SHARE = 0.8  # of the machine, over all workers, where no limit is set


@dataclass(frozen=True)
class Along:
    """A file that a worker reads while it comes."""

    keeper: Keeper
    file: str

    def whole(self, blob: str) -> None:
        """All of it came, and has this digest."""
        self.keeper.is_whole(self.file, blob, Place(blob=blob).key)

    def forget(self) -> None:
        """No task will name it."""
        self.keeper.forget(self.file)


class LocalEngine:
    """Runs workers for one data folder. Every method may be called from any thread; none blocks an event loop for long.

    Parameters
    ----------
    data : the server's data folder; its database must be migrated.
    model_folders : beside the built-in models.
    workers : processes; devices : ``cuda:0`` …, dealt out to the workers in turn.
    memory_mb : MiB a task may take where its model declares nothing, 0 for a fair share of the machine.
    database : URL, by default of the one in the data folder.
    lease : seconds; threads : per worker, by default the cores shared out; warm_mb : resident MiB above which a worker
    unloads idle models, by default half of `memory_mb`; limits : of archives, see `protocols.archive.Limits`;
    runner_parameters : by runner, under those of the models; log_level : of the workers' own logs; sync : wait for the disk;
    roots : folders whose images tasks by reference may name; images_mb : MiB of decoded images that stay in each worker,
    by default a quarter of `memory_mb`, 1536 at most.
    """

    def __init__(
        self,
        data: Path,
        model_folders: Sequence[Path] = (),
        workers: int = 1,
        devices: Sequence[str] = (),
        memory_mb: int = 0,
        *,
        database: str = "",
        lease: float = 30.0,
        threads: int = 0,
        warm_mb: int = 0,
        limits: Mapping[str, Any] | None = None,
        runner_parameters: Mapping[str, Mapping[str, Any]] | None = None,
        log_level: str = "info",
        sync: bool = True,
        roots: Sequence[Path] = (),
        images_mb: int = 0,
    ) -> None:
        self._data = data.absolute()
        memory_mb = memory_mb or int(psutil.virtual_memory().total * MEMORY_SHARE / max(1, workers)) >> 20
        options = WorkerOptions(
            data=self._data,
            model_folders=tuple(folder.absolute() for folder in model_folders),
            database=database,
            threads=threads or max(1, _cores() // max(1, workers)),
            warm_mb=warm_mb or memory_mb // 2,
            limits=limits or {},
            runner_parameters=runner_parameters or {},
            log_level=log_level,
            sync=sync,
            lease=lease,
            roots=tuple(folder.absolute() for folder in roots),
            images_mb=images_mb or min(MOST_IMAGES_MB, memory_mb // 4),
        )
        self._database = Database(database or f"sqlite:///{self._data / 'delineate.db'}", sync=sync)
        blobs = BlobStore(self._data / "blobs", sync=sync)
        self._tasks = TaskStore(self._database, blobs)
        self._prefix = secrets.token_hex(4)
        self._choosing = threading.Lock()
        self._lock = WorkerLock(self._data / "run", f"{self._prefix}-engine")
        self._stopping = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeper", daemon=True)

        def keeper(index: int, device: str, options: WorkerOptions) -> Keeper:
            return Keeper(index, self._prefix, device, options, self._database, self._tasks, blobs, memory_bytes=memory_mb << 20)

        self._keepers = [keeper(index + 1, devices[index % len(devices)] if devices else "", options) for index in range(workers)]
        self._background = keeper(workers + 1, "", _behind(options))

    def start(self) -> None:
        """Give back what dead workers held and start our own, all in the background."""
        self._lock.acquire()
        self._housekeeper.start()
        for keeper in self._all:
            keeper.start()

    @property
    def _all(self) -> list[Keeper]:
        return [*self._keepers, self._background]

    def ring_background(self) -> None:
        """There may be a new task in the background: its worker is started, or looks at once."""
        self._background.ring()

    def on_settled(self, call: Callable[[], None]) -> None:
        """`call`, which must not block, is made in some thread whenever a worker here has settled a task."""
        for keeper in self._keepers:
            keeper.on_settled = call

    def ring(self, image: str = "") -> None:
        """There may be a new task: idle workers look at once, instead of within 80 ms. Call it after a submit.

        `image`: the `Reference.key` of the task. One worker that has this image decoded looks first, others that have it a little
        later, so that they do not run for it together, and those that have not after them.
        """
        near = sorted((keeper for keeper in self._keepers if image and keeper.has_warm(image)), key=lambda keeper: not keeper.is_free)
        start = 0.0 if not near else HEAD_START if near[0].is_free else SHORT_START
        for keeper in (*near, *(keeper for keeper in self._keepers if keeper not in near)):
            keeper.ring(0.0 if keeper in near[:1] else SHORT_START if keeper in near else start)

    def read(self, place: Place) -> None:
        """Tasks may come on an image that is here: a worker that has nothing else to do reads it meanwhile, and looks first for them."""
        with self._choosing:
            if any(keeper.has_warm(place.key) for keeper in self._keepers):
                return
            for keeper in sorted(self._keepers, key=lambda keeper: keeper.reads_beforehand):
                if keeper.read(place):
                    return

    def read_along(self, file: str) -> Along | None:
        """A file begins to come among the store's incoming ones, a NIfTI image that a task will name as a blob: a worker that has
        nothing else to do reads it meanwhile, and looks first for that task. None where all are busy."""
        with self._choosing:
            keeper = next((keeper for keeper in self._keepers if keeper.read_along(file)), None)
        return None if keeper is None else Along(keeper, file)

    def stop(self, grace: float = 10.0) -> None:
        """Let the workers finish their tasks within `grace` seconds; what is not finished then goes back uncounted."""
        for keeper in self._all:
            keeper.stop(grace)
        for keeper in self._all:
            keeper.join()
        self._stopping.set()
        self._housekeeper.join()
        self._lock.release()
        self._database.close()

    def status(self) -> dict[str, Any]:
        """``workers``: how each is (`WorkerStatus`); ``alive``: how many processes run; ``ready``: how many can take tasks;
        ``background``: how the one of the background is, stopped while it is not needed."""
        workers = [asdict(keeper.status) for keeper in self._keepers]
        return {
            "workers": workers,
            "background": asdict(self._background.status),
            "alive": sum(worker["pid"] > 0 for worker in workers),
            "ready": sum(worker["state"] in ("idle", "busy") for worker in workers),
        }

    def _keep_house(self) -> None:
        while True:
            try:
                self._recover()
                self._tasks.expire()
            except StoreError as error:
                _log.error("the store failed: %s", error.message)
            except OSError as error:
                _log.error("the data folder cannot be used: %s", error.strerror)
            if self._stopping.wait(HOUSEKEEPING):
                return

    def _recover(self) -> None:
        """Give back the tasks of workers whose engine is dead, and remove what they left."""
        run, work = self._data / "run", desks_folder(self._data)
        for name in dead_workers(run, skip=self._is_in_hand):
            for task in self._tasks.release(name, "its worker or server was killed"):
                _log.warning("task %d was held by a dead worker and goes on as %s", task.id, task.state.value)
            shutil.rmtree(work / name, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            for folder in list(work.iterdir()):
                # A worker locks before it makes its folder: a folder without a lock belongs to nobody.
                if not self._is_in_hand(folder.name) and not (run / f"{folder.name}.lock").exists():
                    shutil.rmtree(folder, ignore_errors=True)

    def _is_in_hand(self, name: str) -> bool:
        """Whether somebody alive will settle this worker's tasks: our keeper, or the worker's own engine."""
        prefix = name.partition("-")[0]
        if prefix == self._prefix:
            return name.endswith("-engine") or any(keeper.name == name for keeper in self._all)
        return not name.endswith("-engine") and is_held(self._data / "run", f"{prefix}-engine")


def _behind(options: WorkerOptions) -> WorkerOptions:
    """Those of the worker of the background: it gives way, keeps no image, and ends when there is nothing to do."""
    return replace(
        options,
        lane=BACKGROUND,
        idle=BACKGROUND_IDLE,
        nice=BACKGROUND_NICE,
        session_nice=BACKGROUND_SESSION_NICE,
        threads=max(1, _cores() // 2),
        images_mb=0,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
