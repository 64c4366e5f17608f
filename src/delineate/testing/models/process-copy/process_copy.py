"""A model as a script: ``process_copy.py INPUT OUTPUT``. Voxels above the image's mean become ``Bright``."""

from __future__ import annotations

import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np

HEADER_BYTES = 352
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}  # NIfTI-1 datatype codes


def main(source: Path, target: Path) -> None:
    """Read the first image, write ``labels/bright.nii.gz`` and the names beside it."""
    print('{"progress": 0.1, "message": "reading"}', flush=True)
    path = min(source.glob("*.nii*"))
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    order = "<" if struct.unpack_from("<i", data)[0] == 348 else ">"
    shape = struct.unpack_from(order + "8h", data, 40)[1:4]
    code = struct.unpack_from(order + "h", data, 70)[0]
    start = int(struct.unpack_from(order + "f", data, 108)[0])
    voxels = np.frombuffer(data, dtype=order + TYPES[code], count=int(np.prod(shape)), offset=start)
    labels = (voxels > voxels.mean()).astype(np.uint8)
    print(f"{int(labels.sum())} voxels are above the mean")
    print("progress: 0.9 writing", flush=True)
    header = bytearray(data[:348]) + bytes(4)
    struct.pack_into(order + "hh", header, 70, 2, 8)
    struct.pack_into(order + "fff", header, 108, float(HEADER_BYTES), 1.0, 0.0)
    folder = target / "labels"
    folder.mkdir()
    (folder / "bright.nii.gz").write_bytes(gzip.compress(bytes(header) + labels.tobytes(), 1, mtime=0))
    (folder / "bright.json").write_text(json.dumps({"1": "Bright"}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
