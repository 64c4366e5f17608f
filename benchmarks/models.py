"""The built-in models on a CT (or MR) of 512 x 512 x 200 voxels: seconds, processor seconds, memory above idle.

Each model runs in a process of its own, so that the peaks do not mix. The phantom's truth gives the Dice coefficients.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import numpy as np

from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.testing.phantoms import Phantom, abdomen_mr, chest_ct

MODELS = {
    "body-ct": "delineate.models.body_ct.model:BodyCT",
    "lungs-ct": "delineate.models.lungs_ct.model:LungsCT",
    "bones-ct": "delineate.models.bones_ct.model:BonesCT",
    "body-mr": "delineate.models.body_mr.model:BodyMR",
}


def phantom_for(name: str, size: tuple[int, int, int]) -> Phantom:
    """A phantom of about 410 x 410 x 320 mm."""
    spacing = (410 / size[0], 410 / size[1], 320 / size[2])
    return abdomen_mr(size, spacing) if name.endswith("-mr") else chest_ct(size, spacing)


def measure(name: str, size: tuple[int, int, int]) -> str:
    """One row of the table."""
    phantom = phantom_for(name, size)
    module, _, kind = MODELS[name].partition(":")
    model = getattr(importlib.import_module(module), kind)({}, None)
    job = Job(
        images=(phantom.volume,),
        input_folder=Path(),
        output_folder=Path(),
        prompts={},
        report=lambda fraction, message: None,
        log=lambda text: None,
        deadline=time.monotonic() + 3600,
        task="benchmark",
    )
    idle = _resident()
    wall, processor = time.perf_counter(), time.process_time()
    result: Segmentation = model.segment(job)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    agreement = ", ".join(f"{s.name} {_dice(result.mask(s.name), phantom.segmentation.mask(s.name)):.3f}" for s in result)
    return f"{name:<9} {wall:6.1f} s {processor:6.1f} s {idle:6.0f} MB {peak:6.0f} MB   {agreement}"


def _resident() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b))


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 200), metavar=("X", "Y", "Z"))
    given = parser.parse_args(arguments)
    print("model       wall   processor  before     peak     Dice against the phantom's truth")
    context = multiprocessing.get_context("spawn")
    for name in MODELS:
        # A pool of one that is thrown away: its peak is this model's own (and the phantom's).
        with context.Pool(1) as pool:
            print(pool.apply(measure, (name, tuple(given.size))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
