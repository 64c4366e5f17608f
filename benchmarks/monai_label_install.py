"""What an installation takes: a fresh environment with ours, which then answers, beside the peer's as it lies there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.monai_label_servers import Place, free_port, our_command, running
from benchmarks.monai_label_table import Table

ROOT = Path(__file__).resolve().parents[1]


def install(peer: Path | None, folder: Path, table: Table) -> None:
    """Megabytes and packages."""
    folder.mkdir()
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[server]"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"it could not be installed: {done.stderr[-2000:]}")
    seconds = time.perf_counter() - begin
    table.line(
        "installation",
        None if peer is None else megabytes(peer),
        megabytes(folder / "venv"),
        "MB",
        "<= 400 MB",
        [megabytes(folder / "venv") <= 400],
    )
    count = packages(folder / "venv")
    table.line("installation", None if peer is None else packages(peer), count, "packages", "<= 60", [count <= 60])
    place, port = Place(folder / "start"), free_port()
    command = [str(python), *our_command(place, port, 1)[1:]]
    with running(command, port, folder):
        table.note(f"{'':50}(installed in {seconds:.0f} s, and its server starts)")


def megabytes(folder: Path) -> float:
    """Bytes of all files below a folder, links not followed."""
    return sum(os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(folder) for name in names) / 1e6


def packages(venv: Path) -> int:
    """How many distributions are installed in an environment."""
    return len(list(venv.glob("lib/python*/site-packages/*.dist-info")))
