"""A server of one's own for one command: started on a free loopback port, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from delineate.errors import ConnectionFailedError

READY_PREFIX = "delineate: ready at "
# What the environment may say to this server too. The rest is meant for another one: its database, token, certificate, settings file.
KEPT = ("DELINEATE_MODELS", "DELINEATE_DEVICES", "DELINEATE_WORKER_MEMORY_MB", "DELINEATE_LOG_LEVEL")


@contextlib.contextmanager
def embedded_server(model_folders: Sequence[Path] = (), verbose: bool = False) -> Iterator[str]:
    """Start ``delineate serve`` on a temporary data folder and yield its URL.

    The server ends when its standard input closes, and removes its folder: killed in whatever way, this process leaves neither a
    server nor a patient's image behind.

    Raises
    ------
    ConnectionFailedError
        The server ended before it was ready; the message is its last line.
    """
    with tempfile.TemporaryDirectory(prefix="delineate-", ignore_cleanup_errors=True) as folder:
        log_path = Path(folder) / "server.log"
        command = [sys.executable, "-m", "delineate.cli", "serve", "--ephemeral", "--host", "127.0.0.1", "--port", "0"]
        command += ["--data", folder, "--workers", "1"]
        for models in model_folders:
            command += ["--models", str(models)]
        with log_path.open("wb") as log:
            errors = None if verbose else log
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=_environment())
        try:
            yield _address(process, log_path)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _environment() -> dict[str, str]:
    mine = {name: value for name, value in (os.environ | {}).items() if not name.startswith("DELINEATE_") or name in KEPT}
    return {**mine, "DELINEATE_GRACE": "0"}  # nobody will come back for a task that is not finished


def _address(process: subprocess.Popen[bytes], log_path: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode("utf-8", "replace").strip()
    if line.startswith(READY_PREFIX):
        return line[len(READY_PREFIX) :].strip()
    process.wait(timeout=10)
    lines = [text for text in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    reason = lines[-1] if lines else f"it ended with code {process.returncode}"
    raise ConnectionFailedError(f"the embedded server did not start: {reason}", "Run `delineate doctor`.")
