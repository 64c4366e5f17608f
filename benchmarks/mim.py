"""The workstation's extension, from its built zip: packing four images, loading thirty structures; time and memory.

``python -m benchmarks mim``. Packing is compared with the codec alone, which writes the same images to the same disk in turns with it;
bar 1.5. Loading is our own code: what the fake workstation takes for itself is left out, its calls are counted apart. Memory is what
numpy and Python allocate, by tracemalloc, in runs of their own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.codec import phantom_ct, phantom_labels
from delineate import nifti
from delineate.geometry import Geometry
from delineate.mim.packaging.build import build
from delineate.protocols.archive import ResultWriter
from delineate.testing.mimhost import Host, Runner, running
from delineate.volume import Volume

IMAGES, SLICES, ROUNDS = 4, 200, 3
PLACE = Geometry((512, 512, SLICES), (0.9765625, 0.9765625, 1.5), (-250.0, -250.0, -700.0))
MULTIPLIER, STRUCTURES = (2, 2, 1), 30
FINE = PLACE.refined(MULTIPLIER)  # 1024 x 1024 x 200
MIB = 1 << 20


def _part(runner: Runner, name: str) -> ModuleType:
    return next(sys.modules[module] for module in runner.modules if module.endswith("." + name))


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _peak(work: Callable[[], object]) -> float:
    """MiB above what there was before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def _measure_packing(folder: Path, extension: Path) -> None:
    voxels = phantom_ct(phantom_labels())[:SLICES]
    with Host(multiplier=MULTIPLIER) as host, running(host, extension) as runner:
        volume = Volume(voxels, PLACE, 1.0, 0.0, "CT", "HU")
        images = [host.image_from_volume(volume) for _ in range(IMAGES)]
        task_input = _part(runner, "task_input")

        def pack() -> None:
            with task_input.TaskInput.of(host.session, [image.handle for image in images], "model").archive():
                pass

        def write() -> None:
            for number in range(IMAGES):
                path = folder / f"{number}.nii.gz"
                nifti.write(path, volume)
                path.unlink()

        both: list[tuple[float, float, float]] = []
        for _ in range(ROUNDS):
            inside = host.ledger.seconds
            took = _seconds(pack)
            both.append((_seconds(write), took, host.ledger.seconds - inside))
        codec, packing, within = (statistics.median(column) for column in zip(*both, strict=True))
        ratio = statistics.median(mine / alone for alone, mine, _ in both)
        host.forget()
        peak, image = _peak(pack), voxels.nbytes / MIB
        print(f"packing {IMAGES} images of {PLACE.size[0]} x {PLACE.size[1]} x {PLACE.size[2]} int16, {image:.0f} MiB each")
        print(f"  codec alone                {codec:6.2f} s")
        print(f"  packing                    {packing:6.2f} s, of these {within:.2f} s in the workstation")
        print(f"  ratio                      {ratio:6.2f}    (bar 1.5)")
        print(f"  peak memory                {peak:6.0f} MiB, the image {image:.0f}, {peak - image:.1f} above it (bar: one image)")


def _result(path: Path) -> None:
    labels = phantom_labels(STRUCTURES)[:SLICES].repeat(MULTIPLIER[1], axis=1).repeat(MULTIPLIER[0], axis=2)
    names = {int(label): f"Organ {label}" for label in np.unique(labels) if label}
    with ResultWriter(path) as writer:
        writer.add_layer("organs", labels, FINE, names)


def _measure_loading(folder: Path, extension: Path) -> None:
    path = folder / "result.zip"
    _result(path)
    voxels = np.zeros(PLACE.shape, np.int16)
    rows: list[tuple[float, float]] = []
    with Host(multiplier=MULTIPLIER, keep="count") as host, running(host, extension) as runner:
        task_output, loader, task_input = (_part(runner, name) for name in ("task_output", "contour_loader", "task_input"))

        def load(image: Any, output: Any = None) -> int:
            output = output or task_output.TaskOutput(str(path), task_input.image_grid(host.session, image.handle))
            return len(loader.ContourLoader(host.session, image.handle, lambda line: None).load(output))

        def fresh() -> Any:
            return host.image_from_volume(Volume(voxels, PLACE, modality="CT", units="HU"))

        for _ in range(ROUNDS):
            image, begin = fresh(), time.perf_counter()
            output = task_output.TaskOutput(str(path))
            middle, inside = time.perf_counter(), host.ledger.seconds
            load(image, output)
            rows.append((middle - begin, time.perf_counter() - middle - (host.ledger.seconds - inside)))
            del output
        reading, setting = (statistics.median(column) for column in zip(*rows, strict=True))
        whole = _peak(lambda: load(fresh()))
        output = task_output.TaskOutput(str(path))
        alone = _peak(lambda: load(fresh(), output))
        count = len(host.images[-1].contours)
    mask = FINE.size[0] * FINE.size[1] * FINE.size[2] / MIB
    print(f"loading {count} structures on {FINE.size[0]} x {FINE.size[1]} x {FINE.size[2]}, {mask:.0f} MiB a mask")
    print(f"  reading the archive        {reading:6.2f} s")
    print(f"  making and handing over    {setting:6.2f} s, the workstation's own time apart")
    print(f"  together                   {reading + setting:6.2f} s    (bar 1)")
    print(f"  peak memory, all           {whole:6.0f} MiB    (bar: one mask, {mask:.0f})")
    print(f"  peak memory, setting       {alone:6.0f} MiB")


def main(arguments: list[str]) -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory(prefix="delineate-bench-") as base:
        folder = Path(base)
        extension = folder / "extension.zip"
        extension.write_bytes(build().data)
        _measure_packing(folder, extension)
        _measure_loading(folder, extension)


if __name__ == "__main__":
    main([])
