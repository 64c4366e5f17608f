"""Writing and extracting a task archive of 500 MB in stored entries, beside a plain copy of the same file.

The copy is the limit: every byte read once and written once. An archive adds a checksum on the way in and on the way out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

from delineate.protocols.archive import ArchiveReader, StoredZipWriter, tar_view

SIZE = 500 << 20
BLOCK = 1 << 20


def _write(path: Path, source: Path) -> None:
    with StoredZipWriter(path) as writer:
        writer.add_file("tmp_0000.nii.gz", source)


def _library_write(path: Path, source: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(source, "tmp_0000.nii.gz")


def _library_extract(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)


def _own_copy(source: Path, target: Path) -> None:
    with open(source, "rb") as reading, open(target, "wb") as writing:
        while block := reading.read(BLOCK):
            writing.write(block)


def _tar(path: Path, target: Path) -> None:
    with open(target, "wb") as file:
        for block in tar_view(path):
            file.write(block)


def _median(work: Callable[[], object], remove: Path, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        shutil.rmtree(remove, ignore_errors=True)
        remove.unlink(missing_ok=True)
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _peak(work: Callable[[], object], remove: Path) -> float:
    shutil.rmtree(remove, ignore_errors=True)
    remove.unlink(missing_ok=True)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", help="folder on the file system to measure (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="delineate-bench-", dir=options.dir) as base:
        folder = Path(base)
        source, archive, out, kept = folder / "source", folder / "a.zip", folder / "out", folder / "kept.zip"
        with open(source, "wb") as file:
            for _ in range(SIZE // BLOCK):
                file.write(os.urandom(BLOCK))
        _write(kept, source)
        works: list[tuple[str, Callable[[], object], Path]] = [
            ("plain copy, by the system", lambda: shutil.copyfile(source, out), out),
            ("plain copy, read and write", lambda: _own_copy(source, out), out),
            ("write, zipfile", lambda: _library_write(archive, source), archive),
            ("write, ours", lambda: _write(archive, source), archive),
            ("extract, zipfile", lambda: _library_extract(kept, out), out),
            ("extract, ours", lambda: ArchiveReader(kept).extract(out), out),
            ("tar view to a file, ours", lambda: _tar(kept, out), out),
        ]
        seconds = {name: _median(work, target, options.rounds) for name, work, target in works}
        limit = seconds["plain copy, read and write"]
        print(f"{'500 MB in one stored entry':<32}{'ms':>8}{'MB/s':>8}{'to copy':>9}{'peak MiB':>10}")
        for name, work, target in works:
            mine = seconds[name]
            peak = _peak(work, target)
            print(f"{name:<32}{mine * 1e3:8.0f}{SIZE / 2**20 / mine:8.0f}{mine / limit:8.2f}x{peak:10.1f}")
        ArchiveReader(kept).extract(folder / "check")
        same = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (source, folder / "check" / "tmp_0000.nii.gz")]
        print("extracted bytes are those written" if same[0] == same[1] else "EXTRACTED BYTES DIFFER")


if __name__ == "__main__":
    main()
