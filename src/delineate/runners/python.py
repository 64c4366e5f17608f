"""Runs a model that is a Python class, in the worker's own process.

``parameters.class = "module:Class"``: the module is looked for in the model's folder, then among what is installed.
The class is called with ``(parameters, folder)`` and has ``segment(job)``, and ``close()`` if it wants.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from delineate.errors import DelineateError, MissingPartError, ModelError, SettingsError
from delineate.model import Model
from delineate.runners import parameters
from delineate.runners.base import Findings, Job
from delineate.segmentation import Segmentation


def create(model: Model, folder: Path | None) -> PythonRunner:
    """The entry point ``python``."""
    return PythonRunner(model, folder)


class PythonRunner:
    """One object of the model's class, kept between tasks.

    Raises
    ------
    SettingsError
        ``parameters.class`` is missing or is not like ``module:Class``.
    ModelError
        Of kind ``start``: the module cannot be imported, has no such class, or the class raised; ``missing``: an extra is not installed.
    """

    def __init__(self, model: Model, folder: Path | None) -> None:
        self._model = model
        place = parameters.text(model, "class")
        module, colon, name = place.partition(":")
        if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise SettingsError(f"parameters.class of model {model.name} is {place!r}", 'Write it like class = "module:Class".')
        self._code = ModelCode(folder, module)
        with self._code.importable(), self._failing_as("start", "could not be loaded"):
            loaded = self._code.load()
            if not hasattr(loaded, name):
                raise ModelError(f"{module} of model {model.name} has no {name}", "Correct parameters.class in model.toml.", kind="start")
            self._object: Any = getattr(loaded, name)(dict(model.parameters), folder)
        if not callable(getattr(self._object, "segment", None)):
            raise ModelError(f"class {place} of model {model.name} has no method segment(job)", "See docs/models.md.", kind="start")

    def segment(self, job: Job) -> Segmentation | Findings | None:
        """Call the model; what it raises becomes a `ModelError`, its traceback goes to the job's log."""
        with self._code.importable(), self._failing_as("model", "failed", job):
            result = self._object.segment(job)
        if result is None or isinstance(result, Segmentation | Findings):
            return result
        raise ModelError(
            f"model {self._model.name} gave a {type(result).__name__} instead of a Segmentation",
            "Return a delineate.segmentation.Segmentation, Findings, or None when the results are files.",
            kind="output",
        )

    def close(self) -> None:
        """Free the model's object and its modules; what its own ``close`` raises is of no consequence any more."""
        with contextlib.suppress(Exception), self._code.importable():
            getattr(self._object, "close", lambda: None)()
        self._object = None
        self._code.unload()

    @contextlib.contextmanager
    def _failing_as(self, kind: str, what: str, job: Job | None = None) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except SystemExit as error:
            raise ModelError(f"model {self._model.name} called exit({error.code})", "See the task's log.", kind="exit") from error
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            if job is not None:
                job.log(trace.rstrip())
            if _is_out_of_memory(error):
                raise ModelError(
                    f"model {self._model.name} ran out of memory: {_reason(error)}",
                    "Raise memory_mb under [resources] in its model.toml, or send a smaller image.",
                    kind="memory",
                ) from error
            if isinstance(error, MissingPartError):
                raise ModelError(error.message, error.advice, kind="missing") from error
            raise ModelError(f"model {self._model.name} {what}: {_reason(error)}", _advice(error, job), kind=kind) from error


def _is_out_of_memory(error: BaseException) -> bool:
    # Frameworks have exceptions of their own for the memory of their device, by this name.
    return isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError")


def _reason(error: BaseException) -> str:
    """One line: the type, and the first line of what it says."""
    text = " ".join((str(error).strip().splitlines() or [""])[0].split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _advice(error: BaseException, job: Job | None) -> str:
    if isinstance(error, DelineateError) and error.advice:
        return error.advice
    if isinstance(error, ImportError):
        return "Install what it needs in the worker's environment."
    return "See the task's log." if job is not None else "Correct the model's code."


class ModelCode:
    """The modules of one model's folder, apart from those of any other.

    Two folders may both have ``model.py``, and ``network.py`` beside it. The entry module is loaded under a name of
    its own, as part of a package that is the folder, so ``from .network import Net`` works; ``import network`` works
    too, because the folder is importable while the model runs, and only then.
    """

    def __init__(self, folder: Path | None, module: str) -> None:
        self._module = module
        self._folder = folder.resolve() if folder is not None and _is_in(folder, module) else None
        self._package = "delineate_model_" + uuid.uuid4().hex[:12]
        self._own: dict[str, ModuleType] = {}

    def load(self) -> ModuleType:
        """The entry module, from the folder or from what is installed. Call within `importable`."""
        if self._folder is None:
            return importlib.import_module(self._module)
        importlib.invalidate_caches()
        package = ModuleType(self._package)
        package.__path__ = [str(self._folder)]
        package.__spec__ = importlib.machinery.ModuleSpec(self._package, None, is_package=True)
        sys.modules[self._package] = package
        return importlib.import_module(f"{self._package}.{self._module}")

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """While the model's code runs: its folder is the first place for imports, its modules are known by their plain names."""
        if self._folder is None:
            yield
            return
        names = self._names()
        hidden = _loaded(names)  # modules of the same name as one in the folder are out of the way meanwhile
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self._own)
        sys.path.insert(0, str(self._folder))
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is the model's; its digest must stay
        try:
            yield
        finally:
            sys.dont_write_bytecode = writes
            with contextlib.suppress(ValueError):
                sys.path.remove(str(self._folder))
            self._own = {name: module for name, module in _loaded(names).items() if self._is_inside(module)}
            for name in self._own:
                del sys.modules[name]
            sys.modules.update(hidden)

    def _names(self) -> set[str]:
        """Top-level names that the folder offers for import; the standard library's and our own stay what they are."""
        assert self._folder is not None
        names = set()
        for name, entry in _entries(self._folder):
            if name.endswith(".py"):
                names.add(name[: -len(".py")])
            elif name != "__pycache__" and entry.is_dir() and any(inner.endswith(".py") for inner, _ in _entries(entry)):
                names.add(name)
        return names - sys.stdlib_module_names - {"delineate", "numpy"}

    def _is_inside(self, module: ModuleType) -> bool:
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
        return any(place and Path(place).is_relative_to(self._folder or "") for place in places)

    def unload(self) -> None:
        """Forget the modules."""
        self._own.clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == self._package]:
            del sys.modules[name]


def _entries(folder: os.PathLike[str]) -> list[tuple[str, os.DirEntry[str]]]:
    """What is in a folder, by name; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry) for entry in entries]
    except OSError:
        return []


def _loaded(names: Collection[str]) -> dict[str, ModuleType]:
    """The loaded modules of these top-level names, with all below them."""
    if not any(name in sys.modules for name in names):  # of a thousand modules none: nothing below one is there without it
        return {}
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in names}


def _is_in(folder: Path, module: str) -> bool:
    place = folder.joinpath(*module.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
