"""The datastore with many images: what each request of an annotator costs at the server, and what its start costs.

``python -m benchmarks datastore``; ``--images 2000`` for the size at which the other server was measured (next sample
74 ms random and 31 ms first, save label 25 ms, everything 21 times a second).
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from delineate import nifti
from delineate.datastore.findings import DOUBT, LOOKS, Finding
from delineate.datastore.local import LocalDatastore
from delineate.geometry import Geometry
from delineate.scoring.looks import COARSE
from delineate.store.database import Database
from delineate.volume import Volume

GRID = Geometry((64, 64, 24), (1.0, 1.0, 2.5))
TARGET_MS, TARGET_START, TARGET_INDEX = 20.0, 2.0, 200.0


def packed(write: Callable[[io.BytesIO], None]) -> bytes:
    """What `write` writes."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def fill(folder: Path, images: int) -> None:
    """Many small images, half of them with a label, as people have them."""
    (folder / "labels" / "final").mkdir(parents=True)
    image = packed(lambda file: nifti.write(file, Volume(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2)))))
    for number in range(images):
        (folder / f"case{number:05}.nii.gz").write_bytes(image)
        if number % 2:
            (folder / "labels" / "final" / f"case{number:05}.nii.gz").write_bytes(image)


def find(store: LocalDatastore) -> None:
    """What the background would find out about every image."""
    generator = np.random.default_rng(0)
    found: list[Finding] = []
    for image in store.images():
        about: dict[str, object] = {"image": image.id, "image_version": image.version, "version": 1}
        vector = generator.normal(size=149).astype(np.float32)
        found.append(Finding(kind=DOUBT, source="voxel-forest", value=float(generator.random()), **about))  # type: ignore[arg-type]
        found.append(Finding(kind=LOOKS, source=COARSE, vector=vector, **about))  # type: ignore[arg-type]
    store.findings.keep(found)


def measure(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """(median, 95th percentile) milliseconds of one call."""
    walls = []
    for number in range(count):
        start = time.perf_counter()
        work(number)
        walls.append((time.perf_counter() - start) * 1e3)
    return statistics.median(walls), statistics.quantiles(walls, n=20)[-1]


def verbs(store: LocalDatastore, count: int) -> None:
    """Print what each verb costs."""
    image = packed(lambda file: nifti.write(file, Volume(np.zeros(GRID.shape, np.int16), GRID)))
    mask = np.random.default_rng(0).integers(0, 3, GRID.shape).astype(np.uint8)
    label = packed(lambda file: nifti.write_labels(file, mask, GRID))
    works: dict[str, Callable[[int], object]] = {
        "add_image": lambda n: store.add_image(store.received(io.BytesIO(image), f"new{n}.nii.gz"), who="a"),
        "next_sample random": lambda n: store.next_sample("random", f"a{n % 4}"),
        "next_sample first": lambda n: store.next_sample("first", f"a{n % 4}"),
        "next_sample uncertainty": lambda n: store.next_sample("uncertainty", f"a{n % 4}"),
        "next_sample diversity": lambda n: store.next_sample("diversity", f"a{n % 4}"),
        "save_label": lambda n: store.save_label(f"new{n}", "final", store.received(io.BytesIO(label), "l.nii.gz"), who="a"),
        "save_label again": lambda n: store.save_label(f"new{n}", "final", store.received(io.BytesIO(label), "l.nii.gz"), who="b"),
        "update_label_info": lambda n: store.update_label_info(f"new{n}", "final", {"k": n}),
    }
    for name, work in works.items():
        median, slow = measure(work, count)
        print(f"{name:32} | {median:8.2f} | {slow:8.2f}")

    def changed(work: Callable[[], object]) -> Callable[[int], object]:
        def run(number: int) -> object:
            store.update_image_info("new0", {"k": number})
            start = time.perf_counter()
            work()
            costs.append((time.perf_counter() - start) * 1e3)
            return None

        return run

    for name, work0 in {"statistics after a change": store.statistics, "index after a change": store.index}.items():
        costs: list[float] = []
        measure(changed(work0), count)
        print(f"{name:32} | {statistics.median(costs):8.2f} | {statistics.quantiles(costs, n=20)[-1]:8.2f}")
    for name, work1 in {"statistics": store.statistics, "index": store.index, "look": lambda: store.look(deep=False)}.items():
        median, slow = measure(lambda _, work=work1: work(), count)  # type: ignore[misc]
        print(f"{name:32} | {median:8.3f} | {slow:8.3f}")
    print(f"{'deep look':32} | {measure(lambda _: store.look(), 5)[0]:8.1f} |")


def disk(folder: Path) -> float:
    """Median milliseconds to bring a small file to the disk: adding an image or saving a label does so five times."""

    def write(number: int) -> None:
        with (folder / "probe").open("wb", buffering=0) as file:
            file.write(b"x" * 10_000)
            os.fsync(file.fileno())

    return measure(write, 50)[0]


def under_load(store: LocalDatastore, seconds: float) -> None:
    """Two annotators save and ask while a third asks for everything."""
    label = packed(lambda file: nifti.write_labels(file, np.ones((2, 2, 2), np.uint8), Geometry((2, 2, 2))))
    end = time.monotonic() + seconds
    walls: list[float] = []
    counts = [0]

    def annotate(name: str) -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            sample = store.next_sample("random", name)
            if sample is None:
                return
            asked = time.perf_counter()
            store.save_label(sample.image.id, "final", store.received(io.BytesIO(label), "l.nii.gz"), who=name)
            walls.extend(((asked - start) * 1e3, (time.perf_counter() - asked) * 1e3))

    threads = [threading.Thread(target=annotate, args=(f"annotator {n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        store.index()
        counts[0] += 1
        time.sleep(0.002)  # the other requests want the interpreter too
    for thread in threads:
        thread.join()
    print(f"\n2 annotators at once: next sample {statistics.median(walls[::2]):.1f} ms, save label {statistics.median(walls[1::2]):.1f} ms")
    print(f"meanwhile everything as JSON {counts[0] / seconds:,.0f} times a second (target {TARGET_INDEX:.0f})")


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--images", type=int, nargs="*", default=[2_000, 10_000])
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args(arguments)
    for images in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            fill(Path(folder) / "studies", images)
            database = Database(f"sqlite:///{folder}/delineate.db")
            database.migrate()
            starts = []
            for _ in range(2):
                start = time.perf_counter()
                store = LocalDatastore(Path(folder) / "studies", database, settle=0.0)
                starts.append(time.perf_counter() - start)
                store.close()
            print(f"\n{images:,} images: first start {starts[0]:.2f} s, next {starts[1]:.2f} s (target {TARGET_START:.0f})")
            print(f"{'verb':32} | ms median | 95 % (target {TARGET_MS:.0f} for next sample, save label, statistics)")
            with LocalDatastore(Path(folder) / "studies", database, settle=0.0) as store:
                print(f"{'one fsync of this disk':32} | {disk(Path(folder)):8.2f} |")
                find(store)
                store.next_sample("diversity", "somebody")  # as the server prepares it at its start
                verbs(store, options.count)
                print(f"{'one fsync of this disk, again':32} | {disk(Path(folder)):8.2f} |")
                under_load(store, 3.0)
            database.close()


if __name__ == "__main__":
    main()
