"""Infers of both servers in turns: first time, again, uploaded, no-op, eight at once; start and memory."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.monai_label_servers import Asker, Place, Started, form_body, free_port, lay, our_command, peer_command, running
from benchmarks.monai_label_table import Table

SETTLED = 2.0  # s after the start until memory is at rest
NAMES = ("peer", "ours")


@contextlib.contextmanager
def both(peer: Path | None, folder: Path, fill: Callable[[Path], None], workers: int = 2) -> Iterator[dict[str, Started]]:
    """The two servers, or ours alone, on the same images; ours last in the dictionary."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name in NAMES if peer is not None else NAMES[1:]:
            place, port = Place(folder / name), free_port()
            fill(place.studies)
            command = our_command(place, port, workers) if name == "ours" or peer is None else peer_command(peer, place, port)
            started[name] = stack.enter_context(running(command, port, place.folder))
        yield started


class InTurns:
    """Measures the same on each server, one after the other, round by round."""

    def __init__(self, servers: dict[str, Started]) -> None:
        self.askers = {name: Asker(server.port) for name, server in servers.items()}

    def close(self) -> None:
        """Hang up."""
        for asker in self.askers.values():
            asker.__exit__()

    def run(self, work: Callable[[Asker, int], float], rounds: int, warm: int = 0) -> tuple[list[float], list[float]]:
        """(theirs, ours): what `work` gave in each round but the first `warm`; theirs is empty without the peer."""
        found: dict[str, list[float]] = {name: [] for name in NAMES}
        for number in range(-warm, rounds):
            for name, asker in self.askers.items():
                seconds = work(asker, number)
                if number >= 0:
                    found[name].append(seconds)
        return found["peer"], found["ours"]


def infers(peer: Path | None, folder: Path, made: dict[str, Path], rounds: int, table: Table) -> None:
    """All lines about infers, on one pair of servers."""
    copies = max(rounds, 3)

    def fill(studies: Path) -> None:
        for name, path in made.items():
            lay(path, studies / f"{name}.nii.gz")
            for number in range(copies if name != "small" else 0):
                lay(path, studies / f"{name}{number}.nii.gz")

    with both(peer, folder, fill) as servers:
        turns = InTurns(servers)
        start_and_rest(servers, table)
        turns.run(lambda asker, _: asker.infer("bone", image="small"), 3)
        for name in ("medium", "large"):
            table.times(
                f"infer by id, first time, {name}", *turns.run(lambda a, n, i=name: a.infer("bone", image=f"{i}{n}"), rounds), 1 / 3
            )
            again = turns.run(lambda a, _, i=name: a.infer("bone", image=f"{i}0"), 2 * rounds, 1)
            table.times(f"infer again on the same image, {name}", *again, 1 / 8)
        table.times("infer again on the same session, medium", *turns.run(session(made["medium"]), 2 * rounds, 1), 1 / 8)
        for name in ("medium", "large"):
            data = made[name].read_bytes()
            table.times(f"infer with the file uploaded, {name}", *turns.run(upload(data), rounds, 1), 1 / 2.5)
        for model, what in (("nothing", "one voxel"), ("words", "no file")):
            for name in ("small", "large"):
                nothing = turns.run(lambda a, _, m=model, i=name: a.infer(m, image=i), 40, 5)
                table.times(f"no-op by id, {what}, {name}", *nothing, limit=0.015)
        crowd(servers, rounds, table)
        info_while(servers["ours"], table)
        turns.close()


def session(path: Path) -> Callable[[Asker, int], float]:
    """An infer on a session, which is made at its first use."""
    ids: dict[Asker, str] = {}

    def work(asker: Asker, _: int) -> float:
        if asker not in ids:
            ids[asker] = json.loads(asker.form("PUT", "/session/", {}, {"files": (path.name, path.read_bytes())}))["session_id"]
        return asker.infer("bone", session_id=ids[asker])

    return work


def upload(data: bytes) -> Callable[[Asker, int], float]:
    """An infer whose image comes along."""

    def work(asker: Asker, number: int) -> float:
        # The time in the header of gzip: each upload is an image of its own, none is known by its content.
        fresh = data[:4] + struct.pack("<I", number + 100) + data[8:]
        body = form_body({"file": ("image.nii.gz", fresh)})
        begin = time.perf_counter()
        asker.send("POST", "/infer/bone", {}, body)
        return time.perf_counter() - begin

    return work


def start_and_rest(servers: dict[str, Started], table: Table) -> None:
    """Start to first answer, and the memory of what answers, before any work."""
    time.sleep(SETTLED)
    theirs = [servers["peer"].seconds] if "peer" in servers else []
    table.times("start to first answer", theirs, [servers["ours"].seconds], limit=1.5, scale="s")
    other = sum(process.memory_info().rss for process in servers["peer"].tree()) / 1e6 if theirs else None
    own = [process.memory_info().rss / 1e6 for process in servers["ours"].tree()]
    table.line("memory at rest, API process", other, own[0], "MB", "<= 120 MB", [own[0] <= 120])
    table.note(f"{'':50}(ours with {len(own) - 1} worker processes {sum(own):.0f} MB)")


def crowd(servers: dict[str, Started], rounds: int, table: Table, people: int = 8) -> None:
    """Eight at once on the medium image, which nobody has decoded before in the first round, while one asks ``/info/``."""
    walls: dict[str, list[float]] = {name: [] for name in NAMES}
    asked: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(max(2, rounds // 2)):
        for name, server in servers.items():
            wall, infos = at_once(server.port, people)
            walls[name].append(wall)
            asked[name] += infos
    table.times("8 clients at once on the medium image", walls["peer"], walls["ours"], 1 / 4)
    slow = {name: [statistics.quantiles(values, n=20)[-1]] if len(values) > 1 else values for name, values in asked.items()}
    table.times("/info/ meanwhile, 95th percentile", slow["peer"], slow["ours"], limit=0.05)
    table.times("/info/ meanwhile, longest", *([max(values)] if values else [] for values in asked.values()))


def at_once(port: int, people: int) -> tuple[float, list[float]]:
    """(seconds until all have their answer, seconds of each ``/info/`` meanwhile)."""
    gate = threading.Barrier(people + 1)

    def one() -> None:
        with Asker(port) as asker:
            asker.ask("GET", "/info/")
            gate.wait()
            asker.infer("bone", image="medium")

    crew = [threading.Thread(target=one) for _ in range(people)]
    for thread in crew:
        thread.start()
    with Asker(port) as asker:
        asker.ask("GET", "/info/")
        gate.wait()
        begin = time.perf_counter()
        asked = infos(asker, lambda: any(thread.is_alive() for thread in crew))
    for thread in crew:
        thread.join()
    return time.perf_counter() - begin, asked


def infos(asker: Asker, going: Callable[[], bool]) -> list[float]:
    """Seconds of each ``/info/``, one every 20 ms."""
    seconds = []
    while going():
        begin = time.perf_counter()
        asker.ask("GET", "/info/")
        seconds.append(time.perf_counter() - begin)
        time.sleep(0.02)
    return seconds


def info_while(server: Started, table: Table, seconds: float = 8.0) -> None:
    """``/info/`` of ours while eight infer one after the other, and while a training runs where there is one."""
    end = 0.0

    def work() -> None:
        with Asker(server.port) as asker:
            while time.perf_counter() < end:
                asker.infer("bone", image="medium")

    with Asker(server.port) as asker:
        for image in ("medium0", "medium1"):
            saved = '{"save_label": true, "label_tag": "final", "result_extension": ".nii.gz"}'
            asker.form("POST", "/infer/bone", {"image": image}, {}, saved)
        status, _ = asker.ask("POST", "/train/voxel-forest", b"{}", "application/json")
        end = time.perf_counter() + seconds
        crew = [threading.Thread(target=work) for _ in range(8)]
        for thread in crew:
            thread.start()
        asked = infos(asker, lambda: time.perf_counter() < end)
        for thread in crew:
            thread.join()
        trained = asker.ask("GET", "/train/", query={"check_if_running": "true"})[0] == 200
        if status == 200:
            asker.ask("DELETE", "/train/")
    what = f"8 infers and a training{'' if trained else ' that ended before'}" if status == 200 else f"8 infers (no training: {status})"
    table.times(f"/info/ while {what}, 95 %", [], [statistics.quantiles(asked, n=20)[-1]], limit=0.05)


# ---------------------------------------------------------------- memory


def memory(peer: Path | None, folder: Path, made: dict[str, Path], table: Table) -> None:
    """The highest that each process reaches above what it holds at rest, while the large image is inferred."""
    volume = 2 * 512 * 512 * 300 / 1e6
    with both(peer, folder, lambda studies: lay(made["large"], studies / "large.nii.gz"), workers=1) as servers:
        grown: dict[str, list[float]] = {}
        for name, server in servers.items():
            with Asker(server.port) as asker:
                time.sleep(SETTLED)
                before = [(process, process.memory_info().rss) for process in server.tree()]
                for process, _ in before:
                    reset_peak(process.pid)
                asker.infer("bone", image="large")
                grown[name] = [(peak(process.pid) - rest) / 1e6 for process, rest in before]
        other = grown.get("peer", [None])[0]
        own, worker = grown["ours"][0], max(grown["ours"][1:])
        table.line("server process above rest, large", other, own, "MB", "<= 10 MB", [own <= 10])
        table.line("worker above rest, large", None, worker, "MB", f"<= the volume ({volume:.0f}) + 150 MB", [worker <= volume + 150])
        clients(peer, servers, folder, made["large"], table)


def clients(peer: Path | None, servers: dict[str, Started], folder: Path, image: Path, table: Table) -> None:
    """Each client with its own server: peak above idle, seconds."""
    script = str(Path(__file__).with_name("monai_label_client.py"))
    found: dict[str, list[float]] = {}
    for name, server in servers.items():
        python, module = (sys.executable, "delineate.monai_label")
        if name == "peer" and peer is not None:
            python, module = str(peer / "bin" / "python"), "monailabel.client.client"
        command = [python, script, module, f"http://127.0.0.1:{server.port}", str(folder), str(image)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
        found[name] = [float(word) for word in done.stdout.split()]
    for number, work in enumerate(("infer by id", "infer with the file uploaded")):
        other = found["peer"][number] if "peer" in found else None
        table.line(f"client above idle, {work}, large", other, found["ours"][number], "MB", "<= 30 MB", [found["ours"][number] <= 30])


def reset_peak(pid: int) -> None:
    """Begin a new peak of another process."""
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


def peak(pid: int) -> int:
    """The highest number of bytes resident since `reset_peak`."""
    with open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) << 10


def available() -> bool:
    """Whether this system tells of peaks."""
    return os.path.exists("/proc/self/clear_refs") and psutil.LINUX
