"""Write and read ``.nii.gz``: ours beside the limit of ISA-L in the same run, SimpleITK and nibabel.

``python benchmarks/codec.py [--runs N] [--folder DIR] [--json]``: a CT of 512 x 512 x 300 int16 and a label map of 30 organs.
The limit is one call of ISA-L over the raw bytes, level 1, written to (or read from) the same place.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from delineate import nifti
from delineate.geometry import Geometry
from delineate.volume import Volume

SIZE = (512, 512, 300)
GEOMETRY = Geometry(SIZE, (0.9765625, 0.9765625, 1.5), (-250.0, -250.0, -700.0))
NOT_INSTALLED = "not installed"

Row = dict[str, Any]


def phantom_labels(count: int = 30) -> np.ndarray:
    """Ellipsoids of `count` labels within a trunk, shape (z, y, x), uint8."""
    random = np.random.default_rng(1)
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    for label in range(1, count + 1):
        radius = random.integers(15, 60, 3)
        centre = random.integers((70, 150, 130), (230, 360, 380))
        low, high = np.maximum(centre - radius, 0), np.minimum(centre + radius, GEOMETRY.shape)
        z, y, x = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radius, strict=True)) < 1
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside] = label
    return labels


def phantom_ct(labels: np.ndarray) -> np.ndarray:
    """Padding, air, a trunk, organs of different attenuation and the noise of a body CT, shape (z, y, x), int16, HU."""
    random = np.random.default_rng(2)
    _, y, x = np.ogrid[tuple(slice(n) for n in GEOMETRY.shape)]
    trunk = ((x - 256) / 215) ** 2 + ((y - 256) / 150) ** 2 < 1
    scanned = (x - 256) ** 2 + (y - 256) ** 2 < 256**2
    attenuation = np.concatenate([[0], random.integers(-750, 300, 255)]).astype(np.int16)
    image = np.empty(GEOMETRY.shape, np.int16)
    for plane, organs in zip(image, labels, strict=True):
        noise = random.normal(0, 1, plane.shape)
        seen = np.where(trunk[0], 40 + attenuation[organs] + 12 * noise, -1000 + 10 * noise)
        plane[...] = np.where(scanned[0], np.maximum(seen, -1024), -1024)
    return image


def milliseconds(work: Callable[[], object]) -> float:
    """Of one call, on the wall clock."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def limit_write(path: Path, voxels: np.ndarray) -> None:
    """One call over the raw bytes."""
    from isal import isal_zlib

    path.write_bytes(isal_zlib.compress(voxels.reshape(-1).view(np.uint8).data, 1, 31))


def limit_read(path: Path) -> np.ndarray:
    """One call that inflates all bytes."""
    from isal import isal_zlib

    raw: np.ndarray = np.frombuffer(isal_zlib.decompress(path.read_bytes(), 31, int(np.prod(SIZE)) * 2), np.uint8)
    return raw


def simpleitk_write(path: Path, voxels: np.ndarray) -> None:
    """From an array, as a user of SimpleITK does."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(GEOMETRY.spacing)
    image.SetOrigin(GEOMETRY.origin)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def simpleitk_read(path: Path) -> np.ndarray:
    """To an array."""
    import SimpleITK

    voxels: np.ndarray = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return voxels


def nibabel_write(path: Path, voxels: np.ndarray) -> None:
    """At its default level, 1."""
    import nibabel

    nibabel.Nifti1Image(voxels.transpose(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ GEOMETRY.affine).to_filename(path)


def nibabel_read(path: Path) -> np.ndarray:
    """In the file's own type."""
    import nibabel

    voxels: np.ndarray = np.asanyarray(nibabel.Nifti1Image.from_filename(path).dataobj)
    return voxels


def our_write(path: Path, voxels: np.ndarray) -> None:
    """What the task path does."""
    nifti.write(path, Volume(voxels, GEOMETRY))


TOOLS: dict[str, tuple[Callable[[Path, np.ndarray], None], Callable[[Path], object]]] = {
    "limit (ISA-L)": (limit_write, limit_read),
    "ours": (our_write, nifti.read),
    "SimpleITK": (simpleitk_write, simpleitk_read),
    "nibabel": (nibabel_write, nibabel_read),
}


def measure(folder: Path, runs: int) -> list[Row]:
    """A row for each image and tool; every tool reads the file it wrote, in turns, so that all see the same load."""
    labels = phantom_labels()
    rows: list[Row] = []
    for name, voxels in (("CT", phantom_ct(labels)), ("labels", labels)):
        times: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
        found: dict[str, Row] = {tool: {"image": name, "tool": tool} for tool in TOOLS}
        for _ in range(runs):
            for tool, (write, read) in TOOLS.items():
                path = folder / f"{name}-{tool.split()[0]}.nii.gz"
                try:
                    times[tool].append((milliseconds(partial(write, path, voxels)), milliseconds(partial(read, path))))
                except ImportError:
                    found[tool]["note"] = NOT_INSTALLED
                    continue
                found[tool]["mb"] = path.stat().st_size / 1e6
                path.unlink()
        for tool, row in found.items():
            if times[tool]:
                row["write_ms"], row["read_ms"] = (statistics.median(column) for column in zip(*times[tool], strict=True))
            rows.append(row)
    for row in rows:
        limit = next(r for r in rows if r["image"] == row["image"])
        for key in ("write_ms", "read_ms"):
            if key in row and key in limit:
                row[key.replace("_ms", "_ratio")] = row[key] / limit[key]
    return rows


def table(rows: Sequence[Row]) -> str:
    """Milliseconds and the ratio to the limit."""
    lines = [f"{'image':8}{'tool':16}{'write ms':>10}{'ratio':>8}{'read ms':>10}{'ratio':>8}{'MB':>9}"]
    for row in rows:
        if "note" in row:
            lines.append(f"{row['image']:8}{row['tool']:16}{row['note']}")
            continue
        ratios = [f"{row[key]:8.2f}" if key in row else f"{'-':>8}" for key in ("write_ratio", "read_ratio")]
        lines.append(f"{row['image']:8}{row['tool']:16}{row['write_ms']:10.1f}{ratios[0]}{row['read_ms']:10.1f}{ratios[1]}{row['mb']:9.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files go; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder), given.runs)
    print(json.dumps(rows, indent=2) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
