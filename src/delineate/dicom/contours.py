"""Closed contours in millimetres, and label maps on planes of pixels, in both directions.

Contours belong to the slices by their own plane, held against every slice's own position. A contour within a tenth of the
distance between slices (at least 0.01 mm) is on that slice. Of a structure that has contours between slices each slice takes
the contours of the nearest plane that it was drawn on, within half of the distance between these planes (5 mm at most): a
contour stands for a slab, as a voxel does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from delineate.dicom.filling import Polygons, Runs, joined, require_few, runs_inside
from delineate.dicom.planes import Planes
from delineate.dicom.threads import in_turn
from delineate.geometry import Geometry

ON_SLICE: Final = 0.1  # of the distance between slices
CLOSE: Final = 0.01  # mm, at least: what positions are rounded to
_HALF: Final = 0.5 + 1e-6
_THICKEST: Final = 10.0  # mm that a contour stands for at most: two parts of a structure may be far from each other


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
        """The unit vector across the contours, by their areas; zeros where they have none."""
        if not len(self):
            return np.zeros(3)
        starts, points = self.starts, self.points
        first = np.repeat(points[starts[:-1]], np.diff(starts), axis=0)
        after = np.arange(1, len(points) + 1)
        after[starts[1:] - 1] = starts[:-1]
        areas = np.add.reduceat(np.cross(points - first, points[after] - first), starts[:-1])
        sizes, vectors = np.linalg.eigh(areas.T @ areas)
        return vectors[:, -1] if sizes[-1] > 0 else np.zeros(3)


Part = Callable[[list[str]], Contours]
"""Gives contours when it is called, and adds sentences on what is odd about them."""


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


def shape_of(planes: Planes) -> tuple[int, int, int]:
    """Slices, rows, columns."""
    return len(planes), planes.size[1], planes.size[0]


def runs_of(parts: Iterable[Part], planes: Planes, names: Sequence[str], notes: list[str]) -> Runs:
    """The runs of pixels inside of contours, by the even-odd rule at the pixels' centres.

    parts : all contours of a structure are in one of them; few are in memory at once; names : of the structures, for the notes
    notes : gets a sentence on whatever is odd

    Where structures lie between slices, how far a contour reaches may depend on all others: those wait until the end.

    Raises
    ------
    ImageError
        Millions of sides that run through the whole image, which are no structures.
    """
    placed: list[_Placed] = []
    for part in in_turn(partial(_placed, planes=planes, names=names), parts):
        placed.append(part)
        notes += part.notes
        require_few(2 * sum(len(item.runs.first) for item in placed))
    usual = _usual(np.concatenate([np.zeros(0), *(part.heights for part in placed)]), planes.usual)
    later = (part.between for part in placed if len(part.between))
    between = in_turn(partial(_slabs_inside, planes=planes, usual=usual), later)
    return joined([*(part.runs for part in placed), *between])


@dataclass(frozen=True, eq=False)
class _Placed:
    """What is inside of contours on slices; those of structures between slices; mm along the normal of all that are level."""

    runs: Runs
    between: Contours
    heights: np.ndarray
    notes: list[str]


def _placed(part: Part, planes: Planes, names: Sequence[str]) -> _Placed:
    notes: list[str] = []
    contours = part(notes)
    places = contours.points @ planes.axes
    middle, is_level = _heights(contours, places[:, 2], planes)
    slices = _nearest(planes.places[:, 2], middle)
    is_simple, is_between = _judged(contours.structures, middle, is_level, slices, planes, names, notes)
    corners = _in_pixels(places, contours.starts, slices, planes)
    _note_small(contours.structures, contours.starts, corners, is_simple | (is_between & is_level), names, notes)
    numbers = np.flatnonzero(is_simple)
    inside = _inside(contours.structures, contours.starts, corners, numbers, slices[numbers], planes)
    return _Placed(inside, contours.taken(np.flatnonzero(is_between & is_level)), middle[is_level], notes)


def _in_pixels(places: np.ndarray, starts: np.ndarray, slices: np.ndarray, planes: Planes) -> np.ndarray:
    """Columns and rows of points, contours' first pixels' places taken off."""
    corners: np.ndarray = places[:, :2] - np.repeat(planes.places[slices, :2], np.diff(starts), axis=0)
    corners /= np.array(planes.spacing)
    return corners


def _inside(
    structures: np.ndarray, starts: np.ndarray, corners: np.ndarray, numbers: np.ndarray, slices: np.ndarray, planes: Planes
) -> Runs:
    """Of some of the contours, each in a slice."""
    if not np.array_equal(numbers, np.arange(len(structures))):
        starts, kept = gathered(starts, numbers)
        corners = corners[kept]
    return runs_inside(Polygons(structures[numbers], slices, starts, corners), shape_of(planes))


def _close(planes: Planes) -> float:
    """mm along the normal within which a contour is on a slice."""
    return max(CLOSE, ON_SLICE * planes.usual)


def _heights(contours: Contours, height: np.ndarray, planes: Planes) -> tuple[np.ndarray, np.ndarray]:
    """mm along the normal of each contour, and whether it is parallel to the slices."""
    if not len(contours):
        return np.zeros(0), np.zeros(0, dtype=bool)
    low, high = np.minimum.reduceat(height, contours.starts[:-1]), np.maximum.reduceat(height, contours.starts[:-1])
    return (low + high) / 2, high - low <= 2 * _close(planes)


def _judged(
    structures: np.ndarray,
    middle: np.ndarray,
    is_level: np.ndarray,
    slices: np.ndarray,
    planes: Planes,
    names: Sequence[str],
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Which contours are on their slice, as all of their structure are, and which are of a structure that lies between slices."""
    close, along = _close(planes), planes.places[:, 2]
    _note(structures[~is_level], "not parallel to the slices: left out", names, notes)
    off = np.abs(along[slices] - middle)
    is_outside = (middle < along[0] - planes.usual / 2 - close) | (middle > along[-1] + planes.usual / 2 + close)
    _note(structures[is_level & is_outside], "outside of the image's slices: left out", names, notes)
    is_off = is_level & ~is_outside & (off > close)
    _note(structures[is_off], "between slices: each slice takes the nearest contours of its structure", names, notes)
    is_on = is_level & (off <= close)
    beside = _beside(structures[is_on], slices[is_on], middle[is_on])
    _note(beside, "on one slice with others in another plane: each slice takes the nearest contours of its structure", names, notes)
    is_between = np.isin(structures, np.unique(np.append(structures[is_off], beside)))
    return is_on & ~is_between, is_between


def _slabs_inside(contours: Contours, planes: Planes, usual: float) -> Runs:
    """Of structures that lie between slices; all contours are parallel to these."""
    places = contours.points @ planes.axes
    middle, _ = _heights(contours, places[:, 2], planes)
    pairs = []
    for structure in np.unique(contours.structures):
        numbers = np.flatnonzero(contours.structures == structure)
        for number, chosen in _slabs(middle[numbers], planes, _close(planes), usual):
            pairs.append((numbers[chosen], np.full(len(chosen), number)))
    if not pairs:
        return joined([])
    taken = contours.taken(np.concatenate([one for one, _ in pairs]))
    slices = np.concatenate([other for _, other in pairs])
    corners = _in_pixels(taken.points @ planes.axes, taken.starts, slices, planes)
    return runs_inside(Polygons(taken.structures, slices, taken.starts, corners), shape_of(planes))


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


def _note_small(
    structures: np.ndarray, starts: np.ndarray, corners: np.ndarray, is_used: np.ndarray, names: Sequence[str], notes: list[str]
) -> None:
    if len(structures):
        low, high = np.minimum.reduceat(corners, starts[:-1]), np.maximum.reduceat(corners, starts[:-1])
        is_small = is_used & (np.ceil(low - 1e-6) > np.floor(high + 1e-6)).any(axis=1)
        _note(structures[is_small], "too small to hold the centre of a pixel", names, notes)


def _note(structures: np.ndarray, what: str, names: Sequence[str], notes: list[str]) -> None:
    for structure, count in zip(*np.unique(structures, return_counts=True), strict=True):
        notes.append(f"{names[int(structure)]}: {count} {'contours are' if count > 1 else 'contour is'} {what}")
