"""Frames of pixels onto planes: by each frame's own place, exactly, whatever the order in which columns and rows are counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from delineate.dicom.contours import CLOSE, ON_SLICE
from delineate.dicom.planes import SHIFT, Planes
from delineate.errors import GeometryError


class NoFitError(GeometryError):
    """Pixels that are not those of the planes."""


class Spot(NamedTuple):
    """The slice of a frame, and the pixel of it where the frame's first one lies: column, row."""

    slice: int
    column: int
    row: int


class Placing:
    """How frames of one orientation and spacing lie in the pixels of planes.

    Raises `NoFitError` where axes or spacing differ by more than a tenth of a pixel over the frame.
    """

    def __init__(self, planes: Planes, orientation: tuple[float, ...], spacing: tuple[float, float], size: tuple[int, int]) -> None:
        self.planes = planes
        directions = np.array(orientation).reshape(2, 3) @ planes.axes * np.array(spacing)[:, None]
        steps = directions[:, :2] / np.array(planes.spacing)
        whole = np.rint(steps)
        off = max(float((np.abs(steps - whole) * (np.array(size)[:, None] - 1)).max()), 0.0)
        tipped = float((np.abs(directions[:, 2]) * (np.array(size) - 1)).max())
        close = max(CLOSE, ON_SLICE * planes.usual)
        if off > SHIFT or tipped > close or sorted(np.abs(whole).ravel().tolist()) != [0, 0, 1, 1] or abs(np.linalg.det(whole)) != 1:
            raise NoFitError("the frames' pixels are not those of the image", "Read them onto the series that they were made of.")
        self._close = close
        self._is_swapped = bool(whole[0, 0] == 0)
        self._signs = (int(whole[0].sum()), int(whole[1].sum()))

    def spot(self, position: np.ndarray) -> Spot:
        """Where a frame lies; `NoFitError` where that is between slices or between pixels."""
        place = position @ self.planes.axes
        along = self.planes.places[:, 2]
        number = int(np.abs(along - place[2]).argmin())
        if abs(float(along[number] - place[2])) > self._close:
            raise NoFitError(f"a frame lies at {place[2]:.6g} mm along the normal, where the image has no slice")
        first = (place[:2] - self.planes.places[number, :2]) / np.array(self.planes.spacing)
        whole = np.rint(first)
        if np.abs(first - whole).max() > SHIFT:
            raise NoFitError("the frames' pixels lie between those of the image")
        return Spot(number, int(whole[0]), int(whole[1]))

    def turned(self, part: np.ndarray, low: int, spot: Spot) -> tuple[np.ndarray, int, int]:
        """Rows of a frame, from its row `low`, as they lie in the slice; and their first row and column there."""
        rows, columns = part.shape
        along_columns, along_rows = self._signs
        if along_columns < 0:
            part = part[:, ::-1]
        if along_rows < 0:
            part = part[::-1]
        column = -(columns - 1) if along_columns < 0 else 0
        row = -(low + rows - 1) if along_rows < 0 else low
        if self._is_swapped:
            return part.T, spot.row + column, spot.column + row
        return part, spot.row + row, spot.column + column

    def window(self, part: np.ndarray, row: int, column: int) -> tuple[slice, slice, np.ndarray]:
        """What of it lies within the slice."""
        columns, rows = self.planes.size
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + part.shape[0], rows), min(column + part.shape[1], columns)
        inner = part[top - row : max(bottom - row, 0), left - column : max(right - column, 0)]
        return slice(top, top + inner.shape[0]), slice(left, left + inner.shape[1]), inner
