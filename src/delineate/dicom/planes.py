"""Where the planes of a stack lie, each by its own position: even or not, with gaps, doubled, sheared.

A `Geometry` is a regular grid; slices need not be. `Planes` keeps every plane's own place, so that contours and labels come
back onto the very slices they were drawn on, and says what the grid is where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from delineate.geometry import Geometry, Vector

UNEVEN: Final = 0.02  # of the distance between planes: scanners round positions
SHIFT: Final = 0.1  # of a pixel, across the normal: what rounded positions and cosines add up to
SAME: Final = 0.02  # of the distance between planes: closer ones are at one place
GAP: Final = 1.5  # of the usual distance, in slice thicknesses where these are known


@dataclass(frozen=True, eq=False)
class Planes:
    """Parallel planes of pixels, sorted along their normal.

    Parameters
    ----------
    size : columns, rows
    spacing : between columns, between rows, mm
    orientation : cosines of the directions in which columns and rows are counted, LPS
    positions : ndarray, shape (planes, 3); centre of each plane's first pixel, LPS mm, sorted along `normal`
    thickness : ndarray, shape (planes,); mm, 0 where nobody says
    step : mm between planes for a stack of one, whose positions do not tell it
    """

    size: tuple[int, int]
    spacing: tuple[float, float]
    orientation: tuple[float, ...]
    positions: np.ndarray
    thickness: np.ndarray
    step: float = 1.0

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def axes(self) -> np.ndarray:
        """3 x 3; columns are the unit vectors along columns, along rows, and the normal."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.stack([row, column, np.cross(row, column)], axis=1)

    @cached_property
    def places(self) -> np.ndarray:
        """Shape (planes, 3): mm along columns, rows and normal of each plane's first pixel."""
        places: np.ndarray = self.positions @ self.axes
        return places

    @cached_property
    def distances(self) -> np.ndarray:
        """Shape (planes - 1,): mm between neighbours along the normal."""
        return np.diff(self.places[:, 2])

    @property
    def usual(self) -> float:
        """The middle of the distances between neighbours that are not at one place, mm; `step` for a stack of one."""
        apart = self.distances[self.distances > 1e-4]
        return float(np.median(apart)) if len(apart) else self.step

    @cached_property
    def doubled(self) -> list[tuple[int, int]]:
        """Neighbours at one place."""
        return [(int(i), int(i) + 1) for i in np.flatnonzero(self.distances <= SAME * self.usual)]

    @cached_property
    def gaps(self) -> list[tuple[int, int]]:
        """Neighbours between which planes are missing.

        Distances are held against the thickness of the slices where it is known: a scan may change both together. Of what
        is left the shorter ones are the usual ones, or many missing planes would make a rule of their gaps.
        """
        if len(self) < 3:
            return []
        cover = np.maximum(self.thickness[:-1], self.thickness[1:])
        relative = self.distances / cover if (cover > 0).all() else self.distances
        usual = np.quantile(relative, 0.25, method="lower")
        return [(int(i), int(i) + 1) for i in np.flatnonzero(relative > GAP * usual)] if usual > 0 else []

    @cached_property
    def shear(self) -> Vector:
        """mm along columns, along rows for each mm along the normal, and the largest shift that is left then, in pixels."""
        if len(self) < 2:
            return (0.0, 0.0, 0.0)
        along = self.places[:, 2] - self.places[0, 2]
        across = self.places[:, :2] - self.places[0, :2]
        rate = (along @ across) / max(float(along @ along), 1e-12)
        rest = np.abs(across - along[:, None] * rate) / np.array(self.spacing)
        return (float(rate[0]), float(rate[1]), float(rest.max()))

    @property
    def tilt(self) -> float:
        """Degrees between the normal and the way from the first plane to the last."""
        return float(np.degrees(np.arctan(np.hypot(*self.shear[:2]))))

    @cached_property
    def is_straight(self) -> bool:
        """Whether the planes lie over each other."""
        across = np.abs(self.places[:, :2] - self.places[0, :2])
        return bool((across <= SHIFT * np.array(self.spacing)).all())

    @cached_property
    def is_even(self) -> bool:
        """Whether the distances are the same."""
        if len(self) < 3:
            return True
        along = self.places[:, 2]
        step = (along[-1] - along[0]) / (len(self) - 1)
        return bool(np.abs(along - along[0] - step * np.arange(len(self))).max() <= UNEVEN * step)

    @cached_property
    def geometry(self) -> Geometry | None:
        """The grid, None where the planes are on none."""
        if self.doubled or not (self.is_straight and self.is_even):
            return None
        along = self.places[:, 2]
        step = (along[-1] - along[0]) / (len(self) - 1) if len(self) > 1 else self.step
        return Geometry((*self.size, len(self)), (*self.spacing, step), tuple(self.positions[0]), tuple(self.axes.ravel()))

    def plane(self, index: int) -> Geometry:
        """One plane as a grid of one slice."""
        return Geometry((*self.size, 1), (*self.spacing, self.usual), tuple(self.positions[index]), tuple(self.axes.ravel()))

    def taken(self, indices: Sequence[int]) -> Planes:
        """Some of the planes, in their order."""
        kept = np.asarray(indices)
        return Planes(self.size, self.spacing, self.orientation, self.positions[kept], self.thickness[kept], self.step)

    def where(self, index: int) -> str:
        """A plane's place in words: mm along the normal."""
        return f"{self.places[index, 2]:.6g} mm"
