"""The grid of a series out of its instances' metadata (DICOM JSON), as the reader of DICOM makes it.

Slices sorted along their normal; x along columns, y along rows. What is uneven, tilted, doubled or in frames has no grid
here: who needs it then reads the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from delineate.datastore.dicomweb_json import numbers
from delineate.errors import GeometryError
from delineate.geometry import Geometry

_POSITION, _ORIENTATION, _SPACING, _ROWS, _COLUMNS = "00200032", "00200037", "00280030", "00280010", "00280011"
_THICKNESS, _BETWEEN = "00180050", "00180088"
_UNEVEN: Final = 0.02  # of the distance between slices
_SHIFT: Final = 0.1  # of a pixel
_FARTHEST: Final = 1e9
_TURNED: Final = 1e-3  # per cosine


def grid_of(instances: Sequence[Any]) -> Geometry | None:
    """The grid of one image; None where it has none, or where these are several images."""
    if not instances:
        return None
    rows = [_numbers_of(data) for data in instances]
    if any(len(row) != 13 for row in rows):
        return None
    table = np.array(rows)
    if not (np.abs(table) < _FARTHEST).all():  # not finite either
        return None
    first = table[0]
    same = np.abs(table[:, 3:] - first[3:])
    if (same[:, :6] > _TURNED).any() or (same[:, 6:] > 1e-4 * np.abs(first[9:])).any():
        return None
    axes = np.stack([first[3:6], first[6:9], np.cross(first[3:6], first[6:9])], axis=1)
    spacing = first[[10, 9]]  # between columns, between rows
    places = table[:, :3] @ axes
    order = np.argsort(places[:, 2], kind="stable")
    positions, places = table[order, :3], places[order]
    step = _step(places, spacing, instances[0])
    if step is None:
        return None
    size = (int(first[12]), int(first[11]), len(table))
    try:
        return Geometry(size, (float(spacing[0]), float(spacing[1]), step), tuple(positions[0]), tuple(axes.ravel()))
    except GeometryError:
        return None


def _numbers_of(data: Any) -> list[float]:
    """x, y, z; six cosines; distance between rows, between columns; rows, columns."""
    found: list[float] = []
    for tag, count in ((_POSITION, 3), (_ORIENTATION, 6), (_SPACING, 2), (_ROWS, 1), (_COLUMNS, 1)):
        values = numbers(data, tag)
        if len(values) != count:
            return []
        found += values
    return found


def _step(places: np.ndarray, spacing: np.ndarray, data: Any) -> float | None:
    """mm between slices; None where they are uneven, doubled, or not over each other."""
    if len(places) == 1:
        given = [*numbers(data, _BETWEEN), *numbers(data, _THICKNESS), 1.0]
        return next((value for value in given if value > 0), 1.0)
    along = places[:, 2] - places[0, 2]
    step = float(along[-1]) / (len(places) - 1)
    is_even = step > 0 and np.abs(along - step * np.arange(len(places))).max() <= _UNEVEN * step
    is_straight = (np.abs(places[:, :2] - places[0, :2]) <= _SHIFT * spacing).all()
    return step if is_even and is_straight else None
