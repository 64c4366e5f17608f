"""Runs a model that is a command: it reads a folder of images and writes a folder of label maps.

``parameters``:

- ``command`` : list of strings; no shell sees it. ``{input}``, ``{output}``, ``{model}``, ``{python}``,
  ``{prompts}``, ``{memory_mb}`` and ``{time_limit}`` are replaced.
- ``environment`` : table of further variables, with the same replacements.
- ``pass_environment`` : names of variables of the worker that the command may see.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from delineate.errors import ModelError, SettingsError
from delineate.model import Model
from delineate.runners import child, memory, parameters
from delineate.runners.base import Job

KEYS = ("command", "environment", "pass_environment")
PASSED_ON = (
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "LD_LIBRARY_PATH", "TZ",
)  # fmt: skip
"""Where it may compute, and with how many threads. Nothing else of the worker's environment reaches a command."""


def create(model: Model, folder: Path | None) -> ProcessRunner:
    """The entry point ``process``."""
    return ProcessRunner(model, folder)


class ProcessRunner:
    """One run of a command for each task.

    Raises
    ------
    SettingsError
        The parameters make no sense.
    ModelError
        Of kind ``start``: there is no such program.
    """

    def __init__(self, model: Model, folder: Path | None) -> None:
        parameters.only(model, KEYS)
        self._model = model
        self._folder = folder
        self._command = parameters.strings(model, "command")
        self._environment = parameters.table(model, "environment")
        self._passed = (*PASSED_ON, *parameters.strings(model, "pass_environment"))
        if not self._command:
            raise SettingsError(f"model {model.name} lacks parameters.command", 'Write it like command = ["{python}", "{model}/run.py"].')
        if folder is None and any("{model}" in item for item in (*self._command, *self._environment.values())):
            raise SettingsError(
                f"the command of model {model.name} names {{model}}, but the model has no folder",
                "Put model.toml into a folder of its own, or name files by their whole path.",
            )
        self._program()

    def _program(self) -> str:
        """Full path of the program."""
        fixed = {"python": sys.executable, "model": str(self._folder)}
        wanted = _filled(self._command[0], fixed)
        if os.sep in wanted and self._folder is not None:
            wanted = str(self._folder / wanted)
        found = shutil.which(wanted, path=os.pathsep.join(os.get_exec_path()))
        if found is None:
            raise ModelError(
                f"model {self._model.name} cannot start: there is no program {wanted}",
                "Install it on the machine of the worker, or correct parameters.command.",
                kind="start",
            )
        return found

    def segment(self, job: Job) -> None:
        """Run the command; its results are the files in ``job.output_folder``."""
        # Beside the output, hence in the worker's own scratch space, which is emptied when a worker was killed.
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=job.output_folder.parent))
        try:
            values = self._values(job, scratch)
            command = child.Command(
                arguments=[self._program(), *(_filled(item, values) for item in self._command[1:])],
                environment=self._all_environment(values, scratch),
                folder=self._folder or scratch,
                memory_limit=self._model.resources.memory_mb * memory.MIB,
            )
            ending = child.run(command, job)
        finally:
            child.remove_folder(scratch)
        child.settle_output(job.output_folder, job.log)
        child.check(ending, self._model)

    def _values(self, job: Job, scratch: Path) -> dict[str, str]:
        prompts = scratch / "prompts.json"
        prompts.write_text(json.dumps(dict(job.prompts)), encoding="utf-8")
        return {
            "input": str(job.input_folder),
            "output": str(job.output_folder),
            "model": str(self._folder),
            "python": sys.executable,
            "prompts": str(prompts),
            "memory_mb": str(self._model.resources.memory_mb),
            "time_limit": f"{self._model.time_limit:g}",
        }

    def _all_environment(self, values: Mapping[str, str], scratch: Path) -> dict[str, str]:
        # Passes named variables on to a child; no setting of ours is read here.
        worker = os.environ
        environment = {name: worker[name] for name in self._passed if name in worker}
        environment |= {"PATH": os.pathsep.join(os.get_exec_path()), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        environment |= {"HOME": str(scratch), "TMPDIR": str(scratch)}
        return environment | {name: _filled(value, values) for name, value in self._environment.items()}

    def close(self) -> None:
        """Nothing stays between tasks."""


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Replace ``{name}`` of the names we know; other braces are the command's own."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text
