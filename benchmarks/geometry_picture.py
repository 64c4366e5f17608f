"""The picture of ``docs/geometry.md``: one ring as it comes back from a file of ours and from one of a peer."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

INSIDE, LOST, ADDED, GROUND = (90, 130, 180), (225, 70, 60), (245, 180, 40), (24, 24, 30)


def coloured(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """RGB of one slice: what is right, lost and added."""
    image = np.empty((*wanted.shape, 3), np.uint8)
    for colour, where in ((GROUND, ~wanted & ~found), (INSIDE, wanted & found), (LOST, wanted & ~found), (ADDED, ~wanted & found)):
        image[where] = colour
    return image


def picture(wanted: np.ndarray, found: Mapping[str, np.ndarray]) -> bytes:
    """A PNG of the slice on which most differs, a panel for each of `found`; masks of shape (slices, rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    number = int(sum((mask != wanted).sum(axis=(1, 2)) for mask in found.values()).argmax())
    figure = Figure(figsize=(3.2 * len(found), 3.0), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    for place, (name, mask) in enumerate(found.items(), 1):
        axes = figure.add_subplot(1, len(found), place)
        axes.imshow(coloured(wanted[number], mask[number]), interpolation="nearest")
        lost, added = np.count_nonzero(wanted & ~mask), np.count_nonzero(~wanted & mask)
        axes.set_title(f"{name}: {lost} lost, {added} added", fontsize=9)
        axes.set_axis_off()
    figure.tight_layout(pad=0.6)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()
