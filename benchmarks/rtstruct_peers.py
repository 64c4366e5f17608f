"""The same work by other packages, in an environment of their own (``make peers-rtstruct``); prints seconds as JSON.

``python rtstruct_peers.py SERIES LABELS.npy OUTPUT``: wall time and processor time of each step, masks compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Wall and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}


def main(series: str, labels: str, output: str) -> dict[str, dict[str, float]]:
    """rt-utils both ways, dcmrtstruct2nii back; slices of the label map lie along the third axis there."""
    from rt_utils import RTStructBuilder

    volume = np.moveaxis(np.load(labels), 0, -1)
    masks = [volume == label for label in range(1, int(volume.max()) + 1)]
    builder = RTStructBuilder.create_new(dicom_series_path=series)

    def write() -> None:
        for number, mask in enumerate(masks, 1):
            builder.add_roi(mask=mask, name=f"S{number}", use_pin_hole=False)
        builder.save(output)

    found: dict[str, dict[str, float]] = {"rt-utils, write": measured(write)}
    again = RTStructBuilder.create_from(dicom_series_path=series, rt_struct_path=output + ".dcm")
    back: list[np.ndarray] = []
    found["rt-utils, read"] = measured(lambda: back.extend(again.get_roi_mask_by_name(f"S{number}") for number in range(1, len(masks) + 1)))
    found["rt-utils, read"]["wrong"] = float(sum(np.count_nonzero(a != b) for a, b in zip(back, masks, strict=True)))
    import pydicom

    if not hasattr(pydicom, "read_file"):
        pydicom.read_file = pydicom.dcmread  # what it is called since version 3, which dcmrtstruct2nii does not know
    try:
        from dcmrtstruct2nii import dcmrtstruct2nii
    except ImportError:
        return found
    target = Path(output).with_name("nii")
    found["dcmrtstruct2nii, read"] = measured(
        lambda: dcmrtstruct2nii(output + ".dcm", series, str(target), gzip=False, convert_original_dicom=False)
    )
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4])))
