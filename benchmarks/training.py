"""Training on phantoms: seconds to learn from every other slice of one chest and to find the lungs in another."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from delineate.segmentation import Segmentation
from delineate.testing.phantoms import Phantom, chest_ct
from delineate.training import applying
from delineate.training.files import Reservoir
from delineate.training.sampling import Case
from delineate.training.trainer import Example, train

NAMES = ("Lung_L", "Lung_R")


def _case(phantom: Phantom) -> Case:
    labels = Segmentation.from_masks({name: phantom.segmentation.mask(name) for name in NAMES}, phantom.volume.geometry)
    looked = (np.arange(labels.geometry.shape[0]) % 2 == 0)[:, None, None]
    return Case(phantom.volume, replace(labels, layers=tuple(layer * looked.astype(layer.dtype) for layer in labels.layers)))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b))


def main(arguments: list[str]) -> None:
    """One row for each size."""
    print("size             learning  finding   Dice left, right")
    for size in ((170, 150, 110), (512, 512, 200)):
        spacing = (410 / size[0], 410 / size[1], 320 / size[2])
        case, other = _case(chest_ct(size, spacing)), chest_ct(size, spacing, seed=3)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            forest = train([Example(image="a", version="1", load=lambda case=case: case)], Reservoir(Path(folder)))
            learned = time.perf_counter()
            found = applying.segment(forest, other.volume)
            done = time.perf_counter()
        agreement = ", ".join(f"{_dice(found.mask(name), other.segmentation.mask(name)):.3f}" for name in NAMES)
        print(
            f"{'x'.join(map(str, size)):<16} {learned - began:6.1f} s {done - learned:6.1f} s   {agreement}",
            flush=True,
        )


if __name__ == "__main__":
    main([])
