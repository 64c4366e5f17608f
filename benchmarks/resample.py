"""512 x 512 x 300 voxels to other grids, linear, beside SimpleITK's resampling.

``python -m benchmarks.resample [--runs N] [--json]``. Grids with parallel axes; where one is coarser ours also averages, which
SimpleITK does not. Between grids that are turned against each other ours is SimpleITK.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.codec import GEOMETRY, NOT_INSTALLED
from delineate.geometry import Geometry
from delineate.resampling import spaced, volume_to_grid
from delineate.volume import Volume

Row = dict[str, Any]
SPACINGS = ((1.5, 1.5, 3.0), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (0.8, 0.8, 1.5))


def simpleitk(volume: Volume) -> Callable[[Geometry], object]:
    """Its filter, of an image that is there."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(volume.voxels)
    image.SetOrigin(volume.geometry.origin)
    image.SetSpacing(volume.geometry.spacing)
    image.SetDirection(volume.geometry.direction)

    def resample(grid: Geometry) -> object:
        where = (grid.origin, grid.spacing, grid.direction)
        return SimpleITK.Resample(image, grid.size, SimpleITK.Transform(), SimpleITK.sitkLinear, *where, 0.0, image.GetPixelID())

    return resample


def measure(runs: int) -> list[Row]:
    """A row for each grid; medians, in turns."""
    voxels = np.random.default_rng(1).integers(-1000, 1000, GEOMETRY.shape, dtype=np.int16)
    volume = Volume(voxels, GEOMETRY)
    tools: dict[str, Callable[[Geometry], object]] = {"ours": partial(volume_to_grid, volume)}
    try:
        tools["SimpleITK"] = simpleitk(volume)
    except ImportError:
        print(f"SimpleITK: {NOT_INSTALLED}", file=sys.stderr)
    rows = []
    for spacing in SPACINGS:
        grid = spaced(GEOMETRY, spacing)
        times: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
        for _ in range(runs):
            for tool, work in tools.items():
                wall, processor = time.perf_counter(), time.process_time()
                work(grid)
                times[tool].append((time.perf_counter() - wall, time.process_time() - processor))
        row: Row = {"grid": " x ".join(map(str, grid.size))}
        for tool, found in times.items():
            walls, processors = zip(*found, strict=True)
            row[tool], row[f"{tool}, processor"] = statistics.median(walls), statistics.median(processors)
        rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Seconds, and ours as a part of SimpleITK's."""
    lines = [f"{'grid':18}{'ours s':>9}{'processor':>11}{'SimpleITK s':>13}{'processor':>11}{'of SimpleITK':>14}"]
    for row in rows:
        line = f"{row['grid']:18}{row['ours']:9.2f}{row['ours, processor']:11.2f}"
        if "SimpleITK" in row:
            line += f"{row['SimpleITK']:13.2f}{row['SimpleITK, processor']:11.2f}{row['ours'] / row['SimpleITK']:14.2f}"
        lines.append(line)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    rows = measure(given.runs)
    print(json.dumps(rows, indent=2) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
