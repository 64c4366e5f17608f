"""``python -m delineate.worker``: started and looked after by `delineate.engines.local`, never by hand.

Standard input carries the engine's commands, standard output the events (see `delineate.worker.channel`); what a
model prints goes to its task's log, what the worker logs to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import delineate.models
from delineate import runners
from delineate.protocols.archive import Limits
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.models import ModelStore
from delineate.store.shelf import ModelShelf
from delineate.store.tasks import TaskStore
from delineate.task import BACKGROUND, FRONT
from delineate.worker import resident
from delineate.worker.attempt import Workplace
from delineate.worker.beforehand import ReadBeforehand
from delineate.worker.channel import Channel, end_process_group
from delineate.worker.desk import Desk, desks_folder
from delineate.worker.images import WarmImages
from delineate.worker.lock import WorkerLock
from delineate.worker.loop import Loop
from delineate.worker.referred import Files
from delineate.worker.warm import WarmRunners

_PR_SET_PDEATHSIG = 1
_KILLED_FIRST = 500  # of 1000: before the server, when the machine runs out of memory
_AUTOGROUP = Path("/proc/self/autogroup")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker until it is told to stop; the exit code is 0 then."""
    options = _parser().parse_args(arguments)
    _die_with(options.parent)
    _stand_back(options.nice, options.session_nice)
    events = os.dup(1)
    os.dup2(2, 1)
    channel = Channel(0, events)
    channel.hear_interrupts()
    channel.listen()
    faulthandler.enable()
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    lock = WorkerLock(options.data / "run", options.name)
    lock.acquire()  # before the scratch folder: a folder without a lock is rubbish
    desk = Desk(desks_folder(options.data) / options.name)
    database = Database(options.database or f"sqlite:///{options.data / 'delineate.db'}", sync=not options.no_sync)
    try:
        Loop(_workplace(options, database, channel, desk), database, options.lease, lane=options.lane, idle=options.idle).run()
    finally:
        database.close()
        desk.remove()
        lock.release()
    return 0


def _workplace(options: argparse.Namespace, database: Database, channel: Channel, desk: Desk) -> Workplace:
    blobs = BlobStore(options.data / "blobs", sync=not options.no_sync)
    images = WarmImages(options.images_mb << 20, resident.now)
    beforehand = ReadBeforehand(Files(blobs, options.root), images, desk.folder, options.images_mb << 20)
    channel.on_image = beforehand.hear
    folders = [(Path(delineate.models.__path__[0]), "builtin"), *((folder, "folder") for folder in options.models)]
    return Workplace(
        name=options.name,
        tasks=TaskStore(database, blobs),
        blobs=blobs,
        models=ModelShelf(ModelStore(folders, database, blobs)),
        channel=channel,
        warm=WarmRunners(runners.create, options.warm_mb << 20, resident.now),
        images=images,
        beforehand=beforehand,
        roots=options.root,
        desk=desk,
        limits=Limits(**json.loads(options.limits)),
        defaults=json.loads(options.runner_parameters),
        device=options.device,
        data=options.data,
        threads=options.threads,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m delineate.worker", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the server's data folder")
    parser.add_argument("--models", type=Path, action="append", default=[], help="a folder of model folders; may be repeated")
    parser.add_argument("--name", required=True, help="name of this worker, never used before")
    parser.add_argument("--parent", type=int, default=0, help="process whose end is the worker's")
    parser.add_argument("--database", default="", help="URL of the database, by default the one in the data folder")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds a task is ours without a sign of life")
    parser.add_argument("--device", default="", help="what it computes on, for the record")
    parser.add_argument("--warm-mb", type=int, default=2048, help="resident MiB above which idle models are unloaded")
    parser.add_argument("--images-mb", type=int, default=1536, help="MiB of decoded images that stay in memory")
    parser.add_argument("--root", type=Path, action="append", default=[], help="a folder whose images tasks may name; may be repeated")
    parser.add_argument("--lane", choices=(FRONT, BACKGROUND), default=FRONT, help="whose tasks it takes")
    parser.add_argument("--idle", type=float, default=math.inf, help="seconds without a task after which it ends")
    parser.add_argument("--nice", type=int, default=5, help="how far it stands back from the server")
    parser.add_argument("--session-nice", type=int, default=0, help="how far its session stands back from others")
    parser.add_argument("--threads", type=int, default=1, help="how many a numeric library may start")
    parser.add_argument("--limits", default="{}", help="limits of archives, JSON")
    parser.add_argument("--runner-parameters", default="{}", help="parameters by runner under those of the models, JSON")
    parser.add_argument("--no-sync", action="store_true", help="do not wait for the disk; for tests")
    parser.add_argument("--log-level", default="INFO")
    return parser


def _die_with(parent: int) -> None:
    """End when the engine's process ends, even while a model holds the interpreter (Linux)."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it ended before we asked
        end_process_group()


def _stand_back(nice: int, session: int) -> None:
    """Leave processor and memory to the server when there is too little for both."""
    with contextlib.suppress(OSError):
        os.nice(nice)
    # Linux weighs sessions against each other where it groups by them, and a worker is a session of its own: there
    # the number of the process alone says nothing.
    if session:
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(session), encoding="ascii")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_KILLED_FIRST), encoding="ascii")


if __name__ == "__main__":
    raise SystemExit(main())
