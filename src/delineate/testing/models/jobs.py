"""A job without a server: to try a model, or a runner, in a test of one's own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from delineate import nifti
from delineate.geometry import Geometry
from delineate.runners.base import Job
from delineate.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Recorded(Job):
    """A job that keeps what the model logged (`lines`) and how far it said it was (`progress`)."""

    lines: list[str] = field(default_factory=list)
    progress: list[tuple[float, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The log as one text."""
        return "\n".join(self.lines)


def small_image(size: tuple[int, int, int] = (6, 5, 4)) -> Volume:
    """An image whose voxels are their own numbers, int16, on a grid with unequal spacing; `size` is x, y, z."""
    geometry = Geometry(size, (1.0, 1.5, 3.0), (-10.0, 20.0, 30.0))
    return Volume(np.arange(np.prod(size), dtype=np.int16).reshape(geometry.shape), geometry)


def make_job(
    folder: Path,
    images: Sequence[Volume] = (),
    *,
    seconds: float = 60.0,
    prompts: Mapping[str, Any] | None = None,
) -> Recorded:
    """A job below `folder`, which must be empty: the images (a small one by default) as arrays and as files.

    seconds : until its deadline.
    """
    volumes = tuple(images) or (small_image(),)
    source, target = folder / "input", folder / "output"
    source.mkdir()
    target.mkdir()
    for index, volume in enumerate(volumes):
        nifti.write(source / f"tmp_{index:04d}.nii.gz", volume)
    lines: list[str] = []
    progress: list[tuple[float, str]] = []
    return Recorded(
        images=volumes,
        input_folder=source,
        output_folder=target,
        prompts=prompts or {},
        report=lambda fraction, message: progress.append((fraction, message)),
        log=lines.append,
        deadline=time.monotonic() + seconds,
        task="1",
        lines=lines,
        progress=progress,
    )
