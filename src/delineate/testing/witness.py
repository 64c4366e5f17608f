"""Where the voxels of an answer lie in the patient, by the formulas of the standards, pydicom and numpy alone.

A witness of the whole way, for the `delineate.testing.ball_phantom`: each function reads a format and gives the centres of the
voxels of every structure, LPS mm.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom

from delineate.testing.ball_phantom import NAMES, SPACES, Points, Scan

_NONE: Final = np.zeros((0, 3))

Instance = Callable[[int], tuple[str, int]]
"""UID and frame, 0 where there is one only, of a slice."""


def file_points(path: Path, names: Mapping[int, str] | None = None) -> Points:
    """Of a label map (.nii.gz, .nrrd, .seg.nrrd): names by label, from the table beside it or of the phantom where none are given."""
    twin = path.with_name(path.name.split(".")[0] + ".json")
    told = json.loads(twin.read_text(encoding="utf-8")) if names is None and twin.is_file() else {}
    names = names or {int(label): str(name) for label, name in told.items()} or {value // 100: name for value, name in NAMES.items()}
    if path.name.endswith(".nii.gz"):
        labels, steps, first = _nifti(path)
    else:
        labels, steps, first, fields = _nrrd(path)
        if path.name.endswith(".seg.nrrd"):
            keys = [key.removesuffix("_Name") for key in fields if key.endswith("_Name")]
            names = {int(fields[f"{key}_LabelValue"]): fields[f"{key}_Name"] for key in keys}
    found = {}
    for label, name in names.items():
        found[name] = np.argwhere(labels == label)[:, ::-1] @ steps.T + first
    return found


def seg_points(path: Path, scan: Scan, instance: Instance | None = None) -> Points:
    """Of a SEG; `AssertionError` where a frame names another slice than the one it lies on (`instance` : its UID and frame)."""
    data = pydicom.dcmread(path)
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in data.SegmentSequence}
    shape = (int(data.NumberOfFrames), int(data.Rows), int(data.Columns))
    raw = np.frombuffer(data.PixelData, np.uint8)
    pixels = np.unpackbits(raw, bitorder="little") if data.BitsAllocated == 1 else raw.view(f"<u{data.BitsAllocated // 8}")
    found: dict[str, list[np.ndarray]] = {name: [_NONE] for name in names.values()}
    shared = data.SharedFunctionalGroupsSequence[0]
    for own, frame in zip(data.PerFrameFunctionalGroupsSequence, pixels[: np.prod(shape)].reshape(shape), strict=True):

        def group(name: str, own: Any = own) -> Any:
            return (own.get(name) or shared.get(name))[0]

        corner = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        cosines = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float)
        rows, columns = map(float, group("PixelMeasuresSequence").PixelSpacing)
        _require_named(scan, instance, corner, group("DerivationImageSequence").SourceImageSequence[0])
        if data.SegmentationType == "LABELMAP":
            parts = {names[int(label)]: frame == label for label in np.unique(frame) if label}
        else:
            parts = {names[int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)]: frame > 0}
        for name, mask in parts.items():
            row, column = np.nonzero(mask)
            found[name].append(corner + np.outer(column * columns, cosines[:3]) + np.outer(row * rows, cosines[3:]))
    return {name: np.concatenate(points) for name, points in found.items()}


def rtstruct_points(path: Path, scan: Scan, instance: Instance | None = None) -> Points:
    """Of an RTSTRUCT: the scan's pixels whose centres are inside by the even-odd rule; `AssertionError` as of `seg_points`."""
    data = pydicom.dcmread(path)
    names = {int(item.ROINumber): str(item.ROIName) for item in data.StructureSetROISequence}
    normal = np.cross(scan.across, scan.down)
    heights = scan.positions @ normal
    across, down = scan.points @ scan.across, scan.points @ scan.down
    found = {}
    for region in data.ROIContourSequence:
        inside = np.zeros(scan.points.shape[:3], bool)
        for contour in region.get("ContourSequence", ()):
            corners = np.array(contour.ContourData, float).reshape(-1, 3)
            (index,) = np.flatnonzero(np.abs(heights - (corners @ normal).mean()) < 0.02)
            assert np.ptp(corners @ normal) < 0.01, "a contour does not lie in a plane"
            _require_named(scan, instance, scan.positions[index], contour.ContourImageSequence[0])
            inside[index] ^= _within(across[index], down[index], corners @ scan.across, corners @ scan.down)
        found[names[int(region.ReferencedROINumber)]] = scan.points[inside]
    return found


def differences(found: Points, truth: Points, tolerance: float = 2e-3) -> list[str]:
    """What is elsewhere, in words: each point of either has one of the other within `tolerance` mm."""
    words = []
    for name in sorted({*found, *truth}):
        one, other = found.get(name, _NONE), truth.get(name, _NONE)
        if len(one) != len(other):
            words.append(f"{name}: {len(one)} voxels instead of {len(other)}, around {one.mean(0)} instead of {other.mean(0)}")
        elif len(one):
            away = float(np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1)).min(1).max())
            if away > tolerance or len(np.unique(np.round(one, 2), axis=0)) < len(one):
                words.append(f"{name}: {away:.4f} mm beside")
    return words


# ------------------------------------------------------------ what these are made of

_NRRD_TYPES: Final = {"unsigned char": "u1", "uint8": "u1", "uchar": "u1", "unsigned short": "<u2", "uint16": "<u2", "short": "<i2"}
_NIFTI_TYPES: Final = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 512: "<u2"}


def _nifti(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels, steps and first voxel by the sform, which the qform has to agree with."""
    raw = gzip.decompress(path.read_bytes())
    x, y, z = struct.unpack_from("<3h", raw, 42)
    (code,), (offset,) = struct.unpack_from("<h", raw, 70), struct.unpack_from("<f", raw, 108)
    voxels = np.frombuffer(raw, _NIFTI_TYPES[code], x * y * z, int(offset)).reshape(z, y, x)
    hand, *pixdim = struct.unpack_from("<4f", raw, 76)
    affine = np.array(struct.unpack_from("<12f", raw, 280)).reshape(3, 4)
    b, c, d, *place = struct.unpack_from("<6f", raw, 256)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    by_quaternion = np.column_stack([turn * pixdim * [1, 1, -1 if hand < 0 else 1], place])
    assert np.allclose(affine, by_quaternion, atol=5e-3), "sform and qform contradict each other"
    affine = np.diag([-1.0, -1.0, 1.0]) @ affine
    return voxels, affine[:, :3], affine[:, 3]


def _nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, str]]:
    """Voxels, steps, first voxel, and the fields."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = [line.partition(":") for line in head.decode().splitlines()[1:] if not line.startswith("#")]
    fields = {key.strip(): value.lstrip("=").strip() for key, _, value in lines}
    if fields["encoding"] in ("gzip", "gz"):
        body = zlib.decompress(body, 47)
    shape = [int(size) for size in fields["sizes"].split()][::-1]
    vectors = [[float(part) for part in word.strip("()").split(",")] for word in fields["space directions"].split() if word != "none"]
    first = np.array([float(part) for part in fields["space origin"].strip("()").split(",")])
    signs = SPACES[fields["space"]]
    return np.frombuffer(body, _NRRD_TYPES[fields["type"]]).reshape(shape), np.array(vectors).T * signs[:, None], first * signs, fields


def _within(x: np.ndarray, y: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Whether points are inside a polygon, by the number of its edges to their right."""
    odd = np.zeros(x.shape, bool)
    for a, b, c, d in zip(across, down, np.roll(across, -1), np.roll(down, -1), strict=True):
        if b != d:
            odd ^= ((b > y) != (d > y)) & (x < (c - a) * (y - b) / (d - b) + a)
    return odd


def _require_named(scan: Scan, instance: Instance | None, place: np.ndarray, item: Any) -> None:
    index = int(((scan.positions - place) ** 2).sum(1).argmin())
    uid, frame = (f"{scan.uid}.{index + 1}", 0) if instance is None else instance(index)
    said = str(item.ReferencedSOPInstanceUID), int(item.get("ReferencedFrameNumber") or 0)
    assert said == (uid, frame), f"what lies on slice {index} names {said}"
