"""Which voxels of a labelled image teach the forest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from delineate.errors import GeometryError, InputError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation
from delineate.training.features import NAMES, Features
from delineate.training.shaping import smoothness
from delineate.training.speaking import speaking_planes
from delineate.training.working import HU, Array, Working, fingerprint, nearest, working
from delineate.volume import Volume

MOST_STRUCTURES: Final = 255
"""Of all labels together: as many as there are numbers above 0 in a byte."""

_POSITIVES, _NEGATIVES, _NEAR, _HELD = 8_000, 16_000, 6_000, 4_000
_LOOKS = ("value", "mean@2", "depth")
_BINS = 8
_AIR, _GAS, _LEAST_AIR = -900.0, 3_000, 100  # HU; voxels
_HOLDS_AIR = 0.02  # of a structure: more that is as dark as room air is gas that belongs to it
_STRETCHES, _HELD_STRETCHES = 10, (3, 8)
_REACH = 2  # working voxels around a structure that count as near
_PART = 0.05  # of the largest component: smaller ones are specks of the annotator

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Case:
    """An image with its labels.

    labels : on the image's grid; a structure that is listed and has no voxel is known to be absent, one that is not listed is unknown.
    annotated : which voxels somebody has looked at, bool, of a shape that broadcasts to the image's (z, y, x); None: for each
        structure by itself, see `delineate.training.speaking`.
    """

    image: Volume
    labels: Segmentation
    annotated: np.ndarray | None = None

    def __post_init__(self) -> None:
        difference = self.labels.geometry.difference(self.image.geometry)
        if difference:
            raise GeometryError(f"the labels are on another grid than their image: {difference}")
        if not self.labels.structures:
            raise InputError("the labels hold no structure", "Label one structure at least.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """What is kept of a case.

    rows : float32, shape (n, features); truth : 1 + index of the structure in `names`, 0 for none, shape (n,).
    known : which structures a voxel speaks of, shape (n, structures).
    held : voxels that are not to be learned from, drawn evenly; weight : how many voxels each of these stands for.
    parts, volumes : connected parts and millilitres of each structure, as far as it was labelled.
    contrasts, closings : of each structure, see `delineate.training.forest.Grown`; mark : the image's fingerprint.
    """

    names: tuple[str, ...]
    rows: Array
    truth: npt.NDArray[np.uint8]
    known: Mask
    held: Mask
    weight: Array
    parts: npt.NDArray[np.int64]
    volumes: npt.NDArray[np.float64]
    contrasts: npt.NDArray[np.float64]
    closings: npt.NDArray[np.int64]
    mark: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Truth:
    """Labels on the working grid: 1 + index of the structure, and for each structure where that is known, broadcasting to the grid."""

    labels: npt.NDArray[np.uint8]
    known: list[Mask]

    @property
    def annotated(self) -> Mask:
        """Where anything is known, shape (z, y, x)."""
        return np.broadcast_to(np.logical_or.reduce(self.known), self.labels.shape)


@dataclass(frozen=True, eq=False)
class Looked:
    """A case on its working grid.

    looks : of each voxel what `even` goes by, shape (voxels, features).
    """

    case: Case
    image: Working
    truth: Truth
    features: Features
    looks: Array


def look(case: Case, spacing: float, scale: str, log: Callable[[str], None] = lambda text: None) -> Looked:
    """Bring a case to the working grid.

    Parameters
    ----------
    spacing, scale : of the working grid, see `delineate.training.working`.

    Raises
    ------
    InputError
        Nothing is annotated, or more structures are than anybody draws: a label that is an image.
    ModelError
        Kind ``input``: an image that the features cannot be computed of.
    """
    if len(case.labels.names) > MOST_STRUCTURES:
        raise InputError(f"the label has {len(case.labels.names)} structures", f"Label at most {MOST_STRUCTURES}; an image is no label.")
    image = working(case.image, spacing, scale, log)
    truth = _on_working_grid(case, image.geometry)
    if not truth.annotated.any():
        raise InputError("no voxel of the image is annotated", "Label a slice at least, or say which slices are annotated.")
    features = Features(image)
    return Looked(case, image, truth, features, features.only(_LOOKS))


def chosen(looked: Looked, seed: int = 0) -> Samples:
    """Voxels that teach what was labelled, and their features."""
    case, image, seen = looked.case, looked.image, looked.truth
    truth, annotated = seen.labels, seen.annotated
    rng = np.random.default_rng(seed)
    names = tuple(case.labels.names)
    planes = np.asarray(annotated.any(axis=(1, 2)))
    held_planes = _held(planes)
    learn = _learned(truth, annotated & ~held_planes[:, None, None], looked.looks, len(names), rng)
    judge, weight = _judged(truth, annotated & held_planes[:, None, None], len(names), rng)
    index = np.concatenate([learn, judge])
    rows, known = looked.features.rows(index), _known(seen, index)
    if image.scale == HU:
        gas, unlike = _room_air(rows, truth.ravel()[index], len(names), rng)
        rows, known = np.concatenate([gas, rows]), np.concatenate([np.broadcast_to(unlike, (len(gas), len(names))), known])
        index, learn = np.concatenate([np.full(len(gas), -1), index]), np.concatenate([np.full(len(gas), -1), learn])
    return Samples(
        names=names,
        rows=rows,
        truth=np.where(index < 0, np.uint8(0), truth.ravel()[index]),
        known=known,
        held=np.arange(index.size) >= learn.size,
        weight=np.concatenate([np.ones(learn.size, np.float32), weight]),
        parts=np.array([_parts(truth == label, annotated) for label in range(1, len(names) + 1)]),
        volumes=np.array([case.labels.volume_ml(name) for name in names]),
        contrasts=np.array([_contrast(image.values, truth == label, annotated) for label in range(1, len(names) + 1)]),
        closings=np.array([smoothness(truth == label, planes) for label in range(1, len(names) + 1)]),
        mark=np.frombuffer(fingerprint(case.image), np.uint8),
    )


def _on_working_grid(case: Case, grid: Geometry) -> Truth:
    """Structures and what is known at the nearest voxel of each working voxel. Where structures overlap the smallest one counts."""
    axes = reorientation(case.image.geometry, "LPS")
    turned = axes.grid(case.image.geometry)
    places = np.ix_(*nearest(turned, grid))
    truth = np.zeros(grid.shape, dtype=np.uint8)
    sizes = {s.name: int(np.count_nonzero(case.labels.mask(s.name))) for s in case.labels}
    order = {s.name: label for label, s in enumerate(case.labels, start=1)}
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        truth[axes.apply(case.labels.layers[case.labels[name].layer])[places] == case.labels[name].label] = order[name]
    if case.annotated is not None:
        try:
            mask = np.broadcast_to(np.asarray(case.annotated, dtype=bool), case.image.geometry.shape)
        except ValueError:
            raise GeometryError(
                f"annotated voxels of shape {np.shape(case.annotated)} do not fit an image of shape {case.image.geometry.shape}"
            ) from None
        return Truth(truth, [axes.apply(mask)[places]] * len(order))
    values, planes = axes.apply(case.image.voxels), places[0].ravel()
    known = []
    for structure in case.labels:
        labelled = axes.apply(case.labels.layers[structure.layer]) == structure.label
        known.append(speaking_planes(labelled, values, turned.spacing[2])[planes, None, None])
    return Truth(truth, known)


def _known(seen: Truth, chosen: Index) -> Mask:
    """Which structures the chosen voxels speak of; a voxel of one structure is none of any other."""
    columns = [np.broadcast_to(known, seen.labels.shape).ravel()[chosen] for known in seen.known]
    result: Mask = np.stack(columns, axis=1) | (seen.labels.ravel()[chosen] > 0)[:, None]
    return result


def _room_air(rows: Array, truth: npt.NDArray[np.uint8], count: int, rng: np.random.Generator) -> tuple[Array, Mask]:
    """Air around the patient as if it were inside, and which structures are unlike it, shape (structures,).

    It shows what gas looks like where the annotated slices show no bowel: without it what is inside and dark would do for a lung.
    """
    value, depth = (rows[:, NAMES.index(name)] for name in ("value", "depth"))
    room, inside = np.flatnonzero((depth <= 0) & (value < _AIR) & (truth == 0)), rows[depth > 0]
    if room.size < _LEAST_AIR or not len(inside):
        return rows[:0], np.ones(count, dtype=bool)
    limit, middle = np.percentile(value[room], (25, 50))
    room = room[value[room] <= middle]  # the rest is foam and what surrounds the skin
    dark = [np.count_nonzero(value[truth == label] < limit) for label in range(1, count + 1)]
    size = [np.count_nonzero(truth == label) for label in range(1, count + 1)]
    unlike = np.array(dark) <= _HOLDS_AIR * np.array(size)
    gas = rows[rng.permutation(room)[:_GAS]]
    elsewhere = inside[rng.integers(len(inside), size=len(gas))]
    for name in ("depth", "across", "along"):
        gas[:, NAMES.index(name)] = elsewhere[:, NAMES.index(name)]
    return gas, unlike


def _contrast(values: Array, mask: Mask, annotated: Mask) -> float:
    """The median step of values over the border of a structure, within axial planes; 0 where it has none."""
    steps = []
    for axis in (1, 2):
        lower, upper = (np.s_[:, :-1], np.s_[:, 1:]) if axis == 1 else (np.s_[:, :, :-1], np.s_[:, :, 1:])
        border = (mask[lower] != mask[upper]) & annotated[lower] & annotated[upper]
        steps.append(np.abs(values[lower][border] - values[upper][border]))
    found = np.concatenate(steps)
    return float(np.median(found)) if found.size else 0.0


def _held(planes: Mask) -> Mask:
    """A fifth of the annotated planes, in two stretches; none where there are too few."""
    there = np.flatnonzero(planes)
    held = np.zeros_like(planes)
    if there.size >= _STRETCHES:
        stretch = np.arange(there.size) * _STRETCHES // there.size
        held[there[np.isin(stretch, _HELD_STRETCHES)]] = True
    return held


def _learned(truth: npt.NDArray[np.uint8], allowed: Mask, looks: Array, count: int, rng: np.random.Generator) -> Index:
    """Voxels of each structure, voxels near any, and background; each even over what it looks like.

    A windpipe is a thousandth of the background, and the part of it that looks like a lung: drawn evenly over voxels, it would be missed.
    """
    chosen = [even(np.flatnonzero(allowed & (truth == label)), looks, _POSITIVES, rng) for label in range(1, count + 1)]
    background = allowed & (truth == 0)
    near = np.flatnonzero(ndimage.binary_dilation(truth > 0, iterations=_REACH) & background)
    chosen += [rng.permutation(near)[:_NEAR], even(np.flatnonzero(background), looks, _NEGATIVES, rng)]
    return np.unique(np.concatenate(chosen))


def even(index: Index, looks: Array, count: int, rng: np.random.Generator) -> Index:
    """At most `count` of the voxels, as many of each look: rows of `looks`, shape (voxels, features), in bins of their range."""
    if index.size <= count:
        return index
    key = np.zeros(index.size, dtype=np.int64)
    for values in looks[index].T:
        low, high = np.percentile(values, (0.5, 99.5))
        key = key * _BINS + np.digitize(values, np.linspace(low, high, _BINS + 1)[1:-1])
    order = rng.permutation(index.size)
    _, kind, sizes = np.unique(key[order], return_inverse=True, return_counts=True)
    rank = np.empty(order.size, dtype=np.int64)
    by_kind = np.argsort(kind, kind="stable")
    rank[by_kind] = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    most = _level(sizes, count)
    return index[order[rank < most]]


def _level(sizes: Index, count: int) -> int:
    """The most of each kind so that about `count` are taken in all."""
    left, kinds = count, sizes.size
    for size in np.sort(sizes):
        if size * kinds > left:
            break
        left, kinds = left - int(size), kinds - 1
    return max(1, left // max(1, kinds)) if kinds else int(sizes.max())


def _judged(truth: npt.NDArray[np.uint8], allowed: Mask, count: int, rng: np.random.Generator) -> tuple[Index, Array]:
    """Voxels drawn evenly from what is held back, each kind by itself, and how many voxels each stands for."""
    chosen: list[Index] = [np.zeros(0, np.int64)]
    weights: list[Array] = [np.zeros(0, np.float32)]
    for label in range(count + 1):
        there = np.flatnonzero(allowed & (truth == label))
        some = rng.permutation(there)[: _HELD * (1 if label else 3)]
        chosen.append(some)
        weights.append(np.full(some.size, there.size / max(1, some.size), np.float32))
    return np.concatenate(chosen), np.concatenate(weights)


def _parts(mask: Mask, annotated: Mask) -> int:
    """Connected parts of a structure, those of specks left out; planes that nobody looked at are taken for the nearest one annotated."""
    planes = np.flatnonzero(annotated.any(axis=(1, 2)))
    every = np.arange(mask.shape[0])
    near = planes[np.abs(every[:, None] - planes[None, :]).argmin(axis=1)]
    labels, count = ndimage.label(mask[near])
    if count == 0:
        return 0
    sizes = np.bincount(labels.ravel())[1:]
    return int(np.count_nonzero(sizes >= _PART * sizes.max()))
