"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Apply."""
    _tasks()
    _blobs_and_events()
    op.create_table(
        "queue",
        sa.Column("rank", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("rank", name="pk_queue"),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
        sa.Column("archive", sa.String(64)),
        sa.Column("size", sa.BigInteger),
        sa.Column("created", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_index("ix_models_archive", "models", ["archive"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("uid", sa.String(43), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255)),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("finished", sa.Float),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("lease_holder", sa.String(255)),
        sa.Column("lease_expires", sa.Float),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("fraction", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("prompts", sa.JSON, nullable=False),
        sa.Column("grids", sa.JSON, nullable=False),
        sa.Column("failure", sa.JSON),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("uid", name="uq_tasks_uid"),
        sa.UniqueConstraint("owner", "key", name="uq_tasks_owner_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tasks_state_rank_turn_id", "tasks", ["state", "rank", "turn", "id"])
    op.create_index("ix_tasks_state_id", "tasks", ["state", "id"])
    op.create_index("ix_tasks_owner_rank_turn", "tasks", ["owner", "rank", "turn"])
    op.create_index("ix_tasks_finished", "tasks", ["finished"])


def _blobs_and_events() -> None:
    op.create_table(
        "blobs",
        sa.Column("task", sa.Integer, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name="fk_blobs_task", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task", "role", name="pk_blobs"),
    )
    op.create_index("ix_blobs_digest", "blobs", ["digest"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("task", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_task_id", "events", ["task", "id"])
