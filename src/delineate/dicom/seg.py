"""SEG files, both directions: structures of an image as segments that viewers show, and back.

Every frame says where it lies, and is read by that alone: frames may be omitted, in any order, and on slices that are on no
grid. What was written from label maps comes back from it voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np

from delineate.dicom.across import Across
from delineate.dicom.derived import require_uids, saved
from delineate.dicom.packing import SYNTAXES, Packing, deflated
from delineate.dicom.placing import NoFitError
from delineate.dicom.planes import Planes
from delineate.dicom.region_names import region_names
from delineate.dicom.segment_filling import filled
from delineate.dicom.segment_frames import frames_of, groups, pixels
from delineate.dicom.segment_module import About, Kind, before_frames
from delineate.dicom.segments import Segments, load
from delineate.dicom.source import Series, note_other_frame
from delineate.dicom.stack import grid_over, labels_on_planes
from delineate.errors import GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.resampling import labels_to_grid
from delineate.segmentation import Segmentation, Structure

_MOST = 65535  # segments of a file
_WHOLE = 0.02  # of a step: slices at whole steps from each other
_LONGEST = 100_000  # slices of a grid that is made over frames


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to write.

    kind : ``binary``, in which structures may overlap, ``fractional``, the same as fractions of 0 or 1 for readers that want
    them, or ``labelmap``, smaller, without overlaps and not known to every viewer; label, description : of the content;
    algorithm, version : of what made it, Delineate's by default; at : when it was
    made, now by default; uid : SOP Instance UID, new by default; packing : ``rle``, frames by run lengths (not of bits), or
    ``deflated``, all of the file, which is smallest; some readers know neither.
    """

    kind: Kind = "binary"
    packing: Packing = "none"
    label: str = "SEGMENTATION"
    description: str = ""
    algorithm: str = "Delineate"
    version: str = ""
    at: datetime | None = None
    uid: str = ""


def write_seg(
    path: str | PathLike[str], segmentation: Segmentation, source: Series, options: Options | None = None, notes: list[str] | None = None
) -> None:
    """Write the structures as segments on the slices of the image that they belong to.

    Parameters
    ----------
    segmentation : on the image's own grid, whatever the order of its axes; on another one with parallel axes it is
        resampled onto the slices. Structures without voxels are kept.
    notes : gets sentences on names that were changed

    Raises
    ------
    ImageError
        The image has empty UIDs, to which nothing can refer.
    GeometryError
        Axes that are not parallel to the slices.
    InputError
        No structures; structures that overlap in a label map; more than a file holds.
    """
    write_on_planes(path, labels_on_planes(source.planes, segmentation), segmentation.structures, source, options, notes)


def write_on_planes(
    path: str | PathLike[str],
    layers: Sequence[np.ndarray],
    structures: Sequence[Structure],
    source: Series,
    options: Options | None = None,
    notes: list[str] | None = None,
) -> None:
    """As `write_seg`, of label maps on the slices themselves, each of shape (slices, rows, columns)."""
    options, notes = options or Options(), [] if notes is None else notes
    require_uids(source, "segments")
    if not 0 < len(structures) <= _MOST:
        raise InputError(f"a SEG file holds 1 to {_MOST} structures, not {len(structures)}", "Give other structures.")
    names = region_names([item.name for item in structures], 64, notes)
    frames = frames_of(options.kind, layers, structures)
    at, syntax = options.at or datetime.now(), SYNTAXES[options.packing]
    about = About(options.label, options.description, options.algorithm, options.version, at, options.uid, syntax)
    overlap = "NO" if len(layers) == 1 or options.kind == "labelmap" else "UNDEFINED"
    with saved(Path(path)) as file:
        begin, data = before_frames(options.kind, structures, names, len(frames), source, about, overlap)
        parts = chain((data, groups(frames, source)), pixels(options.kind, options.packing, frames, layers, structures))
        file.write(begin)
        file.writelines(deflated(parts) if options.packing == "deflated" else parts)


def read_seg(
    path: str | PathLike[str],
    source: Series | Geometry | None = None,
    *,
    threshold: float = 0.5,
    notes: list[str] | None = None,
    other_frame: bool = False,
) -> Segmentation:
    """The segments of a file as label maps.

    Parameters
    ----------
    source : the image that they were made of, or any grid with parallel axes; none for a grid made over the file's own frames
    threshold : a pixel of a fractional segment is inside where its fraction is at least this
    notes : gets sentences on whatever is odd
    other_frame : take segments although they are in another frame of reference than the image

    Returns
    -------
    Segmentation
        On `source`, or on the image's grid: where its slices are on none, on that of its volume, each slice of it as the
        nearest slice. Segments without frames are structures without voxels.

    Raises
    ------
    ImageError
        No SEG, or damaged.
    GeometryError
        Segments in another frame of reference, or parallel to no slices of the grid.
    """
    notes = [] if notes is None else notes
    found = _loaded(path, source if isinstance(source, Series) else None, threshold, notes, other_frame)
    if source is None:
        return _filled_on_grid(found, _own_planes(found), threshold, notes)
    if isinstance(source, Series):
        try:
            return _filled_on_grid(found, source.planes, threshold, notes)
        except NoFitError as error:
            target = source.planes.geometry or grid_over(source.planes)
            return _resampled(found, target, threshold, notes, error)
    try:
        return _on_grid(found, source, threshold, notes)
    except NoFitError as error:
        return _resampled(found, source, threshold, notes, error)


def read_on_planes(
    path: str | PathLike[str], source: Series, *, threshold: float = 0.5, notes: list[str] | None = None, other_frame: bool = False
) -> tuple[tuple[np.ndarray, ...], tuple[Structure, ...]]:
    """As `read_seg`, on the slices themselves, each by its own position: layers of shape (slices, rows, columns)."""
    notes = [] if notes is None else notes
    found = _loaded(path, source, threshold, notes, other_frame)
    return filled(found, source.planes, threshold, notes)


def _loaded(path: str | PathLike[str], source: Series | None, threshold: float, notes: list[str], other_frame: bool) -> Segments:
    if not 0 < threshold <= 1:
        raise InputError(f"a threshold of {threshold} makes no sense", "Give a fraction above 0, at most 1.")
    found = load(path, notes)
    if found.kind == "FRACTIONAL":
        notes.append(f"fractions of {threshold:g} and more are inside")
    if source is not None and found.frame_of_reference:
        note_other_frame(source, (found.frame_of_reference,), found.series_uids, "segments", other_frame, notes)
    if any(place.position is None for place in found.places):
        return _placed_by_source(found, source)
    return found


def _placed_by_source(found: Segments, source: Series | None) -> Segments:
    """Frames that do not say where they lie, but of which slice of the image they were made."""
    words = f"{found.name} has frames that do not say where they lie (ImagePositionPatient)"
    if source is None:
        raise ImageError(words, "Give the series that they were made of.")
    slices = {(item.sop_instance, item.frame): number for number, item in enumerate(source.instances)}
    places = []
    for place in found.places:
        number = slices.get(place.source)
        if place.position is None:
            if number is None:
                raise ImageError(f"{words}, nor of which slice of the image they were made", "Give the series that they were made of.")
            place = place._replace(position=tuple(source.planes.positions[number].tolist()))
        places.append(place)
    return replace(found, places=tuple(places))


def _positions(found: Segments) -> np.ndarray:
    return np.array([place.position for place in found.places], dtype=np.float64)


def _own_planes(found: Segments) -> Planes:
    """The slices that frames lie on, and those between them that were omitted."""
    first = found.places[0]
    if any(place.orientation != first.orientation or place.spacing != first.spacing for place in found.places):
        raise GeometryError(f"{found.name} has frames of several orientations or spacings", "Give the series that they were made of.")
    stacked = Planes(found.size, first.spacing, first.orientation, _positions(found), np.zeros(len(found.places)))
    positions = stacked.positions[np.argsort(stacked.places[:, 2], kind="stable")]
    along = positions @ stacked.axes[:, 2]
    kept = np.flatnonzero(np.diff(along, prepend=-np.inf) > 0.01)
    positions, along = positions[kept], along[kept]
    step = found.step
    if len(along) > 1:
        parts = np.diff(along) / step if step > 0 else np.zeros(1)
        if step <= 0 or (np.abs(parts - np.rint(parts)) > _WHOLE * np.maximum(parts, 1)).any() or (np.rint(parts) < 1).any():
            step = float(np.diff(along).min())
            parts = np.diff(along) / step
        if (np.abs(parts - np.rint(parts)) <= _WHOLE * np.maximum(parts, 1)).all() and parts.sum() < _LONGEST:
            at = np.concatenate([[0], np.cumsum(np.rint(parts))])
            whole = np.arange(int(at[-1]) + 1)
            positions = np.stack([np.interp(whole, at, positions[:, axis]) for axis in range(3)], axis=1)
    return Planes(found.size, first.spacing, first.orientation, positions, np.zeros(len(positions)), step if step > 0 else 1.0)


def _filled_on_grid(found: Segments, planes: Planes, threshold: float, notes: list[str]) -> Segmentation:
    """Label maps on slices: where these are on no grid, on that over them, each slice as the nearest one."""
    layers, structures = filled(found, planes, threshold, notes)
    if planes.geometry is not None:
        return Segmentation(planes.geometry, layers, structures)
    geometry = grid_over(planes)
    origin = np.array(geometry.origin) @ planes.axes
    along = planes.places[:, 2] - origin[2]
    shifts = np.rint((planes.places[:, :2] - origin[:2]) / np.array(planes.spacing)).astype(int)
    result = tuple(np.zeros(geometry.shape, layer.dtype) for layer in layers)
    columns, rows = planes.size
    for number in range(geometry.size[2]):
        nearest = int(np.abs(along - number * geometry.spacing[2]).argmin())
        column, row = (max(int(shift), 0) for shift in shifts[nearest])
        for target, layer in zip(result, layers, strict=True):
            part = target[number, row : row + rows, column : column + columns]
            part[...] = layer[nearest, : part.shape[0], : part.shape[1]]
    return Segmentation(geometry, result, structures)


def _on_grid(found: Segments, geometry: Geometry, threshold: float, notes: list[str]) -> Segmentation:
    """On a grid one of whose axes runs across the frames."""
    orientation = np.array(found.places[0].orientation)
    across = Across(geometry, np.cross(orientation[:3], orientation[3:]))
    return across.back(*filled(found, across.planes, threshold, notes))


def _resampled(found: Segments, geometry: Geometry, threshold: float, notes: list[str], error: NoFitError) -> Segmentation:
    own = _filled_on_grid(found, _own_planes(found), threshold, notes)
    result = labels_to_grid(own, geometry)
    notes.append(f"{error.message}: resampled onto its grid")
    return result
