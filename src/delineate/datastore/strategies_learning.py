"""Strategies that use what was found out about the images in the background; before there is anything, they choose by another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

import numpy as np

from delineate.datastore.findings import Finding, Findings, Vector
from delineate.datastore.records import ImageRecord
from delineate.datastore.strategies import STRATEGIES, Choice, Situation, Strategy
from delineate.scoring.looks import COARSE

_TAGS: Final = 4  # whose labelled images are remembered
_FEW: Final = 8
_NEAR: Final = 128  # images that somebody has, whose distances are remembered: 40 kB each for 10,000 images
_CHUNK: Final = 256  # vectors compared with all others at a time: 10 MB for 10,000 images


class Uncertainty:
    """The image that the trained model doubts most; the weight is its doubt, 0 to 1.

    What an earlier version of the model found counts until the newest one has looked.
    """

    def __init__(self, findings: Findings, otherwise: Strategy) -> None:
        self._findings = findings
        self._otherwise = otherwise
        self._order: tuple[Mapping[str, Finding], Sequence[Finding]] = ({}, ())

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""
        model, found = self._findings.doubts()
        known, order = self._order
        if known is not found:
            order = sorted((one for one in found.values() if one.value is not None), key=lambda one: (-(one.value or 0), one.image))
            self._order = (found, order)
        best = _first(order, situation.candidates)
        if best is None:
            return _other(self._otherwise, situation, "no trained model has looked at any of these images yet")
        finding, image = best
        return Choice(image, finding.value, {"model": model, "model_version": finding.version})


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
        self._images: list[str] = []  # by row
        self._vectors: Vector = np.empty((0, 0), dtype=np.float32)
        self._covers: OrderedDict[str, tuple[AbstractSet[str], Cover]] = OrderedDict()  # with what is covered, by tag

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""
        with self._lock:
            found = self._current()
            if not self._rows:
                return _other(self._otherwise, situation, "no image was looked at yet")
            distances = self._cover(situation.tag, situation.labelled()).distances(self._numbers(situation.leased))
            is_first = bool(np.isinf(distances[0]))  # far from nothing
            if is_first:
                distances = -np.linalg.norm(self._vectors - self._vectors.mean(axis=0), axis=1)
            order = np.argsort(-distances, kind="stable")
            best = _first((found[self._images[row]] for row in order), situation.candidates)
            if best is None:
                return _other(self._otherwise, situation, "none of these images was looked at yet")
            image = best[1]
            if is_first:
                return Choice(image, None, {"chosen_by": "the most usual, since none is labelled"})
            return Choice(image, float(distances[self._rows[image.id]]))

    def prepare(self, tag: str, labelled: AbstractSet[str]) -> None:
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
            self._rows, self._images = {}, []
            self._covers.clear()
        fresh = [(image, finding.vector) for image, finding in found.items() if finding.vector is not None and image not in self._rows]
        old = [self._vectors] if self._rows else []
        self._rows |= {image: row for row, (image, _) in enumerate(fresh, start=len(self._rows))}
        self._images += [image for image, _ in fresh]
        if fresh:
            self._vectors = np.concatenate([*old, np.stack([vector for _, vector in fresh])])
        self._found = found
        return found

    def _cover(self, tag: str, labelled: AbstractSet[str]) -> Cover:
        known = self._rows.keys() & labelled
        covered, cover = self._covers.get(tag, (frozenset[str](), Cover()))
        if not covered <= known:
            covered, cover = frozenset(), Cover()
        cover.update(self._vectors, self._numbers(known - covered))
        self._covers[tag] = (known, cover)
        if len(self._covers) > _TAGS:
            self._covers.popitem(last=False)
        return cover

    def _numbers(self, images: Iterable[str]) -> set[int]:
        return {self._rows[image] for image in images if image in self._rows}


class Cover:
    """How far each vector is from the nearest of some, its centres; vectors and centres may be added."""

    def __init__(self) -> None:
        self.centres: set[int] = set()
        self._vectors: Vector = np.empty((0, 0), dtype=np.float32)
        self._squares: Vector = np.empty(0, dtype=np.float32)
        self._nearest: Vector = np.empty(0, dtype=np.float32)
        self._near: dict[int, Vector] = {}  # to single ones that are no centres

    def update(self, vectors: Vector, centres: set[int]) -> None:
        """Add to both; `vectors` begin with those of before."""
        fresh = vectors[len(self._nearest) :]
        if len(fresh):
            self._vectors = vectors
            self._squares = np.concatenate([self._squares, (fresh**2).sum(axis=1)])
            self._nearest = np.concatenate([self._nearest, self._to(self.centres, slice(len(self._nearest), None))])
        new = centres - self.centres
        if new:
            self._nearest = np.minimum(self._nearest, self._to(new))
            self.centres |= new

    def distances(self, more: set[int]) -> Vector:
        """Of every vector to the nearest of the centres and of some more; infinite where there is neither."""
        nearest = self._nearest
        for row in more:
            near = self._near.pop(row, None)
            if near is None or len(near) != len(nearest):
                near = self._to({row})
            self._near[row] = near  # the same ones come again and again
            nearest = np.minimum(nearest, near)
        for row in list(self._near)[:-_NEAR]:
            del self._near[row]
        return nearest

    def _to(self, centres: set[int], rows: slice = slice(None)) -> Vector:
        """Of vectors to the nearest of some; by the expanded square, so that the work is one product of matrices."""
        vectors, squares = self._vectors[rows], self._squares[rows]
        nearest: Vector = np.full(len(vectors), np.inf, dtype=np.float32)
        numbers = sorted(centres)
        for first in range(0, len(numbers), _CHUNK):
            chosen = numbers[first : first + _CHUNK]
            # Threads of a library that multiplies matrices wait for each other, and here for everybody's processors.
            products = vectors @ self._vectors[chosen].T if len(chosen) > _FEW else np.einsum("ij,kj->ik", vectors, self._vectors[chosen])
            products *= -2
            products += self._squares[chosen]
            np.minimum(nearest, products.min(axis=1) + squares, out=nearest)
        return np.sqrt(np.maximum(nearest, 0))


def _first(order: Iterable[Finding], candidates: Iterable[ImageRecord]) -> tuple[Finding, ImageRecord] | None:
    """The first finding that is of a candidate, as that is now."""
    images = {image.id: image for image in candidates}
    for finding in order:
        image = images.get(finding.image)
        if image is not None and finding.image_version == image.version:
            return finding, image
    return None


def _other(strategy: Strategy, situation: Situation, why: str) -> Choice:
    choice = strategy.choose(situation)
    return replace(choice, note={"chosen_by": type(strategy).__name__.lower(), "why": why})


def all_strategies(findings: Findings) -> dict[str, Strategy]:
    """Every strategy by its name."""
    by_chance = STRATEGIES["random"]
    learning: dict[str, Strategy] = {"uncertainty": Uncertainty(findings, by_chance), "diversity": Diversity(findings, COARSE, by_chance)}
    return {**STRATEGIES, **learning}
