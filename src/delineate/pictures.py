"""A picture of structures on an image: three planes through them, contours, names and volumes.

Planes are shown as radiologists look at them: the patient's right on the left of axial and coronal planes, the head up,
the face to the left in the sagittal plane. One scale for all planes, so that lengths are comparable.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from delineate.errors import GeometryError, MissingPartError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation, Structure
from delineate.volume import Volume

LUNG, BONE, SOFT, WHOLE = (-1150.0, 350.0), (-400.0, 1200.0), (-160.0, 240.0), (-1000.0, 400.0)
"""Display windows for CT, HU."""

_BACKGROUND, _INK, _FAINT = "#101014", "#f2f2f2", "#8a8a92"
_WIDTH, _HEIGHT, _DPI = 11.0, 5.6, 110  # inches for the planes, at most
_ROW, _COLUMN, _ROWS = 0.21, 2.1, 24  # the legend: inches per row and column, rows per column

_PLANES = (("axial", 0, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 2, "APSI"))


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
    segmentation = _on_image_grid(segmentation, volume.geometry)
    axes = reorientation(volume.geometry, "LPS")
    volume, segmentation = volume.mapped(axes), segmentation.mapped(axes)
    extent = _extent(segmentation)
    box = _crop(extent, volume.geometry)
    low, high = window or _window(volume, segmentation, extent, box)

    panels, width, height = _layout([_plane_size(axis, box, volume.geometry) for _, axis, _ in _PLANES])
    entries = len(segmentation.structures) or 1
    head, foot = (0.42 if title else 0.14), 0.1
    body = max(height, min(entries, _ROWS) * _ROW + 0.3)
    total = (width + -(-entries // _ROWS) * _COLUMN + 0.1, body + head + foot)
    figure = _empty_figure(total)
    visible: set[str] = set()
    for (name, axis, letters), panel in zip(_PLANES, panels, strict=True):
        if panel is not None:
            x, y, w, h = panel
            ax = figure.add_axes((x / total[0], (total[1] - head - y - h) / total[1], w / total[0], h / total[1]))
            index = int(np.clip(np.argmax(extent.weights[axis]), 0, volume.geometry.shape[axis] - 1))
            visible |= _draw(ax, volume, segmentation, axis, index, box, (low, high))
            _annotate(ax, name, index, letters)
    _legend(figure, segmentation, extent, visible, width, total, head)
    if title:
        figure.text(0.1 / total[0], 1 - 0.13 / total[1], title, color=_INK, fontsize=11, va="top", ha="left", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor=_BACKGROUND, metadata={"Software": None})
    return data.getvalue()


def _empty_figure(size: tuple[float, float]) -> Any:
    """A matplotlib figure of `size` inches that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPartError("matplotlib, which draws pictures,", "pictures") from None
    figure = Figure(figsize=size, dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def _on_image_grid(segmentation: Segmentation, geometry: Geometry) -> Segmentation:
    """The structures on the image's grid: from a contour grid the middle part of each voxel is taken."""
    size, wanted = segmentation.geometry.size, geometry.size
    if size == wanted:
        return Segmentation(geometry, segmentation.layers, segmentation.structures)
    parts = [a // b for a, b in zip(size, wanted, strict=True)]
    if any(a != b * p for a, b, p in zip(size, wanted, parts, strict=True)):
        raise GeometryError(
            f"the structures are on a grid of {size} voxels, the image on one of {wanted}",
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


def _plane_size(axis: int, box: tuple[slice, slice, slice], geometry: Geometry) -> tuple[float, float]:
    """Width and height of a plane, mm."""
    extents = [(b.stop - b.start) * s for b, s in zip(box, reversed(geometry.spacing), strict=True)]
    height, width = [e for a, e in enumerate(extents) if a != axis]
    return width, height


def _layout(sizes: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float, float, float] | None], float, float]:
    """Places (x, y from the top, width, height) of the axial, coronal and sagittal plane, and the room they take, inches.

    Side by side on one scale; thin ones above each other; one that would be a mere line is left out.
    """
    longest = max(max(size) for size in sizes)
    kept = [min(w, h) > 0.035 * longest for w, h in sizes]
    if not any(kept):
        kept[int(np.argmax([w * h for w, h in sizes]))] = True
    gap, label = 0.15, 0.22
    stacked = all(kept) and sizes[1][1] + sizes[2][1] < 0.8 * sizes[0][1]
    used = [size if keep else (0.0, 0.0) for size, keep in zip(sizes, kept, strict=True)]
    across = used[0][0] + max(used[1][0], used[2][0]) if stacked else sum(w for w, _ in used)
    scale = min((_WIDTH - 4 * gap) / across, _HEIGHT / max(h for _, h in used))
    room = max(h for _, h in used) * scale
    places: list[tuple[float, float, float, float] | None] = []
    x, y = 0.1, label
    for number, ((w, h), keep) in enumerate(zip(used, kept, strict=True)):
        if not keep:
            places.append(None)
            continue
        if stacked and number == 2:
            y += sizes[1][1] * scale + label + gap
            places.append((x, y, w * scale, h * scale))
            continue
        places.append((x, y if stacked else label + (room - h * scale) / 2, w * scale, h * scale))
        x += 0 if stacked and number == 1 else w * scale + gap
    if stacked:
        x += max(used[1][0], used[2][0]) * scale + gap
    return places, x, room + label


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


def _plane(array: np.ndarray, axis: int, index: int, box: tuple[slice, slice, slice]) -> np.ndarray:
    """One slice as it is looked at: rows downwards, the head up."""
    part = array[tuple(index if a == axis else b for a, b in enumerate(box))]
    return part if axis == 0 else part[::-1]


def _draw(
    ax: Any, volume: Volume, segmentation: Segmentation, axis: int, index: int, box: tuple[slice, slice, slice], window: tuple[float, float]
) -> set[str]:
    """Draw one plane; the names of the structures in it."""
    grey = _plane(volume.voxels, axis, index, box).astype(np.float32) * volume.slope + volume.intercept
    grey = np.nan_to_num(grey, nan=window[0], posinf=window[1], neginf=window[0])
    ax.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], aspect="auto", interpolation="bilinear")
    layers = [_plane(layer, axis, index, box) for layer in segmentation.layers]
    shown = set()
    fill = np.zeros((*grey.shape, 4), dtype=np.float32)
    outlines: list[tuple[np.ndarray, Structure]] = []
    for structure in segmentation.structures:
        mask = layers[structure.layer] == structure.label
        if mask.any():
            shown.add(structure.name)
            # What covers most of the plane would drown the image.
            fill[mask] = (*(v / 255 for v in structure.rgb()), 0.22 if mask.mean() < 0.3 else 0.11)
            outlines.append((mask, structure))
    ax.imshow(fill, aspect="auto", interpolation="nearest")
    for mask, structure in outlines:
        # One voxel of margin closes contours at the picture's edge.
        padded = np.pad(mask, 1).astype(np.float32)
        rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
        ax.contour(columns, rows, padded, levels=[0.5], colors=[tuple(v / 255 for v in structure.rgb())], linewidths=1.1)
    ax.set_xlim(-0.5, grey.shape[1] - 0.5)
    ax.set_ylim(grey.shape[0] - 0.5, -0.5)
    ax.set_axis_off()
    return shown


def _annotate(ax: Any, name: str, index: int, letters: Sequence[str]) -> None:
    """Sides of the patient at the edges, and what plane it is."""
    from matplotlib.patheffects import withStroke

    style = {"color": _INK, "fontsize": 9, "transform": ax.transAxes, "path_effects": [withStroke(linewidth=2.2, foreground=_BACKGROUND)]}
    places = (
        (0.015, 0.5, "left", "center"),
        (0.985, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, horizontal, vertical) in zip(letters, places, strict=True):
        ax.text(x, y, letter, ha=horizontal, va=vertical, **style)
    ax.text(0.015, 1.008, f"{name} {index + 1}", ha="left", va="bottom", color=_FAINT, fontsize=7.5, transform=ax.transAxes)


def _legend(
    figure: Any, segmentation: Segmentation, extent: _Extent, visible: set[str], left: float, total: tuple[float, float], head: float
) -> None:
    """Colours, names and volumes in columns; faint what no plane shows."""
    from matplotlib.patches import Rectangle

    width, height = total
    if not segmentation.structures:
        figure.text((left + 0.05) / width, 1 - (head + 0.1) / height, "no structures", color=_FAINT, fontsize=9, va="top")
        return
    voxel = float(np.prod(segmentation.geometry.spacing)) / 1000
    for position, structure in enumerate(segmentation.structures):
        column, row = divmod(position, _ROWS)
        x, y = left + 0.05 + column * _COLUMN, height - head - 0.3 - row * _ROW
        millilitres = extent.counts.get(structure.name, 0) * voxel
        colour = _INK if structure.name in visible else _FAINT
        figure.add_artist(
            Rectangle((x / width, (y - 0.045) / height), 0.12 / width, 0.12 / height, color=[v / 255 for v in structure.rgb()])
        )
        name = "".join(letter if letter.isprintable() else "?" for letter in structure.name)
        name = name if len(name) <= 22 else name[:21] + "…"
        # A name is no formula: matplotlib would fail at a broken one, between dollar signs.
        figure.text((x + 0.18) / width, y / height, name, color=colour, fontsize=8, va="center", parse_math=False)
        amount = f"{millilitres:.0f} ml" if millilitres >= 10 else f"{millilitres:.1f} ml"
        figure.text((x + _COLUMN - 0.12) / width, y / height, amount, color=_FAINT, fontsize=7.5, va="center", ha="right")
