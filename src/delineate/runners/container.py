"""Runs a model that is a container image: reads ``/input``, writes ``/output``, may read ``/model``.

``parameters``:

- ``image`` : its name; ``command`` : list of strings in place of the image's own; ``entrypoint`` : likewise.
- ``user`` : ``uid:gid`` inside; without it, ours, so that the results are ours.
- ``pull`` : fetch the image when the model is started; false by default.
- ``environment`` : table of variables; ``tmp_mb`` : size of ``/tmp``; ``shm_mb`` : of ``/dev/shm``; ``processes`` : most of them.
- ``read_only`` : false gives the image's own files a writable layer, thrown away afterwards.
- ``engine`` : podman or docker with its global options; ``engine_arguments`` and ``run_arguments`` : further options.
  These belong to the operator of the worker: they can undo every protection (`OPERATOR_KEYS`).
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from delineate.errors import ModelError, SettingsError
from delineate.model import Model
from delineate.runners import child, memory, parameters
from delineate.runners.base import Job
from delineate.runners.container_engine import Engine, find_engine, own_labels, reap

OPERATOR_KEYS = ("engine", "engine_arguments", "run_arguments")
KEYS = ("image", "command", "entrypoint", "user", "pull", "environment", "tmp_mb", "shm_mb", "processes", "read_only", *OPERATOR_KEYS)
ENGINE_GRACE = 30.0  # seconds after the deadline by which the engine itself stops a container nobody watches

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_LIMITS_REFUSED = re.compile(r"cgroup|memory|pids|swap", re.IGNORECASE)
_LIMITS_IGNORED = re.compile(r"limit\S*\b.*\b(ignored|discarded)", re.IGNORECASE)
_ENGINE_CODES = {
    125: "the container engine could not run it",
    126: "its command could not be invoked",
    127: "its command was not found in the image",
}


def create(model: Model, folder: Path | None) -> ContainerRunner:
    """The entry point ``container``."""
    return ContainerRunner(model, folder)


class ContainerRunner:
    """One run of an image for each task: no network, nothing of the machine but its folders, no capabilities.

    Raises
    ------
    SettingsError
        The parameters make no sense.
    ModelError
        Of kind ``start``: no engine, or no such image.
    """

    def __init__(self, model: Model, folder: Path | None) -> None:
        parameters.only(model, KEYS)
        self._model = model
        self._folder = folder
        self._image = parameters.text(model, "image")
        if not _IMAGE.fullmatch(self._image):
            raise SettingsError(
                f"{self._image!r} is no name of a container image (model {model.name})", 'Write it like image = "registry.example/model:1".'
            )
        self._user = parameters.text(model, "user", "")
        self._engine = find_engine(parameters.text(model, "engine", ""), parameters.strings(model, "engine_arguments"))
        self._fixed = self._fixed_arguments()
        self._limits_work = True
        reap(self._engine)
        if parameters.flag(model, "pull", False):
            self._engine.pull(self._image)
        elif not self._engine.has_image(self._image):
            raise self._missing_image()

    def _missing_image(self) -> ModelError:
        return ModelError(
            f"the container image {self._image} of model {self._model.name} is not on this machine",
            f"Fetch it with `{self._engine.name} pull {self._image}`, or set pull = true in model.toml.",
            kind="start",
        )

    def segment(self, job: Job) -> None:
        """Run the image; its results are the files in ``job.output_folder``, sub-folders kept."""
        self._open_to_user(job)
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=job.output_folder.parent))
        try:
            ending = self._run(job, scratch)
            if self._limits_work and ending.code == 125 and _LIMITS_REFUSED.search(ending.words):
                self._limits_work = False
                job.log("the container engine refuses memory and process limits here; its memory is watched from outside instead")
                ending = self._run(job, scratch)
        finally:
            child.remove_folder(scratch)
        child.settle_output(job.output_folder, job.log)
        self._check(ending)

    def _run(self, job: Job, scratch: Path) -> child.Ending:
        name = f"delineate-{_plain(job.task)}-{secrets.token_hex(4)}"
        limit = self._model.resources.memory_mb * memory.MIB
        probe = _MemoryProbe(self._engine, name, watched=not self._limits_work)
        command = child.Command(
            arguments=[*self._engine.command, "run", *self._run_arguments(job, scratch, name)],
            memory_limit=limit,
            memory_used=probe.used_beyond,
            clean_up=self._engine.removal(name),
            folder=scratch,  # podman's monitor leaves a file ``oom`` in its current folder when the kernel killed for memory
        )

        def log(text: str) -> None:
            if _LIMITS_IGNORED.search(text):  # the engine's warning
                probe.watched = True
            job.log(text)

        ending = child.run(command, job, log)
        return replace(ending, kernel_kills=ending.kernel_kills + (scratch / "oom").exists())

    def _check(self, ending: child.Ending) -> None:
        if not ending.stopped and ending.code == 125 and not self._engine.has_image(self._image):
            raise self._missing_image()
        if not ending.stopped and ending.code in _ENGINE_CODES:
            raise ModelError(
                f"model {self._model.name} ended with exit code {ending.code} ({_ENGINE_CODES[ending.code]}): {ending.words}",
                "Check the image and parameters.command, and that the engine works for the worker's user.",
                kind="start" if ending.code == 125 else "exit",
            )
        child.check(ending, self._model)

    def _run_arguments(self, job: Job, scratch: Path, name: str) -> list[str]:
        labels = own_labels() | {"delineate.task": _plain(job.task)}
        arguments = ["--rm", "--name", name, *(f"--label={key}={value}" for key, value in labels.items())]
        arguments += [f"--volume={job.input_folder.resolve()}:/input:ro", f"--volume={job.output_folder.resolve()}:/output:rw"]
        if self._folder is not None:
            arguments += [f"--volume={self._folder.resolve()}:/model:ro"]
        if job.prompts:
            prompts = scratch / "prompts.json"
            prompts.write_text(json.dumps(dict(job.prompts)), encoding="utf-8")
            prompts.chmod(0o644)
            arguments += [f"--volume={prompts.resolve()}:/prompts.json:ro", "--env=DELINEATE_PROMPTS=/prompts.json"]
        if self._limits_work:
            arguments += self._limit_arguments()
        if self._engine.is_podman:
            arguments += [f"--timeout={int(max(job.deadline - time.monotonic(), 0) + ENGINE_GRACE)}"]
        return [*arguments, *self._fixed, self._image, *parameters.strings(self._model, "command")]

    def _limit_arguments(self) -> list[str]:
        arguments = [f"--pids-limit={parameters.whole(self._model, 'processes', 1024)}"]
        limit = self._model.resources.memory_mb
        return [*arguments, f"--memory={limit}m", f"--memory-swap={limit}m"] if limit else arguments

    def _fixed_arguments(self) -> list[str]:
        model = self._model
        tmp = f",size={parameters.whole(model, 'tmp_mb', 1)}m" if "tmp_mb" in model.parameters else ""
        arguments = [
            "--pull=never", "--network=none", "--log-driver=none", "--cap-drop=all", "--security-opt=no-new-privileges",
            f"--tmpfs=/tmp:rw,mode=1777{tmp}", f"--user={self._user or self._engine.own_user()}",
            "--env=HOME=/tmp", "--env=PYTHONUNBUFFERED=1",
            # A variable without a value is passed on where the worker has it: which device this worker may use.
            "--env=CUDA_VISIBLE_DEVICES", "--env=OMP_NUM_THREADS",
        ]  # fmt: skip
        if parameters.flag(model, "read_only", True):
            arguments += ["--read-only"]
        if "shm_mb" in model.parameters:
            arguments += [f"--shm-size={parameters.whole(model, 'shm_mb', 64)}m"]
        if "entrypoint" in model.parameters:
            arguments += [f"--entrypoint={parameters.text(model, 'entrypoint')}"]
        if model.resources.gpu:
            arguments += ["--device=nvidia.com/gpu=all"] if self._engine.is_podman else ["--gpus=all"]
        arguments += [f"--env={key}={value}" for key, value in parameters.table(model, "environment").items()]
        return [*arguments, *parameters.strings(model, "run_arguments")]

    def _open_to_user(self, job: Job) -> None:
        """Let another user than ours read the input and write the output; the folders above them stay closed."""
        if not self._user:
            return
        job.output_folder.chmod(0o777)
        job.input_folder.chmod(0o755)
        for path in job.input_folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def close(self) -> None:
        """Nothing stays between tasks."""


class _MemoryProbe:
    """Asks for the memory of a container from outside, where the engine does not limit it."""

    def __init__(self, engine: Engine, name: str, watched: bool) -> None:
        self._engine = engine
        self._name = name
        self.watched = watched
        self._process = 0
        self._next = 0.0

    def used_beyond(self, _client: int, limit: int) -> int:
        """Bytes that the container's processes hold where that exceeds `limit`, else 0."""
        if not self.watched:
            return 0
        if not self._process and time.monotonic() >= self._next:
            self._process = self._engine.process_of(self._name)
            self._next = time.monotonic() + 0.2
        return memory.used_beyond(self._process, limit) if self._process else 0


def _plain(task: str) -> str:
    """A task's name as the engine takes it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", task)[:64] or "task"
