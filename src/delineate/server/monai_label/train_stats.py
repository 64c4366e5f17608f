"""How far trainings came, in the shape that clients show as a bar and a number."""

from __future__ import annotations

from typing import Any, Final

from delineate.errors import DelineateError
from delineate.protocols import monai_label as wire
from delineate.server.service import Service
from delineate.task import Task, TaskState
from delineate.training.trainers import TRAIN, TRAINERS

STEPS: Final = 100
"""Epochs in the words of this API; a forest has none, so they are hundredths of the way."""


class TrainStatistics:
    """Blocks, all of it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, tuple[float | None, dict[str, Any]]] = {}

    def all(self) -> dict[str, wire.TrainStats]:
        """Of the last training of each trainer; empty where there was none."""
        tasks = self._service.tasks.work(TRAIN, limit=20)
        found = {}
        for name in TRAINERS:
            own = [task for task in tasks if task.prompts.get("model") == name]
            # One that failed or was stopped says nothing of the model that holds.
            told = next((task for task in own if task.state in (TaskState.RUNNING, TaskState.FINISHED)), None)
            found[name] = wire.TrainStats.from_json({} if told is None else self.of(told))
        return found

    def of(self, task: Task, *, in_full: bool = False) -> dict[str, Any]:
        """Of one training. `total_time` is there once it has ended: clients take its presence for the end."""
        has_ended = task.state.is_final
        values: dict[str, Any] = {
            "epoch": STEPS if has_ended else int(STEPS * task.fraction),
            "total_epochs": STEPS,
            "start_ts": int(task.started or task.created),
        }
        best, dice = self._measured(task)
        if best is not None:
            values["best_metric"] = best
        if has_ended:
            values["total_time"] = _clock((task.finished or task.created) - (task.started or task.created))
        if in_full:
            values["eval"] = {"metrics": {f"{name}_dice": value for name, value in dice.items() if value is not None}}
        return values

    def _measured(self, task: Task) -> tuple[float | None, dict[str, Any]]:
        """Mean Dice on what was held back, and that of each structure; nothing while it runs."""
        blob = task.blob("result")
        if blob is None:
            return None, {}
        if blob.digest not in self._known:
            try:
                values = self._service.found(task)
            except DelineateError:
                return None, {}
            self._known = {blob.digest: (values.get("best_metric"), values.get("dice") or {})}
        return self._known[blob.digest]


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
