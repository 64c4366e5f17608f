"""Outlines of labelled regions, all of an image at once.

Each region's border is walked along the sides of its pixels, with the region on the right; the polygon's corners are the middles of
those sides. Middles of different sides never meet, and where two pixels touch by a corner alone they stay apart: so a polygon
cannot cross or touch itself. Corners that hardly change its shape are left out, where that does not make it touch itself either.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from delineate.slides.outlines import Polygons, are_simple

_ROUNDS: Final = 2  # of leaving out every other corner
_TOLERANCE: Final = 0.3  # pixels that a corner may lie off its neighbours' line to be left out

_Indices = npt.NDArray[np.int64]


def trace(labels: npt.NDArray[np.int32], which: npt.NDArray[np.int64], left: int, top: int, factor: float) -> Polygons:
    """The outer outline of each region.

    Parameters
    ----------
    labels : shape (y, x), 0 for none; each region is connected by sides of pixels and leaves the image's edge free
    which : the labels that are wanted; left, top : place of the image's first pixel, in its own pixels; factor : pixels of level 0
    along one of its own
    """
    if not len(which):
        return Polygons.joined([])
    sides, counts = _walk(labels, which)
    width = labels.shape[1]
    pixel, way = sides >> 2, sides & 3
    y, x = np.divmod(pixel, width)
    # In halves of a pixel: the middles of the upper, right, lower and left side.
    half_x = 2 * (x + left) + np.array((1, 2, 1, 0))[way]
    half_y = 2 * (y + top) + np.array((0, 1, 2, 1))[way]
    # Per axis, and never against the order of places: whatever the factor, what was apart stays apart.
    exact = Polygons(np.stack((np.rint(half_x * factor), np.rint(half_y * factor)), axis=1).astype(np.int32), counts)
    exact = _without(exact, _straight(exact))
    thinned = exact
    for _ in range(_ROUNDS):
        thinned = _without(thinned, _dispensable(thinned, 2 * factor * _TOLERANCE))
    good = are_simple(thinned) & (thinned.areas > 0)
    if good.all():
        return thinned
    both = Polygons.joined([thinned, exact])
    return both.take(np.where(good, np.arange(len(good)), np.arange(len(good)) + len(good)))


def _walk(labels: npt.NDArray[np.int32], which: npt.NDArray[np.int64]) -> tuple[_Indices, _Indices]:
    """Sides as 4 x pixel + way (right, down, left, up), region after region, and how many each has."""
    width = labels.shape[1]
    flat = labels.ravel()
    found, firsts = np.unique(flat, return_index=True)  # the first pixel of a region has nothing of it above
    start = firsts[np.searchsorted(found, which)].astype(np.int64) * 4
    forward = np.array((1, width, -1, -width))
    outward = np.array((-width, 1, width, -1))
    steps = [start]
    active = np.arange(len(which))
    lengths = np.zeros(len(which), np.int64)
    indices = [active]
    current, own = start, which
    while len(active):
        pixel, way = current >> 2, current & 3
        ahead = pixel + forward[way]
        beyond = ahead + outward[way]
        is_ahead = flat[ahead] == own
        is_beyond = is_ahead & (flat[beyond] == own)
        turned = pixel * 4 + ((way + 1) & 3)
        current = np.where(is_beyond, beyond * 4 + ((way - 1) & 3), np.where(is_ahead, ahead * 4 + way, turned))
        lengths[active] += 1
        goes_on = current != start[active]
        active, current, own = active[goes_on], current[goes_on], own[goes_on]
        steps.append(current)
        indices.append(active)
    region = np.concatenate(indices)
    order = np.argsort(region, kind="stable")
    return np.concatenate(steps)[order], lengths


def _straight(polygons: Polygons) -> npt.NDArray[np.bool_]:
    """Points on the straight line between their neighbours."""
    distance, _ = _off_the_line(polygons)
    straight: npt.NDArray[np.bool_] = distance == 0
    return straight


def _dispensable(polygons: Polygons, tolerance: float) -> npt.NDArray[np.bool_]:
    """Every other point, where it lies close to the line between its neighbours; polygons keep four."""
    distance, length = _off_the_line(polygons)
    place = np.arange(len(polygons.points)) - np.repeat(polygons.starts, polygons.counts)
    many = np.repeat(polygons.counts >= 8, polygons.counts)
    is_last = place == np.repeat(polygons.counts, polygons.counts) - 1
    drop: npt.NDArray[np.bool_] = many & (place % 2 == 1) & ~is_last & (np.abs(distance) <= tolerance * np.maximum(length, 1))
    return drop


def _off_the_line(polygons: Polygons) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far each point is off the line between its neighbours, times the line's length; and that length."""
    after = polygons.after
    before = np.empty_like(after)
    before[after] = np.arange(len(after))
    points = polygons.points.astype(np.float64)
    line = points[after] - points[before]
    rise = points - points[before]
    return line[:, 0] * rise[:, 1] - line[:, 1] * rise[:, 0], np.hypot(line[:, 0], line[:, 1])


def _without(polygons: Polygons, dropped: npt.NDArray[np.bool_]) -> Polygons:
    if not dropped.any():
        return polygons
    left_out = np.add.reduceat(dropped.astype(np.int64), polygons.starts)
    return Polygons(polygons.points[~dropped], polygons.counts - left_out)
