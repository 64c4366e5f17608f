"""RTSTRUCT files, both directions: structures of an image as contours that planning systems accept, and back.

What was written from label maps comes back from it voxel by voxel: contours run along the voxels' edges, a hundredth of a
pixel inside, and a voxel is inside where its centre is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from delineate.dicom.codes import lookup
from delineate.dicom.contour_items import Items, region, sequence
from delineate.dicom.contours import Contours, filled, gathered, in_millimetres, planes_over
from delineate.dicom.decimals import Writer, decimals_for
from delineate.dicom.keyholes import keyholed
from delineate.dicom.planes import Planes
from delineate.dicom.region_names import region_names
from delineate.dicom.simplify import simplified
from delineate.dicom.source import Series
from delineate.dicom.stack import grid_over, labels_on_planes
from delineate.dicom.structure_module import Written, written_before_contours
from delineate.dicom.structure_set import StructureSet, load
from delineate.dicom.tracing import Traced, trace
from delineate.errors import GeometryError, ImageError
from delineate.geometry import Geometry
from delineate.orientation import AxisMap
from delineate.segmentation import Segmentation, Structure

_PARALLEL = 0.9995  # cosine between the contours' normal and an axis of a grid: 1.8 degrees; contours off it are named one by one

_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to write.

    holes : ``keyhole``, one contour for a structure with its holes, or ``xor``, holes as contours of their own, of the type
    CLOSEDPLANAR_XOR; label, description : of the structure set; short_names : of 16 characters at most, as some
    planning systems want them; tolerance : mm that points left out may be away from what stays, 0 for all points and exact
    voxels; at : when it was made, now by default; uid : SOP Instance UID, new by default.
    """

    holes: Literal["keyhole", "xor"] = "keyhole"
    label: str = "Delineate"
    description: str = ""
    short_names: bool = False
    tolerance: float = 0.0
    at: datetime | None = None
    uid: str = ""


def write_rtstruct(
    path: str | PathLike[str], segmentation: Segmentation, source: Series, options: Options | None = None, notes: list[str] | None = None
) -> None:
    """Write the structures as contours on the slices of the image that they belong to.

    Parameters
    ----------
    segmentation : on the image's own grid, whatever the order of its axes; on another one with parallel axes it is
        resampled onto the slices
    notes : gets sentences on what was changed or left out: names, structures without voxels

    Raises
    ------
    ImageError
        The image has empty UIDs, to which nothing can refer.
    GeometryError
        Axes that are not parallel to the slices.
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
    """As `write_rtstruct`, of label maps on the slices themselves, each of shape (slices, rows, columns)."""
    options, notes = options or Options(), [] if notes is None else notes
    _require_uids(source)
    traced = [_traced(layer, options) for layer in layers]
    drawn = [item for item in structures if (traced[item.layer].labels == item.label).any()]
    notes += [f"{item.name} has no voxels: left out" for item in structures if item not in drawn]
    names = region_names([item.name for item in drawn], 16 if options.short_names else 64, notes)
    items, writer = Items(source.instances), Writer(decimals_for(min(source.planes.spacing)))

    def made(number: int, item: Structure) -> list[bytes]:
        colour = item.colour or lookup(item.name).colour or item.rgb()
        return region(number, colour, _items(items, writer, traced[item.layer], item.label, source, options.tolerance))

    with ThreadPoolExecutor(_THREADS) as threads:
        regions = list(threads.map(made, range(1, len(drawn) + 1), drawn))
    written = [Written(name, lookup(item.name), item.code) for name, item in zip(names, drawn, strict=True)]
    before, after = written_before_contours(written, source, options.label, options.description, options.at, options.uid)
    _save(Path(path), [before, *sequence(regions), after])


def _require_uids(source: Series) -> None:
    missing = source.missing_uids
    if missing:
        raise ImageError(
            f"contours cannot refer to this image: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} empty",
            "Export the image again with its UIDs, or write the structures as NIfTI.",
        )


def _traced(layer: np.ndarray, options: Options) -> Traced:
    traced = trace(layer)
    return keyholed(traced, layer) if options.holes == "keyhole" else traced


def _items(items: Items, writer: Writer, polygons: Traced, label: int, source: Series, tolerance: float) -> list[bytes]:
    chosen = np.flatnonzero(polygons.labels == label)
    starts, corners = gathered(polygons.starts, chosen)
    slices = polygons.slices[chosen]
    points = in_millimetres(source.planes, slices, starts, polygons.corners[corners])
    if tolerance > 0:
        starts, points = simplified(starts, points, tolerance)
    counts = np.diff(starts).tolist()
    return list(items.contours(slices.tolist(), counts, writer.lists(points, starts), bool(polygons.holes[chosen].any())))


def _save(path: Path, parts: list[bytes]) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.writelines(parts)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_rtstruct(
    path: str | PathLike[str], source: Series | Geometry, *, notes: list[str] | None = None, other_frame: bool = False
) -> Segmentation:
    """The structures of a file as label maps, on the grid of an image.

    Parameters
    ----------
    source : the image that the contours were drawn on, or any grid one of whose axes runs across them
    notes : gets sentences on whatever is odd
    other_frame : take contours although they are in another frame of reference than the image

    Returns
    -------
    Segmentation
        On `source`, or on the image's grid: where its slices are on none, on that of its volume.

    Raises
    ------
    ImageError
        No RTSTRUCT, or damaged.
    GeometryError
        Contours in another frame of reference, or parallel to no slices of the grid.
    """
    notes = [] if notes is None else notes
    found = _loaded(path, source, notes, other_frame)
    geometry = source if isinstance(source, Geometry) else source.planes.geometry or grid_over(source.planes)
    axes = _across(geometry, found.contours.normal())
    planes, is_turned = planes_over(axes.grid(geometry))
    layers, structures = _filled(found, planes, notes)
    if is_turned:
        layers = tuple(layer[::-1] for layer in layers)
    turned = Segmentation(axes.grid(geometry), layers, structures)
    back = turned.mapped(axes.inverse())
    return Segmentation(geometry, tuple(np.ascontiguousarray(layer) for layer in back.layers), structures)


def read_on_planes(
    path: str | PathLike[str], source: Series, *, notes: list[str] | None = None, other_frame: bool = False
) -> tuple[tuple[np.ndarray, ...], tuple[Structure, ...]]:
    """As `read_rtstruct`, on the slices themselves, each by its own position: layers of shape (slices, rows, columns)."""
    notes = [] if notes is None else notes
    return _filled(_loaded(path, source, notes, other_frame), source.planes, notes)


def _loaded(path: str | PathLike[str], source: Series | Geometry, notes: list[str], other_frame: bool) -> StructureSet:
    found = load(path)
    notes += found.notes
    if isinstance(source, Geometry) or not source.frame_of_reference or not found.frames_of_reference:
        return found
    if source.frame_of_reference not in found.frames_of_reference:
        words = "the contours are in another frame of reference than the image (FrameOfReferenceUID)"
        if not (other_frame or source.series_uid in found.series_uids):
            raise GeometryError(words, "Give the series that they were drawn on, or say that the two are the same space.")
        notes.append(words)
    return found


def _across(geometry: Geometry, normal: np.ndarray) -> AxisMap:
    """How to turn a grid so that its slices are those of the contours."""
    along = np.abs(geometry.matrix.T @ normal)
    axis = int(along.argmax()) if normal.any() else 2
    if normal.any() and along[axis] < _PARALLEL:
        raise GeometryError(
            f"the contours are parallel to no slices of the grid: {geometry}", "Read them onto the series that they were drawn on."
        )
    order = (*(other for other in range(3) if other != axis), axis)
    return AxisMap((order[0], order[1], order[2]), (False, False, False))


def _filled(found: StructureSet, planes: Planes, notes: list[str]) -> tuple[tuple[np.ndarray, ...], tuple[Structure, ...]]:
    names = [region.name for region in found.regions]
    contours: Contours = found.contours
    layers, places = filled(contours, planes, names, notes)
    structures = tuple(
        Structure(item.name, number, int(places[number - 1]), item.colour, item.code) for number, item in enumerate(found.regions, 1)
    )
    return layers, structures
