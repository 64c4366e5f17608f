"""The statements of the way every task goes, built once: building one costs more than running it.

Parameters of an UPDATE that are no columns to set are called ``which``, ``holder`` and so on, never like a column.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from delineate.store.ready import Change, Query
from delineate.store.tables import BLOBS, EVENTS, QUEUE, TASKS
from delineate.task import TaskState

PENDING, RUNNING, FINISHED, FAILED, CANCELLED = (state.value for state in TaskState)
"""States as the database knows them."""

_BY_UID: Final = sa.select(TASKS).where(TASKS.c.uid == sa.bindparam("which"))
TASK_BY_UID: Final = Query(_BY_UID)
TASK_BY_ID: Final = Query(sa.select(TASKS).where(TASKS.c.id == sa.bindparam("which")))
TASK_BY_KEY: Final = Query(sa.select(TASKS).where(TASKS.c.owner == sa.bindparam("by"), TASKS.c.key == sa.bindparam("which")))
TASK_HELD: Final = Query(_BY_UID.where(TASKS.c.state == RUNNING, TASKS.c.lease_holder == sa.bindparam("holder")))
TASKS_OF_WORKER: Final = Query(
    sa.select(TASKS).where(TASKS.c.state == RUNNING, TASKS.c.lease_holder == sa.bindparam("holder")).order_by(TASKS.c.id)
)
TASKS_EXPIRED: Final = Query(
    sa.select(TASKS).where(TASKS.c.state == RUNNING, TASKS.c.lease_expires < sa.bindparam("now")).order_by(TASKS.c.id)
)


def _first_due(*columns: Any) -> Query:
    return Query(
        sa.select(*columns)
        .where(
            TASKS.c.state == PENDING,
            TASKS.c.lane == sa.bindparam("in_lane"),
            # One that was never tried is put off only for those who were not rung for it.
            sa.or_(TASKS.c.not_before <= sa.bindparam("now"), sa.and_(TASKS.c.attempt == 0, TASKS.c.created <= sa.bindparam("rung"))),
        )
        .order_by(TASKS.c.rank, TASKS.c.turn, TASKS.c.id)
        .limit(1)
    )


NEXT: Final = _first_due(TASKS)
IS_DUE: Final = _first_due(TASKS.c.id)

INSERT_TASK: Final = Change(sa.insert(TASKS))
_CHANGE_TASK: Final = sa.update(TASKS).where(TASKS.c.id == sa.bindparam("which"))
CHANGE_TASK: Final = Change(_CHANGE_TASK)
LEAVE_TASK: Final = Change(
    _CHANGE_TASK.where(TASKS.c.state == RUNNING, TASKS.c.lease_holder == sa.bindparam("holder"), TASKS.c.attempt == sa.bindparam("tried"))
)

BLOBS_OF_TASK: Final = Query(sa.select(BLOBS).where(BLOBS.c.task == sa.bindparam("which")).order_by(BLOBS.c.role))
INSERT_BLOB: Final = Change(sa.insert(BLOBS))
DELETE_BLOB: Final = Change(sa.delete(BLOBS).where(BLOBS.c.task == sa.bindparam("which"), BLOBS.c.role == sa.bindparam("as_role")))

INSERT_EVENT: Final = Change(sa.insert(EVENTS))
NEWEST_EVENT: Final = Query(sa.select(sa.func.max(EVENTS.c.id).label("id")))
EVENTS_AFTER: Final = Query(
    sa.select(EVENTS.c.id, EVENTS.c.task, EVENTS.c.kind).where(EVENTS.c.id > sa.bindparam("last")).order_by(EVENTS.c.id)
)

TURNS: Final = Query(
    sa.select(
        sa.select(sa.func.max(TASKS.c.turn))
        .where(TASKS.c.owner == sa.bindparam("by"), TASKS.c.rank == sa.bindparam("at_rank"))
        .scalar_subquery()
        .label("mine"),
        sa.select(QUEUE.c.turn).where(QUEUE.c.rank == sa.bindparam("at_rank")).scalar_subquery().label("now"),
    )
)
"""The owner's last turn and the queue's virtual time."""
INSERT_QUEUE: Final = Change(sa.insert(QUEUE))
ADVANCE_QUEUE: Final = Change(sa.update(QUEUE).where(QUEUE.c.rank == sa.bindparam("at_rank"), QUEUE.c.turn < sa.bindparam("reached")))
