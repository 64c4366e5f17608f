"""A model of the first days, on the standard library: a label for each block of indices, and stripes, on the contour grid."""

import gzip
import json
import struct
import sys
from pathlib import Path

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
factor = json.loads((folder / "meta.json").read_text())["scaling_factor"]
with gzip.open(folder / "tmp_0000.nii.gz") as file:
    size = [n * times for n, times in zip(struct.unpack_from("<3h", file.read(348), 42), factor, strict=True)]
x, y, z = size
header = bytearray(352)
struct.pack_into("<i", header, 0, 348)
struct.pack_into("<8h", header, 40, 3, x, y, z, 1, 1, 1, 1)
struct.pack_into("<2h", header, 70, 2, 8)
struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
struct.pack_into("<f", header, 108, 352)
header[344:348] = b"n+1\0"
rows = {high: bytes(1 + (i % 7 == 3) + 2 * high for i in range(x)) for high in (0, 1)}
planes = {high: b"".join(rows[int(j % 5 == 2) ^ high] for j in range(y)) for high in (0, 1)}
(output / "r.nii.gz").write_bytes(gzip.compress(bytes(header) + b"".join(planes[int(k % 3 == 1)] for k in range(z))))
(output / "r.json").write_text(json.dumps({"1": "A", "2": "B", "3": "C", "4": "D"}))
