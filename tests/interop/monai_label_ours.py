"""The client of the package ``monailabel``, and ours, against our server: every method, on a fresh datastore each.

``make interop`` runs it after `monai_label.py`, which holds the same calls against the original server. Exit code 1 where the
original client fails in a call that is to work, or where the two clients see different things and are not meant to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from delineate import nifti
from delineate.geometry import Geometry
from delineate.volume import Volume

HERE = Path(__file__).resolve().parent
OLD = 1_700_000_000  # s: a file that was written just now may not be whole yet
CODE = """
import numpy as np
from delineate.runners.base import Findings
from delineate.segmentation import Segmentation


class Threshold:
    def __init__(self, parameters, folder):
        pass

    def segment(self, job):
        labels = (job.images[0].values() > float(job.prompts.get("threshold", 300))).astype(np.uint8)
        return Segmentation.from_labels(labels, job.images[0].geometry, {1: "bone"})


class Words(Threshold):
    def segment(self, job):
        return Findings(values={"prediction": [{"idx": 0, "label": "normal", "score": 0.9}]})
"""

# Steps that are to fail, with the status the old client shows, and why.
REFUSED = {
    "auth_token": (404, "accounts are off"),
    "next_sample: unknown": (404, "no such strategy"),
    "save_label: unknown image": (404, "no such image"),
    "download_label: unknown tag": (404, "no such label"),
    "get_session: gone": (404, "it was removed"),
    "remove_session: gone": (404, "it was removed"),
    "infer: unknown model": (404, "no such model"),
    "infer: no image": (422, "nothing to work on"),
    "wsi_infer dsa": (404, "no models for slides yet"),
    "wsi_infer asap": (404, "no models for slides yet"),
    "wsi_infer json": (404, "no models for slides yet"),
    "wsi_infer: unknown output": (422, "no such form"),
    "train_status: none": (404, "no trainers yet"),
    "train_start": (404, "no trainers yet"),
    "train_start: busy": (404, "no trainers yet"),
    "train_status": (404, "no trainers yet"),
}
# Steps in which the original client fails by itself, whatever the server.
ITS_OWN = {
    "upload_image: no id": "it raises TypeError",
    "with a token: create_session": "its headers leak from the upload into this",
}


@contextlib.contextmanager
def our_server(folder: Path) -> Iterator[str]:
    """Our server on loopback, with two toy models; its address."""
    for name, kind in (("threshold", "Threshold"), ("classifier", "Words")):
        place = folder / "models" / name
        place.mkdir(parents=True)
        (place / "code.py").write_text(CODE)
        (place / "model.toml").write_text(f'name = "{name}"\nrunner = "python"\n[parameters]\nclass = "code:{kind}"\n')
    studies = folder / "studies"
    studies.mkdir()
    (studies / "ct_small.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes())
    os.utime(studies / "ct_small.nii.gz", (OLD, OLD))
    command = [Path(sys.executable).with_name("delineate"), "serve", "--port", "0", "--data", folder / "data", "--studies", studies]
    command += ["--models", folder / "models"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                raise SystemExit((folder / "server.log").read_text(errors="replace")[-3000:])
            yield found[0]
        finally:
            process.terminate()
            process.communicate(timeout=30)


def outcomes(python: Path, module: str) -> dict[str, Any]:
    """What a client sees on a fresh server."""
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        grid = Geometry((24, 20, 12), (1.0, 1.0, 2.0))
        voxels = np.random.default_rng(1).integers(-200, 800, (12, 20, 24)).astype(np.int16)
        nifti.write(folder / "ct.nii.gz", Volume(voxels, grid))
        nifti.write_labels(folder / "mask.nii.gz", (voxels > 300).astype(np.uint8), grid)
        with our_server(folder) as url:
            calls = [str(python), str(HERE / "monai_label_calls.py"), module, url, str(folder)]
            done = subprocess.run(calls, stdout=subprocess.PIPE, text=True, timeout=300, check=True, cwd=folder)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def is_as_meant(step: str, outcome: dict[str, Any]) -> bool:
    """Whether the original client got what it should."""
    if step in REFUSED:
        return outcome == {"failed": f"Status: {REFUSED[step][0]}"}
    return step in ITS_OWN or "returned" in outcome


def main() -> int:
    """Run both clients; 0 when all is as it is meant to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=Path(".peers/monai-label"), help="virtual environment with monailabel")
    given = parser.parse_args()
    peer = given.peer.absolute() / "bin" / "python"
    if not peer.exists():
        print(f"there is no environment {given.peer}: run `make peers-interop` first", file=sys.stderr)
        return 2
    theirs, ours = outcomes(peer, "monailabel.client.client"), outcomes(Path(sys.executable), "delineate.monai_label")
    wrong = 0
    for step, outcome in theirs.items():
        is_right = is_as_meant(step, outcome)
        wrong += not is_right
        word = ("refused" if step in REFUSED else "its own" if step in ITS_OWN else "passes") if is_right else "WRONG"
        reason = REFUSED.get(step, (0, ITS_OWN.get(step, "")))[1]
        print(f"{word:8}{step}{': ' + reason if reason else ''}")
        if not is_right or outcome != ours.get(step):
            print(f"          theirs {json.dumps(outcome)[:400]}\n          ours   {json.dumps(ours.get(step))[:400]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
