"""Which image to label next. A strategy sees the images that nobody labelled and nobody else has, and names one.

Those here need nothing but the images; those that need what was found out about them are in `strategies_learning`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from delineate.datastore.names import FINAL
from delineate.datastore.records import ImageRecord


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a strategy is asked.

    Parameters
    ----------
    candidates : not empty; without a label of `tag`, nobody else's.
    labelled : gives the ids of the images with a label of `tag`, for who needs them; leased : ids of those that others have now.
    name : the strategy's own, under which images keep its history.
    now : Unix seconds.
    """

    candidates: Sequence[ImageRecord]
    labelled: Callable[[], AbstractSet[str]] = frozenset
    leased: AbstractSet[str] = frozenset()
    tag: str = FINAL
    name: str = ""
    now: float = 0.0


@dataclass(frozen=True)
class Choice:
    """One image, the weight with which it was chosen where there are weights, and what else is to be said of the choice, for JSON."""

    image: ImageRecord
    weight: float | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


class Strategy(Protocol):
    """A way to choose; shared by threads, and called while others wait: what takes long is computed beforehand."""

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""


class First:
    """The first image in the order of ids."""

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""
        return Choice(min(situation.candidates, key=lambda image: image.id))


class Random:
    """Any image, the likelier the longer ago it was handed out: the weight is the seconds since, or since 1970."""

    def __init__(self, generator: random.Random | None = None) -> None:
        self._generator = generator or random.SystemRandom()

    def choose(self, situation: Situation) -> Choice:
        """One of the candidates."""
        candidates, now = situation.candidates, situation.now
        weights = [_seconds_since(image.info["strategy"], situation.name, now) if "strategy" in image.info else now for image in candidates]
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
