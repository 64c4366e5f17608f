"""A series of DICOM slices as a `Volume`, with its source.

`read` takes a folder, a zip or a file with frames; whatever is odd about the slices is an error that names them, or a choice
that the caller makes, or a note beside a right answer.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Final, Literal

import numpy as np

from delineate import ahead
from delineate.dicom.header import Header
from delineate.dicom.pixel_format import PixelFormat
from delineate.dicom.pixels import LARGEST, planes_of
from delineate.dicom.planes import SHIFT, Planes
from delineate.dicom.series import Found, Group, scan
from delineate.dicom.slices import Slice
from delineate.dicom.source import Series, series_of
from delineate.dicom.stack import grid_over, on_grid
from delineate.errors import ImageError
from delineate.geometry import Geometry
from delineate.protocols.archive_entries import Limits
from delineate.protocols.archive_reader import ArchiveReader
from delineate.volume import Volume

Gaps = Literal["refuse", "fill"]
Doubled = Literal["refuse", "first", "last"]

LIMITS: Final = Limits(entries=100_000)
_ZIP: Final = b"PK\x03\x04"
_NAMED: Final = 5  # places or files named in one sentence


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomImage:
    """What was read.

    volume : on a regular grid; series : its source, with the planes as they are; notes : sentences on what is odd; lost : on
    files that are damaged and may have been slices of it, which the notes end with.
    """

    volume: Volume
    series: Series = field(repr=False)
    notes: tuple[str, ...] = ()
    lost: str = ""

    @property
    def is_resampled(self) -> bool:
        """Whether the planes are on no grid, so that the volume was interpolated from them."""
        return self.series.planes.geometry is None


def read(
    path: str | PathLike[str], *, choice: str = "", gaps: Gaps = "refuse", doubled: Doubled = "refuse", notes: list[str] | None = None
) -> DicomImage:
    """Read the one image in a folder, a zip or a file.

    Parameters
    ----------
    choice : number or Series Instance UID of one of several images
    gaps : ``fill`` interpolates where slices are missing
    doubled : ``first`` or ``last``: which of several slices at one place is taken, in the order of their names
    notes : gets sentences on what is odd, `DicomImage.notes` too

    Raises
    ------
    ImageError
        No image or several; slices missing, doubled, damaged or of different kinds; names files and attributes.
    MissingPartError
        A decoder of compressed pixels is not installed.
    """
    with looked_at(path) as found:
        group = found.one(choice)
        image = read_group(group, gaps=gaps, doubled=doubled)
    if count := found.localisers(group):
        words = f"{count} of the series {'calls itself a localiser' if count == 1 else 'call themselves localisers'} (ImageType): left out"
        image = replace(image, notes=(*image.notes, words))
    lost = found.missed(group)
    if lost:
        named = "; ".join(map(str, lost[:_NAMED]))
        words = f"left out what may be slices: {named}" + (" and more" if lost[_NAMED:] else "")
        image = replace(image, notes=(*image.notes, words), lost=words)
    if notes is not None:
        notes += image.notes
    return image


def read_volume(path: str | PathLike[str], notes: list[str] | None = None) -> Volume:
    """`read` for whoever wants the volume alone. Without a list of notes, damaged files are an error: nobody would hear of them."""
    image = read(path, notes=notes)
    if image.lost and notes is None:
        raise ImageError(image.lost, "Send these files again, or remove them.")
    return image.volume


@contextlib.contextmanager
def looked_at(path: str | PathLike[str]) -> Iterator[Found]:
    """What a folder, a zip or a file holds; the files of a zip are there until the end."""
    path = Path(path)
    with unpacked(path) as place:
        yield replace(scan(place), name=path.name)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A folder or file as it is; of a zip a folder with its files, which is there until the end."""
    if not _is_zip(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="delineate-dicom-") as folder:
        yield extracted(path, Path(folder))


def extracted(path: Path, folder: Path) -> Path:
    """A folder or file as it is; of a zip `folder`, with its files in it."""
    if not _is_zip(path):
        return path
    ArchiveReader(path, LIMITS).extract(folder)
    return folder


def _is_zip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == _ZIP


def read_group(group: Group, *, gaps: Gaps = "refuse", doubled: Doubled = "refuse") -> DicomImage:
    """Read the slices of one image; as `read`."""
    slices, planes = _chosen(group, doubled)
    notes = list(group.notes)
    _require_no_gap(planes, slices, gaps, notes)
    _require_scales(slices)
    notes += _silent(slices)
    form = slices[0].form
    geometry = planes.geometry or grid_over(planes)
    if np.prod(geometry.size, dtype=np.float64) * form.allocated / 8 > LARGEST:
        raise ImageError(f"the image of {slices[0].header.name} has more than {LARGEST >> 30} GiB", "Give fewer slices.")
    voxels, slope, intercept = _voxels(slices, form)
    if planes.geometry is None:
        fill = voxels.min() if slope > 0 else voxels.max()
        voxels = on_grid(planes, voxels, geometry, float(fill))
        notes.append(_resampled(planes, geometry))
    first = slices[0]
    if "RealWorldValueMappingSequence" in first.header.elements and (slope, intercept) == (1, 0):
        notes.append("real values are told by RealWorldValueMappingSequence alone, which is not read: these are stored values")
    volume = Volume(voxels, geometry, slope, intercept, modality=first.header.text("Modality"), units=first.units)
    return DicomImage(volume=volume, series=series_of(slices, planes), notes=tuple(notes))


def _chosen(group: Group, doubled: Doubled) -> tuple[list[Slice], Planes]:
    """The slices without those that lie where others do."""
    slices, planes = list(group.slices), group.planes
    if not planes.doubled:
        return slices, planes
    if doubled == "refuse":
        named = "; ".join(f"{slices[a].name} and {slices[b].name} at {planes.where(a)}" for a, b in planes.doubled[:_NAMED])
        more = f" and {len(planes.doubled) - _NAMED} more" if len(planes.doubled) > _NAMED else ""
        raise ImageError(
            f"slices lie at one place (ImagePositionPatient along the normal): {named}{more}",
            "Remove those that do not belong to the image, or say whether to take the first or the last of them.",
        )
    lost = {b if doubled == "first" else a for a, b in planes.doubled}
    kept = [index for index in range(len(slices)) if index not in lost]
    return [slices[index] for index in kept], planes.taken(kept)


def _require_no_gap(planes: Planes, slices: Sequence[Slice], gaps: Gaps, notes: list[str]) -> None:
    if not planes.gaps:
        return
    named = "; ".join(
        f"between {planes.where(a)} ({slices[a].name}) and {planes.where(b)} ({slices[b].name})" for a, b in planes.gaps[:_NAMED]
    )
    more = f" and in {len(planes.gaps) - _NAMED} more places" if len(planes.gaps) > _NAMED else ""
    message = f"slices are missing (ImagePositionPatient along the normal) {named}{more}"
    if gaps == "refuse":
        raise ImageError(message, "Send the missing slices, or say that the gaps are to be filled by interpolation.")
    notes.append(message + "; interpolated")


def _require_scales(slices: Sequence[Slice]) -> None:
    """Refuse slices of which some have a slope or an intercept and others do not: theirs would be guessed, and 1024 off in a CT."""
    usual = max(slices, key=lambda item: sum(item.said))
    silent = [item for item in slices if item.said != usual.said and (item.slope, item.intercept) != (usual.slope, usual.intercept)]
    if silent:
        named = ", ".join(item.name for item in silent[:_NAMED]) + (" and more" if silent[_NAMED:] else "")
        raise ImageError(f"RescaleSlope or RescaleIntercept is missing in some slices, but not in all: {named}", "Export the series again.")


def _silent(slices: Sequence[Slice]) -> list[str]:
    """A CT that says nothing of its scale, which the standard wants, may hold anything."""
    is_told = any(any(item.said) or item.table is not None for item in slices)
    if is_told or slices[0].header.text("Modality") != "CT":
        return []
    return ["RescaleSlope and RescaleIntercept are missing in a CT: stored values were taken for Hounsfield units"]


def _resampled(planes: Planes, geometry: Geometry) -> str:
    words = []
    if not planes.is_straight:
        is_tilted = planes.shear[2] <= SHIFT
        words.append(f"the stack is tilted by {planes.tilt:.1f} degrees" if is_tilted else "the slices are shifted against each other")
    if not planes.is_even:
        words.append(f"the slices are {planes.distances.min():.4g} to {planes.distances.max():.4g} mm apart")
    return f"{' and '.join(words)}: interpolated onto a regular grid of {geometry}"


def _voxels(slices: Sequence[Slice], form: PixelFormat) -> tuple[np.ndarray, float, float]:
    """Shape (planes, rows, columns): stored values with one slope and intercept; real values where these vary."""
    shape = (len(slices), form.rows, form.columns)
    frames = [(item.header, item.frame) for item in slices]
    scales = {(item.slope, item.intercept) for item in slices}
    if any(item.table is not None for item in slices):
        return _by_tables(slices, form, frames), 1.0, 0.0
    if len(scales) == 1:
        voxels = ahead.empty(shape, form.dtype)
        for _ in planes_of(frames, form, voxels):
            pass
        return voxels, *scales.pop()
    kind = _common_type(scales, form)
    voxels = ahead.empty(shape, kind)
    for index, plane in planes_of(frames, form, np.empty((1, *shape[1:]), form.dtype)):
        np.multiply(plane, slices[index].slope, out=voxels[index], dtype=np.float64, casting="unsafe")
        voxels[index] += kind.type(slices[index].intercept)
    return voxels, 1.0, 0.0


def _by_tables(slices: Sequence[Slice], form: PixelFormat, frames: Sequence[tuple[Header, int]]) -> np.ndarray:
    tables = [item.table for item in slices if item.table is not None]
    if len(tables) < len(slices):
        other = next(item.name for item in slices if item.table is None)
        raise ImageError(f"some slices have a table of real values (ModalityLUTSequence), {other} has none", "Export the series again.")
    voxels = ahead.empty((len(slices), form.rows, form.columns), np.dtype(np.uint16))
    for index, plane in planes_of(frames, form, np.empty((1, form.rows, form.columns), form.dtype)):
        voxels[index] = tables[index].real(plane)
    return voxels


def _common_type(scales: set[tuple[float, float]], form: PixelFormat) -> np.dtype:
    """The smallest type that holds the real values of all slices: exactly where these are whole numbers.

    Else rounded to 24 bits, which is finer than what 16 bits were made of; 53 for wider values.
    """
    lowest, highest = (-(1 << (form.stored - 1)), (1 << (form.stored - 1)) - 1) if form.is_signed else (0, (1 << form.stored) - 1)
    if all(float(value).is_integer() for scale in scales for value in scale):
        ends = [value * slope + intercept for slope, intercept in scales for value in (lowest, highest)]
        ends += [value * slope for slope, _ in scales for value in (lowest, highest)]
        for kind in (np.int16, np.int32):
            if min(ends) >= np.iinfo(kind).min and max(ends) <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float32 if form.stored <= 16 else np.float64)
