"""The store alone: submit, claim and finish per second with 0, 10,000 and 100,000 finished tasks; large blobs.

Run: ``python -m benchmarks.store [--folder DIR] [--rows N …] [--tasks N]``. The folder's disk decides; durability is on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.tasks import TaskStore
from delineate.store.writer import BlobWriter

TARGET = 6.0  # ms of one core for submit, claim and finish together


def blob(store: TaskStore, data: bytes) -> BlobWriter:
    writer = store.blobs.incoming()
    writer.write(data)
    return writer


def fill(store: TaskStore, count: int) -> None:
    """Finished tasks with two blobs and three events each."""
    with store.database.write() as connection:
        (there,) = connection.exec_driver_sql("SELECT count(*) FROM tasks").one()
        numbers = f"WITH RECURSIVE n(i) AS (SELECT {there} + 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        if there >= count:
            return
        connection.exec_driver_sql(
            "INSERT INTO tasks (uid, model, state, owner, protocol, rank, turn, created, finished, attempt, lost, not_before,"
            f" cancel_requested, fraction, message, prompts, grids, provenance) {numbers} SELECT hex(randomblob(21)) || 'x', 'm',"
            " 'finished', 'o' || (i % 50), 'v1', -10, 0, i, i, 1, 0, 0, 0, 1, '', '{}', '[]', '{}' FROM n"
        )
        new = f"FROM tasks WHERE id > {there}"
        for role in ("input", "result"):
            connection.exec_driver_sql(
                f"INSERT INTO blobs (task, role, name, digest, size) SELECT id, '{role}', 'x', lower(hex(randomblob(32))), 1 {new}"
            )
        for kind in ("submitted", "claimed", "finished"):
            connection.exec_driver_sql(f"INSERT INTO events (task, at, kind, who, why) SELECT id, 0, '{kind}', '', '' {new}")


def measure(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """(median wall, mean processor) milliseconds of one call."""
    walls = []
    processor = time.process_time()
    for number in range(count):
        start = time.perf_counter()
        work(number)
        walls.append(time.perf_counter() - start)
    return statistics.median(walls) * 1e3, (time.process_time() - processor) / count * 1e3


def verbs(store: TaskStore, tasks: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each verb."""
    uids: list[str] = []
    figures = {
        "submit": measure(lambda n: store.submit(model="m", archive=blob(store, os.urandom(2000)), owner=f"o{n % 4}", protocol="v1"), tasks)
    }

    def claim(_: int) -> None:
        task = store.claim("w")
        if task is None:
            raise RuntimeError("a task was lost")
        uids.append(task.uid)

    figures["claim"] = measure(claim, tasks)
    figures["finish"] = measure(lambda n: store.finish(uids[n], "w", result=blob(store, os.urandom(2000)), provenance={}), tasks)
    figures["get"] = measure(lambda n: store.get(uids[n]), tasks)
    figures["changes"] = measure(lambda _: store.database.changes(), tasks)
    return figures


def large(store: TaskStore, size: int) -> None:
    """A large blob against a plain file of the same bytes, in turns: the first large write of a process is slow for either."""
    block = os.urandom(1 << 20)
    blobs, plains, ends = [], [], []
    for _ in range(5):
        start = time.perf_counter()
        with (store.blobs.folder / "plain").open("wb", buffering=0) as file:
            for _ in range(size):
                file.write(block)
            os.fsync(file.fileno())
        plains.append(time.perf_counter() - start)
        (store.blobs.folder / "plain").unlink()
        start = time.perf_counter()
        with store.blobs.incoming() as writer:
            for _ in range(size):
                writer.write(block)
            written = time.perf_counter()
            writer.seal()
            end = time.perf_counter()
        blobs.append(end - start)
        ends.append(end - written)
    found = blake3()
    start = time.perf_counter()
    for _ in range(size):
        found.update(block)
    rate = size * 1.048576
    print(f"\nMB/s of {rate:.0f} MB, medians: blob with digest {rate / statistics.median(blobs):.0f}", end=" ")
    print(f"(of that {statistics.median(ends):.2f} s after the last byte),", end=" ")
    print(f"plain file with fsync {rate / statistics.median(plains):.0f}, digest alone {rate / (time.perf_counter() - start):.0f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--rows", type=int, nargs="*", default=[0, 10_000, 100_000])
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--megabytes", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        start = time.perf_counter()
        database = Database(f"sqlite:///{folder}/delineate.db")
        database.migrate()
        fresh = time.perf_counter() - start
        store = TaskStore(database, BlobStore(Path(folder) / "blobs"))
        print(f"new database: {fresh * 1e3:.0f} ms\n")
        print("finished rows | verb    | ms median | ms processor | per second")
        for rows in options.rows:
            fill(store, rows)
            figures = verbs(store, options.tasks)
            for verb, (wall, processor) in figures.items():
                print(f"{rows:13,} | {verb:7} | {wall:9.3f} | {processor:12.3f} | {1e3 / wall:10,.0f}")
            together = sum(figures[verb][1] for verb in ("submit", "claim", "finish"))
            print(f"{rows:13,} | submit + claim + finish: {together:.2f} ms of one core (target {TARGET:.0f})")
        large(store, options.megabytes)
        database.close()


if __name__ == "__main__":
    main()
