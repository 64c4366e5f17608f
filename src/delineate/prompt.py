"""Clicks and boxes: read from the parameters of a request, checked against the image's grid, carried onto a model's.

Clients send indices of the image as it lies in its file, in the order x, y, z, and name them in one of these ways:

- ``foreground`` and ``background``: a list of points, or lists by label;
- the name of one of the model's labels: a list of points in it;
- ``points`` with ``point_labels``: 0 for outside, else inside;
- ``roi``: a box ``[x0, x1, y0, y1, z0, z1]`` from x0 up to, not including, x1; two corners; or boxes by label. A voxel is in it where its
  centre is; of a grid that is turned against millimetres a block of voxels around the box is taken.

``label`` says which label points and boxes without one are meant for. ``prompt_space`` says in which frame all of them are: ``index``, or
millimetres in ``lps`` or ``ras``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np

from delineate.errors import InputError
from delineate.geometry import Geometry

MOST: Final = 10_000  # points and boxes of one request
SPACES: Final = ("index", "lps", "ras")

_TIE: Final = 1e-6  # of a voxel; a corner that is calculated from a voxel's centre is on it
_RAS: Final = np.array([-1.0, -1.0, 1.0])
_SHAPE_ADVICE: Final = "Send points like [[x, y, z], …] and boxes like [x0, x1, y0, y1, z0, z1]."

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Click:
    """A voxel that a person pointed at.

    index : x, y, z; inside : whether it belongs to the structure; label : which structure, empty where none was named.
    """

    index: Index
    inside: bool = True
    label: str = ""


@dataclass(frozen=True)
class Box:
    """A block of voxels, from `first` to `last`, both included, x, y, z; label : as of a click."""

    first: Index
    last: Index
    label: str = ""


@dataclass(frozen=True)
class Prompts:
    """What a request points at, on one grid."""

    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()

    def on(self, image: Geometry, seen: Geometry) -> Prompts:
        """The same places on another grid: exact where its axes are turned, the nearest voxel where its spacing differs.

        image : the grid they are on; seen : the other.
        """
        if image == seen:
            return self
        clicks = tuple(Click(_carried(click.index, image, seen), click.inside, click.label) for click in self.clicks)
        return Prompts(clicks, tuple(_carried_box(box, image, seen) for box in self.boxes))


def read_prompts(params: Mapping[str, Any], geometry: Geometry, labels: Iterable[str] = ()) -> Prompts:
    """The prompts of a request.

    Parameters
    ----------
    params : the request's parameters, as parsed from JSON
    geometry : of the image they point into
    labels : names that the model knows

    Raises
    ------
    InputError
        Not of a known form, or outside of the image: in this case the point and the image's size are named.
    """
    return _Reader(params, geometry, tuple(labels)).read()


class _Reader:
    def __init__(self, params: Mapping[str, Any], geometry: Geometry, labels: tuple[str, ...]) -> None:
        self._params = params
        self._geometry = geometry
        self._labels = labels
        self._space = params.get("prompt_space", "index")
        if self._space not in SPACES:
            raise InputError("the prompt_space is not known", f"Use one of {', '.join(SPACES)}.")
        label = params.get("label")
        self._label = label if isinstance(label, str) and label in labels else ""
        self._count = 0

    def read(self) -> Prompts:
        clicks = [*self._named("foreground", True), *self._named("background", False)]
        for label in self._labels:
            if label not in ("foreground", "background", "roi", "points"):
                clicks += self._clicks(label, _parsed(self._params.get(label)), True, label)
        return Prompts((*clicks, *self._numbered()), tuple(self._boxes()))

    def _named(self, name: str, inside: bool) -> list[Click]:
        value = _parsed(self._params.get(name))
        if not isinstance(value, Mapping):
            return self._clicks(name, value, inside, self._label)
        return [click for label, points in value.items() for click in self._clicks(name, points, inside, str(label))]

    def _numbered(self) -> list[Click]:
        value, kinds = _parsed(self._params.get("points")), _parsed(self._params.get("point_labels"))
        found = self._clicks("points", value, True, self._label)
        if kinds is None or not found:
            return found
        if not isinstance(kinds, list) or len(kinds) != len(found) or any(not isinstance(kind, int) for kind in kinds):
            raise InputError("point_labels do not go with the points", "Send one whole number for each point, 0 for outside.")
        return [Click(click.index, kind != 0, click.label) for click, kind in zip(found, kinds, strict=True)]

    def _clicks(self, name: str, value: Any, inside: bool, label: str) -> list[Click]:
        points = self._numbers(name, value, 3)
        return [Click(self._voxel(name, point), inside, label) for point in points]

    def _voxel(self, name: str, point: np.ndarray) -> Index:
        index = self._index(point)
        nearest = np.floor(index + 0.5)
        if (nearest < 0).any() or (nearest >= self._geometry.size).any():
            raise InputError(
                f"a point of {name[:64]} is outside of the image: {_words(index)} of {_words(self._geometry.size)} voxels",
                "Send indices x, y, z of the image, from 0, or say in which prompt_space the points are.",
            )
        return int(nearest[0]), int(nearest[1]), int(nearest[2])

    def _index(self, point: np.ndarray) -> np.ndarray:
        if self._space == "index":
            return point
        return self._geometry.to_index(point * _RAS if self._space == "ras" else point)

    def _boxes(self) -> list[Box]:
        value = _parsed(self._params.get("roi"))
        given = value if isinstance(value, Mapping) else {self._label: value}
        return [self._box(box, str(label)) for label, boxes in given.items() for box in self._corners(boxes)]

    def _corners(self, value: Any) -> list[np.ndarray]:
        """Boxes as pairs of corners, shape (2, 3)."""
        if not value:
            return []
        if isinstance(value, list) and len(value) == 6 and not isinstance(value[0], list):
            return [flat.reshape(3, 2).T for flat in self._numbers("roi", [value], 6)]
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], list) and len(value[0]) == 3:
            return [np.stack(self._numbers("roi", value, 3))]
        return [flat.reshape(3, 2).T for flat in self._numbers("roi", value, 6)]

    def _box(self, corners: np.ndarray, label: str) -> Box:
        ends = np.array([self._index(np.array(corner)) for corner in product(*corners.T)])
        low, high = ends.min(axis=0), ends.max(axis=0)
        middle = np.floor((low + high) / 2 + 0.5)
        first, last = np.ceil(low - _TIE), np.ceil(high - _TIE) - 1
        first, last = np.where(last < first, middle, first), np.where(last < first, middle, last)  # no centre is in a thin one
        size = np.array(self._geometry.size)
        if (last < 0).any() or (first >= size).any():
            raise InputError(f"the roi is outside of the image of {_words(size)} voxels", "Draw it inside of the image.")
        first, last = np.maximum(first, 0).astype(int), np.minimum(last, size - 1).astype(int)
        return Box(_triple(first), _triple(last), label)

    def _numbers(self, name: str, value: Any, length: int) -> list[np.ndarray]:
        if value is None or value == []:
            return []
        if not isinstance(value, list):
            raise InputError(f"{name[:64]} is no list of points", _SHAPE_ADVICE)
        self._count += len(value)
        if self._count > MOST:
            raise InputError(f"there are more than {MOST} points", "Send fewer.")
        if any(not isinstance(point, list) or len(point) != length or not all(_is_number(v) for v in point) for point in value):
            raise InputError(f"{name[:64]} is not a list of {length} finite numbers each", _SHAPE_ADVICE)
        return [np.array(point, dtype=np.float64) for point in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _parsed(value: Any) -> Any:
    """A value, or what it says: some clients send lists as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        return value


def _carried(index: Index, image: Geometry, seen: Geometry) -> Index:
    place = np.floor(seen.to_index(image.to_world(index)) + 0.5 + 1e-9)
    return _triple(np.clip(place, 0, np.array(seen.size) - 1))


def _carried_box(box: Box, image: Geometry, seen: Geometry) -> Box:
    one, other = _carried(box.first, image, seen), _carried(box.last, image, seen)
    return Box(_triple(np.minimum(one, other)), _triple(np.maximum(one, other)), box.label)


def _triple(values: Any) -> Index:
    return int(values[0]), int(values[1]), int(values[2])


def _words(values: Any) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
