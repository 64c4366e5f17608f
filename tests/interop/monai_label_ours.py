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
from monai_label import outcomes as peer_outcomes

from delineate import nifti
from delineate.geometry import Geometry
from delineate.server.accounts.passwords import Passwords
from delineate.store.database import Database
from delineate.store.users import UserStore
from delineate.testing.conformance.monai_label_plain import picture
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
    "wsi_infer: unknown output": (422, "no such form"),
    "wsi_infer: unknown model": (404, "no such model"),
    "train_status: none": (404, "none ran"),
    "train_start: busy": (429, "one at a time"),
    "accounts: info: no token": (401, "accounts are on"),
    "accounts: auth_token: wrong password": (401, "it is wrong"),
    "accounts: upload_image: role missing": (403, "a user adds no images"),
    "accounts: train_start: role missing": (403, "a user starts no training"),
    "accounts: info: forged token": (401, "it was never given"),
}
# Fields that the original server answers and ours does not, and why.
NOBODY = "the original calls everybody admin where it has no accounts"
UNSAID: dict[str, str] = {
    "info: models.classifier.labels": "the model of this test names none",
    "infer: label: params.from": "a word of the original's model of this test",
    "next_sample first: user": NOBODY,
    "datastore: objects.case 1+x.image.info.user": NOBODY,
    "datastore: objects.ct.image.info.user": NOBODY,
}
BY_NAME = {"models", "trainers", "strategies", "scoring", "train_stats", "labels", "label_tags", "objects", "config", "label_names"}
THEIRS = "monailabel.client.client"
# Steps in which the original client fails by itself, whatever the server.
ITS_OWN = {
    "upload_image: no id": "it raises TypeError",
    "with a token: create_session": "its headers leak from the upload into this",
}


@contextlib.contextmanager
def our_server(folder: Path, has_accounts: bool) -> Iterator[str]:
    """Our server on loopback, with two toy models, and with one user where it has accounts; its address."""
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
    environment = dict(os.environ)
    if has_accounts:
        (folder / "data").mkdir()
        database = Database(f"sqlite:///{folder}/data/delineate.db")
        database.migrate()
        UserStore(database).add("alice", Passwords().hash("a long enough password"), "user")
        database.close()
        environment["DELINEATE_ACCOUNTS"] = "local"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environment
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                raise SystemExit((folder / "server.log").read_text(errors="replace")[-3000:])
            yield found[0]
        finally:
            process.terminate()
            process.communicate(timeout=30)


def outcomes(python: Path, module: str, has_accounts: bool = False) -> dict[str, Any]:
    """What a client sees on a fresh server."""
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        grid = Geometry((24, 20, 12), (1.0, 1.0, 2.0))
        voxels = np.random.default_rng(1).integers(-200, 800, (12, 20, 24)).astype(np.int16)
        nifti.write(folder / "ct.nii.gz", Volume(voxels, grid))
        nifti.write_labels(folder / "mask.nii.gz", (voxels > 300).astype(np.uint8), grid)
        (folder / "slide.png").write_bytes(picture())
        with our_server(folder, has_accounts) as url:
            calls = [str(python), str(HERE / "monai_label_calls.py"), module, url, str(folder), "voxel-forest", "nuclei"]
            calls += ["accounts"] if has_accounts else []
            done = subprocess.run(calls, stdout=subprocess.PIPE, text=True, timeout=300, check=True, cwd=folder)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def lacking(theirs: Any, ours: Any, place: str = "") -> list[str]:
    """Fields of an answer of the original that ours has not, or of another kind. Names of models and trainers are no fields."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        is_by_name = place.rpartition(".")[2] in BY_NAME
        names = [name for name in theirs if name in ours or not is_by_name]
        return [field for name in names for field in lacking(theirs[name], ours.get(name, "nothing"), f"{place}.{name}".strip("."))]
    if isinstance(theirs, list) and isinstance(ours, list):
        return lacking(theirs[0], ours[0], place + "[]") if theirs and ours else []
    is_same = theirs == ours or theirs in (None, False, True) or (isinstance(theirs, list) and isinstance(ours, list))
    return [] if is_same else [f"{place or 'it'} is {json.dumps(ours)[:60]}, not {json.dumps(theirs)[:60]}"]


def is_as_meant(step: str, outcome: dict[str, Any]) -> bool:
    """Whether the original client got what it should."""
    if step in REFUSED:
        return outcome == {"failed": f"Status: {REFUSED[step][0]}", "says why": True}
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
    theirs, ours = {}, {}
    for has_accounts in (False, True):
        theirs.update(outcomes(peer, THEIRS, has_accounts))
        ours.update(outcomes(Path(sys.executable), "delineate.monai_label", has_accounts))
    wrong = 0
    print("The original client against our server:")
    for step, outcome in theirs.items():
        is_right = is_as_meant(step, outcome)
        wrong += not is_right
        word = ("refused" if step in REFUSED else "its own" if step in ITS_OWN else "passes") if is_right else "WRONG"
        reason = REFUSED.get(step, (0, ITS_OWN.get(step, "")))[1]
        print(f"{word:8}{step}{': ' + reason if reason else ''}")
        if not is_right or outcome != ours.get(step):
            print(f"          theirs {json.dumps(outcome)[:400]}\n          ours   {json.dumps(ours.get(step))[:400]}")
    print("What it returned from our server, beside what it returned from the original, field by field:")
    for step, outcome in peer_outcomes(given.peer.absolute(), peer, THEIRS).items():
        if "returned" in outcome and "returned" in theirs.get(step, {}):
            missing = [
                field
                for field in lacking(outcome["returned"], theirs[step]["returned"])
                if f"{step}: {field}".partition(" is ")[0] not in UNSAID
            ]
            wrong += bool(missing)
            print(f"{'WRONG' if missing else 'same':8}{step}{': ' + ', '.join(missing) if missing else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
