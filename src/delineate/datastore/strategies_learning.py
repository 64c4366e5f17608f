"""Strategies that use what was found out about the images in the background; before there is anything, they choose by another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from delineate.datastore.findings import Finding, Findings, Vector, holds
from delineate.datastore.records import ImageRecord
from delineate.datastore.strategies import STRATEGIES, Choice, Situation, Strategy
from delineate.scoring.looks import COARSE

_TAGS: Final = 4  # whose labelled images are remembered
_CHUNK: Final = 256  # vectors compared with all others at a time: 10 MB for 10,000 images


class Uncertainty:
    """The image that the trained model doubts most; the weight is its doubt, 0 to 1.

    What an earlier version of the model found counts until the newest one has looked.
    """

    def __init__(self, findings: Findings, otherwise: Strategy) -> None:
        self._findings = findings
        self._otherwise = otherwise

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""
        model, found = self._findings.doubts()
        known = [(finding.value, image.id, image) for image, finding in _known(situation.candidates, found) if finding.value is not None]
        if not known:
            return _other(self._otherwise, situation, "no trained model has looked at any of these images yet")
        value, _, image = max(known, key=lambda one: one[:2])
        return Choice(image, value, {"model": model, "model_version": found[image.id].version})


class Diversity:
    """The image that is least like those that are labelled or being labelled; the weight is how far it is from the nearest of them.

    That is the greedy step of the k-center problem, within twice the best choice (Gonzalez, Theoretical Computer Science 38, 1985;
    for learning: Sener and Savarese, International Conference on Learning Representations 2018). Where nothing is labelled it begins with
    the most usual image.

    source : how the vectors are computed.
    """

    def __init__(self, findings: Findings, source: str, otherwise: Strategy) -> None:
        self._findings = findings
        self._source = source
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self._found: Mapping[str, Finding] | None = None
        self._rows: dict[str, int] = {}
        self._vectors: Vector = np.empty((0, 0), dtype=np.float32)
        self._covers: OrderedDict[str, Cover] = OrderedDict()

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""
        with self._lock:
            found = self._current()
            known = [(self._rows[image.id], image) for image, _ in _known(situation.candidates, found) if image.id in self._rows]
            if not known:
                return _other(self._otherwise, situation, "none of these images was looked at yet")
            rows = np.array([row for row, _ in known])
            cover = self._cover(situation.tag, situation.labelled)
            distances = cover.distances(self._numbers(situation.leased))[rows]
            if np.isinf(distances[0]):  # from nothing
                distances = -_distances(self._vectors[rows], self._vectors.mean(axis=0, keepdims=True))[:, 0]
                best = int(np.argmax(distances))
                return Choice(known[best][1], None, {"chosen_by": "the most usual, since none is labelled"})
        best = int(np.argmax(distances))
        return Choice(known[best][1], float(distances[best]))

    def prepare(self, tag: str, labelled: Collection[str]) -> None:
        """Compute beforehand what the next choice needs."""
        with self._lock:
            self._current()
            self._cover(tag, labelled)

    def _current(self) -> Mapping[str, Finding]:
        """The vectors as they are now; rows of images that were described before stay where they are."""
        found = self._findings.looks(self._source)
        if found is self._found:
            return found
        before = self._found or {}
        if any(found.get(image) is not before[image] for image in self._rows):  # some image is another one now
            self._rows = {}
            self._covers.clear()
        fresh = [(image, finding.vector) for image, finding in found.items() if finding.vector is not None and image not in self._rows]
        old = [self._vectors] if self._rows else []
        self._rows |= {image: row for row, (image, _) in enumerate(fresh, start=len(self._rows))}
        if fresh:
            self._vectors = np.concatenate([*old, np.stack([vector for _, vector in fresh])])
        self._found = found
        return found

    def _cover(self, tag: str, labelled: Collection[str]) -> Cover:
        numbers = self._numbers(labelled)
        cover = self._covers.get(tag)
        if cover is None or not cover.centres <= numbers:
            cover = self._covers[tag] = Cover()
            if len(self._covers) > _TAGS:
                self._covers.popitem(last=False)
        cover.update(self._vectors, numbers)
        return cover

    def _numbers(self, images: Collection[str]) -> set[int]:
        return {self._rows[image] for image in images if image in self._rows}


class Cover:
    """How far each vector is from the nearest of some, its centres; vectors and centres may be added."""

    def __init__(self) -> None:
        self.centres: set[int] = set()
        self._vectors: Vector = np.empty((0, 0), dtype=np.float32)
        self._nearest: Vector = np.empty(0, dtype=np.float32)

    def update(self, vectors: Vector, centres: set[int]) -> None:
        """`vectors` begin with those of before, `centres` hold those of before."""
        fresh = vectors[len(self._nearest) :]
        if len(fresh):
            self._vectors = vectors
            old = vectors[sorted(self.centres)]
            self._nearest = np.concatenate([self._nearest, _nearest(fresh, old)])
        new = sorted(centres - self.centres)
        if new:
            self._nearest = np.minimum(self._nearest, _nearest(vectors, vectors[new]))
            self.centres |= centres

    def distances(self, more: set[int]) -> Vector:
        """Of every vector to the nearest of the centres and of some more; infinite where there is neither."""
        return np.minimum(self._nearest, _nearest(self._vectors, self._vectors[sorted(more)])) if more else self._nearest


def _nearest(vectors: Vector, centres: Vector) -> Vector:
    nearest = np.full(len(vectors), np.inf, dtype=np.float32)
    for first in range(0, len(centres), _CHUNK):
        np.minimum(nearest, _distances(vectors, centres[first : first + _CHUNK]).min(axis=1), out=nearest)
    return nearest


def _distances(one: Vector, other: Vector) -> Vector:
    """Euclidean, shape (of one, of other); by the expanded square, so that the work is one product of matrices."""
    squares: npt.NDArray[np.float32] = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * (one @ other.T)
    return np.sqrt(np.maximum(squares, 0))


def _known(candidates: Collection[ImageRecord], found: Mapping[str, Finding]) -> list[tuple[ImageRecord, Finding]]:
    return [(image, finding) for image in candidates if (finding := found.get(image.id)) is not None and holds(finding, image)]


def _other(strategy: Strategy, situation: Situation, why: str) -> Choice:
    choice = strategy.choose(situation)
    return replace(choice, note={"chosen_by": type(strategy).__name__.lower(), "why": why})


def all_strategies(findings: Findings) -> dict[str, Strategy]:
    """Every strategy by its name."""
    by_chance = STRATEGIES["random"]
    learning: dict[str, Strategy] = {"uncertainty": Uncertainty(findings, by_chance), "diversity": Diversity(findings, COARSE, by_chance)}
    return {**STRATEGIES, **learning}
