"""A picture of structures on an image: three planes through them, contours, names and volumes.

Planes are shown as radiologists look at them: the patient's right on the left of axial and coronal planes, the head up,
the face to the left in the sagittal plane. One scale for all planes, so that lengths are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from delineate.errors import GeometryError
from delineate.geometry import Geometry
from delineate.orientation import is_same_place, reorientation
from delineate.picture_sheet import Entry, Plane, Sheet, shares
from delineate.segmentation import Segmentation, Structure
from delineate.volume import Volume

LUNG, BONE, SOFT, WHOLE = (-1150.0, 350.0), (-400.0, 1200.0), (-160.0, 240.0), (-1000.0, 400.0)
"""Display windows for CT, HU."""

_FIRST, _SECOND = (70, 165, 245), (255, 150, 30)  # told apart whatever colours somebody sees


@dataclass(frozen=True)
class _Extent:
    """Where structures are: weights of slices along z, y, x, bounds and voxel counts; arrays are LPS."""

    weights: tuple[np.ndarray, np.ndarray, np.ndarray]
    bounds: tuple[tuple[int, int], ...]
    counts: dict[str, int]


def preview(volume: Volume, segmentation: Segmentation, *, title: str = "", window: tuple[float, float] | None = None) -> bytes:
    """Draw structures on an image.

    Parameters
    ----------
    volume : the image, in any orientation.
    segmentation : structures on the image's grid, or on a contour grid that splits its voxels; may be empty.
    title : printed above.
    window : values drawn black and white; by content where it is None (CT: lung, bone, soft tissue; else percentiles).

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    GeometryError
        The structures are on another grid.
    MissingPartError
        matplotlib is not installed.
    """
    axes = reorientation(volume.geometry, "LPS")
    segmentation = _on_image_grid(segmentation, volume.geometry).mapped(axes)
    extent = _extent(segmentation)
    entries = [
        Entry(item.name, item.rgb(), _amount(extent.counts.get(item.name, 0), volume.geometry), key=item.name) for item in segmentation
    ]
    sheet = _sheet(volume.mapped(axes), segmentation, extent, window, title)
    return sheet.drawn(partial(_structures_on, segmentation), entries)


def contrast(volume: Volume, first: Segmentation, second: Segmentation, entries: Sequence[tuple[str, str]], *, title: str = "") -> bytes:
    """Draw where two opinions on the same structures differ, in the slices where they differ most.

    The first is filled with a line around it, the second a broken line over that; what is in one of them alone is filled
    in its colour.

    Parameters
    ----------
    first, second : on the image's grid, as for `preview`; structures of one name are one
    entries : a name of a structure, and words beside it in the legend; others are not drawn

    Returns and raises as `preview`.
    """
    axes = reorientation(volume.geometry, "LPS")
    names = [name for name, _ in entries]
    both = [_on_image_grid(each, volume.geometry).mapped(axes) for each in (first, second)]
    kept = [[replace(item, name=f"{item.name} {number}") for item in each if item.name in names] for number, each in enumerate(both)]
    moved = [replace(item, layer=item.layer + len(both[0].layers)) for item in kept[1]]
    together = Segmentation(both[0].geometry, both[0].layers + both[1].layers, (*kept[0], *moved))
    extent = _extent(together)
    if weights := _differences(both[0], both[1], names):
        extent = replace(extent, weights=weights)
    marks = [
        Entry("A", _FIRST, line="solid"),
        Entry("B", _SECOND, line="dashed"),
        Entry("in A alone", _FIRST),
        Entry("in B alone", _SECOND),
    ]
    rows = [*marks, *(Entry(name, None, words, key=name) for name, words in entries)]
    sheet = _sheet(volume.mapped(axes), together, extent, None, title)
    return sheet.drawn(partial(_opinions_on, both[0], both[1], names), rows)


def _sheet(volume: Volume, segmentation: Segmentation, extent: _Extent, window: tuple[float, float] | None, title: str) -> Sheet:
    box = _crop(extent, volume.geometry)
    return Sheet(volume, extent.weights, box, window or _window(volume, segmentation, extent, box), title)


def _on_image_grid(segmentation: Segmentation, geometry: Geometry) -> Segmentation:
    """The structures on the image's grid, whatever the order of their axes: from a contour grid the middle part of each voxel."""
    segmentation = segmentation.mapped(reorientation(segmentation.geometry, geometry.axis_codes))
    size, wanted = segmentation.geometry.size, geometry.size
    parts = [max(a // b, 1) for a, b in zip(size, wanted, strict=True)]
    if not is_same_place(segmentation.geometry, geometry.refined(parts)):
        raise GeometryError(
            f"the structures are on another grid than the image: {segmentation.geometry} against {geometry}",
            "Draw structures on the image that they were made for.",
        )
    pick = tuple(slice(p // 2, None, p) for p in reversed(parts))
    return Segmentation(geometry, tuple(layer[pick] for layer in segmentation.layers), segmentation.structures)


def _extent(segmentation: Segmentation) -> _Extent:
    """Which slices show most: each structure weighs the same, by its share of its own largest cross-section."""
    shape = segmentation.geometry.shape
    weights = tuple(np.zeros(n) for n in shape)
    occupied = tuple(np.zeros(n, dtype=bool) for n in shape)
    counts: dict[str, int] = {}
    for number, layer in enumerate(segmentation.layers):
        members = [s for s in segmentation.structures if s.layer == number]
        if not members:
            continue
        top = max(s.label for s in members) + 1
        lookup = np.zeros(int(max(top, int(layer.max(initial=0)) + 1)), dtype=np.int64)
        for position, structure in enumerate(members, start=1):
            lookup[structure.label] = position
        areas = _areas(layer, lookup, len(members) + 1)
        for position, structure in enumerate(members, start=1):
            counts[structure.name] = int(areas[0][:, position].sum())
            for axis in range(3):
                line = areas[axis][:, position]
                occupied[axis][:] |= line > 0
                weights[axis][:] += line / max(line.max(), 1)
    for axis, n in enumerate(shape):
        # Of equal slices the one nearest to the middle.
        weights[axis][:] -= 1e-6 * np.abs(np.arange(n) - (n - 1) / 2)
    bounds = tuple((int(np.flatnonzero(o)[0]), int(np.flatnonzero(o)[-1]) + 1) if o.any() else (0, o.size) for o in occupied)
    return _Extent((weights[0], weights[1], weights[2]), bounds, counts)


def _areas(layer: np.ndarray, lookup: np.ndarray, kinds: int) -> list[np.ndarray]:
    """Voxels of each kind in each slice along z, y, x; by slices, so that memory stays small."""
    nz, ny, nx = layer.shape
    result = [np.zeros((n, kinds), dtype=np.int64) for n in layer.shape]
    rows, columns = np.arange(ny)[:, None] * kinds, np.arange(nx)[None, :] * kinds
    for k in range(nz):
        part = layer[k]
        if not part.any():
            continue
        kind = lookup[part]
        result[0][k] = np.bincount(kind.ravel(), minlength=kinds)
        result[1] += np.bincount((kind + rows).ravel(), minlength=ny * kinds).reshape(ny, kinds)
        result[2] += np.bincount((kind + columns).ravel(), minlength=nx * kinds).reshape(nx, kinds)
    return result


def _crop(extent: _Extent, geometry: Geometry) -> tuple[slice, slice, slice]:
    """The part of the image to show: the structures with a margin."""
    slices = []
    for axis, (first, last) in enumerate(extent.bounds):
        spacing, n = geometry.spacing[2 - axis], geometry.shape[axis]
        margin = int(max(30.0, 0.22 * (last - first) * spacing) / spacing)
        slices.append(slice(max(0, first - margin), min(n, last + margin)))
    return (slices[0], slices[1], slices[2])


def _window(volume: Volume, segmentation: Segmentation, extent: _Extent, box: tuple[slice, slice, slice]) -> tuple[float, float]:
    """Values to draw black and white."""
    sample = volume.voxels[tuple(slice(None, None, max(1, n // 64)) for n in volume.voxels.shape)]
    values = sample.astype(np.float32).ravel() * volume.slope + volume.intercept
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    is_ct = volume.modality == "CT" or (volume.modality == "" and float(np.percentile(values, 2)) < -500)
    if is_ct:
        names = [s.name.lower() for s in segmentation.structures if extent.counts.get(s.name)]
        for word, choice in (("lung", LUNG), ("bone", BONE), ("body", WHOLE)):
            if names and sum(word in name for name in names) * 2 > len(names):
                return choice
        return SOFT if names else WHOLE
    inside = values[values > np.percentile(values, 40)]
    low, high = float(np.percentile(values, 1)), float(np.percentile(inside if inside.size else values, 99))
    return low, high if high > low else low + 1


def _structures_on(segmentation: Segmentation, plane: Plane) -> set[str]:
    """Structures on a plane, filled with a line around them; the names of those that are there."""
    layers = [plane.of(layer) for layer in segmentation.layers]
    shown = set()
    fill = np.zeros((*layers[0].shape, 4), dtype=np.float32)
    outlines: list[tuple[np.ndarray, Structure]] = []
    for structure in segmentation.structures:
        mask = layers[structure.layer] == structure.label
        if mask.any():
            shown.add(structure.name)
            # What covers most of the plane would drown the image.
            fill[mask] = (*shares(structure.rgb()), 0.22 if mask.mean() < 0.3 else 0.11)
            outlines.append((mask, structure))
    plane.fill(fill)
    for mask, structure in outlines:
        plane.outline(mask, structure.rgb(), linewidths=1.1)
    return shown


def _opinions_on(first: Segmentation, second: Segmentation, names: Sequence[str], plane: Plane) -> set[str]:
    """What two say of structures on a plane; the names of those that are there."""
    layers = [[plane.of(layer) for layer in each.layers] for each in (first, second)]
    shape = layers[0][0].shape
    fill = np.zeros((*shape, 4), dtype=np.float32)
    pairs = {}
    for name in names:
        pair = []
        for each, cut in zip((first, second), layers, strict=True):
            found = [cut[item.layer] == item.label for item in each if item.name == name]
            pair.append(found[0] if found else np.zeros(shape, dtype=bool))
        if pair[0].any() or pair[1].any():
            pairs[name] = pair
            fill[pair[0] & pair[1]] = (*shares(_FIRST), 0.15)
    for a, b in pairs.values():
        fill[a & ~b] = (*shares(_FIRST), 0.6)
        fill[b & ~a] = (*shares(_SECOND), 0.6)
    plane.fill(fill)
    for pair in pairs.values():
        plane.outline(pair[0], _FIRST, linewidths=2.2)  # seen on both sides of the other, and between its dashes
    for pair in pairs.values():
        plane.outline(pair[1], _SECOND, linewidths=1.2, linestyles="dashed")
    return set(pairs)


def _differences(first: Segmentation, second: Segmentation, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """How many voxels differ in each slice along z, y, x; None where none does."""
    totals = [np.zeros(length) for length in first.geometry.shape]
    empty = np.zeros(first.geometry.shape, dtype=bool)
    for name in names:
        off = np.logical_xor(*(each.mask(name) if name in each.names else empty for each in (first, second)))
        for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
            totals[axis] += np.count_nonzero(off, axis=others)
    return (totals[0], totals[1], totals[2]) if totals[0].any() else None


def _amount(count: int, geometry: Geometry) -> str:
    millilitres = count * float(np.prod(geometry.spacing)) / 1000
    return f"{millilitres:.0f} ml" if millilitres >= 10 else f"{millilitres:.1f} ml"
