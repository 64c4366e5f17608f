from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from delineate.model import Model
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.worker.warm import WarmRunners

A, B, C = (Model(name=name, runner="toy", digest="1") for name in "abc")


class Toy:
    def __init__(self, house: House, model: Model) -> None:
        self.house, self.model = house, model

    def segment(self, job: Job) -> Segmentation | None:
        raise NotImplementedError

    def close(self) -> None:
        self.house.closed.append(self.model.name)
        if self.model.name == "c":
            raise RuntimeError("a model that cannot even close")


class House:
    """Each runner weighs one byte."""

    def __init__(self, budget: int) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []
        self.warm = WarmRunners(self._create, budget, lambda: len(self.made) - len(self.closed))

    def _create(self, model: Model, folder: Path | None) -> Toy:
        self.made.append(model.name)
        return Toy(self, model)


def test_a_runner_is_made_once() -> None:
    house = House(budget=9)
    first = house.warm.get(A, None)
    assert house.warm.get(A, None) is first
    assert house.made == ["a"]


def test_the_least_recently_used_makes_room() -> None:
    house = House(budget=1)
    for model in (A, B, A, C):
        house.warm.get(model, None)
    assert house.closed == ["b"]
    assert house.warm.names() == ["a", "c"]
    house.warm.get(B, None)
    assert house.closed == ["b", "a"], "as few as it takes, the oldest first"


def test_a_model_with_a_limit_of_its_own_gets_room() -> None:
    house = House(budget=9)
    house.warm.get(A, None)
    house.warm.get(B, None, budget=0)
    assert house.closed == ["a"]


def test_a_changed_model_is_loaded_anew() -> None:
    house = House(budget=9)
    house.warm.get(A, None)
    house.warm.get(replace(A, digest="2"), None)
    assert house.made == ["a", "a"]
    assert house.closed == ["a"]


def test_close_closes_all() -> None:
    house = House(budget=9)
    for model in (A, C):
        house.warm.get(model, None)
    house.warm.close()
    assert house.closed == ["a", "c"], "also one that fails to close"
    assert house.warm.names() == []
