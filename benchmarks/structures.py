"""What the benchmarks of RTSTRUCT and SEG share: thirty structures of 512 x 512 x 300 voxels, measuring, a table."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.codec import GEOMETRY
from delineate.dicom.source import Series
from delineate.segmentation import Segmentation
from delineate.testing.dicom import stack_of, write_series

STRUCTURES: Final = 30
Row = dict[str, Any]


def prepared(folder: Path) -> tuple[Series, Segmentation]:
    """A series in the folder `series`, and structures on it; what the peers need lies there too, labels as ``labels.npy``."""
    from delineate.dicom.reader import read

    labels = organs(GEOMETRY.shape)
    write_series(folder / "series", stack_of(np.zeros(GEOMETRY.shape, np.uint16), GEOMETRY, stored=12, change=complete))
    np.save(folder / "labels.npy", labels)
    names = {label: f"S{label}" for label in range(1, STRUCTURES + 1)}
    return read(folder / "series").series, Segmentation.from_labels(labels, GEOMETRY, names)


def organs(shape: tuple[int, ...]) -> np.ndarray:
    """Bodies with bumps in a grid of five by three by two, each with a hollow."""
    labels = np.zeros(shape, np.uint8)
    deep, high, wide = (np.linspace(0, n, count, endpoint=False) for n, count in zip((2, 3, 5), shape, strict=True))
    y, x = (high % 1 - 0.5)[:, None], (wide % 1 - 0.5)[None, :]
    around = np.arctan2(y, x)
    number = (high.astype(int)[:, None] * 5 + wide.astype(int)[None, :] + 1).astype(np.uint8)
    for plane, z in zip(labels, deep, strict=True):
        size = np.hypot(x, y) + 0.03 * np.sin(7 * around + 9 * z) + 0.01 * np.sin(40 * around)
        inside = (size < 0.45 * np.sqrt(max(0.0, 1 - (2.1 * (z % 1 - 0.5)) ** 2))) & ~((size < 0.08) & (abs(z % 1 - 0.5) < 0.2))
        plane[inside] = (number + 15 * int(z))[inside]
    return labels


def complete(data: Any, number: int) -> None:
    """What rt-utils does not do without."""
    data.StudyTime = data.SeriesTime = "120000"
    data.SeriesDate, data.PatientBirthDate, data.PatientSex, data.SliceThickness = "20260101", "", "O", 1.5
    data.StudyDescription = data.SeriesDescription = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""


def measured(work: Callable[[], object], runs: int) -> Row:
    """Medians of wall and processor time."""
    walls, processors = [], []
    for _ in range(runs):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"seconds": statistics.median(walls), "processor": statistics.median(processors)}


def peak(work: Callable[[], object]) -> float:
    """MB beyond what there was, in a run of its own: tracing costs time."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (most - before) / 1e6


def table(rows: Sequence[Row]) -> str:
    """Seconds, and how many times ours the others take."""
    ours = {row["work"].split(", ")[-1]: row for row in rows if row["work"].startswith("ours")}
    lines = [f"{'work':26}{'seconds':>9}{'processor':>11}{'times ours':>12}{'MB more':>9}{'voxels wrong':>14}"]
    for row in rows:
        if "note" in row:
            lines.append(f"{row['work']:26}{row['note']}")
            continue
        times = row["processor"] / ours[row["work"].split(", ")[-1]]["processor"]
        memory, wrong = (f"{row[name]:.0f}" if name in row else "-" for name in ("mb", "wrong"))
        lines.append(f"{row['work']:26}{row['seconds']:9.2f}{row['processor']:11.2f}{times:12.1f}{memory:>9}{wrong:>14}")
    return "\n".join(lines)


def main(about: str, measure: Callable[[Path, int, Path], list[Row]], peer: Path, arguments: Sequence[str] | None) -> int:
    """Measure and print.

    measure : makes rows in a folder, of so many runs, with the peer's Python
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", type=Path, default=peer, help="the Python that has the peers")
    parser.add_argument("--folder", type=Path, help="where the files go; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.runs, given.peer)
    print(json.dumps(rows, indent=2) if given.json else table(rows))
    return 0
