"""The statements of the way every task goes, built once: building one costs more than running it.

Parameters of an UPDATE that are no columns to set are called ``which``, ``holder`` and so on, never like a column.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from delineate.store.tables import BLOBS, EVENTS, QUEUE, TASKS
from delineate.task import TaskState

PENDING, RUNNING, FINISHED, FAILED, CANCELLED = (state.value for state in TaskState)
"""States as the database knows them."""

TASK_BY_UID: Final = sa.select(TASKS).where(TASKS.c.uid == sa.bindparam("which"))
TASK_BY_ID: Final = sa.select(TASKS).where(TASKS.c.id == sa.bindparam("which"))
TASK_BY_KEY: Final = sa.select(TASKS).where(TASKS.c.owner == sa.bindparam("by"), TASKS.c.key == sa.bindparam("which"))
TASK_HELD: Final = TASK_BY_UID.where(TASKS.c.state == RUNNING, TASKS.c.lease_holder == sa.bindparam("holder"))
TASKS_OF_WORKER: Final = (
    sa.select(TASKS).where(TASKS.c.state == RUNNING, TASKS.c.lease_holder == sa.bindparam("holder")).order_by(TASKS.c.id)
)
TASKS_EXPIRED: Final = sa.select(TASKS).where(TASKS.c.state == RUNNING, TASKS.c.lease_expires < sa.bindparam("now")).order_by(TASKS.c.id)

NEXT: Final[sa.Select[Any]] = (
    sa.select(TASKS.c.id, TASKS.c.rank, TASKS.c.turn, TASKS.c.attempt)
    .where(
        TASKS.c.state == PENDING,
        TASKS.c.lane == sa.bindparam("in_lane"),
        # One that was never tried is put off only for those who were not rung for it.
        sa.or_(TASKS.c.not_before <= sa.bindparam("now"), sa.and_(TASKS.c.attempt == 0, TASKS.c.created <= sa.bindparam("rung"))),
    )
    .order_by(TASKS.c.rank, TASKS.c.turn, TASKS.c.id)
    .limit(1)
)

INSERT_TASK: Final = sa.insert(TASKS)
CHANGE_TASK: Final = sa.update(TASKS).where(TASKS.c.id == sa.bindparam("which"))
LEAVE_TASK: Final = CHANGE_TASK.where(
    TASKS.c.state == RUNNING, TASKS.c.lease_holder == sa.bindparam("holder"), TASKS.c.attempt == sa.bindparam("tried")
)

BLOBS_OF_TASK: Final = sa.select(BLOBS).where(BLOBS.c.task == sa.bindparam("which")).order_by(BLOBS.c.role)
INSERT_BLOB: Final = sa.insert(BLOBS)
DELETE_BLOB: Final = sa.delete(BLOBS).where(BLOBS.c.task == sa.bindparam("which"), BLOBS.c.role == sa.bindparam("as_role"))

INSERT_EVENT: Final = sa.insert(EVENTS)

TURNS: Final[sa.Select[Any]] = sa.select(
    sa.select(sa.func.max(TASKS.c.turn))
    .where(TASKS.c.owner == sa.bindparam("by"), TASKS.c.rank == sa.bindparam("at_rank"))
    .scalar_subquery(),
    sa.select(QUEUE.c.turn).where(QUEUE.c.rank == sa.bindparam("at_rank")).scalar_subquery(),
)
"""The owner's last turn and the queue's virtual time."""
INSERT_QUEUE: Final = sa.insert(QUEUE)
ADVANCE_QUEUE: Final = sa.update(QUEUE).where(QUEUE.c.rank == sa.bindparam("at_rank"), QUEUE.c.turn < sa.bindparam("reached"))
