"""Reads the ``[parameters]`` of a model with an error that names the model and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from delineate.errors import SettingsError
from delineate.model import Model

_ADVICE = "See docs/models.md."


def only(model: Model, keys: Iterable[str]) -> None:
    """Refuse keys that the runner does not know: a misspelt key would be silently without effect."""
    strangers = sorted(set(model.parameters) - set(keys))
    if strangers:
        raise SettingsError(
            f"model {model.name} has parameters that the {model.runner} runner does not know: {', '.join(strangers)}",
            f"It knows {', '.join(sorted(keys))}.",
        )


def text(model: Model, key: str, default: str | None = None) -> str:
    """A string; required where no default is given."""
    value = model.parameters.get(key, default)
    if value is None:
        raise SettingsError(f"model {model.name} lacks parameters.{key}, which the {model.runner} runner needs", _ADVICE)
    if not isinstance(value, str):
        raise SettingsError(f"parameters.{key} of model {model.name} must be a string, not {value!r}", _ADVICE)
    return value


def flag(model: Model, key: str, default: bool) -> bool:
    """true or false."""
    value = model.parameters.get(key, default)
    if not isinstance(value, bool):
        raise SettingsError(f"parameters.{key} of model {model.name} must be true or false, not {value!r}", _ADVICE)
    return value


def whole(model: Model, key: str, default: int) -> int:
    """A whole number of at least 1."""
    value = model.parameters.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"parameters.{key} of model {model.name} must be a whole number of at least 1, not {value!r}", _ADVICE)
    return value


def strings(model: Model, key: str) -> list[str]:
    """A list of strings, empty where there is none. One string is refused: quoting would be a guess."""
    value = model.parameters.get(key, [])
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"parameters.{key} of model {model.name} must be a list of strings, not {value!r}", _ADVICE)
    return list(value)


def table(model: Model, key: str) -> dict[str, str]:
    """A table of strings; numbers are written as text."""
    value = model.parameters.get(key, {})
    if not isinstance(value, Mapping) or not all(isinstance(item, (str, int, float)) for item in value.values()):
        raise SettingsError(f"parameters.{key} of model {model.name} must be a table of strings, not {value!r}", _ADVICE)
    return {str(name): str(item) for name, item in value.items()}
