"""Thirty structures of 512 x 512 x 300 voxels to an RTSTRUCT file and back, beside rt-utils and dcmrtstruct2nii.

``python -m benchmarks.rtstruct [--runs N] [--peer PYTHON] [--json]``. The peers read and write their own files; `make
peers-rtstruct` installs them where they are looked for. Ours is compared voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.codec import GEOMETRY, NOT_INSTALLED
from delineate.testing.dicom import stack_of, write_series

STRUCTURES: Final = 30
PEER: Final = Path(".peers/rtstruct/bin/python")
Row = dict[str, Any]


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


def measure(folder: Path, runs: int, peer: Path) -> list[Row]:
    """A row for each tool and direction."""
    from delineate.dicom.reader import read
    from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct
    from delineate.segmentation import Segmentation

    labels = organs(GEOMETRY.shape)
    write_series(folder / "series", stack_of(np.zeros(GEOMETRY.shape, np.uint16), GEOMETRY, stored=12, change=complete))
    series = read(folder / "series").series
    names = {label: f"S{label}" for label in range(1, STRUCTURES + 1)}
    segmentation, path = Segmentation.from_labels(labels, GEOMETRY, names), folder / "ours.dcm"
    work: dict[str, Callable[[], object]] = {
        "ours, write": lambda: write_rtstruct(path, segmentation, series),
        "ours, read": lambda: read_rtstruct(path, GEOMETRY),
    }
    rows = [{"work": name, **measured(call, runs), "mb": peak(call)} for name, call in work.items()]
    found = read_rtstruct(path, GEOMETRY)
    rows[1]["wrong"] = sum(int(np.count_nonzero(found.mask(name) != (labels == label))) for label, name in names.items())
    if not peer.exists():
        return [*rows, {"work": "rt-utils, dcmrtstruct2nii", "note": NOT_INSTALLED}]
    np.save(folder / "labels.npy", labels)
    script = Path(__file__).with_name("rtstruct_peers.py")
    done = subprocess.run(
        [peer, script, folder / "series", folder / "labels.npy", folder / "peer"], capture_output=True, text=True, check=True
    )
    return rows + [{"work": name, **row} for name, row in json.loads(done.stdout.splitlines()[-1]).items()]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", type=Path, default=PEER, help="the Python that has rt-utils and dcmrtstruct2nii")
    parser.add_argument("--folder", type=Path, help="where the files go; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.runs, given.peer)
    print(json.dumps(rows, indent=2) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
