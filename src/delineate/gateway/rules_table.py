"""A table of a TOML file, taken key by key: what is missing, of the wrong kind or unknown is an error that names the place."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delineate.errors import SettingsError

SEE: Final = "See docs/gateway-rules.md."


@dataclass
class Table:
    """A table whose keys are taken one by one, so that what is left over is unknown.

    file : its name; place : of the table in it, as a person finds it; folder : of the file, below which paths are.
    """

    values: dict[str, Any]
    file: str
    place: str
    folder: Path

    def __post_init__(self) -> None:
        self._taken: list[str] = []

    def error(self, key: str, text: str, advice: str = SEE) -> SettingsError:
        """What is wrong with a key."""
        place = ".".join(part for part in (self.place, key) if part)
        return SettingsError(f"{self.file}: {place} {text}", advice)

    def _take(self, key: str, default: Any = None) -> Any:
        self._taken.append(key)
        return self.values.get(key, default)

    def has(self, key: str) -> bool:
        """Whether the key is there; it is known then."""
        self._taken.append(key)
        return key in self.values

    def text(self, key: str, default: str | None = None) -> str:
        """A string that is not empty; needed where there is no default."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if value is None:
            near = difflib.get_close_matches(key, [other for other in self.values if other not in self._taken], 1)
            raise self.error(key, "is missing", f"Perhaps {near[0]} is meant to be it." if near else SEE)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"is {value!r} instead of a text")
        return value.strip()

    def one_of(self, key: str, allowed: Sequence[str], default: str | None = None) -> Any:
        """One of some words."""
        value = self.text(key, default)
        if value not in allowed:
            raise self.error(key, f"is {value!r}", f"Write one of {', '.join(allowed)}.")
        return value

    def truth(self, key: str) -> bool:
        """True or false, false by default."""
        value = self._take(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}", "Write true or false.")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number in a range."""
        value = self._take(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(key, f"is {value!r}", f"Write a number from {low:g} to {high:g}.")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in a range."""
        value = self.number(key, low, high, default)
        if not isinstance(value, int):
            raise self.error(key, f"is {value!r} instead of a whole number")
        return value

    def path(self, key: str) -> Path | None:
        """A path, below the folder of the rules file where it is not absolute."""
        value = self.text(key, "")
        return self.folder / Path(value).expanduser() if value else None

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """A list of strings, each once, or a single one."""
        value = self._take(key, list(default))
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
            raise self.error(key, f"is {value!r} instead of a list of texts")
        if len(set(items)) != len(items):
            raise self.error(key, "names something twice", "Name it once.")
        return tuple(items)

    def table(self, key: str) -> Table | None:
        """A table within, None where there is none."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "is no table")
        return Table(value, self.file, f"{self.place}.{key}" if self.place else key, self.folder)

    def tables(self, key: str) -> dict[str, Table]:
        """Tables by name."""
        parent = self.table(key)
        if parent is None:
            return {}
        found = {name: parent.table(name) for name in parent.values}
        return {name: table for name, table in found.items() if table is not None}

    def list_of_tables(self, key: str) -> list[Table]:
        """Tables in the order of the file."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "is no list of tables", f"Begin each with [[{key}]].")
        return [Table(item, self.file, f"{key}[{number}]", self.folder) for number, item in enumerate(value, 1)]

    def end(self) -> None:
        """All keys were taken, or there is one too many."""
        for key in self.values:
            if key not in self._taken:
                near = difflib.get_close_matches(key, self._taken, 1)
                advice = f"Perhaps {near[0]}." if near else f"There are {', '.join(sorted(set(self._taken)))}."
                raise self.error(key, "is unknown", advice)
