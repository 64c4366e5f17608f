"""A phantom that shows every mistake of place: balls at the right, in front and above, each of its own size and value.

Written as DICOM, NIfTI and NRRD by the formulas of the standards, pydicom and numpy alone; `delineate.testing.witness` says where
the voxels of an answer lie. Neither imports anything of Delineate's readers, writers and grids, so that what they misunderstand is
not misunderstood here as well. All points are LPS, mm.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT: Final = "1.2.826.0.1.3680043.8.498.77"
CENTRE: Final = np.array([-31.25, 114.4, -700.0])
NAMES: Final = {100: "Right", 200: "Anterior", 300: "Superior"}
_BALLS: Final = {100: ((-12.0, 0.0, 0.0), 5.0), 200: ((0.0, -12.0, 0.0), 4.0), 300: ((0.0, 0.0, 11.0), 6.0)}

SPACES: Final = {
    "left-posterior-superior": np.array([1, 1, 1]),
    "right-anterior-superior": np.array([-1, -1, 1]),
    "left-anterior-superior": np.array([1, -1, 1]),
}

Points = dict[str, np.ndarray]
"""Centres of the voxels of each structure, shape (n, 3)."""

MODEL: Final = '''
import time

import numpy as np
from scipy import ndimage
from delineate.segmentation import Segmentation

NAMES = {1: "Right", 2: "Anterior", 3: "Superior"}


class Balls:
    """What is brighter than half of its ball's value, by that value: one part does not know where the others are."""

    def __init__(self, parameters, folder):
        self.gate = folder if parameters.get("waits") else None

    def segment(self, job):
        if self.gate:
            (self.gate / "began").touch()
            end = time.monotonic() + 30
            while not (self.gate / "go").exists() and time.monotonic() < end:
                time.sleep(0.01)
        image = job.images[0]
        values, labels = image.values(), np.zeros(image.geometry.shape, np.uint8)
        parts, count = ndimage.label(values > 40, np.ones((3, 3, 3)))
        for part in range(1, count + 1):
            top = values[parts == part].max()
            labels[(parts == part) & (values > top / 2)] = round(top / 100)
        if job.label is not None:
            labels = np.where(job.label < 4, job.label, 0).astype(np.uint8)
        for box in job.boxes:
            (x, y, z), (i, j, k) = box.first, box.last
            labels[...] = 0
            labels[z : k + 1, y : j + 1, x : i + 1] = 1
        for click in job.clicks:
            labels[...] = 0
            labels[click.index[::-1]] = 2
        return Segmentation.from_labels(labels, image.geometry, NAMES)
'''


def write_models(folder: Path) -> Path:
    """Models that label the balls, or what they are pointed at.

    ``balls`` takes images as sent, ``balls-lps`` and ``balls-pir`` turned before; ``balls-waits`` touches ``began`` in its folder
    and waits for ``go`` there.
    """
    for name, more in {"balls": "", "balls-lps": 'orientation = "LPS"\n', "balls-pir": 'orientation = "PIR"\n', "balls-waits": ""}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "balls.py").write_text(MODEL, encoding="utf-8")
        prompts = 'prompts = ["foreground", "roi", "scribbles"]\n'
        words = f'name = "{name}"\nrunner = "python"\n{prompts}{more}[parameters]\nclass = "balls:Balls"\n'
        words += "waits = true\n" if name == "balls-waits" else ""
        words += "".join(f'[[structures]]\nname = "{of}"\nlabel = {label // 100}\n' for label, of in NAMES.items())
        (folder / name / "model.toml").write_text(words, encoding="utf-8")
    return folder


# ------------------------------------------------------------ where it is


def values_at(points: np.ndarray) -> np.ndarray:
    """Real values at points of shape (…, 3)."""
    found = np.zeros(points.shape[:-1])
    for value, (offset, radius) in _BALLS.items():
        found[((points - CENTRE - offset) ** 2).sum(-1) <= radius**2] = value
    return found


@dataclass(frozen=True, eq=False)
class Scan:
    """Slices of the phantom.

    positions : shape (n, 3), centres of their first pixels, in the order of instances; across, down : directions in which
    columns and rows are counted; spacing : between columns, between rows; size : columns, rows; number : of study and series.
    """

    positions: np.ndarray
    across: np.ndarray
    down: np.ndarray
    spacing: tuple[float, float] = (0.7, 1.3)
    size: tuple[int, int] = (53, 29)
    number: int = 1

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return f"{ROOT}.{self.number}.1"

    @cached_property
    def points(self) -> np.ndarray:
        """Shape (n, rows, columns, 3): equation C.7.6.2.1-1 of PS3.3."""
        columns = np.arange(self.size[0])[None, :, None] * self.spacing[0] * self.across
        rows = np.arange(self.size[1])[:, None, None] * self.spacing[1] * self.down
        places: np.ndarray = self.positions[:, None, None, :] + columns + rows
        return places

    @cached_property
    def truth(self) -> Points:
        """Where the balls are."""
        values = values_at(self.points)
        return {name: self.points[values == value] for value, name in NAMES.items()}

    @property
    def grid(self) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
        """Steps along x, y, z as columns, the first voxel, and the size, for slices that are on a grid."""
        order = np.argsort(self.positions @ np.cross(self.across, self.down))
        first, second = self.positions[order[:2]]
        steps = np.stack([self.across * self.spacing[0], self.down * self.spacing[1], second - first], axis=1)
        return steps, first, (*self.size, len(order))


def scan_of(
    across: Sequence[float],
    down: Sequence[float],
    sign: int = 1,
    *,
    steps: Sequence[float] = (3.0,) * 12,
    shear: float = 0.0,
    number: int = 1,
) -> Scan:
    """Slices around the phantom's middle; sign : whether instances follow the normal; steps : mm between them; shear : of a gantry."""
    right, below = np.array(across, float), np.array(down, float)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    along -= along[-1] / 2
    corner = CENTRE - right * 0.7 * 26 - below * 1.3 * 14
    positions = corner + np.outer(along, np.cross(right, below) * sign) + np.outer(along, below) * shear
    return Scan(positions, right, below, number=number)


# ------------------------------------------------------------ writing

Change = Callable[[Any, int], None]


def write_slices(
    scan: Scan,
    folder: Path,
    *,
    scale: Callable[[int], tuple[float, float]] = lambda number: (1.0, -1024.0),
    kind: type[np.generic] = np.int16,
    change: Change = lambda data, number: None,
) -> Path:
    """A file for each slice; their names are in no order. scale : slope and intercept of a slice."""
    names = np.random.default_rng(3).permutation(len(scan.positions))
    for number, values in enumerate(values_at(scan.points)):
        data = _common(scan, number)
        slope, intercept = scale(number)
        data.ImagePositionPatient = list(map(_decimal, scan.positions[number]))
        data.ImageOrientationPatient = list(map(_decimal, (*scan.across, *scan.down)))
        data.PixelSpacing = [_decimal(scan.spacing[1]), _decimal(scan.spacing[0])]
        data.RescaleSlope, data.RescaleIntercept = _decimal(slope), _decimal(intercept)
        _set_pixels(data, np.rint((values - intercept) / slope).astype(kind))
        change(data, number)
        _save(data, folder / f"f{names[number]:03d}")
    return folder


def write_frames(scan: Scan, path: Path) -> dict[int, int]:
    """One enhanced file with frames in no order; frame numbers by slice."""
    order = np.random.default_rng(4).permutation(len(scan.positions))
    data = _common(scan, 0)
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    data.NumberOfFrames = len(order)
    orientation = _item(ImageOrientationPatient=list(map(_decimal, (*scan.across, *scan.down))))
    measures = _item(PixelSpacing=[_decimal(scan.spacing[1]), _decimal(scan.spacing[0])], SliceThickness=3)
    scale = _item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    data.SharedFunctionalGroupsSequence = [
        _item(PlaneOrientationSequence=[orientation], PixelMeasuresSequence=[measures], PixelValueTransformationSequence=[scale])
    ]
    data.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=list(map(_decimal, scan.positions[index])))],
            FrameContentSequence=[_item(StackID="1", InStackPositionNumber=int(index) + 1)],
        )
        for index in order
    ]
    _set_pixels(data, (values_at(scan.points)[order] + 1024).astype(np.int16))
    _save(data, path)
    return {int(index): number for number, index in enumerate(order, 1)}


def write_nifti(path: Path, values: np.ndarray, steps: np.ndarray, first: np.ndarray, *, quaternion: bool = False) -> Path:
    """A NIfTI-1 file (z, y, x) whose place stands in the sform, or in the qform alone."""
    affine = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack([steps, first])
    pixdim = np.linalg.norm(steps, axis=0)
    rotation, hand = affine[:, :3] / pixdim, 1.0
    if np.linalg.det(rotation) < 0:
        rotation, hand = rotation * [1, 1, -1], -1.0
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 4, 16)
    struct.pack_into("<8f", head, 76, hand, *pixdim, 0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352, 1, 0)
    struct.pack_into("<2h", head, 252, int(quaternion), int(not quaternion))
    if quaternion:
        struct.pack_into("<6f", head, 256, *_quaternion(rotation), *affine[:, 3])
    else:
        struct.pack_into("<12f", head, 280, *affine.ravel())
    head[123], head[344:348] = 2, b"n+1\0"
    content = bytes(head) + np.rint(values).astype("<i2").tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def write_nrrd(path: Path, values: np.ndarray, steps: np.ndarray, first: np.ndarray, space: str = "left-posterior-superior") -> Path:
    """An NRRD file (z, y, x) in one of the spaces of its definition."""
    signs = SPACES[space]
    vectors = " ".join(f"({','.join(repr(float(value)) for value in signs * step)})" for step in steps.T)
    origin = ",".join(repr(float(value)) for value in signs * first)
    lines = ["NRRD0004", "type: short", "dimension: 3", f"space: {space}", f"sizes: {' '.join(map(str, values.shape[::-1]))}"]
    lines += [f"space directions: {vectors}", "kinds: domain domain domain", "endian: little", "encoding: raw", f"space origin: ({origin})"]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + np.rint(values).astype("<i2").tobytes())
    return path


# ------------------------------------------------------------ what these are made of


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """b, c, d of a rotation, as the eigenvector of its symmetric 4 x 4 matrix (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    table = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    *vector, real = np.linalg.eigh(table)[1][:, -1]
    return np.array(vector) * (-1 if real < 0 else 1)


def _decimal(value: float) -> str:
    return next(text for digits in range(16, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def _item(**attributes: Any) -> Any:
    data = Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def _common(scan: Scan, number: int) -> Any:
    study = f"{ROOT}.{scan.number}"
    return _item(
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SOPClassUID="1.2.840.10008.5.1.4.1.1.2", SOPInstanceUID=f"{scan.uid}.{number + 1}",
        Modality="CT", PatientName="Phantom", PatientID=f"phantom {scan.number}", StudyDate="20260101", StudyTime="120000", StudyID="1",
        StudyInstanceUID=study, SeriesInstanceUID=scan.uid, SeriesNumber=scan.number, InstanceNumber=number + 1, AcquisitionNumber=1,
        FrameOfReferenceUID=f"{study}.9", SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", PatientPosition="HFS",
    )  # fmt: skip


def _set_pixels(data: Any, stored: np.ndarray) -> None:
    bits = stored.dtype.itemsize * 8
    data.Rows, data.Columns = stored.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    data["PixelData"].VR = "OW"


def _save(data: Any, path: Path) -> None:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
