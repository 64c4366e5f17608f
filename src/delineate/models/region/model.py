"""One structure, or several, from clicks and boxes: by values around the clicks, and a minimal cut around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.errors import ModelError
from delineate.models.cut import Field
from delineate.models.cut_window import CutProblem, Window, around, cut_window, shell
from delineate.models.likelihood import cost_of, histogram
from delineate.models.morphology import bounds
from delineate.models.sampling import Mask, Triple
from delineate.prompt import Box, Click
from delineate.runners.base import Job
from delineate.segmentation import Segmentation, label_dtype

USUAL = "region"
MOST_REACH, MOST_SMOOTHNESS = 200.0, 20.0  # mm; times the usual

_LIKE = 2.5  # widths of the values around a click within which a voxel counts as like it
_NARROWEST, _WIDEST = 0.015, 3.0  # the least of such widths, as a share of the range of values; the largest, in least ones
_AT_REACH = 1.0  # how unlike a click a voxel counts for its distance alone, at the end of the reach, in widths
_BALL = 4.0  # mm around a click whose values are looked at
_BOX_MARGIN = 6.0  # mm around a box, of which is known that they are outside
_ALONG = 30.0  # mm that a change of values by the contrast adds to a way
_NEAR_BY = 7  # voxels over which a local mean is taken
_NO_EDGE = 1.2  # contrasts; where the means on both sides of a border differ by less, there is no edge to draw it along
_SMOOTH = 5  # voxels over which it is smoothed there
_NOTHING = 1e9
_BORDER = 0.6  # strength of a border at smoothness 1

Points = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Wanted:
    """One structure: clicks inside and outside, z, y, x, shape (n, 3), and its box."""

    name: str
    inside: Points
    outside: Points
    box: Window | None


class Region:
    """See `delineate.models.cut_window` for the method."""

    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        """Delineate each structure that was clicked or boxed; `reach` (mm) and `smoothness` are taken from the prompts.

        Raises
        ------
        ModelError
            Kind ``input``: neither a click inside nor a box, or a parameter that makes no sense.
        """
        image = job.images[0]
        reach, smoothness = number(job, "reach", MOST_REACH), number(job, "smoothness", MOST_SMOOTHNESS)
        sx, sy, sz = image.geometry.spacing
        wanted = _structures(job.clicks, job.boxes)
        labels = np.zeros(image.geometry.shape, label_dtype(len(wanted)))
        for label, structure in enumerate(wanted, start=1):
            window, mask = _found(image.voxels, (sz, sy, sx), structure, reach, _BORDER * smoothness)
            part = labels[window]
            part[mask & (part == 0)] = label
        return Segmentation.from_labels(labels, image.geometry, {label: structure.name for label, structure in enumerate(wanted, start=1)})


def number(job: Job, name: str, most: float) -> float:
    """A positive number of the request, or the usual one. Raises `ModelError` of kind ``input``."""
    value = job.prompts.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ModelError(f"{name} is not a number above 0 and up to {most:g}", f"Leave {name} out for the usual one.", "input")
    return float(value)


def _structures(clicks: Sequence[Click], boxes: Sequence[Box]) -> list[_Wanted]:
    named = [click.label for click in clicks if click.inside] + [box.label for box in boxes]
    if not named:
        raise ModelError("nothing was clicked: there is no point inside and no box", "Send foreground points, or a roi.", "input")
    result = []
    for name in dict.fromkeys(named):
        inside = [click.index for click in clicks if click.inside and click.label == name]
        others = [click for click in clicks if click.label != name if click.inside or click.label == ""]
        outside = [click.index for click in (*others, *(c for c in clicks if not c.inside and c.label == name))]
        box = next((box for box in boxes if box.label == name), None)
        result.append(_Wanted(name or USUAL, _points(inside), _points(outside), None if box is None else _window(box)))
    return result


def _found(voxels: np.ndarray, spacing: Triple, wanted: _Wanted, reach: float, strength: float) -> tuple[Window, Mask]:
    """The window that was looked at, and the voxels inside."""
    if wanted.box is None:
        window = around(wanted.inside, reach, spacing, voxels.shape)
    else:
        corners = np.array([[s.start for s in wanted.box], [s.stop - 1 for s in wanted.box]])
        window = around(corners, _BOX_MARGIN, spacing, voxels.shape)
    first = np.array([s.start for s in window])
    values = _calm(voxels[window])
    inside, outside = _within(wanted.inside - first, values.shape), _within(wanted.outside - first, values.shape)
    forced = np.zeros(values.shape, dtype=np.int8)
    if wanted.box is None:
        forced[shell(values.shape, voxels.shape, window)] = -1
    else:
        forced += -1
        forced[tuple(slice(s.start - f, s.stop - f) for s, f in zip(wanted.box, first, strict=True))] = 0
    box = forced == 0
    for points, sign in ((outside, -1), (inside, 1)):
        for z, y, x in points:
            forced[max(0, z - 1) : z + 2, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = sign
    if len(inside):
        cost, contrast = _like_the_clicks(values, inside, outside, spacing, reach)
        mask = cut_window(CutProblem(values, cost, forced, spacing, contrast, strength, _ALONG))
    else:
        mask = _in_the_box(values, box, forced, spacing, strength)
    return window, _to_the_edge(values, _connected(mask, inside), forced, 2 * _narrowest(values))


def _like_the_clicks(values: Field, inside: Points, outside: Points, spacing: Triple, reach: float) -> tuple[Field, float]:
    """The cost of each voxel, -1 (like a click inside) to 1, and the difference of values that makes a border."""
    least = _narrowest(values)
    most = least * _WIDEST
    near: Field | None = None
    for point in inside:
        sample = _ball(values, point, spacing)
        width = min(max(_width(sample), least), most)
        unlikeness = np.square((values - np.float32(np.median(sample))) * np.float32(1 / width))
        unlikeness += _square(point, values.shape, spacing) * np.float32((_AT_REACH / reach) ** 2)
        near = unlikeness if near is None else np.minimum(near, unlikeness)
    assert near is not None
    cost: Field = near * np.float32(1 / _LIKE**2) - np.float32(1)
    if len(outside):
        centres = [np.float32(np.median(_ball(values, point, spacing))) for point in outside]
        far = np.min([np.abs((values - centre) * np.float32(1 / least)) for centre in centres], axis=0)
        np.maximum(cost, np.clip((np.sqrt(near) - far) * np.float32(1 / _LIKE), -1, 1), out=cost)
    return np.clip(cost, -1, 1, out=cost), 2 * least


def _to_the_edge(values: Field, mask: Mask, forced: npt.NDArray[np.int8], contrast: float) -> Mask:
    """Its border moved by up to two voxels, to where voxels are as like it as like what lies beyond: at an edge they are of both.

    Where what lies beyond is like it too there is no edge to go to; noise would draw the border, and a smooth one is drawn instead.
    """
    box = bounds(mask)
    if box is None:
        return mask
    window = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in box)
    part, inner, known = values[window], mask[window], forced[window]
    near, core = ndimage.binary_dilation(inner, iterations=2), ndimage.binary_erosion(inner, border_value=1)
    if not core.any():
        core = inner
    within, beyond = (_local_mean(part, where) for where in (core, ~near))
    like = np.abs(part - within) <= np.abs(part - beyond)
    drawn = ndimage.binary_dilation(core, iterations=3, mask=core | (near & like) | (inner & (known > 0)))
    no_edge = (np.abs(within - beyond) < np.float32(_NO_EDGE * contrast)) | (beyond >= _NOTHING)
    drawn = np.where(no_edge, ndimage.uniform_filter(drawn.astype(np.float32), _SMOOTH, mode="nearest") > 0.5, drawn)
    result: Mask = mask.copy()
    result[window] = (drawn | (inner & (known > 0))) & (known >= 0)
    return result


def _local_mean(values: Field, where: Mask) -> Field:
    """The mean of the values near each voxel that are in a mask; far from every number where there are none."""
    share = ndimage.uniform_filter(where.astype(np.float32), _NEAR_BY, mode="nearest")
    total = ndimage.uniform_filter(np.where(where, values, np.float32(0)), _NEAR_BY, mode="nearest")
    mean: Field = np.where(share > 1e-4, total / np.maximum(share, np.float32(1e-4)), np.float32(_NOTHING))
    return mean


def _in_the_box(values: Field, box: Mask, forced: npt.NDArray[np.int8], spacing: Triple, strength: float) -> Mask:
    """What differs from the surroundings of a box, found twice: first by its middle, then by what was found (as GrabCut does)."""
    axes = [np.square(np.linspace(-1, 1, n, dtype=np.float32)) for n in values.shape]
    off_centre = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    like: Mask = off_centre < 0.3
    contrast = 2 * _narrowest(values)
    for _ in range(3):
        unlike = ~box | ((off_centre > 1) & ~like)
        cost = cost_of(values, values[like], values[unlike], histogram)
        cost += np.clip(0.5 * (off_centre - np.float32(0.8)), -0.3, 0.3)
        mask = cut_window(CutProblem(values, cost, forced, spacing, contrast, strength))
        if not mask.any() or np.array_equal(mask, like):
            break
        like = mask
    return mask


def _narrowest(values: Field) -> float:
    """The least width of values that counts: of their noise, or a share of their range."""
    low, high = np.percentile(values[tuple(slice(None, None, max(1, n // 48)) for n in values.shape)], (1, 99))
    planes = values[:: max(1, len(values) // 8)]
    noise = 2.0 * float(np.median(np.abs(np.diff(planes, axis=2)))) if values.shape[2] > 1 else 0.0
    return max(_NARROWEST * float(high - low), noise, 1e-6)


def _ball(values: Field, point: npt.NDArray[np.int64], spacing: Triple) -> Field:
    """Values within `_BALL` mm of a point that are nearest to the point's own: a click near an edge means one side of it."""
    radius = [max(1, int(_BALL / s)) for s in spacing]
    part = values[tuple(slice(max(0, p - r), p + r + 1) for p, r in zip(point, radius, strict=True))].ravel()
    own = values[tuple(point)]
    return part[np.argsort(np.abs(part - own), kind="stable")[: max(8, part.size // 2)]]


def _width(sample: Field) -> float:
    return 2.2 * float(np.median(np.abs(sample - np.median(sample))))  # of the nearest half of the values


def _square(point: npt.NDArray[np.int64], shape: tuple[int, ...], spacing: Triple) -> Field:
    """The square of the distance of each voxel from a point, mm²."""
    z, y, x = (np.square((np.arange(n, dtype=np.float32) - p) * np.float32(s)) for n, p, s in zip(shape, point, spacing, strict=True))
    square: Field = z[:, None, None] + y[None, :, None] + x[None, None, :]
    return square


def _connected(mask: Mask, inside: Points) -> Mask:
    """The parts that were clicked; the largest where a box alone was given."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    kept = np.zeros(count + 1, dtype=bool)
    kept[parts[tuple(inside.T)] if len(inside) else np.argmax(np.bincount(parts.ravel())[1:]) + 1] = True
    kept[0] = False
    result: Mask = kept[parts]
    return result


def _calm(voxels: np.ndarray) -> Field:
    """Values with the noise of single voxels taken off."""
    values = np.nan_to_num(voxels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return ndimage.uniform_filter(values, (1, 3, 3), mode="nearest")  # type: ignore[no-any-return]


def _within(points: Points, shape: tuple[int, ...]) -> Points:
    return points[((points >= 0) & (points < np.array(shape))).all(axis=1)]


def _points(indices: Sequence[tuple[int, int, int]]) -> Points:
    return np.array(indices, dtype=np.int64).reshape(-1, 3)[:, ::-1]


def _window(box: Box) -> Window:
    x, y, z = (slice(first, last + 1) for first, last in zip(box.first, box.last, strict=True))
    return z, y, x
