"""The public suite of the MONAI Label API against the original server: what clients need is there, and where it falls short.

``make interop`` runs it after the clients. Exit code 1 where the original server fails a check that it is not known to fail,
or passes one that it is known to fail: then this list, or the suite, is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from monai_label import peer_server

from delineate import nifti
from delineate.geometry import Geometry
from delineate.testing.conformance import Server, StrictMonaiLabelSuite
from delineate.volume import Volume

# Checks that the original server is known to fail, and what it does.
KNOWN: dict[str, str] = {
    "batch": "without a graphics card it fails, dividing by their number",
    "batch of an unknown model": "200, and a task that fails",
    "checksum": "one that matches is found not to",
    "image keeps dots in its name": "pat.1.nii.gz becomes pat",
    "image outside of the store": "written there",
    "image sent again keeps its labels": "they are dropped from the index",
    "image that is none": "kept as an image",
    "infer by an unknown model": "500",
    "infer of a file that is no image": "500",
    "infer of an unknown image": "500",
    "infer on an unknown session": "runs without it",
    "infer outside of the store": "500, and any file of the server is read",
    "infer with parameters that are none": "500",
    "infer with points outside": "taken",
    "infer without an image": "500",
    "label of an unknown image": "500",
    "label on another grid": "kept",
    "label outside of the store": "written there",
    "label that is none": "kept",
    "parameters that are none": "500",
    "sample for a tag that leads out": "taken",
    "sample of an unknown strategy": "500",
    "samples go to one annotator each": "both get the same",
    "scoring by an unknown method": "200, and a task that fails",
    "session outside of the store": "written there",
    "slides of an unknown model": "500",
    "training of an unknown model": "200, and a task that fails",
    "unknown things have no info": "500",
}


def main() -> int:
    """Run the suite; 0 when the original server does what it is known to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=Path(".peers/monai-label"), help="virtual environment with monailabel")
    given = parser.parse_args()
    peer = given.peer.absolute()
    if not (peer / "bin" / "python").exists():
        print(f"there is no environment {peer}: run `make peers-interop` first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="interop-") as name:
        folder = Path(name)
        voxels = np.random.default_rng(1).integers(-200, 800, (12, 20, 24)).astype(np.int16)
        nifti.write(folder / "ct.nii.gz", Volume(voxels, Geometry((24, 20, 12), (1.0, 1.0, 2.0))))
        with peer_server(peer, folder) as url:
            checks = StrictMonaiLabelSuite().run(Server(url, "threshold", patience=120))
    wrong = 0
    for check in checks:
        words = check.name.partition(": ")[2]
        is_known = words in KNOWN
        is_as_known = check.passed is not is_known
        wrong += not is_as_known
        word = ("passes" if check.passed else "fails") if is_as_known else "WRONG"
        print(f"{word:8}{words}{': ' + (KNOWN.get(words) or '') if is_known else ''}")
        if check.detail:
            print(f"          {check.detail[:300]}{' … ' + check.detail[-900:] if len(check.detail) > 1200 else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
