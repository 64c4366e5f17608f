"""Our MONAI Label client and the one of the package ``monailabel``, against that package's server: do they see the same?

``make interop`` runs it; ``make peers-interop`` makes the environment with the package, which is large. Every call of
`monai_label_calls` is made with both clients, each on a fresh server and datastore, and the outcomes are compared.
Where ours is meant to differ, `MEANT` says why. Exit code 1 when anything else differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from delineate import nifti
from delineate.geometry import Geometry
from delineate.testing.conformance.monai_label_plain import picture
from delineate.volume import Volume

HERE = Path(__file__).resolve().parent
START_LIMIT = 180.0  # seconds: the first start compiles half of torch's modules

# Steps where ours is meant to differ, and why.
MEANT = {
    "upload_image: params as they were": "a caller's parameters are not changed",
    "upload_image: no id": "theirs raises TypeError",
    "infer: no file in the answer": "theirs returns bytes, ours the object",
    "wsi_infer dsa": "theirs returns bytes, ours the object",
    "wsi_infer json": "theirs returns bytes, ours the object",
    "with a token: create_session": "the headers of theirs leak from the upload into this",
}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def peer_server(peer: Path, folder: Path) -> Iterator[str]:
    """The real server on loopback with an empty datastore; its address."""
    app, studies, port = folder / "app", folder / "studies", free_port()
    shutil.copytree(HERE / "monai_label_app", app)
    studies.mkdir()
    shutil.copyfile(folder / "ct.nii.gz", studies / "ct_small.nii.gz")
    command = [
        peer / "bin" / "python",
        "-m",
        "monailabel.main",
        "start_server",
        "-a",
        app,
        "-s",
        studies,
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    # its sessions go into the home folder
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/info/", process, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.3)
    raise SystemExit(f"the server did not answer within {START_LIMIT:g} s")


def outcomes(peer: Path, python: Path, module: str) -> dict[str, Any]:
    """What a client sees on a fresh server."""
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        voxels = np.random.default_rng(1).integers(-200, 800, (12, 20, 24)).astype(np.int16)
        nifti.write(folder / "ct.nii.gz", Volume(voxels, Geometry((24, 20, 12), (1.0, 1.0, 2.0))))
        nifti.write_labels(folder / "mask.nii.gz", (voxels > 300).astype(np.uint8), Geometry((24, 20, 12), (1.0, 1.0, 2.0)))
        (folder / "slide.png").write_bytes(picture())
        with peer_server(peer, folder) as url:
            calls = [str(python), str(HERE / "monai_label_calls.py"), module, url, str(folder), "sleeper", "polygons"]
            done = subprocess.run(calls, stdout=subprocess.PIPE, text=True, timeout=300, check=True, cwd=folder)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """One line per step that differs and is not meant to."""
    wrong = []
    for step in theirs:
        same = theirs[step] == ours.get(step)
        word = "same" if same else "meant" if step in MEANT else "DIFFERS"
        print(f"{word:8}{step}{'' if same else ': ' + MEANT.get(step, '')}")
        if not same:
            print(f"          theirs {json.dumps(theirs[step])[:400]}\n          ours   {json.dumps(ours.get(step))[:400]}")
        if word == "DIFFERS":
            wrong.append(step)
    return wrong


def main() -> int:
    """Run both clients; 0 when they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=Path(".peers/monai-label"), help="virtual environment with monailabel")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="a Python that has ours, to run it with")
    given = parser.parse_args()
    peer = given.peer.absolute()
    if not (peer / "bin" / "python").exists():
        print(f"there is no environment {peer}: run `make peers-interop` first", file=sys.stderr)
        return 2
    theirs = outcomes(peer, peer / "bin" / "python", "monailabel.client.client")
    ours = outcomes(peer, given.python, "delineate.monai_label")
    return 1 if compare(theirs, ours) else 0


if __name__ == "__main__":
    sys.exit(main())
