"""The classes of the toy models. Each does one thing a real model may do, well or badly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.runners.base import Job
from delineate.segmentation import Segmentation

MIB = 1 << 20
NAMES = {1: "Toy"}


class Toy:
    """Base: keeps its parameters."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        self.parameters = parameters
        self.folder = folder

    def number(self, name: str, default: float) -> float:
        """A numeric parameter."""
        return float(self.parameters.get(name, default))

    def segment(self, job: Job) -> Segmentation | None:
        """One voxel in the middle of the first image's grid."""
        geometry = job.images[0].geometry
        labels = np.zeros(geometry.shape, dtype=np.uint8)
        labels[tuple(n // 2 for n in geometry.shape)] = 1
        return Segmentation.from_labels(labels, geometry, NAMES)


class Noop(Toy):
    """Next to nothing: one voxel."""


class Threshold(Toy):
    """Everything at or above ``level`` of the real values is ``Bright``."""

    def segment(self, job: Job) -> Segmentation:
        """Compare."""
        image = job.images[0]
        labels = (image.values() >= self.number("level", 100.0)).view(np.uint8)
        return Segmentation.from_labels(labels, image.geometry, {1: "Bright"})


class Sleeper(Toy):
    """Takes ``seconds``, and says how far it is."""

    def segment(self, job: Job) -> Segmentation | None:
        """Sleep in short steps."""
        seconds = self.number("seconds", 1.0)
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < seconds:
            job.report(passed / seconds, "sleeping")
            time.sleep(min(0.05, seconds - passed))
        return super().segment(job)


class Hanger(Toy):
    """Ignores SIGTERM and never returns."""

    def segment(self, job: Job) -> None:
        """Sleep for good."""
        try:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        except ValueError:
            job.log("not in the main thread: SIGTERM cannot be ignored")
        job.log("hanging")
        while True:
            time.sleep(60)


class Crasher(Toy):
    """Ends its own process by ``signal`` (a name such as SIGSEGV), as broken native code does."""

    def segment(self, job: Job) -> None:
        """Die."""
        number = signal.Signals[str(self.parameters.get("signal", "SIGSEGV"))]
        job.log(f"dying of {number.name}")
        if number == signal.SIGABRT:
            os.abort()
        os.kill(os.getpid(), number)
        time.sleep(60)  # the signal may arrive a moment later


class Quitter(Toy):
    """Calls ``os._exit(code)``, as a library may that gives up."""

    def segment(self, job: Job) -> None:
        """Leave."""
        os._exit(int(self.number("code", 3)))


class MemoryEater(Toy):
    """Takes memory, ``megabytes`` in steps of 16 MiB, and keeps it."""

    def segment(self, job: Job) -> Segmentation | None:
        """Eat."""
        eaten = []
        for _ in range(int(self.number("megabytes", 4096)) // 16):
            eaten.append(np.ones(16 * MIB, dtype=np.uint8))
            time.sleep(0.005)
        return super().segment(job)


class Refused(Toy):
    """Asks for more memory than any machine has: MemoryError."""

    def segment(self, job: Job) -> None:
        """Ask."""
        np.ones(1 << 60, dtype=np.uint8)


class Raiser(Toy):
    """Raises; ``kind`` makes it a ModelError of that kind."""

    def segment(self, job: Job) -> None:
        """Raise."""
        kind = str(self.parameters.get("kind", ""))
        if kind:
            raise ModelError("the toy was told to fail", "Use another toy.", kind=kind)
        raise RuntimeError("the toy was told to fail")


class Empty(Toy):
    """Says that its results are files, and writes none."""

    def segment(self, job: Job) -> None:
        """Nothing."""


class WrongGrid(Toy):
    """A result one voxel larger than the image along x."""

    def segment(self, job: Job) -> Segmentation:
        """Grow the grid."""
        grid = job.images[0].geometry
        larger = Geometry((grid.size[0] + 1, *grid.size[1:]), grid.spacing, grid.origin, grid.direction)
        return Segmentation.from_labels(np.ones(larger.shape, dtype=np.uint8), larger, NAMES)


class UndeclaredLabel(Toy):
    """Label 7, which neither the model nor the result names."""

    def segment(self, job: Job) -> Segmentation:
        """Write a label without a name."""
        geometry = job.images[0].geometry
        return Segmentation.from_labels(np.full(geometry.shape, 7, dtype=np.uint8), geometry, NAMES)


class Overlapping(Toy):
    """Two structures that overlap, hence two layers: ``All`` and ``Half`` (the half with small x indices)."""

    def segment(self, job: Job) -> Segmentation:
        """Overlap."""
        geometry = job.images[0].geometry
        whole = np.ones(geometry.shape, dtype=bool)
        half = whole.copy()
        half[:, :, geometry.size[0] // 2 :] = False
        return Segmentation.from_masks({"All": whole, "Half": half}, geometry)


class WrongType(Toy):
    """Returns an array, which is no Segmentation."""

    def segment(self, job: Job) -> Segmentation | None:
        """Return the wrong thing."""
        result: Any = np.zeros(job.images[0].geometry.shape)
        return result  # type: ignore[no-any-return]


class Talker(Toy):
    """Prints and logs ``lines`` lines, then one voxel."""

    def segment(self, job: Job) -> Segmentation | None:
        """Talk."""
        for number in range(int(self.number("lines", 100))):
            print(f"printed {number}", flush=True)
            job.log(f"logged {number}")
        return super().segment(job)


class Writer(Toy):
    """Writes its label map as files: a pair in a sub-folder, and a ``.json`` without a label map."""

    def segment(self, job: Job) -> None:
        """Write."""
        from delineate import nifti

        geometry = job.images[0].geometry
        folder = job.output_folder / "sub" / "folder"
        folder.mkdir(parents=True)
        nifti.write_labels(folder / "toy.nii.gz", np.ones(geometry.shape, dtype=np.uint8), geometry)
        (folder / "toy.json").write_text('{"1": "Toy"}', encoding="utf-8")
        (job.output_folder / "scores.json").write_text('{"certainty": 0.9}', encoding="utf-8")
