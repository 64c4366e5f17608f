"""Thirty structures of 512 x 512 x 300 voxels to a SEG file and back, beside highdicom; each reads the other's files, too.

``python -m benchmarks.seg [--runs N] [--peer PYTHON] [--json]``. `make peers-seg` installs the peer where it is looked for.
Memory is what is allocated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import structures
from benchmarks.codec import NOT_INSTALLED
from benchmarks.structures import Row, measured, peak, prepared
from delineate.dicom.seg import Options, read_seg, write_seg
from delineate.dicom.segment_module import Kind

PEER: Final = Path(".peers/seg/bin/python")
KINDS: Final[tuple[Kind, ...]] = ("binary", "labelmap")

# In an environment of its own: series, label map and folder are its arguments.
SCRIPT: Final = """
import json, statistics, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import highdicom, numpy, pydicom
from pydicom.sr.codedict import codes
series, labels, folder, runs = Path(sys.argv[1]), numpy.load(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
files = sorted(map(pydicom.dcmread, series.glob("*.dcm")), key=lambda file: file.ImagePositionPatient[2])
uids = [file.SOPInstanceUID for file in files]
made = highdicom.AlgorithmIdentificationSequence(name="a", version="1", family=codes.DCM.ArtificialIntelligence)
segments = [
    highdicom.seg.SegmentDescription(
        segment_number=number, segment_label=str(number), segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue, algorithm_type="AUTOMATIC", algorithm_identification=made,
    )
    for number in range(1, int(labels.max()) + 1)
]
def write(kind, path):
    highdicom.seg.Segmentation(
        source_images=files, pixel_array=labels, segmentation_type=kind.upper(), segment_descriptions=segments,
        series_instance_uid=highdicom.UID(), series_number=1, sop_instance_uid=highdicom.UID(), instance_number=1,
        manufacturer="a", manufacturer_model_name="a", software_versions="1", device_serial_number="1",
    ).save_as(path)
def read(path):
    return highdicom.seg.segread(path).get_pixels_by_source_instance(uids, combine_segments=True)
def timed(work, *given):
    walls, processors = [], []
    for _ in range(runs):
        wall, processor = time.perf_counter(), time.process_time()
        result = work(*given)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"seconds": statistics.median(walls), "processor": statistics.median(processors)}, result
for kind in ("binary", "labelmap"):
    path = folder / f"peer-{kind}.dcm"
    row, _ = timed(write, kind, path)
    print(json.dumps({"work": f"highdicom, write {kind}", **row}))
    row, found = timed(read, path)
    print(json.dumps({"work": f"highdicom, read {kind}", **row, "wrong": int((found != labels).sum())}))
    found = read(folder / f"ours-{kind}.dcm")
    print(json.dumps({"work": f"highdicom, our {kind}", **row, "wrong": int((found != labels).sum())}))
"""


def measure(folder: Path, runs: int, peer: Path) -> list[Row]:
    """A row for each tool, kind and direction."""
    series, segmentation = prepared(folder)
    labels = segmentation.layers[0]
    rows: list[Row] = []
    for kind in KINDS:
        path = folder / f"ours-{kind}.dcm"
        write, back = partial(write_seg, path, segmentation, series, Options(kind=kind)), partial(read_seg, path, series)
        rows.append({"work": f"ours, write {kind}", **measured(write, runs), "mb": peak(write)})
        wrong = int((back().layers[0] != labels).sum())
        rows.append({"work": f"ours, read {kind}", **measured(back, runs), "mb": peak(back), "wrong": wrong})
    if not peer.exists():
        return [*rows, {"work": "highdicom", "note": NOT_INSTALLED}]
    given = [str(item) for item in (peer, "-c", SCRIPT, folder / "series", folder / "labels.npy", folder, runs)]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    rows += [row for row in found if ", our " not in row["work"]]
    for kind in KINDS:
        path = folder / f"peer-{kind}.dcm"
        wrong = int((read_seg(path, series).layers[0] != labels).sum())
        theirs = next(row for row in found if row["work"] == f"highdicom, our {kind}")["wrong"]
        rows.append({"work": f"{kind} exchanged", "note": f"{wrong} voxels wrong of theirs read by us, {theirs} of ours read by them"})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return structures.main(__doc__ or "", measure, PEER, arguments)


if __name__ == "__main__":
    sys.exit(main())
