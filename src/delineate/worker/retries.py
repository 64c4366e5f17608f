"""Which failures are worth another try. How many there are is the store's affair."""

from __future__ import annotations

from delineate.task import Failure, Task

RETRIED_KINDS = frozenset({"crash", "memory"})
"""What the model may not be to blame for, or not alone; every other kind fails the task at once."""
FIRST_WAIT = 1.0  # s before the first retry, doubled before each further one


def retry_after(task: Task, failure: Failure) -> float | None:
    """Seconds before another try at a task whose present try ended with `failure`; None for no other try."""
    return FIRST_WAIT * 2.0 ** max(0, task.attempt - task.lost - 1) if failure.kind in RETRIED_KINDS else None
