"""Thirty structures of 512 x 512 x 300 voxels to an RTSTRUCT file and back, beside rt-utils and dcmrtstruct2nii.

``python -m benchmarks.rtstruct [--runs N] [--peer PYTHON] [--json]``. The peers read and write their own files; `make
peers-rtstruct` installs them where they are looked for. Ours is compared voxel by voxel.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import structures
from benchmarks.codec import GEOMETRY, NOT_INSTALLED
from benchmarks.structures import Row, measured, peak, prepared
from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct

PEER: Final = Path(".peers/rtstruct/bin/python")


def measure(folder: Path, runs: int, peer: Path) -> list[Row]:
    """A row for each tool and direction."""
    series, segmentation = prepared(folder)
    path = folder / "ours.dcm"
    work: dict[str, Callable[[], object]] = {
        "ours, write": partial(write_rtstruct, path, segmentation, series),
        "ours, read": partial(read_rtstruct, path, GEOMETRY),
    }
    rows = [{"work": name, **measured(call, runs), "mb": peak(call)} for name, call in work.items()]
    found = read_rtstruct(path, GEOMETRY)
    rows[1]["wrong"] = sum(int(np.count_nonzero(found.mask(name) != segmentation.mask(name))) for name in segmentation.names)
    if not peer.exists():
        return [*rows, {"work": "rt-utils, dcmrtstruct2nii", "note": NOT_INSTALLED}]
    script = Path(__file__).with_name("rtstruct_peers.py")
    done = subprocess.run(
        [peer, script, folder / "series", folder / "labels.npy", folder / "peer"], capture_output=True, text=True, check=True
    )
    return rows + [{"work": name, **row} for name, row in json.loads(done.stdout.splitlines()[-1]).items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return structures.main(__doc__ or "", measure, PEER, arguments)


if __name__ == "__main__":
    sys.exit(main())
