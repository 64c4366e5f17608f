"""Structures written to a file and read back, on every kind of grid: how many voxels differ.

Nine shapes with all that is hard about contours, series of DICOM on which they are delineated, and the ways there and back that
Delineate has. Whoever writes another format compares it with the same shapes. Needs the extra ``dicom``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from delineate import files
from delineate.dicom import rtstruct, seg
from delineate.dicom.reader import DicomImage, read
from delineate.geometry import Geometry
from delineate.mim.contour_loader import ContourLoader
from delineate.mim.task_output import TaskOutput
from delineate.orientation import reorientation
from delineate.protocols.result_archive import ResultWriter
from delineate.segmentation import Segmentation, Structure
from delineate.testing.dicom import Stack, orientations, sheared, stack_of, write_series
from delineate.testing.mimhost import Host
from delineate.volume import Volume

ORGANS: Final = 30
TURN, TILT = 17.0, 18.5  # degrees
SOME: Final = (0, 11, 21, 38)  # orders and flips of axes, of both hands, for what is not tried on all 48
MULTIPLIER: Final = (2, 3, 1)  # of the workstation's contours
_GRID = Geometry((24, 24, 10), (1.2, 1.2, 2.5), (-131.25, 214.4, -1000.0))
_OBLONG = Geometry((29, 23, 10), (0.9765, 1.7, 2.5), (-131.25, 214.4, -1000.0))
_NARROW = Geometry((53, 13, 8), (0.43, 2.75, 3.3), (-131.25, 214.4, -1000.0))
_OBLONGS = "oblong slices and pixels, turned by 17°"
_STEPS = (2.5, 2.5, 3.5, 2.7, 2.5, 3.4, 2.5, 2.5, 3.6)  # mm between slices; fewer than half as much again, or slices are missing

Maps = Mapping[str, np.ndarray]


# ------------------------------------------------------------ what is delineated


def shapes(shape: Sequence[int]) -> dict[str, np.ndarray]:
    """Label maps by name, uint8, of that shape (z, y, x); none is the same when it is mirrored or turned.

    Those with one label are masks; ``30 organs`` touch each other without a gap.
    """
    z, y, x = np.indices(tuple(shape))
    deep, high, wide = shape
    right, down = x / wide - 0.4 - 0.1 * z / deep, y / high - 0.57  # from a line beside the middle that leans
    off = np.hypot(right, down)
    outer = off + 0.05 * np.sin(3 * np.arctan2(down, right))
    thin = (x == wide // 4) & (y > 1) | (y == high // 3) & (x > wide // 2) | (z == deep // 2) & (outer < 0.2)
    masks = {
        "random mask": np.random.default_rng(5).random(tuple(shape)) < 0.5,
        "ring": (outer < 0.36) & (off > 0.2),
        "nested rings": (off < 0.42) & ((off * 18).astype(int) % 2 == 1),
        "single voxels": (3 * z + 5 * y + 7 * x) % 31 == 0,
        "thin plate": thin,
        "touching the border": (x < 1) | (x == wide - 1) | (y < 1) | (y == high - 1) | (x < 5) & (y > high - 4) & (z > 2),
        "first and last slice": ((z == 0) & (outer < 0.3)) | ((z == deep - 1) & (outer < 0.2)),
        "two components": (outer < 0.16) | (np.hypot(x - 0.85 * wide, y - 0.2 * high) < 0.1 * wide) & (z > 2),
    }
    return {**{name: mask.astype(np.uint8) for name, mask in masks.items()}, f"{ORGANS} organs": _organs(shape, outer)}


def _organs(shape: Sequence[int], off: np.ndarray) -> np.ndarray:
    """Each voxel within a body has the label of the nearest of thirty seeds."""
    rng = np.random.default_rng(6)
    seeds = np.stack([rng.permuted(np.linspace(0.15, 0.85, ORGANS)) for _ in range(3)], axis=1)
    labels, least = np.zeros(tuple(shape), np.uint8), np.full(tuple(shape), np.inf)
    axes = np.ix_(*(np.linspace(0, 1, count) for count in shape))
    for label, seed in enumerate(seeds, 1):
        away = sum((axis - place) ** 2 for axis, place in zip(axes, seed, strict=True))
        labels[away < least] = label
        np.minimum(least, away, out=least)
    labels[off >= 0.47] = 0
    return labels


def segmentation_of(maps: Maps, geometry: Geometry) -> Segmentation:
    """A layer for each label map; structures are called after it, and by their labels where it has several."""
    structures = []
    for layer, (name, labels) in enumerate(maps.items()):
        highest = int(labels.max())
        structures += [Structure(f"{name} {label}" if highest > 1 else name, label, layer) for label in range(1, highest + 1)]
    return Segmentation(geometry, tuple(maps.values()), tuple(structures))


# ------------------------------------------------------------ where


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where a series lies.

    kind : which row of a table it belongs to; name : its own; geometry : with the files' own order of axes; positions : of
    the slices where these are on no grid, shape (slices, 3), LPS mm.
    """

    kind: str
    name: str
    geometry: Geometry
    positions: np.ndarray | None = None

    def write(self, folder: Path, **other: Any) -> DicomImage:
        """The series as files, read again; `other` as for `delineate.testing.dicom.Stack`."""
        stack = stack_of(np.zeros(self.geometry.shape, np.int16), self.geometry, **other)
        write_series(folder, stack if self.positions is None else replace(stack, positions=self.positions))
        return read(folder)


def _turned(geometry: Geometry, matrix: np.ndarray) -> Geometry:
    return replace(geometry, direction=tuple(matrix.ravel()))


def _tilted(stack: Stack) -> np.ndarray:
    return sheared(stack, TILT)


def _uneven(stack: Stack) -> np.ndarray:
    normal = (stack.positions[1] - stack.positions[0]) / np.linalg.norm(stack.positions[1] - stack.positions[0])
    positions: np.ndarray = stack.positions[0] + np.outer(np.cumsum((0.0, *_STEPS)), normal)
    return positions


def places() -> Iterator[Place]:
    """Every place, kind by kind: 48 straight ones, the same turned, some on no grid, and those with oblong pixels."""
    for kind, degrees in (("48 orders and flips of the axes", 0.0), (f"the same, turned by {TURN:g}°", TURN)):
        for number, matrix in enumerate(orientations(degrees)):
            yield Place(kind=kind, name=f"{number} at {degrees:g}", geometry=_turned(_GRID, matrix))
    turned = list(orientations(TURN))
    moves: dict[str, Callable[[Stack], np.ndarray]] = {f"tilted by {TILT}°": _tilted, "uneven distances of slices": _uneven}
    for kind, move in moves.items():
        for number in SOME:
            geometry = _turned(_GRID, turned[number])
            positions = move(stack_of(np.empty(0), geometry))
            yield Place(kind=kind, name=f"{kind}, {number}", geometry=geometry, positions=positions)
    for number, matrix in enumerate(turned):
        yield Place(kind=_OBLONGS, name=f"oblong, {number}", geometry=_turned(_OBLONG, matrix))
    for number in SOME:
        yield Place(kind=_OBLONGS, name=f"narrow, {number}", geometry=_turned(_NARROW, turned[number]))


# ------------------------------------------------------------ there and back


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Structures on one series.

    image : as it was read from its files; on_slices, on_volume : the same shapes on the slices, of shape (slices, rows, columns) in
    their order, and on the grid of the volume. These are one where the slices are on a grid; for others the volume was
    interpolated, and formats that know no single slices are tried on its grid.
    """

    image: DicomImage
    on_slices: Maps
    on_volume: Segmentation

    @property
    def has_grid(self) -> bool:
        """Whether the slices are on a grid."""
        return not self.image.is_resampled


def trial(place: Place, folder: Path, names: Sequence[str] = (), **other: Any) -> Trial:
    """Write a series and delineate shapes on it, all of them or those of `names`; `other` as for `Place.write`."""
    image = place.write(folder, **other)
    assert image.is_resampled == (place.positions is not None), f"{place.name} is not what it should be"
    return drawn_on(image, names, place.geometry)


def drawn_on(image: DicomImage, names: Sequence[str] = (), geometry: Geometry | None = None) -> Trial:
    """Delineate shapes on any series; `geometry` is its grid in another order of axes, in which they are drawn."""

    def chosen(shape: Sequence[int]) -> dict[str, np.ndarray]:
        return {name: labels for name, labels in shapes(shape).items() if not names or name in names}

    planes, grid = image.series.planes, image.volume.geometry
    if planes.geometry is None:
        maps = chosen((len(planes), *planes.size[::-1]))
        return Trial(image=image, on_slices=maps, on_volume=segmentation_of(chosen(grid.shape), grid))
    wanted = segmentation_of(chosen((geometry or grid).shape), geometry or grid)
    turned = wanted.mapped(reorientation(wanted.geometry, planes.geometry.axis_codes))
    layers = (np.ascontiguousarray(layer) for layer in turned.layers)
    return Trial(image=image, on_slices=dict(zip(chosen(grid.shape), layers, strict=True)), on_volume=wanted)


def differing(found: Segmentation, wanted: Segmentation) -> dict[str, int]:
    """Voxels of each structure that differ, by place in the patient; all of the grid where the two grids are not the same."""
    turned = found.mapped(reorientation(found.geometry, wanted.geometry.axis_codes))
    if not turned.geometry.matches(wanted.geometry):
        return dict.fromkeys(wanted.names, int(np.prod(wanted.geometry.size)))
    there = set(turned.names)
    return {
        name: int(np.count_nonzero((turned.mask(name) != mask) if name in there else mask))
        for name, mask in ((name, wanted.mask(name)) for name in wanted.names)
    }


def by_shape(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Counts of structures as those of the shapes that they belong to."""
    return {name: sum(count for structure, count in counts.items() if structure.startswith(name)) for name in names}


Trip = Callable[[Trial, Path], dict[str, int]]


def _on_slices(given: Trial, names: Sequence[str]) -> Segmentation:
    """Shapes on slices that are on no grid: of the segmentation the layers alone count."""
    maps = {name: given.on_slices[name] for name in names}
    return segmentation_of(maps, Geometry(next(iter(maps.values())).shape[::-1]))


def _slices_differ(layers: Sequence[np.ndarray], structures: Sequence[Structure], wanted: Segmentation) -> dict[str, int]:
    found = {item.name: layers[item.layer] == item.label for item in structures}
    nothing = np.zeros(wanted.geometry.shape, dtype=bool)
    return {name: int(np.count_nonzero(found.get(name, nothing) != wanted.mask(name))) for name in wanted.names}


def _rtstruct(holes: Literal["keyhole", "xor"]) -> Trip:
    def trip(given: Trial, folder: Path) -> dict[str, int]:
        path, series, options = folder / f"rtstruct-{holes}.dcm", given.image.series, rtstruct.Options(holes=holes)
        if given.has_grid:
            rtstruct.write_rtstruct(path, given.on_volume, series, options)
            return differing(rtstruct.read_rtstruct(path, series), given.on_volume)
        wanted = _on_slices(given, list(given.on_slices))
        rtstruct.write_on_planes(path, wanted.layers, wanted.structures, series, options)
        return _slices_differ(*rtstruct.read_on_planes(path, series), wanted)

    return trip


def _seg_file(given: Trial, path: Path, names: Sequence[str], kind: Literal["binary", "labelmap"]) -> dict[str, int]:
    series, options = given.image.series, seg.Options(kind=kind)
    if given.has_grid:
        wanted = _only(given.on_volume, names)
        seg.write_seg(path, wanted, series, options)
        return differing(seg.read_seg(path, series), wanted)
    wanted = _on_slices(given, names)
    seg.write_on_planes(path, wanted.layers, wanted.structures, series, options)
    return _slices_differ(*seg.read_on_planes(path, series), wanted)


def _only(segmentation: Segmentation, names: Sequence[str]) -> Segmentation:
    """Some of the shapes, in layers of their own."""
    kept = [item for item in segmentation if item.name.startswith(tuple(names))]
    layers = sorted({item.layer for item in kept})
    structures = tuple(replace(item, layer=layers.index(item.layer)) for item in kept)
    return Segmentation(segmentation.geometry, tuple(segmentation.layers[layer] for layer in layers), structures)


def _binary(given: Trial, folder: Path) -> dict[str, int]:
    return _seg_file(given, folder / "seg-binary.dcm", list(given.on_slices), "binary")


def _labelmap(given: Trial, folder: Path) -> dict[str, int]:
    """A file for each shape: there they may not overlap."""
    counts: dict[str, int] = {}
    for number, name in enumerate(given.on_slices):
        counts |= _seg_file(given, folder / f"seg-labelmap-{number}.dcm", [name], "labelmap")
    return counts


def _nifti(given: Trial, folder: Path) -> dict[str, int]:
    written = files.write_segmentation(folder / "labels.nii.gz", given.on_volume)
    return differing(files.read_segmentation(*(path for path in written if path.suffix != ".json")), given.on_volume)


def _indices(fine: Geometry, coarse: Geometry, axis: int) -> np.ndarray:
    """Where the centres of voxels along an axis of one grid lie in another one, which is parallel to it: indices there."""
    line = np.zeros((fine.size[axis], 3))
    line[:, axis] = np.arange(len(line))
    indices: np.ndarray = np.rint(coarse.to_index(fine.to_world(line))[:, axis]).astype(int)
    return indices


def _workstation(given: Trial, folder: Path) -> dict[str, int]:
    """A result as the server answers it, set as contours on the grid of these, which splits the image's voxels."""
    wanted, path = given.on_volume, folder / "result.zip"
    with ResultWriter(path) as archive:
        archive.add_segmentation("result", wanted)
    with Host(multiplier=MULTIPLIER) as host:
        image = host.image_from_volume(Volume(np.zeros(wanted.geometry.shape, np.int16), wanted.geometry))
        ContourLoader(host.session, image.handle, lambda note: None).load(TaskOutput(str(path)))
        at = np.ix_(*(_indices(image.contour_geometry, wanted.geometry, axis) for axis in (2, 1, 0)))
        there = set(image.names)
        return {
            name: int(np.count_nonzero((image.contour(name).mask if name in there else False) != wanted.mask(name)[at]))
            for name in wanted.names
        }


TRIPS: Final[Mapping[str, Trip]] = {
    "RTSTRUCT keyhole": _rtstruct("keyhole"),
    "RTSTRUCT XOR": _rtstruct("xor"),
    "SEG binary": _binary,
    "SEG LABELMAP": _labelmap,
    "NIfTI": _nifti,
    "MIM contour grid": _workstation,
}
"""Ways there and back, by format: each writes its files into a folder, reads them, and says how many voxels of which structure differ."""
