from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from delineate.worker.tasklog import KEPT_HEAD, KEPT_TAIL, read_log

SPEAK = """
import os, sys
from pathlib import Path
from delineate.worker.tasklog import TaskLog
os.dup2(2, 1)  # as a worker does: nothing of it goes to the engine's pipe
log = TaskLog(Path(sys.argv[1]))
log.write("of the job")
with log.captured():
    print("printed")
    os.write(1, b"by C code\\n")
    print("complained", file=sys.stderr)
    os.system("echo of a child")
print("outside", file=sys.stderr)
log.close()
"""


def test_everything_a_model_says_is_in_the_log_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "task.log"
    done = subprocess.run([sys.executable, "-c", SPEAK, str(path)], capture_output=True, check=True)
    assert sorted(read_log(path).decode().splitlines()) == ["by C code", "complained", "of a child", "of the job", "printed"]
    assert done.stdout == b""
    assert done.stderr == b"outside\n"


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none") == b""


def test_a_very_long_log_loses_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "task.log"
    with path.open("wb") as file:
        file.write(b"begin")
        os.truncate(path, 50 << 20)
        file.seek(50 << 20)
        file.write(b"end")
    text = read_log(path)
    assert text.startswith(b"begin")
    assert text.endswith(b"end")
    assert b"bytes left out]" in text
    assert KEPT_HEAD + KEPT_TAIL < len(text) < KEPT_HEAD + KEPT_TAIL + 100
