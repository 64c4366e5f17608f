"""RTSTRUCT files, both directions: structures of an image as contours that planning systems accept, and back.

What was written from label maps comes back from it voxel by voxel: contours run along the voxels' edges, a hundredth of a
pixel inside, and a voxel is inside where its centre is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from os import PathLike
from pathlib import Path

import numpy as np

from delineate.dicom.across import Across
from delineate.dicom.codes import lookup
from delineate.dicom.contours import runs_of, shape_of
from delineate.dicom.derived import require_uids, saved
from delineate.dicom.drawing import Drawing, Holes
from delineate.dicom.filling import Runs, layers_of
from delineate.dicom.planes import Planes
from delineate.dicom.region_names import region_names
from delineate.dicom.source import Series, note_other_frame
from delineate.dicom.stack import grid_over, labels_on_planes
from delineate.dicom.structure_module import Written, written_before_contours
from delineate.dicom.structure_set import Region, StructureSet, load
from delineate.errors import GeometryError, InputError
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation, Structure


class NothingToDrawError(InputError):
    """No structure has voxels."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to write.

    holes : ``keyhole``, one contour for a structure with its holes, or ``xor``, holes as contours of their own, of the type
    CLOSEDPLANAR_XOR; label, description : of the structure set, the one being the other where it is empty; short_names : of 16
    characters at most, as some planning systems want them; tolerance : mm that points left out may be away from what stays, 0
    for all points and exact voxels; the file and a note say it; at : when it was made, now by default; uid : SOP Instance UID, new by
    default.
    """

    holes: Holes = "keyhole"
    label: str = ""
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
    NothingToDrawError
        No structure has voxels: the standard has no structure set without one.
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
    options, notes, path = options or Options(), [] if notes is None else notes, Path(path)
    require_uids(source, "contours")
    with Drawing(source, path.parent, options.holes, options.tolerance) as drawing, saved(path) as file:
        for number, layer in enumerate(layers):
            drawing.add(number, layer)
        drawn = [item for item in structures if drawing.has(item.layer, item.label)]
        if not drawn:
            raise NothingToDrawError("no structure has voxels, and an RTSTRUCT must hold one", "Write a SEG, or another format.")
        notes += [f"{item.name} has no voxels: left out" for item in structures if item not in drawn]
        names = region_names([item.name for item in drawn], 16 if options.short_names else 64, notes)
        meanings = [lookup(item.name) for item in drawn]
        written = [Written(*each) for each in zip(names, drawn, meanings, strict=True)]
        remark = f"contours simplified within {options.tolerance:g} mm" if options.tolerance > 0 else ""
        if remark:
            notes.append(f"{remark}: read back, voxels differ")
        about = (options.label, options.description, remark, options.at, options.uid)
        before, after = written_before_contours(written, source, *about)
        colours = [item.colour or meaning.colour or item.rgb() for item, meaning in zip(drawn, meanings, strict=True)]
        file.write(before)
        drawing.write(file, [((item.layer, item.label), colour) for item, colour in zip(drawn, colours, strict=True)])
        file.write(after)


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
    geometry = source if isinstance(source, Geometry) else source.planes.geometry or grid_over(source.planes)
    found = _loaded(path, source, notes, other_frame)
    across = Across(geometry, found.contours.normal())
    if not across.is_parallel:
        raise GeometryError(
            f"the contours are parallel to no slices of the grid: {geometry}", "Read them onto the series that they were drawn on."
        )
    runs, regions = _inside(found, across.planes, notes)
    del found  # the bytes of the file, which make room for the label maps
    return across.back(*_filled(runs, regions, across.planes))


def read_on_planes(
    path: str | PathLike[str], source: Series, *, notes: list[str] | None = None, other_frame: bool = False
) -> tuple[tuple[np.ndarray, ...], tuple[Structure, ...]]:
    """As `read_rtstruct`, on the slices themselves, each by its own position: layers of shape (slices, rows, columns)."""
    notes = [] if notes is None else notes
    return _filled(*_inside(_loaded(path, source, notes, other_frame), source.planes, notes), source.planes)


def _loaded(path: str | PathLike[str], source: Series | Geometry, notes: list[str], other_frame: bool) -> StructureSet:
    found = load(path)
    notes += found.notes
    if isinstance(source, Geometry) or not source.frame_of_reference or not found.frames_of_reference:
        return found
    if note_other_frame(source, found.frames_of_reference, found.series_uids, "contours", other_frame, notes):
        return found
    strange = {place for place, region in enumerate(found.regions) if region.frame not in ("", source.frame_of_reference)}
    if not strange or other_frame:
        return found
    notes += [f"{found.regions[place].name}: in another frame of reference than the image: left out" for place in sorted(strange)]
    return replace(found, contours=found.contours.without(strange))


def _inside(found: StructureSet, planes: Planes, notes: list[str]) -> tuple[Runs, tuple[Region, ...]]:
    return runs_of(found.contours.parts(), planes, [region.name for region in found.regions], notes), found.regions


def _filled(runs: Runs, regions: Sequence[Region], planes: Planes) -> tuple[tuple[np.ndarray, ...], tuple[Structure, ...]]:
    layers, places = layers_of(runs, len(regions), shape_of(planes))
    structures = (
        Structure(item.name, number, int(places[number - 1]), item.colour, item.code, item.said) for number, item in enumerate(regions, 1)
    )
    return layers, tuple(structures)
