"""A folder of DICOM slices to a volume: ours with all checks on, beside SimpleITK's reader and pydicom.

``python -m benchmarks.dicom [--runs N] [--folder PATH] [--json]``. 300 slices of 512 x 512, uncompressed, in the page cache.
Every tool gets the folder; "names known" is SimpleITK's reader alone, without its look at the folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.codec import GEOMETRY, NOT_INSTALLED, milliseconds
from delineate.testing.dicom import stack_of, write_series

Row = dict[str, Any]


def our_read(folder: Path) -> np.ndarray:
    """What client, command line and workers do."""
    from delineate.dicom.reader import read

    return read(folder).volume.voxels


def our_scan(folder: Path) -> object:
    """What `delineate dicom ls` does."""
    from delineate.dicom.series import scan

    return scan(folder)


def simpleitk_read(folder: Path) -> object:
    """As in its examples: names by series, then the image; no array is made of it."""
    import SimpleITK

    return _simpleitk(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def simpleitk_known(names: Sequence[str]) -> object:
    """The reader alone."""
    return _simpleitk(names)


def _simpleitk(names: Sequence[str]) -> object:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(names)
    return reader.Execute()


def pydicom_read(folder: Path) -> np.ndarray:
    """All files, sorted by the third coordinate."""
    import pydicom

    data = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda item: item.ImagePositionPatient[2])
    return np.stack([item.pixel_array for item in data])


def measure(folder: Path, runs: int) -> list[Row]:
    """A row for each tool, medians; in turns, so that all see the same load."""
    voxels = np.random.default_rng(1).integers(0, 4096, GEOMETRY.shape, dtype=np.uint16)
    write_series(folder, stack_of(voxels, GEOMETRY, stored=12))
    tools: dict[str, Callable[[], object]] = {
        "ours": partial(our_read, folder),
        "ours, ls": partial(our_scan, folder),
        "SimpleITK": partial(simpleitk_read, folder),
        "pydicom": partial(pydicom_read, folder),
    }
    rows: dict[str, Row] = {tool: {"tool": tool} for tool in tools}
    try:
        import SimpleITK

        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
        tools["SimpleITK, names known"] = partial(simpleitk_known, names)
        rows["SimpleITK, names known"] = {"tool": "SimpleITK, names known"}
    except ImportError:
        rows["SimpleITK"]["note"] = NOT_INSTALLED
        del tools["SimpleITK"]
    assert np.array_equal(our_read(folder), voxels)
    times: dict[str, list[float]] = {tool: [] for tool in tools}
    for _ in range(runs):
        for tool, work in tools.items():
            times[tool].append(milliseconds(work))
    for tool, found in times.items():
        rows[tool]["ms"] = statistics.median(found)
        rows[tool]["fastest_ms"] = min(found)
    return list(rows.values())


def table(rows: Sequence[Row]) -> str:
    """Milliseconds, and each as a part of SimpleITK's."""
    peer = next((row["ms"] for row in rows if row["tool"] == "SimpleITK" and "ms" in row), None)
    lines = [f"{'tool':26}{'median ms':>11}{'fastest ms':>12}{'of SimpleITK':>14}"]
    for row in rows:
        if "note" in row:
            lines.append(f"{row['tool']:26}{row['note']}")
            continue
        share = f"{row['ms'] / peer:14.2f}" if peer else f"{'-':>14}"
        lines.append(f"{row['tool']:26}{row['ms']:11.0f}{row['fastest_ms']:12.0f}{share}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the files go; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder) / "series", given.runs)
    print(json.dumps(rows, indent=2) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
