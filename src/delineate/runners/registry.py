"""Finds runners by name; the built-in ones use the same door as anybody's."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from delineate.errors import DelineateError, ModelError, SettingsError
from delineate.model import Model
from delineate.runners.base import Runner

GROUP = "delineate.runners"


def known() -> list[str]:
    """Names of the installed runners, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def create(model: Model, folder: Path | None = None) -> Runner:
    """The runner of a model, loaded and warm.

    Parameters
    ----------
    model : Model
    folder : the model's own files, None where it has none.

    Raises
    ------
    SettingsError
        No such runner is installed, or the model's parameters make no sense.
    ModelError
        Of kind ``start``: the runner's package is broken, or the model cannot be loaded.
    """
    entry = next(iter(entry_points(group=GROUP, name=model.runner)), None)
    if entry is None:
        raise SettingsError(
            f"model {model.name} wants the runner {model.runner!r}, which is not installed",
            f"Installed runners: {', '.join(known()) or 'none'}.",
        )
    try:
        factory = entry.load()
    except Exception as error:  # a plugin may fail in any way, and must not take the worker with it
        raise ModelError(
            f"the runner {model.runner} could not be loaded: {type(error).__name__}: {error}",
            f"Check the package that provides {entry.value}.",
            kind="start",
        ) from error
    try:
        runner: Runner = factory(model, folder)
    except (DelineateError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"model {model.name} could not be started: {type(error).__name__}: {error}", "Look at its model.toml and code.", "start"
        ) from error
    if not callable(getattr(runner, "segment", None)) or not callable(getattr(runner, "close", None)):
        raise ModelError(
            f"the runner {model.runner} made a {type(runner).__name__} that has no segment() and close()",
            f"Check the package that provides {entry.value}.",
            kind="start",
        )
    return runner
