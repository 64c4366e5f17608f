"""The node killed again and again while series arrive, are segmented and delivered: none lost, none doubled."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import delineate.testing.models
from delineate.cli.embedded import embedded_server
from delineate.gateway.holdings import Holdings
from delineate.geometry import Geometry
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.gateway import RULES

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="storescu is not installed; Debian: apt-get install dcmtk")

SERIES, SLICES, KILLS = 8, 20, 6
GEOMETRY = Geometry((32, 32, SLICES), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))


class Killed:
    """A node's process that is killed and started again."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder
        words = ["gateway", "serve", "--rules", "rules.toml", "--data", "node", "--server", server, "--log-level", "error"]
        self._command = [sys.executable, "-m", "delineate.cli", *words]
        self.port = 0
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rsplit(":", 1)[1])

    def end(self, is_killed: bool) -> None:
        (self._process.kill if is_killed else self._process.terminate)()
        self._process.communicate(timeout=30)


def send(port: int, folder: Path) -> subprocess.Popen[bytes]:
    words = ["storescu", "-aec", "DELINEATE", "+sd", "127.0.0.1", str(port), str(folder)]
    return subprocess.Popen(words, env={**os.environ, "TCP_NODELAY": "1"}, stderr=subprocess.DEVNULL)


def states(data: Path) -> list[str]:
    holdings = Holdings(data)
    words = "SELECT state FROM versions JOIN series ON series.id = versions.series AND series.version = number"
    found = [row["state"] for row in holdings.rows(words)]
    holdings.close()
    return found


@pytest.mark.timeout(240)
def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(1)
    voxels = np.full(GEOMETRY.shape, 24, np.int16)
    voxels[5:15, 8:20, 8:20] = 1800
    for number in range(SERIES):
        write_series(tmp_path / f"source{number}", stack_of(voxels, GEOMETRY, series=number + 1))
    (tmp_path / "rules.toml").write_text(RULES.replace("broken_seconds = 0.6", "broken_seconds = 200"))
    left, sending, kills = set(range(SERIES)), dict[int, subprocess.Popen[bytes]](), 0
    with embedded_server([Path(delineate.testing.models.__path__[0])]) as server:
        node = Killed(tmp_path, server)
        due = time.monotonic() + 0.3
        while left or kills < KILLS or states(tmp_path / "node") != ["done"] * SERIES:
            for number in sorted(left - set(sending))[: 3 - len(sending)]:
                sending[number] = send(node.port, tmp_path / f"source{number}")
            for number in [number for number, process in sending.items() if process.poll() is not None]:
                if sending.pop(number).returncode == 0:  # else it sends again, as scanners do
                    left.discard(number)
            if kills < KILLS and time.monotonic() > due:
                node.end(is_killed=True)
                node.start()
                kills, due = kills + 1, time.monotonic() + chance.uniform(0.05, 0.6)
            time.sleep(0.05)
        node.end(is_killed=False)
    holdings = Holdings(tmp_path / "node")
    assert holdings.rows("SELECT count(*) FROM instances")[0][0] == SERIES * SLICES
    assert [tuple(row) for row in holdings.rows("SELECT state, round, count(*) FROM jobs GROUP BY state, round")] == [("done", 0, SERIES)]
    holdings.close()
    assert len(list((tmp_path / "node" / "series").rglob("*.dcm"))) == SERIES * SLICES
    assert len(list((tmp_path / "results").rglob("*.dcm"))) == 2 * SERIES
