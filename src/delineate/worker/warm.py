"""Runners that stay loaded between tasks, the least recently used out when the process grows too large."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from delineate.model import Model
from delineate.runners.base import Runner, RunnerFactory

_log = logging.getLogger(__name__)


class WarmRunners:
    """Runners by model.

    Parameters
    ----------
    create : makes a runner; budget : bytes of resident memory above which idle runners are closed;
    resident : bytes this process holds now.
    """

    def __init__(self, create: RunnerFactory, budget: int, resident: Callable[[], int]) -> None:
        self.budget = budget
        self._create = create
        self._resident = resident
        self._runners: OrderedDict[str, tuple[Model, Runner]] = OrderedDict()

    def get(self, model: Model, folder: Path | None, budget: int | None = None) -> Runner:
        """The model's runner, made where there is none yet or the model changed. `budget` replaces the usual one."""
        held = self._runners.get(model.name)
        if held is not None and held[0] != model:
            self.drop(model.name)
            held = None
        self._shrink(self.budget if budget is None else budget, keep=model.name)
        if held is None:
            held = (model, self._create(model, folder))
            self._runners[model.name] = held
        self._runners.move_to_end(model.name)
        return held[1]

    def drop(self, name: str) -> None:
        """Close one runner, if it is there."""
        held = self._runners.pop(name, None)
        if held is not None:
            try:
                held[1].close()
            except Exception as error:  # a model's close() must not end the worker
                _log.warning("model %s did not close: %s", name, type(error).__name__)

    def close(self) -> None:
        """Close all."""
        for name in list(self._runners):
            self.drop(name)

    def names(self) -> list[str]:
        """Models that are warm, the least recently used first."""
        return list(self._runners)

    def _shrink(self, budget: int, keep: str) -> None:
        for name in [name for name in self._runners if name != keep]:
            if self._resident() <= budget:
                return
            _log.info("model %s makes room", name)
            self.drop(name)
