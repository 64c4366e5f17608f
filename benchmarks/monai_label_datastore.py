"""A datastore of 2,000 images at both servers: next sample, labels saved, everything listed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.monai_label_infers import InTurns, both
from benchmarks.monai_label_servers import Asker, write_ct
from benchmarks.monai_label_table import Table

IMAGES, ROUNDS = 2000, 40


def datastore(peer: Path | None, folder: Path, table: Table) -> None:
    """All lines about it, on one pair of servers."""
    folder.mkdir()
    write_ct(folder / "one.nii.gz", 4, 16)
    data = (folder / "one.nii.gz").read_bytes()

    def fill(studies: Path) -> None:
        for number in range(IMAGES):
            # Hard links of one file would be one image to whoever watches the folder.
            (studies / f"case{number:05}.nii.gz").write_bytes(data)

    with both(peer, folder, fill) as servers:
        turns = InTurns(servers)
        turns.run(lambda asker, _: timed(lambda: known(asker)), 1)
        for strategy in ("random", "first"):
            table.times(f"next_sample {strategy}, {IMAGES} images", *turns.run(lambda a, n, s=strategy: sample(a, s, n), ROUNDS, 3), 1 / 4)
        table.times(f"save_label, {IMAGES} images", *turns.run(lambda a, n: save(a, n, data), ROUNDS, 3), 1 / 4)
        for path, what, count, bar in (("/datastore/?output=all", "everything", 30, 10.0), ("/info/", "/info/", 300, 1.0)):
            rates(turns, path, f"GET {what} per second, {IMAGES} images", count, bar, table)
        turns.close()


def known(asker: Asker) -> None:
    """Wait until the server knows all images."""
    end = time.monotonic() + 120
    while json.loads(asker.ask("GET", "/datastore/")[1])["total"] < IMAGES and time.monotonic() < end:
        time.sleep(0.5)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def sample(asker: Asker, strategy: str, number: int) -> float:
    """Ask for the next sample, everybody for himself."""
    body = json.dumps({"client_id": f"person{number % 4}"}).encode()
    return timed(lambda: asker.ask("POST", f"/activelearning/{strategy}", body, "application/json"))


def save(asker: Asker, number: int, label: bytes) -> float:
    """Save a label of an image that has none."""
    return timed(lambda: asker.form("PUT", "/datastore/label", {"image": f"case{number + 100:05}"}, {"label": ("label.nii.gz", label)}))


def rates(turns: InTurns, path: str, work: str, count: int, bar: float, table: Table) -> None:
    """How often a second it is answered to one who asks again and again."""
    theirs, ours = turns.run(lambda a, _: timed(lambda: [a.ask("GET", path) for _ in range(count)]), 5, 1)
    other, own = (count / sorted(values)[len(values) // 2] if values else None for values in (theirs, ours))
    assert own is not None
    table.line(work, other, own, "1/s", f">= {bar:g} of theirs", [None if other is None else own >= bar * other])
