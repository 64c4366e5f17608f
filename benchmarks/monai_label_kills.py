"""Either server killed while four clients upload images and save labels: what it answered, is it there when it runs again?"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.monai_label_servers import Asker, Place, free_port, our_command, peer_command, start, stop, write_ct
from benchmarks.monai_label_table import Table

PEOPLE = 4
LOST_CONNECTION = (OSError, http.client.HTTPException, RuntimeError)


@dataclass
class Answered:
    """What the server said it has."""

    images: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def work(self, port: int, person: int, data: bytes) -> None:
        """Upload and save until the server is gone."""
        number = 0
        with contextlib.suppress(*LOST_CONNECTION), Asker(port, 20) as asker:
            while not self.over.is_set():
                id, number = f"p{person}n{number}", number + 1
                asker.form("PUT", "/datastore/", {"image": id}, {"file": ("x.nii.gz", data)})
                self.images.append(id)
                asker.form("PUT", "/datastore/label", {"image": id}, {"label": ("x.nii.gz", data)})
                self.labels.append(id)


def kills(peer: Path | None, folder: Path, rounds: int, table: Table) -> None:
    """Rounds without a loss, and how long ours takes to answer again."""
    folder.mkdir()
    write_ct(folder / "one.nii.gz", 4, 16)
    data = (folder / "one.nii.gz").read_bytes()
    draw = random.Random(1)
    good: dict[str, int] = {"peer": 0, "ours": 0}
    starts = []
    for number in range(rounds):
        for name in ("peer", "ours") if peer is not None else ("ours",):
            place, port = Place(folder / f"{name}{number}"), free_port()
            for case in range(20):
                (place.studies / f"case{case}.nii.gz").write_bytes(data)
            command = our_command(place, port, 1) if name == "ours" or peer is None else peer_command(peer, place, port)
            trouble, seconds, done = one_round(command, port, place, data, draw.uniform(0.3, 2.0))
            good[name] += not trouble
            if name == "ours":
                starts.append(seconds)
            table.note(f"{'':4}round {number + 1}, {name}: {done} answered, {trouble or 'nothing lost'}")
    theirs = None if peer is None else good["peer"]
    table.line("killed while 4 upload and save, nothing lost", theirs, good["ours"], f"of {rounds}", "all", [good["ours"] == rounds])
    table.times("start after a kill", [], [statistics.median(starts)], limit=2.0, scale="s")


def one_round(command: list[str], port: int, place: Place, data: bytes, pause: float) -> tuple[str, float, int]:
    """(what was wrong, empty for nothing; seconds of the second start; how much was answered)."""
    server = start(command, port, place.folder)
    answered = Answered()
    crew = [threading.Thread(target=answered.work, args=(port, person, data)) for person in range(PEOPLE)]
    for thread in crew:
        thread.start()
    time.sleep(pause)
    stop(server.process, signal.SIGKILL)
    answered.over.set()
    for thread in crew:
        thread.join()
    done = len(answered.images) + len(answered.labels)
    try:
        again = start(command, port, place.folder)
    except RuntimeError:
        return "it does not start again", 0.0, done
    try:
        return missing(port, answered, data), again.seconds, done
    finally:
        stop(again.process)


def missing(port: int, answered: Answered, data: bytes) -> str:
    """What is not there as it was sent; empty for nothing."""
    with Asker(port) as asker:
        objects = json.loads(asker.ask("GET", "/datastore/", query={"output": "all"})[1])["objects"]
        images = [
            id for id in answered.images if id not in objects or asker.ask("GET", "/datastore/image", query={"image": id}) != (200, data)
        ]
        labels = [
            id
            for id in answered.labels
            if "final" not in objects.get(id, {}).get("labels", {})
            or asker.ask("GET", "/datastore/label", query={"label": id, "tag": "final"}) != (200, data)
        ]
    empty = "" if objects else "the index is empty; "
    return f"{empty}{len(images)} images and {len(labels)} labels are lost" if images or labels or empty else ""
