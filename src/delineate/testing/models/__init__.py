"""Toy models: one folder each, with ``model.toml``; `FOLDER` is a folder of models for any registry."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from delineate.model import Model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent
"""Give it as ``--models`` to a server or a worker."""


def names() -> list[str]:
    """Names of the toy models, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/model.toml"))


def load(name: str, **parameters: Any) -> Model:
    """One toy model, with some of its parameters replaced; FileNotFoundError when there is none of that name."""
    fields = tomllib.loads((FOLDER / name / "model.toml").read_text(encoding="utf-8"))
    fields["parameters"] = {**fields.get("parameters", {}), **parameters}
    return Model.from_dict(fields)


def copy(name: str, folder: Path, new_name: str, **changes: str | float) -> Path:
    """A variant of a toy model as a folder of its own below `folder`, for a server to find; returns its folder.

    changes : values of keys of its ``model.toml`` that are there already, at any level.
    """
    target = folder / new_name
    target.mkdir(parents=True)
    for path in (FOLDER / name).iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    text = (target / "model.toml").read_text(encoding="utf-8")
    for key, value in {"name": new_name, **changes}.items():
        written = f'"{value}"' if isinstance(value, str) else str(value)
        text, times = re.subn(rf"^{key} = .*$", f"{key} = {written}", text, count=1, flags=re.MULTILINE)
        if not times:
            raise KeyError(key)
    (target / "model.toml").write_text(text, encoding="utf-8")
    return target
