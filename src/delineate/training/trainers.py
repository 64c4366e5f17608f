"""What can be trained. Light: the server lists it, workers do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

VOXEL_FOREST: Final = "voxel-forest"

FOREST: Final = "forest.npz"
"""In the folder of a trained model: what it learned."""

TRAIN, WEIGHTS = "train", "weights"
"""Works (see `delineate.runners.work`): learn from labelled images; make a model of a file that somebody sent."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A trainer; the model it makes has its name. config : what a request may set, with what holds where it does not."""

    description: str
    config: Mapping[str, Any]


TRAINERS: Final[Mapping[str, Trainer]] = {
    VOXEL_FOREST: Trainer(
        description="Learns structures from labelled slices in seconds, on a processor, and goes on learning as labels arrive",
        config={"label_tag": "final", "anew": False},
    )
}


def is_installed() -> bool:
    """Whether what trainers need is there."""
    return find_spec("lightgbm") is not None
