"""Which image to label next. A strategy sees the images that nobody labelled and nobody else has, and names one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from delineate.datastore.records import ImageRecord


@dataclass(frozen=True)
class Choice:
    """One image, and the weight with which it was chosen where there are weights."""

    image: ImageRecord
    weight: float | None = None


class Strategy(Protocol):
    """A way to choose; shared by threads, and called while others wait: what takes long is computed beforehand."""

    def choose(self, candidates: Sequence[ImageRecord], name: str, now: float) -> Choice:
        """One of `candidates`, which are not empty. `name` is the strategy's own, under which images keep its history."""


class First:
    """The first image in the order of ids."""

    def choose(self, candidates: Sequence[ImageRecord], name: str, now: float) -> Choice:
        """One of `candidates`."""
        return Choice(min(candidates, key=lambda image: image.id))


class Random:
    """Any image, the likelier the longer ago it was handed out: the weight is the seconds since, or since 1970."""

    def __init__(self, generator: random.Random | None = None) -> None:
        self._generator = generator or random.SystemRandom()

    def choose(self, candidates: Sequence[ImageRecord], name: str, now: float) -> Choice:
        """One of `candidates`."""
        weights = [_seconds_since(image.info["strategy"], name, now) if "strategy" in image.info else now for image in candidates]
        if not any(weights):
            weights = [1.0] * len(candidates)
        (index,) = self._generator.choices(range(len(candidates)), weights)
        return Choice(candidates[index], weights[index])


_LATEST: Final = 1e12  # s; beyond is no time

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType({"random": Random(), "first": First()})
"""Those that need no model."""


def _seconds_since(history: Any, name: str, now: float) -> float:
    """Whatever a caller wrote there, a finite number that is not negative."""
    own = history.get(name) if isinstance(history, dict) else None
    last = own.get("ts") if isinstance(own, dict) else None
    if not isinstance(last, (int, float)) or isinstance(last, bool) or not abs(last) < _LATEST:  # not a number is neither
        return now
    return min(max(float(int(now)) - last, 0.0), now)
