"""The job of a model that declares an orientation: its input files are written when a runner asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delineate import nifti
from delineate.runners.base import Job


class DeclaredJob(Job):
    """A `Job` whose `input_folder` is filled at the first look, with ``tmp_0000.nii.gz`` … as the model declares them.

    Models in Python take the arrays; compressing a CT that nobody reads would cost them a quarter of a second.
    """

    def __init__(self, *, input_folder: Path, **fields: Any) -> None:
        super().__init__(input_folder=input_folder, **fields)
        object.__setattr__(self, "_written", False)

    def __getattribute__(self, name: str) -> Any:
        if name == "input_folder" and not self.__dict__.get("_written", True):
            object.__setattr__(self, "_written", True)
            folder: Path = self.__dict__["input_folder"]
            folder.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(self.images):
                nifti.write(folder / f"tmp_{index:04d}.nii.gz", image)
        return super().__getattribute__(name)
