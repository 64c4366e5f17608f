"""The sheet that pictures are drawn on: three planes of an image on one scale, sides of the patient, a legend."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from delineate.errors import MissingPartError
from delineate.geometry import Geometry
from delineate.segmentation import Colour
from delineate.volume import Volume

_BACKGROUND, _INK, _FAINT = "#101014", "#f2f2f2", "#8a8a92"
_WIDTH, _HEIGHT, _DPI = 11.0, 5.6, 110  # inches for the planes, at most
_ROW, _COLUMN, _ROWS = 0.21, 2.1, 24  # the legend: inches per row and column, rows per column

_PLANES = (("axial", 0, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 2, "APSI"))


@dataclass(frozen=True)
class Entry:
    """A line of the legend; key : of what is faint where no plane shows it; line : ``solid`` or ``dashed``, else a square."""

    name: str
    colour: Colour | None
    words: str = ""
    key: str = ""
    line: str = ""


@dataclass(frozen=True)
class Plane:
    """One plane to draw on: `of` cuts it out of an array."""

    ax: Any
    axis: int
    index: int
    box: tuple[slice, slice, slice]

    def of(self, array: np.ndarray) -> np.ndarray:
        """The slice as it is looked at: rows downwards, the head up."""
        part = array[tuple(self.index if axis == self.axis else span for axis, span in enumerate(self.box))]
        return part if self.axis == 0 else part[::-1]

    def fill(self, colours: np.ndarray) -> None:
        """Of shape (rows, columns, 4)."""
        self.ax.imshow(colours, aspect="auto", interpolation="nearest")

    def outline(self, mask: np.ndarray, colour: Colour, **style: Any) -> None:
        """Around a mask; one voxel of margin closes it at the picture's edge."""
        padded = np.pad(mask, 1).astype(np.float32)
        rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
        self.ax.contour(columns, rows, padded, levels=[0.5], colors=[shares(colour)], **style)


@dataclass(frozen=True)
class Sheet:
    """A picture: three planes of an image and a legend.

    volume : in LPS; weights : of the slices along z, y, x, of which the heaviest are shown; box : the part shown, z, y, x;
    window : values drawn black and white
    """

    volume: Volume
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]
    box: tuple[slice, slice, slice]
    window: tuple[float, float]
    title: str

    def drawn(self, paint: Callable[[Plane], set[str]], entries: Sequence[Entry]) -> bytes:
        """A PNG; `paint` draws on a plane and says which entries it shows.

        Raises `MissingPartError` where matplotlib is not installed.
        """
        volume, box = self.volume, self.box
        panels, width, height = _layout([_plane_size(axis, box, volume.geometry) for _, axis, _ in _PLANES])
        head, foot = (0.42 if self.title else 0.14), 0.1
        body = max(height, min(len(entries) or 1, _ROWS) * _ROW + 0.3)
        total = (width + -(-(len(entries) or 1) // _ROWS) * _COLUMN + 0.1, body + head + foot)
        figure = _empty_figure(total)
        visible: set[str] = {""}
        for (name, axis, letters), panel in zip(_PLANES, panels, strict=True):
            if panel is not None:
                x, y, w, h = panel
                ax = figure.add_axes((x / total[0], (total[1] - head - y - h) / total[1], w / total[0], h / total[1]))
                index = int(np.clip(np.argmax(self.weights[axis]), 0, volume.geometry.shape[axis] - 1))
                plane = Plane(ax, axis, index, box)
                _show(plane, volume, self.window)
                visible |= paint(plane)
                _annotate(ax, name, index, letters)
        _legend(figure, entries, visible, width, total, head)
        if self.title:
            figure.text(0.1 / total[0], 1 - 0.13 / total[1], self.title, color=_INK, fontsize=11, va="top", ha="left", parse_math=False)
        data = io.BytesIO()
        figure.savefig(data, format="png", facecolor=_BACKGROUND, metadata={"Software": None})
        return data.getvalue()


def shares(colour: Colour) -> tuple[float, float, float]:
    """A colour's parts from 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


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


def _show(plane: Plane, volume: Volume, window: tuple[float, float]) -> None:
    grey = plane.of(volume.voxels).astype(np.float32) * volume.slope + volume.intercept
    grey = np.nan_to_num(grey, nan=window[0], posinf=window[1], neginf=window[0])
    plane.ax.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], aspect="auto", interpolation="bilinear")
    plane.ax.set_xlim(-0.5, grey.shape[1] - 0.5)
    plane.ax.set_ylim(grey.shape[0] - 0.5, -0.5)
    plane.ax.set_axis_off()


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


def _legend(figure: Any, entries: Sequence[Entry], visible: set[str], left: float, total: tuple[float, float], head: float) -> None:
    """Colours, names and words in columns; faint what no plane shows."""
    width, height = total
    if not entries:
        figure.text((left + 0.05) / width, 1 - (head + 0.1) / height, "no structures", color=_FAINT, fontsize=9, va="top")
        return
    for position, entry in enumerate(entries):
        column, row = divmod(position, _ROWS)
        x, y = left + 0.05 + column * _COLUMN, height - head - 0.3 - row * _ROW
        _mark(figure, entry, x, y, total)
        name = "".join(letter if letter.isprintable() else "?" for letter in entry.name)
        name = name if len(name) <= 22 else name[:21] + "…"
        colour = _INK if entry.key in visible else _FAINT
        # A name is no formula: matplotlib would fail at a broken one, between dollar signs.
        figure.text((x + 0.18) / width, y / height, name, color=colour, fontsize=8, va="center", parse_math=False)
        figure.text((x + _COLUMN - 0.12) / width, y / height, entry.words, color=_FAINT, fontsize=7.5, va="center", ha="right")


def _mark(figure: Any, entry: Entry, x: float, y: float, total: tuple[float, float]) -> None:
    """A square of an entry's colour, or a line."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    width, height = total
    if entry.colour is None:
        return
    colour = shares(entry.colour)
    if entry.line:
        dashes: Any = (0, (1.6, 1.1)) if entry.line == "dashed" else "solid"
        figure.add_artist(Line2D([x / width, (x + 0.13) / width], [y / height] * 2, color=colour, linewidth=1.8, linestyle=dashes))
    else:
        figure.add_artist(Rectangle((x / width, (y - 0.045) / height), 0.12 / width, 0.12 / height, color=colour))
