"""Two annotators and a training for ten minutes: `make soak`, or `python scripts/soak.py --minutes 2`.

Each annotator asks for a sample, fetches the image, clicks into it, sometimes on a session, corrects nothing and saves the
label; a third client trains over and over. The time counts from when the trained model is in use. Asserted: no error
anywhere, in the server's log neither; never one image with two annotators; memory of server and workers flat from then on;
no file and no descriptor left. Exit code 1 with the reasons where something does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from delineate import nifti
from delineate.geometry import Geometry
from delineate.monai_label import MONAILabelClient, MONAILabelClientException
from delineate.volume import Volume

READY = "delineate: ready at "
OLD = 1_700_000_000
MIB = 1 << 20
SIZE = (112, 96, 48)  # x, y, z
WARM_UP = 900.0  # s at most, until the trained model is in use: only then the clock starts
USES = 8  # of the trained model, by which everything is loaded that will be
GROWTH, SHARE = 16.0, 0.08  # MiB, and of what there was: so much may memory grow after the warm-up
DESCRIPTORS = 8
TRAINER = "voxel-forest"
TROUBLE = (" ERROR ", " CRITICAL ", "Traceback")


def main() -> int:
    """Run; 0 when all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--annotators", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        soak = Soak(Path(name), given.minutes * 60)
        make_images(soak.folder / "studies", given.images)
        with server(soak.folder, given.workers) as (process, url):
            soak.run(process, url, given.annotators)
        soak.look_at_remains()
    return soak.report()


def make_images(folder: Path, count: int) -> None:
    """Chests with two lungs each, every one a little different."""
    folder.mkdir()
    z, y, x = np.meshgrid(*(np.arange(n) for n in SIZE[::-1]), indexing="ij")
    for number in range(count):
        chance = np.random.default_rng(number)
        voxels = np.full(SIZE[::-1], -1000.0)
        voxels[((x - 56) / 50) ** 2 + ((y - 48) / 40) ** 2 < 1] = 40
        for side in (30, 82):
            centre = np.array([24, 48, side]) + chance.uniform(-3, 3, 3)
            reach = np.array([20, 22, 16]) * chance.uniform(0.85, 1.1, 3)
            inside = ((z - centre[0]) / reach[0]) ** 2 + ((y - centre[1]) / reach[1]) ** 2 + ((x - centre[2]) / reach[2]) ** 2 < 1
            voxels[inside] = -820
        voxels += chance.normal(0, 15, voxels.shape)
        path = folder / f"case{number:03}.nii.gz"
        nifti.write(path, Volume(voxels.astype(np.int16), Geometry(SIZE, (2.5, 2.5, 5.0))))
        os.utime(path, (OLD, OLD))  # what was written just now may not be whole yet


@contextlib.contextmanager
def server(folder: Path, workers: int) -> Iterator[tuple[psutil.Process, str]]:
    """`delineate serve` with a folder of its own for temporary files."""
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(folder / "data")]
    command += ["--studies", str(folder / "studies"), "--workers", str(workers)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder / "tmp")}
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            if not line.startswith(READY):
                raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text()[-3000:]}")
            yield psutil.Process(process.pid), line[len(READY) :].strip()
        finally:
            process.terminate()
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()


@dataclass
class Leases:
    """Who has which image, as the annotators see it."""

    doubles: list[str] = field(default_factory=list)
    given: int = 0
    _held: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, image: str, who: int) -> None:
        """An annotator was handed an image."""
        with self._lock:
            self.given += 1
            holder = self._held.setdefault(image, who)
            if holder != who:
                self.doubles.append(f"{image} was handed to {who} while {holder} had it")

    def give(self, image: str) -> None:
        """Its label is about to be saved."""
        with self._lock:
            self._held.pop(image, None)


@dataclass
class Watch:
    """Memory, descriptors and processor time of the server and its workers, every two seconds."""

    process: psutil.Process
    begin: float = field(default_factory=time.monotonic)
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    descriptors: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Once: of roles with several processes the sum."""
        now = time.monotonic() - self.begin
        memory: dict[str, float] = defaultdict(float)
        descriptors: dict[str, float] = defaultdict(float)
        for one in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                role = self.role(one)
                memory[role] += one.memory_full_info().uss / MIB
                descriptors[role] += one.num_fds()
        for role in memory:
            self.memory[role].append((now, memory[role]))
            self.descriptors[role].append((now, descriptors[role]))

    def role(self, one: psutil.Process) -> str:
        """What a process is for."""
        if one.pid == self.process.pid:
            return "server"
        words = " ".join(one.cmdline())
        return "background worker" if "background" in words else "worker" if "worker" in words else "other"

    def run(self) -> None:
        """Until it is told to stop."""
        while not self.stop.wait(2.0):
            self.look()


class Soak:
    """One run."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self._seconds = seconds
        self._leases = Leases()
        self._troubles: list[str] = []
        self._times: dict[str, list[float]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)
        self._end = 0.0
        self._warm = 0.0

    def run(self, process: psutil.Process, url: str, annotators: int) -> None:
        """All of them until the time is up, then until the server rests."""
        self._end = time.monotonic() + WARM_UP
        watch = Watch(process)
        watch.look()
        watching = threading.Thread(target=watch.run)
        people = [threading.Thread(target=self._person, args=(self._annotate, url, number)) for number in range(annotators)]
        people.append(threading.Thread(target=self._person, args=(self._train, url, annotators)))
        people.append(threading.Thread(target=self._person, args=(self._ask, url, annotators + 1)))
        for thread in (watching, *people):
            thread.start()
        self._warm_up(watch)
        for thread in people:
            thread.join()
        self._rest()
        watch.stop.set()
        watching.join()
        watch.look()
        self._judge(watch)

    def _warm_up(self, watch: Watch) -> None:
        while self._counts["used"] < USES and time.monotonic() < self._end:
            time.sleep(0.2)
        if self._counts["used"] < USES:
            self._troubles.append(f"the trained model was used {self._counts['used']} times in the first {WARM_UP:g} s")
            return
        self._warm = time.monotonic() - watch.begin
        print(f"warm after {self._warm:.0f} s", flush=True)
        self._end = time.monotonic() + self._seconds

    def _person(self, what: Any, url: str, number: int) -> None:
        results = self.folder / f"results-{number}"
        results.mkdir()
        try:
            with MONAILabelClient(url, str(results), f"person-{number}", timeout=120) as client:
                what(client, number)
        except Exception as error:
            reason = error.msg if isinstance(error, MONAILabelClientException) else str(error)
            self._troubles.append(f"{what.__name__.strip('_')} {number}: {type(error).__name__}: {reason[:400]}")
            self._end = 0.0
        if left := sorted(path.name for path in results.iterdir()):
            self._troubles.append(f"person {number} has files left: {left[:5]}")

    def _timed(self, what: str, call: Any, *arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        value = call(*arguments, **named)
        self._times[what].append(time.perf_counter() - begin)
        return value

    # ------------------------------------------------------------ who works

    def _annotate(self, client: MONAILabelClient, number: int) -> None:
        strategies, turn, tag = ["uncertainty", "random", "diversity", "first"], number, 0
        known = client.info()["strategies"]
        while time.monotonic() < self._end:
            strategy = strategies[turn % len(strategies)]
            turn += 1
            name = f"final{tag or ''}"
            asked = {"label_tag": name}
            sample = self._timed(f"next_sample {strategy}", client.next_sample, strategy if strategy in known else "random", asked)
            if not sample:
                tag += 1  # all have a label, or somebody else has the last: once more from the beginning
                time.sleep(0.05)
                continue
            image = sample["id"]
            self._leases.take(image, number)
            self._look_at(client, image, turn)
            mask, params = self._click(client, image, turn)
            self._leases.give(image)
            names = [{"name": key, "idx": value} for key, value in params["label_names"].items()]
            self._timed("save_label", client.save_label, image, mask, name, {"label_info": names})
            Path(mask).unlink()
            self._counts["labels"] += 1

    def _look_at(self, client: MONAILabelClient, image: str, turn: int) -> None:
        path = self._timed("download image", client.download_image, image)
        if turn % 3 == 0:
            session = self._timed("create_session", client.create_session, path)["session_id"]
            found, _ = self._timed("click on a session", client.infer, "region", "", {"foreground": [[30, 48, 24]]}, session_id=session)
            Path(str(found)).unlink()
            client.remove_session(session)
        Path(path).unlink()
        if turn % 2 and TRAINER in client.info()["models"] and self._counts["trained"]:
            found, _ = self._timed(f"infer {TRAINER}", client.infer, TRAINER, image, {})
            self._counts["used"] += 1
            if found:
                Path(found).unlink()

    def _click(self, client: MONAILabelClient, image: str, turn: int) -> tuple[str, dict[str, Any]]:
        """Three clicks, each more than the one before; the last answer."""
        points = [[30, 48, 24], [82, 48, 24], [30, 44, 26]]
        for count in range(1, 4):
            mask, params = self._timed("click", client.infer, "region", image, {"foreground": points[:count], "background": [[56, 48, 24]]})
            if mask is None:
                raise AssertionError(f"a click on {image} has no mask")
            if count < 3:
                Path(mask).unlink()
        return str(mask), params

    def _train(self, client: MONAILabelClient, number: int) -> None:
        while self._counts["labels"] < 4 and time.monotonic() < self._end:
            time.sleep(0.2)
        while time.monotonic() < self._end:
            begin = time.perf_counter()
            self._timed("train_start", client.train_start, TRAINER, {})
            while self._timed("train_status", client.train_status, True) and time.monotonic() < self._end:
                time.sleep(0.5)
            is_stopped = client.train_stop() is not None
            task = client.train_status()
            if task["status"] not in (("DONE", "STOPPED") if is_stopped else ("DONE",)):
                raise AssertionError(f"a training ended with {task['status']}: {task.get('details', [])[-3:]}")
            if task["status"] == "DONE":
                self._times["training"].append(time.perf_counter() - begin)
                self._counts["trained"] += 1

    def _ask(self, client: MONAILabelClient, number: int) -> None:
        """What plugins ask all the time."""
        while time.monotonic() < self._end:
            self._timed("info", client.info)
            self._timed("datastore", client.datastore)
            time.sleep(0.2)

    def _rest(self) -> None:
        """Until nothing is queued or runs: the background has something to do for a while."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.closing(sqlite3.connect(self.folder / "data" / "delineate.db")) as database:
                waiting = database.execute("select count(*) from tasks where state in ('pending', 'running')").fetchone()[0]
            if not waiting:
                return
            time.sleep(0.5)
        self._troubles.append(f"{waiting} tasks still wait two minutes after the end")

    # ------------------------------------------------------------ what is asserted

    def _judge(self, watch: Watch) -> None:
        print(f"{'':20}{'begin':>8}{'warm':>8}{'end':>8}{'most':>8}  MiB; growth after the warm-up; descriptors warm, end")
        for role, seen in watch.memory.items():
            after = [(when, much) for when, much in seen if when > self._warm]
            if len(after) < 8:
                print(f"{role:20}{seen[0][1]:8.0f}{'':8}{seen[-1][1]:8.0f}{max(much for _, much in seen):8.0f}  seen too seldom to judge")
                continue
            fitted = statistics.linear_regression([when for when, _ in after], [much for _, much in after])
            growth = fitted.slope * (after[-1][0] - after[0][0])
            usual = statistics.median(much for _, much in after)
            open_files = [much for when, much in watch.descriptors[role] if when > self._warm]
            print(
                f"{role:20}{seen[0][1]:8.0f}{after[0][1]:8.0f}{seen[-1][1]:8.0f}{max(much for _, much in seen):8.0f}"
                f"  {growth:+.1f}; {open_files[0]:.0f}, {open_files[-1]:.0f}"
            )
            if role in ("server", "worker"):
                if growth > max(GROWTH, SHARE * usual):
                    self._troubles.append(f"the {role}'s memory grew by {growth:.0f} MiB")
                if open_files[-1] - open_files[0] > DESCRIPTORS:
                    self._troubles.append(f"the {role} has {open_files[-1] - open_files[0]:.0f} descriptors more")

    def look_at_remains(self) -> None:
        """What lies on the disk after the end."""
        log = (self.folder / "server.log").read_text(errors="replace")
        self._troubles += [f"the server's log says: {line[:300]}" for line in log.splitlines() if any(word in line for word in TROUBLE)][:5]
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "delineate.db")) as database:
            named = {row[0] for row in database.execute("select digest from blobs")}
            tables = {row[0] for row in database.execute("select name from sqlite_master where type = 'table'")}
            for table in tables - {"blobs"}:  # whatever else names files by their digest
                columns = [row[1] for row in database.execute(f'pragma table_info("{table}")')]
                for column in columns:
                    if "digest" in column:
                        named |= {row[0] for row in database.execute(f'select "{column}" from "{table}"')}  # noqa: S608
        for blobs in (self.folder / "data" / "blobs", self.folder / "studies" / ".delineate" / "blobs"):
            stored = [path.name for path in blobs.rglob("*") if path.is_file()]
            lost = [name for name in stored if name not in named]
            if lost:
                self._troubles.append(f"{len(lost)} of {len(stored)} files in {blobs.relative_to(self.folder)} are nobody's: {lost[:3]}")
        sessions = self.folder / "data" / "sessions"
        if sessions.is_dir() and (left := [path.name for path in sessions.iterdir()]):
            self._troubles.append(f"{len(left)} sessions were left: {left[:3]}")
        if left := [path.name for path in (self.folder / "tmp").rglob("*") if path.is_file()]:
            self._troubles.append(f"{len(left)} temporary files were left: {left[:3]}")

    def report(self) -> int:
        """Print what was measured; the exit code."""
        for what, seconds in sorted(self._times.items()):
            ordered = sorted(seconds)
            shown = [ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)], ordered[-1]]
            print(
                f"{what:24}{len(seconds):6} times, median {shown[0] * 1e3:7.1f} ms, 95 % {shown[1] * 1e3:7.1f}, most {shown[2] * 1e3:7.1f}"
            )
        self._troubles += self._leases.doubles[:5]
        if self._counts["labels"] < 5:
            self._troubles.append(f"only {self._counts['labels']} labels were saved")
        print(json.dumps({"labels": self._counts["labels"], "samples": self._leases.given, "doubles": len(self._leases.doubles),
                          "trainings": self._counts["trained"]}))  # fmt: skip
        for trouble in self._troubles:
            print(f"WRONG: {trouble}")
        print("it held" if not self._troubles else "it did not hold")
        return 1 if self._troubles else 0


if __name__ == "__main__":
    sys.exit(main())
