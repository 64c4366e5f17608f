"""Training: Dice in the patient who was learned from and in another, for ways to label half; and seconds and memory on a large phantom.

Of the real images (folder in ``DELINEATE_SHARED_DATA``) lungs of two patients teach each other. Each is labelled in even or odd slices,
in a random half of them, in the lower or the upper half; the forest is told which slices were looked at, or not. ``server`` does some of
it as a plugin would: images in a folder of studies, a label saved, a training, an infer. Arguments: ``phantom``, ``patients`` or
``server`` for one part alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.server import running
from delineate.client.monai_label import MONAILabelClient
from delineate.files import read_volume, write_segmentation, write_volume
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


LEFT_LOBES = (10, 11)
LIMIT = 300.0  # seconds to wait for a training; the bar is 60 with the infer


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


def _with_sides(case: Case, left: np.ndarray) -> Case:
    """Left and right lung under labels of their own."""
    lungs = case.labels.mask("Lungs")
    return Case(case.image, Segmentation.from_masks({"Lung_L": lungs & left, "Lung_R": lungs & ~left}, case.image.geometry))


def _sides() -> tuple[Case, Case]:
    """Trunk and chest with left and right apart."""
    trunk, chest = _trunk(), _chest()
    parts, count = ndimage.label(chest.labels.mask("Lungs"))
    places = [np.argwhere(parts == label)[:, 2].mean() for label in range(1, count + 1)]  # LPS: the left one comes last
    left = parts == 1 + int(np.argmax(places))
    lobes = np.isin(read_volume(TRUNK / "example_seg.nii.gz").voxels, LEFT_LOBES)
    return _with_sides(trunk, lobes), _with_sides(chest, left)


def _until(done: Callable[[], bool]) -> None:
    began = time.perf_counter()
    while not done():
        if time.perf_counter() - began > LIMIT:
            raise RuntimeError(f"it took more than {LIMIT:g} s")
        time.sleep(0.1)


def _through_a_server(taught: Case, other: Case, folder: Path) -> tuple[float, float, Segmentation]:
    """Seconds of the training and of the infer, as a client sees them, and what was found."""
    studies, label = folder / "studies", folder / "label.nii.gz"
    studies.mkdir()
    for name, case in (("taught", taught), ("other", other)):
        write_volume(studies / f"{name}.nii.gz", case.image)
    write_segmentation(label, taught.labels)
    info = [{"name": structure.name, "idx": structure.label} for structure in taught.labels]
    with running(options=("--studies", str(studies))) as server, MONAILabelClient(server.url, str(folder)) as client:
        _until(lambda: {"taught", "other"} <= set(client.datastore()["objects"]))
        client.save_label("taught", label, params={"label_info": info})
        began = time.perf_counter()
        client.train_start("voxel-forest")
        _until(lambda: not client.train_status(check_if_running=True))
        learned = time.perf_counter()
        found, _ = client.infer("voxel-forest", "other")
        assert found is not None
        done = time.perf_counter()
        labels = read_volume(Path(found)).voxels
    masks = {structure.name: labels == structure.label for structure in taught.labels}
    return learned - began, done - learned, Segmentation.from_masks(masks, other.image.geometry)


def server() -> None:
    """One row for each direction, number of labels and half."""
    print("learned from  labels  half    Dice in the other patient   train + infer, s")
    for labels, (trunk, chest) in (("one", (_trunk(), _chest())), ("two", _sides())):
        for teacher, name, other in ((chest, "chest", trunk), (trunk, "trunk", chest)):
            there = np.logical_or.reduce([teacher.labels.mask(n) for n in teacher.labels.names]).any(axis=(1, 2))
            for half, looked in _halves(there):
                if half not in ("even", "lower"):
                    continue
                with tempfile.TemporaryDirectory(prefix="delineate-bench-") as folder:
                    train_s, infer_s, found = _through_a_server(_only(teacher, looked, False), other, Path(folder))
                agreement = ", ".join(f"{_dice(found.mask(n), other.labels.mask(n)):.3f}" for n in found.names)
                print(f"{name:<13} {labels:<7} {half:<7} {agreement:<27} {train_s:5.1f} + {infer_s:.1f}", flush=True)


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
    if "server" in arguments:
        server()
    if "phantom" in arguments or not arguments:
        phantoms()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
