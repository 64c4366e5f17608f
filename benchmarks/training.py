"""Training: Dice in the patient who was learned from and in another, for ways to label half; and seconds and memory on a large phantom.

Of the real images (folder in ``DELINEATE_SHARED_DATA``) lungs of two patients teach each other. Each is labelled in even or odd slices,
in a random half of them, in the lower or the upper half; the forest is told which slices were looked at, or not. Arguments: ``phantom``
or ``patients`` for one part alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from delineate.files import read_volume
from delineate.segmentation import Segmentation
from delineate.testing.phantoms import Phantom, chest_ct
from delineate.training import applying
from delineate.training.files import Reservoir
from delineate.training.forest import Forest
from delineate.training.sampling import Case
from delineate.training.trainer import Example, train

NAMES = ("Lung_L", "Lung_R")
DATA = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
TRUNK, CHEST = DATA / "S01_ct_body_nifti_seg41", DATA / "S04_ct_chest64_dicom_nrrd_lungs"
LOBES = (10, 11, 12, 13, 14)


def _trunk() -> Case:
    image, labels = read_volume(TRUNK / "example_ct_sm.nii.gz"), read_volume(TRUNK / "example_seg.nii.gz").voxels
    return Case(image, Segmentation.from_masks({"Lungs": np.isin(labels, LOBES)}, image.geometry))


def _chest() -> Case:
    image, lungs = read_volume(CHEST / "ct-64.nrrd"), read_volume(CHEST / "wholeLung-64.nrrd").voxels > 0
    return Case(image, Segmentation.from_masks({"Lungs": lungs}, image.geometry))


def _halves(labelled: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Ways to label half of an image: name, and which slices."""
    slices = np.arange(labelled.size)
    there = np.flatnonzero(labelled)
    middle = (there[0] + there[-1] + 1) // 2
    some = np.random.default_rng(1).permutation(slices)[: slices.size // 2]
    yield "even", slices % 2 == 0
    yield "odd", slices % 2 == 1
    yield "random", np.isin(slices, some)
    yield "lower", slices < middle
    yield "upper", slices >= middle


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b))


def _learned(case: Case) -> Forest:
    with tempfile.TemporaryDirectory() as folder:
        return train([Example(image="a", version="1", load=lambda: case)], Reservoir(Path(folder)))


def _only(case: Case, looked: np.ndarray, said: bool) -> Case:
    mask = looked[:, None, None]
    labels = replace(case.labels, layers=tuple(layer * mask.astype(layer.dtype) for layer in case.labels.layers))
    return Case(case.image, labels, mask if said else None)


def patients() -> None:
    """One row for each way to label."""
    trunk, chest = _trunk(), _chest()
    print("learned from  half    slices    other patient  rest of the same  doubt: other, same  CPU s")
    for teacher, name, other in ((chest, "chest", trunk), (trunk, "trunk", chest)):
        truth = teacher.labels.mask("Lungs")
        for half, looked in _halves(truth.any(axis=(1, 2))):
            for said in (True, False):
                began = time.process_time()
                forest = _learned(_only(teacher, looked, said))
                found = applying.segment(forest, other.image)
                spent = time.process_time() - began
                own = applying.segment(forest, teacher.image).mask("Lungs")
                doubts = [applying.uncertainty(forest, case.image) for case in (other, teacher)]
                agreement = _dice(found.mask("Lungs"), other.labels.mask("Lungs")), _dice(own[~looked], truth[~looked])
                print(
                    f"{name:<13} {half:<7} {'said' if said else 'not said':<9} {agreement[0]:13.3f} {agreement[1]:17.3f}"
                    f" {doubts[0]:14.2f}, {doubts[1]:.2f} {spent:7.1f}",
                    flush=True,
                )


def _phantom(size: tuple[int, int, int], seed: int) -> Phantom:
    return chest_ct(size, (410 / size[0], 410 / size[1], 320 / size[2]), seed=seed)


def _memory(field: str) -> int:
    """Of this process, kB; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":")))


def phantoms() -> None:
    """One row for each size."""
    print("size           learning, finding (CPU s)   memory beside the images   Dice left, right")
    for size in ((170, 150, 110), (512, 512, 300)):
        phantom, other = _phantom(size, 0), _phantom(size, 3)
        labels = Segmentation.from_masks({name: phantom.segmentation.mask(name) for name in NAMES}, phantom.volume.geometry)
        case = _only(Case(phantom.volume, labels), np.arange(size[2]) % 2 == 0, False)
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: making the phantom took more
        began = time.perf_counter(), time.process_time()
        forest = _learned(case)
        learned = time.perf_counter(), time.process_time()
        found = applying.segment(forest, other.volume)
        done = time.perf_counter(), time.process_time()
        memory = (_memory("VmHWM") - before) / 1024
        agreement = ", ".join(f"{_dice(found.mask(name), other.segmentation.mask(name)):.3f}" for name in NAMES)
        times = ", ".join(f"{b[0] - a[0]:.1f} s ({b[1] - a[1]:.1f})" for a, b in ((began, learned), (learned, done)))
        print(f"{'x'.join(map(str, size)):<14} {times:<27} {memory:10.0f} MB               {agreement}", flush=True)


def main(arguments: list[str]) -> None:
    """The parts that are asked for, by default those that can be run."""
    if "patients" in arguments or (not arguments and TRUNK.exists() and CHEST.exists()):
        patients()
    if "phantom" in arguments or not arguments:
        phantoms()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
