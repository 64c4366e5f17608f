"""One worker process as its engine sees it: started, heard, told, killed with all it started."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delineate.task import FRONT
from delineate.worker.desk import desks_folder
from delineate.worker.strays import unguarded

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_BLOCK = 65536


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What every worker of an engine is started with.

    data : the server's data folder; model_folders : beside the built-in ones; database : URL, empty for the usual one;
    threads : per worker, for the numeric libraries; warm_mb : see `delineate.worker.warm`; limits : of archives;
    runner_parameters : by runner, under those of the models; log_level : of the worker's own log; sync : wait for the disk;
    lease : seconds; roots : folders whose images tasks by reference may name; images_mb : MiB of decoded images that stay;
    lane : whose tasks it takes; idle : seconds without a task after which it ends, 0 for never; nice, session_nice : how far
    it stands back from other processes, and its session from others where the system weighs these.
    """

    data: Path
    model_folders: Sequence[Path] = ()
    database: str = ""
    threads: int = 1
    warm_mb: int = 2048
    limits: Mapping[str, Any] = field(default_factory=dict)
    runner_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log_level: str = "info"
    sync: bool = True
    lease: float = 30.0
    roots: Sequence[Path] = ()
    images_mb: int = 1536
    lane: str = FRONT
    idle: float = 0.0
    nice: int = 5
    session_nice: int = 0

    def command(self, name: str, device: str) -> list[str]:
        """The worker's command line."""
        models = [word for folder in self.model_folders for word in ("--models", str(folder))]
        roots = [word for folder in self.roots for word in ("--root", str(folder))]
        return [
            sys.executable, "-m", "delineate.worker", "--data", str(self.data), *models, *roots, "--images-mb", str(self.images_mb),
            "--name", name, "--device", device, "--lease", str(self.lease),
            "--lane", self.lane, "--nice", str(self.nice), "--session-nice", str(self.session_nice), "--threads", str(self.threads),
            *(["--idle", str(self.idle)] if self.idle else []),
            "--parent", str(os.getpid()), "--database", self.database, "--warm-mb", str(self.warm_mb), "--log-level", self.log_level,
            "--limits", json.dumps(dict(self.limits)), "--runner-parameters", json.dumps(dict(self.runner_parameters)),
            *([] if self.sync else ["--no-sync"]),
        ]  # fmt: skip

    def environment(self, name: str, device: str) -> dict[str, str]:
        """The worker's environment: ours without the server's settings (tokens are among them)."""
        extra = {variable: str(self.threads) for variable in _THREAD_VARIABLES}
        extra["TMPDIR"] = str(desks_folder(self.data) / name / "tmp")  # what a model leaves behind goes with the worker
        if device.startswith("cuda:"):
            extra["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
        return {key: value for key, value in (os.environ | extra).items() if not key.startswith("DELINEATE_")}


class WorkerProcess:
    """A running worker. `events` and `errors` are descriptors to select on."""

    def __init__(self, name: str, device: str, options: WorkerOptions, logger: logging.Logger) -> None:
        self.name = name
        self._logger = logger
        self._process = subprocess.Popen(
            options.command(name, device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=options.environment(name, device),
            start_new_session=True,  # a group of its own, so that it can be killed with all that it started
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._commands = self._process.stdin.fileno()
        os.set_blocking(self._commands, False)  # a worker whose interpreter is held does not read, and must not hold us
        self._lock = threading.Lock()
        self._is_closed = False
        self.events = self._process.stdout.fileno()
        self.errors = self._process.stderr.fileno()
        self._buffers = {self.events: b"", self.errors: b""}

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def read_events(self) -> Iterator[Mapping[str, Any]] | None:
        """What it says now; None at its end. Call when `events` is readable."""
        lines = self._lines(self.events)
        return None if lines is None else (json.loads(line) for line in lines)

    def read_errors(self) -> bool:
        """Pass on what it logs; False at its end. Call when `errors` is readable."""
        lines = self._lines(self.errors)
        for line in lines or ():
            self._logger.info("%s", line.decode("utf-8", "replace"))
        return lines is not None

    def tell(self, command: str, **more: Any) -> None:
        """Send a command, from any thread; a worker that is dead or deaf does not mind."""
        line = json.dumps({"command": command, **more}).encode("ascii") + b"\n"
        with self._lock, contextlib.suppress(OSError):
            if not self._is_closed:  # else the number may be another file's by now
                os.write(self._commands, line)

    def kill(self) -> None:
        """Kill it and all that it started, at once; guards of commands and containers clean up by themselves when it is dead."""
        processes = unguarded(self.pid)
        for kill, number in ((os.killpg, self.pid), *((os.kill, process) for process in processes)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(number, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, negative for a signal; None while it lives after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Kill what is left of its group and let go of the pipes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with self._lock:
            self._is_closed = True
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()

    def _lines(self, descriptor: int) -> list[bytes] | None:
        block = os.read(descriptor, _BLOCK)
        if not block:
            return None
        *lines, self._buffers[descriptor] = (self._buffers[descriptor] + block).split(b"\n")
        return lines
