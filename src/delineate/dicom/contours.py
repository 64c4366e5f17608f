"""Closed contours in millimetres, and label maps on planes of pixels, in both directions.

Contours belong to the slices by their own plane, held against every slice's own position. A contour within a tenth of the
distance between slices (at least 0.01 mm) is on that slice. Of a structure that has contours between slices each slice takes
the contours of the nearest plane that it was drawn on, within half of the distance between these planes (5 mm at most): a
contour stands for a slab, as a voxel does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from delineate.dicom.filling import Polygons, layers_of, runs_inside
from delineate.dicom.planes import Planes
from delineate.geometry import Geometry

ON_SLICE: Final = 0.1  # of the distance between slices
CLOSE: Final = 0.01  # mm, at least: what positions are rounded to
_HALF: Final = 0.5 + 1e-6
_THICKEST: Final = 10.0  # mm that a contour stands for at most: two parts of a structure may be far from each other
_LONGEST: Final = 64  # contours that tell which way the planes lie


@dataclass(frozen=True, eq=False)
class Contours:
    """Closed contours of several structures.

    structures : int, shape (contours,), from 0; starts : int, shape (contours + 1,), where each contour's points begin
    points : float64, shape (points, 3), LPS mm
    """

    structures: np.ndarray
    starts: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.structures)

    def taken(self, numbers: np.ndarray) -> Contours:
        """Some of the contours, in that order, any of them more than once."""
        starts, places = gathered(self.starts, numbers)
        return Contours(self.structures[numbers], starts, self.points[places])

    def normal(self) -> np.ndarray:
        """The unit vector across the longest contours, by their areas; zeros where they have none."""
        longest = self.taken(np.argsort(-np.diff(self.starts), kind="stable")[:_LONGEST])
        if not len(longest):
            return np.zeros(3)
        starts, points = longest.starts, longest.points
        first = np.repeat(points[starts[:-1]], np.diff(starts), axis=0)
        after = np.arange(1, len(points) + 1)
        after[starts[1:] - 1] = starts[:-1]
        areas = np.add.reduceat(np.cross(points - first, points[after] - first), starts[:-1])
        sizes, vectors = np.linalg.eigh(areas.T @ areas)
        return vectors[:, -1] if sizes[-1] > 0 else np.zeros(3)


def gathered(starts: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some of the lists that lie one after the other: where each begins when they are put together, and their elements."""
    sizes = np.diff(starts)[numbers]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    return begins, np.arange(begins[-1]) + np.repeat(starts[:-1][numbers] - begins[:-1], sizes)


def planes_over(geometry: Geometry) -> tuple[Planes, bool]:
    """A grid's slices, and whether they are in the other order: planes are sorted along their normal."""
    matrix = geometry.matrix
    is_turned = bool(np.dot(np.cross(matrix[:, 0], matrix[:, 1]), matrix[:, 2]) < 0)
    slices = np.arange(geometry.size[2])[:: -1 if is_turned else 1]
    positions = geometry.to_world(np.stack([0 * slices, 0 * slices, slices], axis=1))
    across = (geometry.spacing[0], geometry.spacing[1])
    orientation = (*matrix[:, 0].tolist(), *matrix[:, 1].tolist())
    return Planes(geometry.size[:2], across, orientation, positions, np.zeros(len(slices)), geometry.spacing[2]), is_turned


def in_millimetres(planes: Planes, slices: np.ndarray, starts: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """LPS mm of polygons' corners (columns, rows) in slices of the planes."""
    axes = planes.axes[:, :2] * np.array(planes.spacing)
    points: np.ndarray = corners @ axes.T
    points += np.repeat(planes.positions[slices], np.diff(starts), axis=0)
    return points


def filled(contours: Contours, planes: Planes, names: Sequence[str], notes: list[str]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """What is inside of contours, by the even-odd rule at the pixels' centres.

    Parameters
    ----------
    names : of the structures, for the notes; notes : gets a sentence on whatever is odd

    Returns
    -------
    layers, places : as `filling.layers_of`
    """
    shape = (len(planes), planes.size[1], planes.size[0])
    polygons = _in_pixels(contours, planes, names, notes)
    return layers_of(runs_inside(polygons, shape), len(names), shape)


def _in_pixels(contours: Contours, planes: Planes, names: Sequence[str], notes: list[str]) -> Polygons:
    places = contours.points @ planes.axes
    numbers, slices = _on_slices(contours, places[:, 2], planes, names, notes)
    if np.array_equal(numbers, np.arange(len(contours))):
        starts = contours.starts
    else:
        starts, kept = gathered(contours.starts, numbers)
        places = places[kept]
    corners = places[:, :2] - np.repeat(planes.places[slices, :2], np.diff(starts), axis=0)
    corners /= np.array(planes.spacing)
    structures = contours.structures[numbers]
    _note_small(structures, starts, corners, names, notes)
    return Polygons(structures, slices, starts, corners)


def _on_slices(
    contours: Contours, height: np.ndarray, planes: Planes, names: Sequence[str], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Which contours are filled in which slices: pairs."""
    if not len(contours):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    low, high = np.minimum.reduceat(height, contours.starts[:-1]), np.maximum.reduceat(height, contours.starts[:-1])
    middle, along = (low + high) / 2, planes.places[:, 2]
    close = max(CLOSE, ON_SLICE * planes.usual)
    is_level = high - low <= 2 * close
    _note(contours.structures[~is_level], "not parallel to the slices: left out", names, notes)
    slices = _nearest(along, middle)
    off = np.abs(along[slices] - middle)
    is_outside = (middle < along[0] - planes.usual / 2 - close) | (middle > along[-1] + planes.usual / 2 + close)
    _note(contours.structures[is_level & is_outside], "outside of the image's slices: left out", names, notes)
    is_between = is_level & ~is_outside & (off > close)
    _note(contours.structures[is_between], "between slices: each slice takes the nearest contours of its structure", names, notes)
    is_on = is_level & (off <= close)
    beside = _beside(contours.structures[is_on], slices[is_on], middle[is_on])
    _note(beside, "on one slice with others in another plane: each slice takes the nearest contours of its structure", names, notes)
    between = np.unique(np.append(contours.structures[is_between], beside))
    simple = is_on & ~np.isin(contours.structures, between)
    pairs = [(np.flatnonzero(simple), slices[simple])]
    usual = _usual(middle[is_level], planes.usual)
    for structure in between:
        numbers = np.flatnonzero(is_level & (contours.structures == structure))
        pairs += [(numbers[chosen], np.full(len(chosen), number)) for number, chosen in _slabs(middle[numbers], planes, close, usual)]
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])


def _beside(structures: np.ndarray, slices: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The structures of contours that are on a slice with others of theirs, but in another plane: taken together they would be holes."""
    order = np.lexsort((middle, slices, structures))
    structures, slices, middle = structures[order], slices[order], middle[order]
    is_same = (structures[1:] == structures[:-1]) & (slices[1:] == slices[:-1])
    beside: np.ndarray = structures[1:][is_same & (np.diff(middle) > CLOSE)]
    return beside


def _usual(heights: np.ndarray, otherwise: float) -> float:
    """The usual distance between planes that were drawn on, mm; an upper one, in case some planes were drawn on twice."""
    steps = np.diff(np.sort(heights))
    steps = steps[steps > CLOSE]
    return float(np.quantile(steps, 0.75, method="lower")) if len(steps) else otherwise


def _slabs(middle: np.ndarray, planes: Planes, close: float, otherwise: float) -> Iterator[tuple[int, np.ndarray]]:
    """Of each slice that a structure is in, the contours of its nearest plane."""
    order = np.argsort(middle)
    begins = np.flatnonzero(np.diff(middle[order], prepend=-np.inf) > min(close, CLOSE))
    drawn = middle[order][begins]
    reach = max(close, _HALF * min(_usual(drawn, otherwise), _THICKEST))
    groups = np.split(order, begins[1:])
    for number, place in enumerate(planes.places[:, 2]):
        nearest = int(_nearest(drawn, np.array([place]))[0])
        if abs(drawn[nearest] - place) <= reach:
            yield number, groups[nearest]


def _nearest(sorted_values: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The number of the nearest of sorted values, the lower one of two."""
    after = np.clip(np.searchsorted(sorted_values, values), 1, max(len(sorted_values) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(sorted_values) - 1)
    nearest: np.ndarray = np.where(values - sorted_values[before] <= sorted_values[after] - values, before, after)
    return nearest


def _note_small(structures: np.ndarray, starts: np.ndarray, corners: np.ndarray, names: Sequence[str], notes: list[str]) -> None:
    if len(structures):
        low, high = np.minimum.reduceat(corners, starts[:-1]), np.maximum.reduceat(corners, starts[:-1])
        is_small = (np.ceil(low - 1e-6) > np.floor(high + 1e-6)).any(axis=1)
        _note(structures[is_small], "too small to hold the centre of a pixel", names, notes)


def _note(structures: np.ndarray, what: str, names: Sequence[str], notes: list[str]) -> None:
    for structure, count in zip(*np.unique(structures, return_counts=True), strict=True):
        notes.append(f"{names[int(structure)]}: {count} {'contours are' if count > 1 else 'contour is'} {what}")
