"""The job of a model whose input files are written when a runner asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from delineate.runners.base import Job


class LazyJob(Job):
    """A `Job` whose `input_folder` is filled at the first look, by `fill(folder)`.

    Models in Python take the arrays; compressing a CT that nobody reads would cost them a quarter of a second.
    """

    def __init__(self, *, fill: Callable[[Path], None], **fields: Any) -> None:
        super().__init__(**fields)
        object.__setattr__(self, "_fill", fill)

    def __getattribute__(self, name: str) -> Any:
        if name == "input_folder":
            fill = self.__dict__.pop("_fill", None)
            if fill is not None:
                folder: Path = self.__dict__["input_folder"]
                folder.mkdir(parents=True, exist_ok=True)
                fill(folder)
        return super().__getattribute__(name)
